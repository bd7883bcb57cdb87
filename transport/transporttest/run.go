package transporttest

import (
	"context"
	"net"
	"testing"

	"github.com/dualrepl/dualrepl/transport"
)

// Options say what the suite cannot know.
type Options struct {
	// Identity is the client identity that the listener gives the connecter.
	Identity string

	// DialSilent connects to the listener's address on the lowest level and says
	// nothing, so that Authenticate waits for it. nil: Authenticate never waits for
	// the peer, and the connecter says nothing before the wire is used.
	DialSilent func(t *testing.T, address net.Addr) net.Conn
}

// NewPair makes a listener and a connecter to it.
type NewPair func(t *testing.T) (transport.Listener, transport.Connecter)

// Run tests a transport. Each subtest gets a pair of its own.
func Run(t *testing.T, newPair NewPair, opts Options) {
	t.Helper()
	for _, test := range []struct {
		name string
		run  func(t *testing.T, p *pair)
	}{
		{"Identity", testIdentity},
		{"BothDirectionsAtOnce", testBothDirections},
		{"CloseWriteByClient", testCloseWriteByClient},
		{"CloseWriteByServer", testCloseWriteByServer},
		{"CloseIsEOFForPeer", testCloseIsEOF},
		{"CloseUnblocksRead", testCloseUnblocksRead},
		{"ReadDeadline", testReadDeadline},
		{"ReadDeadlineUnblocks", testReadDeadlineUnblocks},
		{"WriteDeadline", testWriteDeadline},
		{"SilentPeers", testSilentPeers},
		{"AuthenticateEndsWithContext", testAuthenticateEndsWithContext},
		{"PendingClose", testPendingClose},
		{"ConcurrentConnects", testConcurrentConnects},
		{"ConnectEndsWithContext", testConnectEndsWithContext},
		{"AcceptEndsWithContext", testAcceptEndsWithContext},
		{"CloseUnblocksAccept", testCloseUnblocksAccept},
		{"WiresOutliveListener", testWiresOutliveListener},
	} {
		t.Run(test.name, func(t *testing.T) {
			l, c := newPair(t)
			t.Cleanup(func() { _ = l.Close() }) // some tests have closed it
			test.run(t, &pair{Options: opts, listener: l, connecter: c})
		})
	}
}

type pair struct {
	Options
	listener  transport.Listener
	connecter transport.Connecter
}

type connected struct {
	wire transport.Wire
	err  error
}

// connect runs Connect in the background: transports may need the other side for it.
func (p *pair) connect(ctx context.Context) <-chan connected {
	result := make(chan connected, 1)
	go func() {
		wire, err := p.connecter.Connect(ctx)
		result <- connected{wire, err}
	}()
	return result
}

func (p *pair) accept(t *testing.T) transport.Pending {
	t.Helper()
	pending, err := p.listener.Accept(t.Context())
	if err != nil {
		t.Fatalf("Accept: %v", err)
	}
	t.Cleanup(func() { _ = pending.Close() }) // most are closed by then
	return pending
}

// serve authenticates a pending connection.
func (p *pair) serve(t *testing.T, pending transport.Pending) transport.Wire {
	t.Helper()
	wire, identity, err := pending.Authenticate(t.Context())
	if err != nil {
		t.Fatalf("Authenticate: %v", err)
	}
	t.Cleanup(func() { _ = wire.Close() })
	if identity != p.Identity {
		t.Errorf("identity is %q, want %q", identity, p.Identity)
	}
	return wire
}

// wires makes one connection.
func (p *pair) wires(t *testing.T) (client, server transport.Wire) {
	t.Helper()
	result := p.connect(t.Context())
	server = p.serve(t, p.accept(t))
	return p.client(t, result), server
}

func (p *pair) client(t *testing.T, result <-chan connected) transport.Wire {
	t.Helper()
	c := <-result
	if c.err != nil {
		t.Fatalf("Connect: %v", c.err)
	}
	t.Cleanup(func() { _ = c.wire.Close() })
	return c.wire
}
