package tcp_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"golang.org/x/net/nettest"

	"github.com/dualrepl/dualrepl/transport"
	"github.com/dualrepl/dualrepl/transport/tcp"
	"github.com/dualrepl/dualrepl/transport/transporttest"
)

func TestConformance(t *testing.T) {
	transporttest.Run(t, newPair, transporttest.Options{Identity: "host-127.0.0.1"})
}

func newPair(t *testing.T) (transport.Listener, transport.Connecter) {
	t.Helper()
	l := listen(t, map[string]string{"127.0.0.0/8": "host-*"})
	return l, tcp.NewConnecter(l.Addr().String())
}

func listen(t *testing.T, clients map[string]string) *tcp.Listener {
	t.Helper()
	m, err := tcp.ParseClientMap(clients)
	if err != nil {
		t.Fatal(err)
	}
	l, err := tcp.Listen(t.Context(), "127.0.0.1:0", m)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() }) // the suite has closed it
	return l
}

func dial(t *testing.T, address net.Addr) net.Conn {
	t.Helper()
	conn, err := net.Dial(address.Network(), address.String())
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func TestConnIsANetConn(t *testing.T) {
	nettest.TestConn(t, func() (client, server net.Conn, stop func(), err error) {
		l, c := newPair(t)
		client, err = c.Connect(t.Context())
		if err != nil {
			return nil, nil, nil, err
		}
		pending, err := l.Accept(t.Context())
		if err != nil {
			return nil, nil, nil, err
		}
		server, _, err = pending.Authenticate(t.Context())
		return client, server, func() { client.Close(); server.Close() }, err
	})
}

func TestStrangerIsNotPermitted(t *testing.T) {
	l := listen(t, map[string]string{"192.0.2.1": "alice"})
	conn := dial(t, l.Addr())
	defer conn.Close()
	pending, err := l.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = pending.Authenticate(t.Context())
	if !errors.Is(err, transport.ErrPermission) {
		t.Errorf("error is %v, want ErrPermission", err)
	}
	if peer := conn.LocalAddr().String(); !strings.Contains(err.Error(), peer) {
		t.Errorf("error %q does not name the peer, %s", err, peer)
	}
	if _, err := conn.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the refused connection reads %v, want EOF", err)
	}
}

func TestDialTimeout(t *testing.T) {
	c := tcp.NewConnecter("127.0.0.1:1")
	c.DialTimeout = 1 // ns
	if _, err := c.Connect(t.Context()); !errors.Is(err, context.DeadlineExceeded) && !isTimeout(err) {
		t.Errorf("error is %v, want a timeout", err)
	}
}

func isTimeout(err error) bool {
	var netErr net.Error
	return errors.As(err, &netErr) && netErr.Timeout()
}

func TestListenErrorNamesAddress(t *testing.T) {
	l := listen(t, nil)
	_, err := tcp.Listen(t.Context(), l.Addr().String(), tcp.ClientMap{})
	if err == nil || !strings.Contains(err.Error(), l.Addr().String()) {
		t.Errorf("listening twice on %s: %v", l.Addr(), err)
	}
}
