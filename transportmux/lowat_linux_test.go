package transportmux_test

import (
	"net"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestKernelTakesLittle: the option reaches the socket below TLS, too.
func TestKernelTakesLittle(t *testing.T) {
	for name, newPair := range map[string]newTransport{"tcp": newTCP, "tls": newTLS} {
		l, c, _ := newPair(t)
		wires := &lastWire{Connecter: c}
		sessions(t, l, wires, nil, nil)
		var conn net.Conn = wires.last
		if upper, ok := conn.(interface{ NetConn() net.Conn }); ok {
			conn = upper.NetConn()
		}
		if got := option(t, conn, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT); got != 128<<10 {
			t.Errorf("%s: the kernel takes %d bytes, want 128 KiB", name, got)
		}
	}
}

func option(t *testing.T, conn net.Conn, level, name int) (value int) {
	t.Helper()
	raw, err := conn.(syscall.Conn).SyscallConn()
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
