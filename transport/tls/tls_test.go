package tls

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/dualrepl/dualrepl/transport"
	"github.com/dualrepl/dualrepl/transport/transporttest"
)

func TestConformance(t *testing.T) {
	transporttest.Run(t, newPair, transporttest.Options{Identity: "alice", DialSilent: dial})
}

func newPair(t *testing.T) (transport.Listener, transport.Connecter) {
	t.Helper()
	s := newSetup(t)
	return s.listener, s.connecter
}

func dial(t *testing.T, address net.Addr) net.Conn {
	t.Helper()
	conn, err := net.Dial(address.Network(), address.String())
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// setup is a listener that permits alice, and her connecter.
type setup struct {
	dir            string
	authority      *transporttest.Authority
	server, client Files
	listener       *Listener
	connecter      *Connecter
	reloadErrors   chan error
}

func newSetup(t testing.TB) *setup {
	t.Helper()
	s := &setup{dir: t.TempDir(), authority: transporttest.NewAuthority(t), reloadErrors: make(chan error, 100)}
	s.server = s.issue(t, s.authority, "server")
	s.client = s.issue(t, s.authority, "alice")
	var err error
	s.listener, err = Listen(t.Context(), "127.0.0.1:0", s.server, []string{"bob", "alice"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.listener.Close() }) // the suite has closed it
	s.connecter = s.newConnecter(t, "server", s.client)
	return s
}

func (s *setup) issue(t testing.TB, a *transporttest.Authority, name string) Files {
	t.Helper()
	f := Files{OnReloadError: func(err error) { s.reloadErrors <- err }}
	f.CA, f.Cert, f.Key = a.Issue(t, s.dir, name)
	return f
}

func (s *setup) newConnecter(t testing.TB, serverName string, files Files) *Connecter {
	t.Helper()
	c, err := NewConnecter(s.listener.Addr().String(), serverName, files)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// result is what came of one connection.
type result struct {
	client, server        transport.Wire
	identity              string
	connectErr, acceptErr error
}

// connect makes one connection; the test closes what came of it.
func (s *setup) connect(t testing.TB, c *Connecter) (r result) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.client, r.connectErr = c.Connect(t.Context())
	}()
	pending, err := s.listener.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r.server, r.identity, r.acceptErr = pending.Authenticate(t.Context())
	<-done
	t.Cleanup(func() {
		for _, w := range []transport.Wire{r.client, r.server} {
			if w != nil {
				_ = w.Close() // the test is over
			}
		}
	})
	return r
}

func TestCommonNameNotOnTheList(t *testing.T) {
	s := newSetup(t)
	mallory := s.newConnecter(t, "server", s.issue(t, s.authority, "mallory"))
	r := s.connect(t, mallory)
	if !errors.Is(r.acceptErr, transport.ErrPermission) || r.server != nil {
		t.Fatalf("the listener's error is %v, want ErrPermission", r.acceptErr)
	}
	for _, want := range []string{`not permitted: common name "mallory" is not on the list`, r.client.LocalAddr().String()} {
		if !strings.Contains(r.acceptErr.Error(), want) {
			t.Errorf("the listener's error %q lacks %q", r.acceptErr, want)
		}
	}
	if _, err := r.client.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "bad certificate") {
		t.Errorf("the client reads %v, want the server's alert", err)
	}
}

func TestHandshakeFails(t *testing.T) {
	s := newSetup(t)
	strangers := s.issue(t, transporttest.NewAuthority(t), "bob") // signed by another authority
	mixed := strangers
	mixed.CA = s.client.CA // trusts the server
	for _, test := range []struct {
		name       string
		serverName string
		files      Files
		clientErr  bool
	}{
		{"client certificate of another authority", "server", mixed, false},
		{"server certificate of another authority", "server", strangers, true},
		{"another server name", "passive.example", s.client, true},
	} {
		r := s.connect(t, s.newConnecter(t, test.serverName, test.files))
		wantHandshakeError(t, test.name+": listener", r.acceptErr)
		if test.clientErr {
			wantHandshakeError(t, test.name+": connecter", r.connectErr)
		} else if _, err := r.client.Read(make([]byte, 1)); err == nil {
			t.Errorf("%s: the client can read", test.name)
		}
		if (r.client == nil) != test.clientErr || r.server != nil {
			t.Errorf("%s: wires %v and %v", test.name, r.client, r.server)
		}
	}
}

func wantHandshakeError(t *testing.T, name string, err error) {
	t.Helper()
	if err == nil || errors.Is(err, transport.ErrPermission) || !strings.Contains(err.Error(), "handshake with 127.0.0.1:") {
		t.Errorf("%s: error is %v, want a failed handshake that names the peer", name, err)
	}
}

func TestOnlyTLS13AndCertificates(t *testing.T) {
	s := newSetup(t)
	own, err := tls.LoadX509KeyPair(s.client.Cert, s.client.Key)
	if err != nil {
		t.Fatal(err)
	}
	for name, config := range map[string]*tls.Config{
		"TLS 1.2":        {MaxVersion: tls.VersionTLS12, Certificates: []tls.Certificate{own}},
		"no certificate": {},
	} {
		config.InsecureSkipVerify = true
		conn := tls.Client(dial(t, s.listener.Addr()), config)
		handshaken := make(chan struct{})
		go func() {
			defer close(handshaken)
			_ = conn.Handshake() // fails on the server only, without a certificate
		}()
		pending, err := s.listener.Accept(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = pending.Authenticate(t.Context())
		wantHandshakeError(t, name, err)
		<-handshaken
		conn.Close()
	}
}

// TestTruncationIsNotEOF: an attacker can end TCP, but not TLS.
func TestTruncationIsNotEOF(t *testing.T) {
	s := newSetup(t)
	r := s.connect(t, s.connecter)
	if err := r.client.(*wire).tcp.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.server.Read(make([]byte, 1)); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("Read: %v, want io.ErrUnexpectedEOF", err)
	}
}

func TestCloseWriteClosesTCP(t *testing.T) {
	s := newSetup(t)
	r := s.connect(t, s.connecter)
	if err := r.client.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(r.server.(*wire).tcp) // below TLS: the alert, then the end
	if err != nil || len(raw) == 0 {
		t.Errorf("read %d bytes, error %v", len(raw), err)
	}
}

func TestDialTimeoutCoversHandshake(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := newSetup(t)
	c, err := NewConnecter(l.Addr().String(), "server", s.client)
	if err != nil {
		t.Fatal(err)
	}
	c.DialTimeout = 50 * time.Millisecond
	if wire, err := c.Connect(t.Context()); !errors.Is(err, context.DeadlineExceeded) || wire != nil {
		t.Errorf("Connect: %v, want context.DeadlineExceeded", err)
	}
}

func TestListenRefusesInvalidNames(t *testing.T) {
	s := newSetup(t)
	l, err := Listen(t.Context(), "127.0.0.1:0", s.server, []string{"alice", "a/b"})
	if err == nil {
		l.Close()
		t.Fatal("a client name that is no client identity is accepted")
	}
}
