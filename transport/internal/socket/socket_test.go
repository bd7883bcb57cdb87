package socket

import (
	"context"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestKeepAliveOnBothSides(t *testing.T) {
	l, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := Dial(t.Context(), l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := l.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	for name, conn := range map[string]*net.TCPConn{"client": client, "server": server} {
		if got := option(t, conn, unix.SOL_SOCKET, unix.SO_KEEPALIVE); got != 1 {
			t.Errorf("%s: keepalive is %d, want on", name, got)
		}
		if got := option(t, conn, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE); got != 15 {
			t.Errorf("%s: keepalive after %d s, want 15", name, got)
		}
	}
}

func option(t *testing.T, conn *net.TCPConn, level, name int) (value int) {
	t.Helper()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var optErr error
	err = raw.Control(func(fd uintptr) { value, optErr = unix.GetsockoptInt(int(fd), level, name) })
	if err != nil || optErr != nil {
		t.Fatal(err, optErr)
	}
	return value
}

func TestDialContext(t *testing.T) {
	for timeout, want := range map[time.Duration]time.Duration{0: DefaultDialTimeout, time.Hour: time.Hour} {
		before := time.Now()
		ctx, cancel := DialContext(context.Background(), timeout)
		defer cancel()
		deadline, ok := ctx.Deadline()
		if !ok || deadline.Before(before.Add(want)) || deadline.After(time.Now().Add(want)) {
			t.Errorf("timeout %v ends after %v, want %v", timeout, deadline.Sub(before), want)
		}
	}
}

// TestAcceptWaitsItsTurn has one Accept end, by its context, while others wait.
func TestAcceptWaitsItsTurn(t *testing.T) {
	l, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	const accepts = 8
	accepted := make(chan error, 2*accepts)
	ctx, cancel := context.WithCancel(t.Context())
	for i := range 2 * accepts {
		go func() {
			ctx := ctx
			if i%2 == 0 {
				ctx = t.Context()
			}
			conn, err := l.Accept(ctx)
			if err == nil {
				err = conn.Close()
			}
			accepted <- err
		}()
	}
	cancel()
	for range accepts {
		if err := <-accepted; err != context.Canceled {
			t.Errorf("Accept: %v, want context.Canceled", err)
		}
	}
	for range accepts {
		conn, err := Dial(t.Context(), l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := <-accepted; err != nil {
			t.Errorf("Accept: %v", err)
		}
	}
}
