// Package line carries TCP connections at a fixed rate, as the line between two
// machines would.
package line

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// A Line has one rate for the bytes of all connections that go towards where it
// leads. What comes back is not slowed down: little does. It stores next to nothing,
// and time in which nothing goes in, or nobody takes what comes out, is lost.
type Line struct {
	listener net.Listener
	rate     int64 // bytes a second
	ctx      context.Context
	cancel   context.CancelFunc
	running  sync.WaitGroup

	mu   sync.Mutex
	free time.Time // when it has carried what has gone in
}

// packet is how many bytes go in at once, and what each socket buffer is asked to hold.
const packet = 64 << 10

// oversleep is what a timer may be late by, without the line being idle meanwhile.
const oversleep = 5 * time.Millisecond

// New returns a line that begins at Address. It leads nowhere before To.
func New(rate int64) (*Line, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	l := &Line{listener: listener, rate: rate}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	return l, err
}

// Address is where to connect to.
func (l *Line) Address() string { return l.listener.Addr().String() }

// To has the line lead to an address. It is called once.
func (l *Line) To(address string) {
	l.running.Go(func() {
		for {
			from, err := l.listener.Accept()
			if err != nil {
				return // closed
			}
			l.running.Go(func() { l.connect(from, address) })
		}
	})
}

// Close ends all connections.
func (l *Line) Close() error {
	l.cancel()
	err := l.listener.Close()
	l.running.Wait()
	return err
}

func (l *Line) connect(from net.Conn, address string) {
	defer from.Close()
	to, err := (&net.Dialer{}).DialContext(l.ctx, "tcp", address)
	if err != nil {
		return // whoever connected sees its connection closed
	}
	defer to.Close()
	defer context.AfterFunc(l.ctx, func() { _ = errors.Join(from.Close(), to.Close()) })()
	var back sync.WaitGroup
	back.Go(func() { forward(from, to, func(int) {}) })
	forward(to, from, l.carry)
	back.Wait()
}

// forward copies one direction, and passes its end on.
func forward(to, from net.Conn, carry func(int)) {
	out, in := to.(*net.TCPConn), from.(*net.TCPConn) //nolint:forcetypeassert // as listened and dialled
	_ = errors.Join(out.SetWriteBuffer(packet), in.SetReadBuffer(packet))
	buf := make([]byte, packet)
	for {
		n, err := in.Read(buf)
		carry(n)
		if _, failed := out.Write(buf[:n]); failed != nil {
			_ = in.CloseRead()
			return
		}
		if err != nil {
			_ = out.CloseWrite()
			return
		}
	}
}

// carry returns when n bytes have arrived.
func (l *Line) carry(n int) {
	l.mu.Lock()
	if earliest := time.Now().Add(-oversleep); l.free.Before(earliest) {
		l.free = earliest
	}
	l.free = l.free.Add(time.Duration(n) * time.Second / time.Duration(l.rate))
	arrival := l.free
	l.mu.Unlock()
	time.Sleep(time.Until(arrival))
}
