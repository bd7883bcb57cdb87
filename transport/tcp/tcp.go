package tcp

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/dualrepl/dualrepl/transport"
	"github.com/dualrepl/dualrepl/transport/internal/socket"
)

// DefaultDialTimeout bounds connecting unless the Connecter says otherwise.
const DefaultDialTimeout = socket.DefaultDialTimeout

// A Connecter connects to one address.
type Connecter struct {
	// DialTimeout bounds connecting; 0 is DefaultDialTimeout. Set it before the first Connect.
	DialTimeout time.Duration

	address string
}

// NewConnecter connects to address (host:port).
func NewConnecter(address string) *Connecter { return &Connecter{address: address} }

// Connect implements transport.Connecter. The Wire is a *net.TCPConn.
func (c *Connecter) Connect(ctx context.Context) (transport.Wire, error) {
	ctx, cancel := socket.DialContext(ctx, c.DialTimeout)
	defer cancel()
	conn, err := socket.Dial(ctx, c.address)
	if err != nil {
		return nil, fmt.Errorf("tcp: %w", err)
	}
	return conn, nil
}

// A Listener accepts connections of the clients in its map.
type Listener struct {
	socket  *socket.Listener
	clients ClientMap
}

// Listen listens on address (host:port) for the given clients.
func Listen(ctx context.Context, address string, clients ClientMap) (*Listener, error) {
	l, err := socket.Listen(ctx, address)
	if err != nil {
		return nil, fmt.Errorf("tcp: %w", err)
	}
	return &Listener{l, clients}, nil
}

// Accept implements transport.Listener.
func (l *Listener) Accept(ctx context.Context) (transport.Pending, error) {
	conn, err := l.socket.Accept(ctx)
	if err != nil {
		return nil, fmt.Errorf("tcp: %w", err)
	}
	return pending{conn, l.clients}, nil
}

// Addr implements transport.Listener.
func (l *Listener) Addr() net.Addr { return l.socket.Addr() }

// Close implements transport.Listener.
func (l *Listener) Close() error { return l.socket.Close() }

type pending struct {
	*net.TCPConn
	clients ClientMap
}

func (p pending) Authenticate(context.Context) (transport.Wire, string, error) {
	identity, err := p.clients.identity(addressOf(p.TCPConn))
	if err != nil {
		_ = p.Close() // the refusal is what matters
		return nil, "", fmt.Errorf("tcp: %s: %w", p.RemoteAddr(), err)
	}
	return p.TCPConn, identity, nil
}
