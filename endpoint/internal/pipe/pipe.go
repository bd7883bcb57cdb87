// Package pipe is about the pipes between endpoints and the programs that make and take
// their streams.
package pipe

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// Size is that of an enlarged pipe, in bytes: what the kernel allows to everybody unless
// told otherwise (fs.pipe-max-size).
const Size = 1 << 20

// Enlarge makes room for fewer and larger reads and writes, of which either end will do.
// What is no pipe, or may not be larger, works as well as before.
func Enlarge(end any) {
	file, ok := end.(syscall.Conn)
	if !ok {
		return
	}
	if conn, err := file.SyscallConn(); err == nil {
		_ = conn.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, Size) })
	}
}
