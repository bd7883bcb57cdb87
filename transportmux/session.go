package transportmux

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/dualrepl/dualrepl/transport"
	"github.com/dualrepl/dualrepl/versionhandshake"
)

// LabelMux is the label of a connection that is to be a Session.
const LabelMux = "dualrepl_mux"

// SessionOptions may be the zero value.
type SessionOptions struct {
	// PeerIdentity is who the peer is to the handlers of the streams that it opens, on
	// the side that dialled: no transport authenticates a client identity there. The
	// other side has the one of the connection.
	PeerIdentity string
	MaxStreams   int          // of both sides; 0: DefaultMaxStreams
	Logger       *slog.Logger // gets a record for each stream that is refused; nil: none
}

// A Session is one connection that carries many labelled ones, opened from either end.
type Session struct {
	conn     *Conn // of all streams
	identity string
	handler  func(label string) (Handler, bool)
	logger   *slog.Logger
	carrier  *carrier
	mux      *yamux.Session

	ctx     context.Context // the session's life; its cause is Err
	end     context.CancelCauseFunc
	opening chan struct{} // holds a value for each stream that is being opened
	closing atomic.Bool   // Close was called
	closed  chan struct{} // closed when it has done its work

	running tracker        // handlers, and what leads to them or opens streams
	ending  tracker        // what tells the peer of closed streams
	own     sync.WaitGroup // accept and the carrier's attend
}

// NewSession takes conn over, after its label, whatever it returns. dialled says which
// side this is. handler finds out who answers a stream that the peer opens; nil: nobody.
// ErrNoMux is in the error's chain if the banners of both sides do not have dualrepl.mux.
// The caller closes the Session.
func NewSession(conn *Conn, dialled bool, handler func(label string) (Handler, bool), opts SessionOptions) (*Session, error) {
	if _, on := conn.On(versionhandshake.ExtensionMux); !on {
		_ = conn.Close() // what matters is why
		return nil, ErrNoMux
	}
	s := &Session{conn: conn, handler: handler, identity: conn.ClientIdentity, logger: opts.Logger,
		opening: make(chan struct{}, maxOpening), closed: make(chan struct{})}
	if dialled {
		s.identity = opts.PeerIdentity
	}
	if s.logger == nil {
		s.logger = slog.New(slog.DiscardHandler)
	}
	if opts.MaxStreams <= 0 {
		opts.MaxStreams = DefaultMaxStreams
	}
	s.ctx, s.end = context.WithCancelCause(context.Background())
	if err := s.run(dialled, opts.MaxStreams); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return s, nil
}

// run starts yamux and the session's goroutines.
func (s *Session) run(dialled bool, maxStreams int) (err error) {
	limitUnsent(s.conn.Wire)
	s.carrier = newCarrier(s.conn.Wire, dialled, maxStreams, s.end)
	side := yamux.Server
	if dialled {
		side = yamux.Client
	}
	if s.mux, err = side(s.carrier, yamuxConfig(maxStreams)); err != nil {
		return fmt.Errorf("transportmux: %w", err)
	}
	s.own.Go(s.accept)
	s.own.Go(func() { s.carrier.attend(s.ctx) })
	return nil
}

// yamuxConfig leaves time and memory to the carrier.
func yamuxConfig(maxStreams int) *yamux.Config {
	config := yamux.DefaultConfig()
	config.AcceptBacklog = maxStreams
	config.EnableKeepAlive = false            // it takes a line full of data for a dead one
	config.ConnectionWriteTimeout = time.Hour // for its turn to be written; each write has a time-out
	config.StreamOpenTimeout = 0              // it would end the session
	config.StreamCloseTimeout = 0             // it would end streams that are closed in one direction only
	config.MaxStreamWindowSize = maxWindow
	config.LogOutput = io.Discard // all it has to say is in the error that it returns
	return config
}

// lostError is why a session ended that nobody here has closed.
type lostError struct{ err error }

func (e lostError) Error() string { return "connection lost: " + e.err.Error() }
func (e lostError) Unwrap() error { return e.err }

var errSessionClosed = fmt.Errorf("session closed: %w", net.ErrClosed)

// Done is closed when the session has ended.
func (s *Session) Done() <-chan struct{} { return s.ctx.Done() }

// Err is why the session has ended; nil before.
func (s *Session) Err() error { return context.Cause(s.ctx) }

// accept runs until the session has ended.
func (s *Session) accept() {
	for {
		y, err := s.mux.AcceptStream()
		if errors.Is(err, yamux.ErrSessionShutdown) && s.Err() == nil {
			continue // it says next why
		}
		if err != nil {
			s.end(lostError{err})
			return
		}
		st := newStream(s, y)
		if !s.running.start(func() { s.serve(st) }) {
			_ = st.Close() // never fails
		}
	}
}

// serve reads the label of a stream and hands it on.
func (s *Session) serve(st *stream) {
	conn := s.newConn(st)
	conn.ClientIdentity = s.identity
	label, err := conn.receiveLabel(s.ctx)
	var handler Handler
	if err == nil {
		handler, err = s.find(label)
	}
	if err != nil {
		_ = st.Close() // never fails
		s.logRefused(err)
		return
	}
	handler(s.ctx, conn)
}

func (s *Session) logRefused(err error) {
	if s.ctx.Err() == nil { // else we are ending, the peer is not to blame
		s.logger.Info("stream refused", "peer", s.conn.RemoteAddr().String(), "error", err)
	}
}

func (s *Session) find(label string) (Handler, error) {
	if s.handler != nil {
		if handler, known := s.handler(label); known {
			return handler, nil
		}
	}
	return nil, fmt.Errorf("unknown label %q", label)
}

// newConn is the Conn of a stream: the banner of the connection holds for all of them.
func (s *Session) newConn(st *stream) *Conn {
	return &Conn{Wire: st, ClientIdentity: s.identity, Peer: s.conn.Peer, offered: s.conn.offered}
}

// Dial opens a stream and sends its label. It does not wait for the peer's consent: a
// stream that the peer refuses fails in its first Read. If the session has ended, Err's
// error is in the chain.
func (s *Session) Dial(ctx context.Context, label string) (*Conn, error) {
	encoded, err := encodeLabel(label)
	if err != nil {
		return nil, s.dialError(err)
	}
	st, err := s.open(ctx, encoded)
	if err != nil {
		return nil, s.dialError(err)
	}
	return s.newConn(st), nil
}

func (s *Session) dialError(err error) error {
	return &DialError{Peer: s.conn.RemoteAddr(), Err: err}
}

// An opened is what came of opening a stream.
type opened struct {
	stream *stream
	err    error
}

// open waits until the stream and its label have been sent, or ctx ends: yamux itself
// knows no contexts.
func (s *Session) open(ctx context.Context, label []byte) (*stream, error) {
	select {
	case s.opening <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-s.ctx.Done():
		return nil, s.Err()
	}
	result := make(chan opened)
	if !s.running.start(func() { s.openFor(ctx, label, result) }) {
		<-s.opening
		return nil, s.Err()
	}
	select {
	case r := <-result:
		return r.stream, r.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// openFor opens a stream, and closes it if nobody waits for it any more.
func (s *Session) openFor(ctx context.Context, label []byte, result chan<- opened) {
	defer func() { <-s.opening }()
	st, err := s.openStream()
	if err == nil {
		_, err = st.Write(label)
	}
	select {
	case result <- opened{st, err}:
		if err == nil || st == nil {
			return
		}
	case <-ctx.Done():
	}
	if st != nil {
		_ = st.Close() // never fails
	}
}

func (s *Session) openStream() (*stream, error) {
	y, err := s.mux.OpenStream()
	switch {
	case err == nil:
		return newStream(s, y), nil
	case errors.Is(err, yamux.ErrStreamsExhausted):
		s.end(lostError{err}) // no use any more
		_ = s.mux.Close()     // never fails
	}
	<-s.ctx.Done() // every error of yamux is that of a session that ended
	return nil, s.Err()
}

// Close ends the session, all its streams and the contexts of its handlers, and waits
// for the handlers. It must not be called by one of them.
func (s *Session) Close() error {
	if s.closing.CompareAndSwap(false, true) {
		s.shutDown()
		close(s.closed)
	}
	<-s.closed
	return nil
}

// shutDown lets what was written reach the peer, which answers by closing the connection.
func (s *Session) shutDown() {
	s.end(errSessionClosed)
	patience := time.AfterFunc(endTimeout, func() { _ = s.conn.Wire.Close() }) // ends everything
	defer patience.Stop()
	s.running.close()
	s.ending.close()
	if err := s.carrier.closeWrite(); err == nil {
		<-s.mux.CloseChan()
	}
	_ = s.mux.Close() // never fails
	s.own.Wait()
}

var _ transport.Wire = (*stream)(nil)
var _ Dialer = (*Session)(nil)
