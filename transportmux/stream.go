package transportmux

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/dualrepl/dualrepl/transport"
)

// A stream is the Wire of a yamux stream.
type stream struct {
	*yamux.Stream
	session *Session
	flow    *flow

	turn    sync.Mutex // held by Write
	written uint64     // bytes that Write has returned; turn

	mu            sync.Mutex
	endSent       bool // by CloseWrite
	closed        bool
	readDeadline  time.Time
	writeDeadline time.Time
}

func newStream(s *Session, y *yamux.Stream) *stream {
	return &stream{Stream: y, session: s, flow: s.carrier.flow(y.StreamID())}
}

// ChecksIntegrity is for transport.ChecksIntegrity.
func (st *stream) ChecksIntegrity() bool { return transport.ChecksIntegrity(st.session.conn.Wire) }

// usable is why a call must fail at once, with one of the stream's deadlines.
func (st *stream) usable(deadline *time.Time) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	switch {
	case st.closed:
		return net.ErrClosed
	case !deadline.IsZero() && !time.Now().Before(*deadline):
		return os.ErrDeadlineExceeded
	}
	return nil
}

func (st *stream) Read(p []byte) (int, error) {
	if err := st.usable(&st.readDeadline); err != nil {
		return 0, st.opError("read", err)
	}
	n, err := st.Stream.Read(p)
	st.session.carrier.consumed(st.flow, n)
	switch {
	case err == nil:
		return n, nil
	case err == io.EOF && st.usable(&time.Time{}) == nil && st.session.carrier.hasEnded(st.flow):
		return n, io.EOF
	}
	return n, st.opError("read", st.reason(err))
}

// Write sends in pieces, so that other streams get their turn.
func (st *stream) Write(p []byte) (n int, err error) {
	st.turn.Lock()
	defer st.turn.Unlock()
	for {
		if err := st.usable(&st.writeDeadline); err != nil {
			return n, st.opError("write", err)
		}
		sent, err := st.writePiece(p[n:min(len(p), n+maxPiece)])
		n += sent
		if err != nil {
			return n, st.opError("write", err)
		}
		if n == len(p) {
			return n, nil
		}
	}
}

// writePiece is as exact as a socket about what was sent. yamux is not, when the session
// ends while a piece is on its way.
func (st *stream) writePiece(p []byte) (n int, err error) {
	n, err = st.Stream.Write(p)
	if err != nil {
		err = st.reason(err)
	}
	if err != nil && st.session.mux.IsClosed() {
		n = min(len(p), int(st.session.carrier.sentOf(st.flow)-st.written))
	}
	if st.written += uint64(n); n == len(p) {
		return n, nil // the next one fails
	}
	return n, err
}

// reason is what an error of yamux means.
func (st *stream) reason(err error) error {
	switch {
	case st.usable(&time.Time{}) != nil:
		return net.ErrClosed
	case errors.Is(err, yamux.ErrTimeout):
		return os.ErrDeadlineExceeded
	case errors.Is(err, yamux.ErrConnectionReset):
		return syscall.ECONNRESET
	case errors.Is(err, yamux.ErrStreamClosed) && st.hasSentEnd():
		return syscall.EPIPE
	}
	<-st.session.ctx.Done() // everything else ends the session
	return context.Cause(st.session.ctx)
}

func (st *stream) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "mux", Source: st.LocalAddr(), Addr: st.RemoteAddr(), Err: err}
}

// CloseWrite implements transport.Wire.
func (st *stream) CloseWrite() error {
	st.mu.Lock()
	closed := st.closed
	st.endSent = true
	st.mu.Unlock()
	if closed {
		return st.opError("close", net.ErrClosed)
	}
	_ = st.Stream.Close() // waits for its turn; never fails
	if err := st.session.Err(); err != nil {
		return st.opError("close", err)
	}
	return nil
}

func (st *stream) hasSentEnd() bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.endSent
}

// Close lets the peer read what was written, unless this side has left something unread.
// It does not wait.
func (st *stream) Close() error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.closed {
		return nil
	}
	st.closed = true
	_ = st.Stream.SetDeadline(longAgo) // never fails
	st.session.carrier.drop(st.StreamID(), st.flow)
	st.session.ending.start(func() { _ = st.Stream.Close() }) // as in CloseWrite
	return nil
}

// longAgo as a deadline makes what waits return at once.
var longAgo = time.Unix(1, 0)

// SetDeadline implements net.Conn.
func (st *stream) SetDeadline(t time.Time) error {
	if err := st.SetReadDeadline(t); err != nil {
		return err
	}
	return st.SetWriteDeadline(t)
}

// SetReadDeadline implements net.Conn.
func (st *stream) SetReadDeadline(t time.Time) error {
	return st.setDeadline(&st.readDeadline, st.Stream.SetReadDeadline, t)
}

// SetWriteDeadline implements net.Conn.
func (st *stream) SetWriteDeadline(t time.Time) error {
	return st.setDeadline(&st.writeDeadline, st.Stream.SetWriteDeadline, t)
}

func (st *stream) setDeadline(deadline *time.Time, set func(time.Time) error, t time.Time) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.closed {
		return st.opError("set deadline", net.ErrClosed)
	}
	*deadline = t
	return set(t)
}
