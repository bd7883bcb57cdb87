package transportmux

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/dualrepl/dualrepl/transport"
)

// limitUnsent keeps the kernel from taking much more than it can send (TCP_NOTSENT_LOWAT,
// tcp(7)), also below TLS. Whatever fails here only costs time.
func limitUnsent(w transport.Wire) {
	var conn net.Conn = w
	if upper, ok := w.(interface{ NetConn() net.Conn }); ok {
		conn = upper.NetConn()
	}
	c, ok := conn.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, maxUnsent)
	})
}
