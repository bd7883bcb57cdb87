package dataconn

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/dualrepl/dualrepl/pdu"
	"github.com/dualrepl/dualrepl/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memBuffer is what one direction of a memWire holds: like a socket's buffers, it
// takes some bytes that nobody has read.
const memBuffer = 256 << 10

// direction is one direction of a memWire pair.
type direction struct {
	mu      sync.Mutex
	cond    sync.Cond
	data    []byte
	eof     bool // the writer closed
	reset   bool // the reader closed
	dropped bool // packets are lost: nothing arrives any more
}

func newDirection() *direction {
	d := new(direction)
	d.cond.L = &d.mu
	return d
}

func (d *direction) set(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
	d.cond.Broadcast()
}

// memWire is a transport.Wire in memory that works in virtual time: with buffers,
// deadlines and a half close, like a socket.
type memWire struct {
	in, out *direction
	read    memDeadline
	write   memDeadline
}

type memDeadline struct {
	at     time.Time
	closed bool
}

func (d memDeadline) err() error {
	if d.closed {
		return net.ErrClosed
	}
	if !d.at.IsZero() && !time.Now().Before(d.at) {
		return os.ErrDeadlineExceeded
	}
	return nil
}

func memPair() (*memWire, *memWire) {
	a, b := newDirection(), newDirection()
	return &memWire{in: a, out: b}, &memWire{in: b, out: a}
}

// vanish loses every packet in both directions from now on.
func (w *memWire) vanish() {
	w.in.set(func() { w.in.dropped = true })
	w.out.set(func() { w.out.dropped = true })
}

func (w *memWire) Read(p []byte) (int, error) {
	d := w.in
	d.mu.Lock()
	defer d.mu.Unlock()
	for {
		if err := w.read.err(); err != nil {
			return 0, err
		}
		if len(d.data) > 0 && !d.dropped {
			n := copy(p, d.data)
			d.data = d.data[n:]
			d.cond.Broadcast()
			return n, nil
		}
		if d.eof && !d.dropped {
			return 0, io.EOF
		}
		d.cond.Wait()
	}
}

func (w *memWire) Write(p []byte) (n int, err error) {
	d := w.out
	d.mu.Lock()
	defer d.mu.Unlock()
	for n < len(p) {
		if err := w.write.err(); err != nil {
			return n, err
		}
		if d.reset && !d.dropped {
			return n, syscall.ECONNRESET
		}
		room := min(memBuffer-len(d.data), len(p)-n)
		if room == 0 {
			d.cond.Wait()
			continue
		}
		d.data = append(d.data, p[n:n+room]...)
		n += room
		d.cond.Broadcast()
	}
	return n, nil
}

func (w *memWire) CloseWrite() error {
	w.out.set(func() { w.out.eof = true })
	return nil
}

func (w *memWire) Close() error {
	w.in.set(func() { w.read.closed, w.in.reset = true, true })
	w.out.set(func() { w.write.closed, w.out.eof = true, true })
	return nil
}

func (w *memWire) SetDeadline(t time.Time) error {
	return errors.Join(w.SetReadDeadline(t), w.SetWriteDeadline(t))
}

func (w *memWire) SetReadDeadline(t time.Time) error {
	w.in.set(func() { w.read.at = t })
	time.AfterFunc(time.Until(t), func() { w.in.set(func() {}) })
	return nil
}

func (w *memWire) SetWriteDeadline(t time.Time) error {
	w.out.set(func() { w.write.at = t })
	time.AfterFunc(time.Until(t), func() { w.out.set(func() {}) })
	return nil
}

func (w *memWire) LocalAddr() net.Addr  { return &net.UnixAddr{Name: "memory"} }
func (w *memWire) RemoteAddr() net.Addr { return &net.UnixAddr{Name: "memory"} }

// handler is a Handler of functions; those that are nil must not be called.
type handler struct {
	ping func(context.Context, *pdu.PingReq) (*pdu.PingRes, error)
	send func(context.Context, *pdu.SendReq) (*pdu.SendRes, io.ReadCloser, error)
	recv func(context.Context, *pdu.ReceiveReq, io.Reader) (*pdu.ReceiveRes, error)
}

func (h handler) Ping(ctx context.Context, req *pdu.PingReq) (*pdu.PingRes, error) {
	return h.ping(ctx, req)
}

func (h handler) Send(ctx context.Context, req *pdu.SendReq) (*pdu.SendRes, io.ReadCloser, error) {
	return h.send(ctx, req)
}

func (h handler) Receive(ctx context.Context, req *pdu.ReceiveReq, r io.Reader) (*pdu.ReceiveRes, error) {
	return h.recv(ctx, req, r)
}

// sending is a handler that sends what r reads.
func sending(r io.Reader) handler {
	return handler{send: func(context.Context, *pdu.SendReq) (*pdu.SendRes, io.ReadCloser, error) {
		return new(pdu.SendRes), io.NopCloser(r), nil
	}}
}

// receiving is a handler that hands what it receives to f.
func receiving(f func(context.Context, io.Reader) error) handler {
	return handler{recv: func(ctx context.Context, _ *pdu.ReceiveReq, r io.Reader) (*pdu.ReceiveRes, error) {
		return new(pdu.ReceiveRes), f(ctx, r)
	}}
}

// link is a client, and a server with a handler behind each of its connections.
type link struct {
	*Client
	wire chan *memWire // the client's ends, as they are dialled
	wg   sync.WaitGroup
}

// connect returns a link. The test must call its close, best deferred.
func connect(h Handler) *link {
	l := &link{wire: make(chan *memWire, 1)}
	l.Client = NewClient(func(context.Context) (transport.Wire, Features, error) {
		client, server := memPair()
		l.wg.Go(func() { ServeConn(context.Background(), server, h, ServeOptions{}) })
		select {
		case l.wire <- client:
		default:
		}
		return client, Features{}, nil
	}, ClientOptions{})
	return l
}

// close waits until both ends have ended.
func (l *link) close() {
	_ = l.Close()
	l.wg.Wait()
}

// dialTo returns a client with one connection: to a peer that the test plays.
func dialTo() (*Client, *memWire) { return dialWith(Features{}) }

// endless reads the same byte for ever.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	return len(p), nil
}

// pattern is n bytes that don't repeat at a frame's size.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i % 251)
	}
	return b
}

func frame(typ frameType, payload string) []byte {
	return append(appendHeader(nil, typ, len(payload)), payload...)
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
