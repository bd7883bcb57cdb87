package tls

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/dualrepl/dualrepl/transport"
	"github.com/dualrepl/dualrepl/transport/internal/socket"
)

// DefaultDialTimeout bounds connecting and the TLS handshake unless the Connecter
// says otherwise.
const DefaultDialTimeout = socket.DefaultDialTimeout

// A Connecter connects to one server.
type Connecter struct {
	// DialTimeout bounds connecting and the TLS handshake; 0 is DefaultDialTimeout.
	// Set it before the first Connect.
	DialTimeout time.Duration

	address    string
	serverName string
	store      *store
}

// NewConnecter connects to address (host:port), where a server with a certificate
// for serverName answers. It fails if the files cannot be used.
func NewConnecter(address, serverName string, files Files) (*Connecter, error) {
	s, err := newStore(files)
	if err != nil {
		return nil, err
	}
	return &Connecter{address: address, serverName: serverName, store: s}, nil
}

// Connect implements transport.Connecter.
func (c *Connecter) Connect(ctx context.Context) (transport.Wire, error) {
	ctx, cancel := socket.DialContext(ctx, c.DialTimeout)
	defer cancel()
	conn, err := socket.Dial(ctx, c.address)
	if err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	m := c.store.get()
	config := m.config()
	config.ServerName = c.serverName
	config.RootCAs = m.authorities
	w, err := handshake(ctx, conn, config, tls.Client)
	if err != nil {
		return nil, err
	}
	return w, nil
}

// A Listener accepts connections of the clients on its list.
type Listener struct {
	socket *socket.Listener
	store  *store
	names  []string
}

// Listen listens on address (host:port) for clients whose certificate has one of
// clientNames as its common name, each a valid client identity. It fails if the
// files cannot be used.
func Listen(ctx context.Context, address string, files Files, clientNames []string) (*Listener, error) {
	for _, name := range clientNames {
		if err := transport.ValidateClientIdentity(name); err != nil {
			return nil, fmt.Errorf("tls: %w", err)
		}
	}
	s, err := newStore(files)
	if err != nil {
		return nil, err
	}
	l, err := socket.Listen(ctx, address)
	if err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	return &Listener{l, s, slices.Clone(clientNames)}, nil
}

// Accept implements transport.Listener.
func (l *Listener) Accept(ctx context.Context) (transport.Pending, error) {
	conn, err := l.socket.Accept(ctx)
	if err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	return pending{conn, l}, nil
}

// Addr implements transport.Listener.
func (l *Listener) Addr() net.Addr { return l.socket.Addr() }

// Close implements transport.Listener.
func (l *Listener) Close() error { return l.socket.Close() }

// checkClient runs within the handshake, so that the client gets an alert instead
// of a connection that just ends.
func (l *Listener) checkClient(state tls.ConnectionState) error {
	if name := commonName(state); !slices.Contains(l.names, name) {
		return fmt.Errorf("%w: common name %q is not on the list", transport.ErrPermission, name)
	}
	return nil
}

// commonName is the peer's; the handshake has seen to it that there is a certificate.
func commonName(state tls.ConnectionState) string {
	return state.PeerCertificates[0].Subject.CommonName
}

type pending struct {
	*net.TCPConn
	listener *Listener
}

func (p pending) Authenticate(ctx context.Context) (transport.Wire, string, error) {
	m := p.listener.store.get()
	config := m.config()
	config.ClientAuth = tls.RequireAndVerifyClientCert
	config.ClientCAs = m.authorities
	config.VerifyConnection = p.listener.checkClient
	w, err := handshake(ctx, p.TCPConn, config, tls.Server)
	if err != nil {
		return nil, "", err
	}
	return w, commonName(w.ConnectionState()), nil
}

// config is what both sides have in common.
func (m *material) config() *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{m.own},
		// Also to a server that does not list our authority: it then says what is wrong
		// with the certificate, not that there is none.
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &m.own, nil },
		// A resumed connection would pass by certificates that were replaced.
		SessionTicketsDisabled: true,
		// Bulk data wants full records; starting small helps web pages only.
		DynamicRecordSizingDisabled: true,
	}
}

// handshake takes tcp over: it belongs to the wire, or is closed.
func handshake(ctx context.Context, tcp *net.TCPConn, config *tls.Config, side func(net.Conn, *tls.Config) *tls.Conn) (*wire, error) {
	g := &gatherer{Conn: untruncated{tcp}}
	w := &wire{Conn: side(g, config), tcp: tcp, gather: g}
	err := w.HandshakeContext(ctx)
	if err == nil {
		return w, nil
	}
	_ = tcp.Close() // the handshake's error is what matters
	if errors.Is(err, transport.ErrPermission) {
		return nil, fmt.Errorf("tls: %s: %w", tcp.RemoteAddr(), err)
	}
	return nil, fmt.Errorf("tls: handshake with %s failed: %w", tcp.RemoteAddr(), err)
}

// wire is a TLS connection that gathers the records of a Write, and closes its
// write side on both levels.
type wire struct {
	*tls.Conn
	tcp    *net.TCPConn
	gather *gatherer
	mu     sync.Mutex // held by Write
}

// Write returns 0 with an error: how much the peer has got is not known, and nothing
// can be sent any more.
func (w *wire) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gather.expect(len(p))
	if _, err := w.Conn.Write(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// CloseWrite sends TLS's close_notify, which is what makes the end trustworthy,
// and closes TCP's write side.
func (w *wire) CloseWrite() error {
	return errors.Join(w.Conn.CloseWrite(), w.tcp.CloseWrite())
}

// ChecksIntegrity is for transport.ChecksIntegrity.
func (w *wire) ChecksIntegrity() bool { return true }

// NetConn is the TCP connection, for its options; data would pass TLS by. It is no
// syscall.Conn of the wire's own, since os.File's ReadFrom would take that to read from.
func (w *wire) NetConn() net.Conn { return w.tcp }

// untruncated makes the end of TCP an error. crypto/tls would take it for the end
// of the stream if it comes between two records, but only TLS's own end is
// trustworthy, and crypto/tls does not read on after that.
type untruncated struct{ *net.TCPConn }

var errTruncated = fmt.Errorf("connection ended without TLS's close_notify: %w", io.ErrUnexpectedEOF)

func (u untruncated) Read(p []byte) (int, error) {
	n, err := u.TCPConn.Read(p)
	if err == io.EOF {
		err = errTruncated
	}
	return n, err
}
