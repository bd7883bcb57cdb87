package transporttest

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"

	"github.com/dualrepl/dualrepl/transport"
)

func testIdentity(t *testing.T, p *pair) {
	if err := transport.ValidateClientIdentity(p.Identity); err != nil {
		t.Fatal(err)
	}
	result := p.connect(t.Context())
	pending := p.accept(t)
	if pending.RemoteAddr() == nil {
		t.Error("a pending connection has no address")
	}
	server := p.serve(t, pending) // compares the identity
	pass(t, server, p.client(t, result))
}

// testSilentPeers has more of them than an accept loop could wait for, then a good one.
func testSilentPeers(t *testing.T, p *pair) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	const silent = 20
	for range silent {
		pending := p.acceptSilent(t)
		go func() {
			defer func() { ended <- struct{}{} }()
			if wire, _, err := pending.Authenticate(ctx); err == nil {
				_ = wire.Close() // a transport with nothing to say
			}
		}()
	}
	client, server := p.wires(t)
	pass(t, client, server)
	cancel()
	for range silent {
		<-ended
	}
}

// acceptSilent accepts a connection whose peer says nothing.
func (p *pair) acceptSilent(t *testing.T) transport.Pending {
	t.Helper()
	if p.DialSilent != nil {
		conn := p.DialSilent(t, p.listener.Addr())
		t.Cleanup(func() { _ = conn.Close() })
		return p.accept(t)
	}
	result := p.connect(t.Context())
	pending := p.accept(t)
	p.client(t, result)
	return pending
}

func testAuthenticateEndsWithContext(t *testing.T, p *pair) {
	if p.DialSilent == nil {
		t.Skip("authentication exchanges nothing")
	}
	conn := p.DialSilent(t, p.listener.Addr())
	defer conn.Close()
	pending := p.accept(t)
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() {
		wire, _, err := pending.Authenticate(ctx)
		if err == nil {
			_ = wire.Close() // the test fails below
		}
		result <- err
	}()
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("Authenticate ends with %v, want context.Canceled", err)
	}
	_, _ = io.ReadAll(conn) // ends in whatever way, as the connection was dropped
}

func testPendingClose(t *testing.T, p *pair) {
	result := p.connect(t.Context())
	if err := p.accept(t).Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	c := <-result
	if c.err != nil {
		return // it needed the other side to connect
	}
	defer c.wire.Close()
	if err := <-readOne(c.wire); err == nil {
		t.Error("a dropped connection can be read from")
	}
}

func testConcurrentConnects(t *testing.T, p *pair) {
	const connections = 32
	var results [connections]<-chan connected
	for i := range results {
		results[i] = p.connect(t.Context())
	}
	echoed := make(chan error, connections)
	for range connections {
		pending := p.accept(t)
		go func() { echoed <- echo(t.Context(), pending) }()
	}
	for i, result := range results {
		exchangeByte(t, p.client(t, result), byte(i))
	}
	for range connections {
		if err := <-echoed; err != nil {
			t.Errorf("echo: %v", err)
		}
	}
}

// echo sends one byte back.
func echo(ctx context.Context, pending transport.Pending) error {
	wire, _, err := pending.Authenticate(ctx)
	if err != nil {
		return err
	}
	_, err = io.CopyN(wire, wire, 1)
	return errors.Join(err, wire.Close())
}

func exchangeByte(t *testing.T, client transport.Wire, b byte) {
	t.Helper()
	if _, err := client.Write([]byte{b}); err != nil {
		t.Errorf("Write: %v", err)
	}
	got, err := io.ReadAll(client)
	if err != nil || len(got) != 1 || got[0] != b {
		t.Errorf("echoed %v, error %v, want %d", got, err, b)
	}
}

func testConnectEndsWithContext(t *testing.T, p *pair) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	wire, err := p.connecter.Connect(ctx)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Connect: %v, want context.Canceled", err)
	}
	if wire != nil {
		t.Error("Connect returns a wire together with an error")
	}
}

func testAcceptEndsWithContext(t *testing.T, p *pair) {
	ctx, cancel := context.WithCancel(t.Context())
	result := p.acceptError(ctx)
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("Accept: %v, want context.Canceled", err)
	}
	client, server := p.wires(t) // another Accept works
	pass(t, client, server)
}

// acceptError waits in the background for an Accept to fail.
func (p *pair) acceptError(ctx context.Context) <-chan error {
	result := make(chan error, 1)
	go func() {
		pending, err := p.listener.Accept(ctx)
		if err == nil {
			_ = pending.Close() // nobody has connected
		}
		result <- err
	}()
	return result
}

func testCloseUnblocksAccept(t *testing.T, p *pair) {
	first, second := p.acceptError(t.Context()), p.acceptError(t.Context())
	if err := p.listener.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	for _, result := range []<-chan error{first, second, p.acceptError(t.Context())} {
		if err := <-result; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept: %v, want net.ErrClosed", err)
		}
	}
	if wire, err := p.connecter.Connect(t.Context()); err == nil {
		t.Error("Connect succeeds although nobody listens")
		_ = wire.Close() // the test has failed already
	}
}

func testWiresOutliveListener(t *testing.T, p *pair) {
	client, server := p.wires(t)
	if err := p.listener.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	transfer(t, client, server)
	transfer(t, server, client)
}
