package local

import (
	"context"
	"fmt"
	"net"
	"sync"
	"syscall"

	"github.com/dualrepl/dualrepl/transport"
)

// A Transport is a listener and its connecters.
type Transport struct {
	identity string
	accept   chan *wire // the server's ends, not yet accepted
	closed   chan struct{}
	shut     func() // closes closed, once
}

// New makes a transport whose clients have the given identity.
func New(identity string) *Transport {
	t := &Transport{identity: identity, accept: make(chan *wire), closed: make(chan struct{})}
	t.shut = sync.OnceFunc(func() { close(t.closed) })
	return t
}

// Listener is the passive side. There is one; once closed, nobody can connect any more.
func (t *Transport) Listener() transport.Listener { return listener{t} }

// Connecter is an active side with the identity given to New. Connect waits until
// the listener accepts.
func (t *Transport) Connecter() transport.Connecter { return connecter{t, t.identity} }

// ConnecterAs is an active side with another identity.
func (t *Transport) ConnecterAs(identity string) transport.Connecter { return connecter{t, identity} }

type connecter struct {
	transport *Transport
	identity  string
}

func (c connecter) Connect(ctx context.Context) (transport.Wire, error) {
	client, server := newPair(c.identity)
	select {
	case c.transport.accept <- server:
		return client, nil
	case <-c.transport.closed:
		return nil, opError("dial", syscall.ECONNREFUSED)
	case <-ctx.Done():
		return nil, fmt.Errorf("local: %w", context.Cause(ctx))
	}
}

type listener struct{ transport *Transport }

func (l listener) Accept(ctx context.Context) (transport.Pending, error) {
	select {
	case <-l.transport.closed: // first, although others may be ready too
		return nil, opError("accept", net.ErrClosed)
	default:
	}
	select {
	case <-l.transport.closed:
		return nil, opError("accept", net.ErrClosed)
	case <-ctx.Done():
		return nil, fmt.Errorf("local: %w", context.Cause(ctx))
	case server := <-l.transport.accept:
		return pending{server}, nil
	}
}

func (l listener) Addr() net.Addr { return addr("listener") }

func (l listener) Close() error {
	l.transport.shut()
	return nil
}

type pending struct{ *wire }

func (p pending) Authenticate(context.Context) (transport.Wire, string, error) {
	identity := string(p.remote)
	if err := transport.ValidateClientIdentity(identity); err != nil {
		_ = p.Close() // never fails
		return nil, "", fmt.Errorf("local: %w", err)
	}
	return p.wire, identity, nil
}

// addr is the name of one end: the client's identity, or "listener".
type addr string

func (addr) Network() string  { return "local" }
func (a addr) String() string { return "local:" + string(a) }

func opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "local", Err: err}
}
