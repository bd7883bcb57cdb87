package local_test

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/nettest"

	"github.com/dualrepl/dualrepl/transport"
	"github.com/dualrepl/dualrepl/transport/local"
	"github.com/dualrepl/dualrepl/transport/transporttest"
)

func TestConformance(t *testing.T) {
	transporttest.Run(t, newPair, transporttest.Options{Identity: "alice"})
}

func newPair(*testing.T) (transport.Listener, transport.Connecter) {
	transport := local.New("alice")
	return transport.Listener(), transport.Connecter()
}

func TestConnIsANetConn(t *testing.T) {
	nettest.TestConn(t, func() (client, server net.Conn, stop func(), err error) {
		client, server = wires(t)
		return client, server, func() { client.Close(); server.Close() }, nil
	})
}

func wires(t *testing.T) (client, server transport.Wire) {
	t.Helper()
	l, c := newPair(t)
	server = nil
	accepted := make(chan transport.Wire)
	go func() {
		pending, err := l.Accept(context.Background())
		if err == nil {
			server, _, _ = pending.Authenticate(context.Background()) // "alice" is valid
		}
		accepted <- server
	}()
	client, err := c.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return client, <-accepted
}

func TestConnecterAs(t *testing.T) {
	tr := local.New("alice")
	for identity, valid := range map[string]bool{"bob": true, "a/b": false, "": false} {
		go func() {
			if wire, err := tr.ConnecterAs(identity).Connect(t.Context()); err == nil {
				_ = wire.Close() // never fails
			}
		}()
		pending, err := tr.Listener().Accept(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		wire, got, err := pending.Authenticate(t.Context())
		if !valid {
			if err == nil {
				t.Errorf("identity %q is accepted", identity)
			}
			continue
		}
		if err != nil || got != identity {
			t.Errorf("identity is %q, error %v, want %q", got, err, identity)
		}
		wire.Close()
	}
}

func TestAddresses(t *testing.T) {
	client, server := wires(t)
	defer client.Close()
	defer server.Close()
	for _, test := range []struct {
		addr net.Addr
		want string
	}{
		{client.LocalAddr(), "local:alice"},
		{client.RemoteAddr(), "local:listener"},
		{server.LocalAddr(), "local:listener"},
		{server.RemoteAddr(), "local:alice"},
	} {
		if test.addr.String() != test.want || test.addr.Network() != "local" {
			t.Errorf("address is %s %s, want %s", test.addr.Network(), test.addr, test.want)
		}
	}
}

func TestWriteToClosedPeer(t *testing.T) {
	client, server := wires(t)
	defer client.Close()
	if _, err := client.Write([]byte("lost")); err != nil {
		t.Fatal(err)
	}
	server.Close()
	if _, err := client.Write([]byte{1}); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("Write: %v, want a broken pipe", err)
	}
	if _, err := client.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("Read: %v, want EOF", err)
	}
}

func TestClosedWire(t *testing.T) {
	client, server := wires(t)
	defer server.Close()
	client.Close()
	_, readErr := client.Read(make([]byte, 1))
	_, writeErr := client.Write([]byte{1})
	for name, err := range map[string]error{
		"Read":        readErr,
		"Write":       writeErr,
		"CloseWrite":  client.CloseWrite(),
		"SetDeadline": client.SetDeadline(time.Now().Add(time.Hour)),
	} {
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s on a closed wire: %v, want net.ErrClosed", name, err)
		}
	}
	if err := client.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

func TestDeadlineInVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := wires(t)
		defer client.Close()
		defer server.Close()
		start := time.Now()
		for _, deadline := range []time.Duration{time.Hour, 2 * time.Hour} { // the first must not count any more
			if err := client.SetReadDeadline(start.Add(deadline)); err != nil {
				t.Fatal(err)
			}
		}
		_, err := client.Read(make([]byte, 1))
		var netErr net.Error
		if !errors.As(err, &netErr) || !netErr.Timeout() || time.Since(start) != 2*time.Hour {
			t.Errorf("Read ends after %v with %v", time.Since(start), err)
		}
	})
}

// BenchmarkWire shows what a transfer within one process is bound by.
func BenchmarkWire(b *testing.B) {
	tr := local.New("alice")
	go func() {
		pending, err := tr.Listener().Accept(context.Background())
		if err != nil {
			return
		}
		server, _, _ := pending.Authenticate(context.Background()) // "alice" is valid
		_, _ = io.Copy(io.Discard, server)                         // to EOF
		_ = server.Close()                                         // never fails
	}()
	client, err := tr.Connecter().Connect(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	defer client.Close()
	chunk := make([]byte, 128<<10)
	b.SetBytes(int64(len(chunk)))
	for b.Loop() {
		if _, err := client.Write(chunk); err != nil {
			b.Fatal(err)
		}
	}
}
