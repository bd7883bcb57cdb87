package transportmux

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/dualrepl/dualrepl/transport"
	"github.com/dualrepl/dualrepl/versionhandshake"
)

// LinkOptions may be the zero value.
type LinkOptions struct {
	Offer        Offer        // extensions of our banner; dualrepl.mux is added
	PeerIdentity string       // as in SessionOptions, for sessions that the Link dials
	MaxStreams   int          // as in SessionOptions
	Logger       *slog.Logger // as in SessionOptions
}

// A Link is at most one Session at a time with one peer, and makes or awaits the next
// one. It is a Dialer. Nothing that was dialled on one session ever reaches another one.
type Link struct {
	connecter transport.Connecter // nil: the peer dials
	opts      LinkOptions
	turn      chan struct{} // holds a value while a session takes the place of another

	mu      sync.Mutex
	handler func(label string) (Handler, bool)
	session *Session // the last one, of which there is one at a time; nil: there was none
	attempt *attempt // nil: none
	closed  bool
	failure error          // of the last attempt, if it failed
	changed chan struct{}  // closed and replaced when the state may have changed
	running sync.WaitGroup // attempts, and what watches sessions
}

// An attempt to make a session is shared by all who want one.
type attempt struct {
	cancel  context.CancelFunc
	wanted  int           // by so many; Link.mu
	done    chan struct{} // closed when the following are set
	session *Session
	err     error
}

// NewLink dials with c. nil: the peer dials, and its sessions come by Attach. The caller
// closes the Link.
func NewLink(c transport.Connecter, opts LinkOptions) *Link {
	return &Link{connecter: c, opts: opts, turn: make(chan struct{}, 1), changed: make(chan struct{})}
}

var errLinkClosed = fmt.Errorf("link closed: %w", net.ErrClosed)

// Dial opens a stream on the present session. Without one, a Link with a Connecter makes
// one: callers share the attempt, which is given up when none of them wants it any more.
// A Link without fails with ErrDisconnected at once. If ctx is of WaitForReady, Dial
// waits for a session instead, through failed attempts, except for ErrNoMux.
func (l *Link) Dial(ctx context.Context, label string) (*Conn, error) {
	s, err := l.ready(ctx)
	if err != nil {
		return nil, asDialError(err)
	}
	return s.Dial(ctx, label)
}

func asDialError(err error) error {
	var e *DialError
	if errors.As(err, &e) {
		return err
	}
	return &DialError{Err: err}
}

// ready returns the present session, or makes or awaits one.
func (l *Link) ready(ctx context.Context) (*Session, error) {
	for b := (backoff{}); ; {
		s, err := l.connect(ctx)
		if err == nil || !WaitsForReady(ctx) || errors.Is(err, ErrNoMux) || errors.Is(err, errLinkClosed) || ctx.Err() != nil {
			return s, err
		}
		if err := l.await(ctx, b.next()); err != nil {
			return nil, err
		}
	}
}

// await waits for a session, the end of the Link, or for as long as is good before
// another attempt, if one can be made from here.
func (l *Link) await(ctx context.Context, pause time.Duration) error {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	again := timer.C
	if l.connecter == nil {
		again = nil
	}
	for {
		state, changed := l.look()
		if state == Ready || state == Closed {
			return nil
		}
		select {
		case <-changed:
		case <-again:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// connect returns the present session, or takes part in making one.
func (l *Link) connect(ctx context.Context) (*Session, error) {
	s, a, err := l.want()
	if a == nil {
		return s, err
	}
	defer l.leave(a)
	select {
	case <-a.done:
		return a.session, a.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// want returns the present session, or an attempt to wait for and leave.
func (l *Link) want() (*Session, *attempt, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		return nil, nil, errLinkClosed
	case l.live():
		return l.session, nil, nil
	case l.connecter == nil && l.session == nil:
		return nil, nil, ErrDisconnected
	case l.connecter == nil:
		return nil, nil, fmt.Errorf("%w: %s", ErrDisconnected, l.session.Err().Error()) // which is not of this call
	}
	if l.attempt == nil {
		l.begin()
	}
	l.attempt.wanted++
	return nil, l.attempt, nil
}

// begin starts an attempt. The caller holds mu.
func (l *Link) begin() {
	ctx, cancel := context.WithCancel(context.Background())
	a := &attempt{cancel: cancel, done: make(chan struct{})}
	l.attempt = a
	l.notify()
	l.running.Go(func() {
		defer cancel()
		s, err := l.dial(ctx)
		if err == nil {
			err = l.install(s, a)
		}
		l.finish(a, s, err)
	})
}

// leave is for one who wanted an attempt. The last one ends it.
func (l *Link) leave(a *attempt) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a.wanted--; a.wanted == 0 {
		l.giveUp(a)
	}
}

// giveUp ends an attempt, if it has not come to its end. The caller holds mu.
func (l *Link) giveUp(a *attempt) {
	a.cancel()
	if l.attempt == a {
		l.attempt = nil
		l.notify()
	}
}

// finish tells all who wanted the attempt.
func (l *Link) finish(a *attempt, s *Session, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a.session, a.err = s, err; err != nil {
		a.session = nil
	}
	close(a.done)
	if l.attempt == a {
		l.attempt = nil
		l.failure = err
		l.notify()
	}
}

// dial makes a session.
func (l *Link) dial(ctx context.Context) (*Session, error) {
	conn, err := Dial(ctx, l.connecter, LabelMux, l.offer)
	if err != nil {
		return nil, err
	}
	opts := SessionOptions{PeerIdentity: l.opts.PeerIdentity, MaxStreams: l.opts.MaxStreams, Logger: l.opts.Logger}
	return NewSession(conn, true, l.find, opts)
}

// offer is what our banner has.
func (l *Link) offer(w transport.Wire) []string {
	lines := l.opts.Offer.on(w)
	if _, has := versionhandshake.Find(lines, versionhandshake.ExtensionMux); has {
		return lines
	}
	return append(slices.Clone(lines), versionhandshake.ExtensionMux)
}

// find is the handler of sessions that the Link dials.
func (l *Link) find(label string) (Handler, bool) {
	l.mu.Lock()
	handler := l.handler
	l.mu.Unlock()
	if handler == nil {
		return nil, false
	}
	return handler(label)
}

// Handle sets who answers the streams that the peer opens on sessions that the Link has
// dialled. Until then they are closed.
func (l *Link) Handle(handler func(label string) (Handler, bool)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.handler = handler
}

// Attach makes s the present session, after it has closed the one before and waited for
// its handlers. The Link owns s; a Link that is closed closes it.
func (l *Link) Attach(s *Session) { _ = l.install(s, nil) } // nobody waits for s

// install makes s the present session, which nobody wants any more if it comes from an
// attempt that is not the present one.
func (l *Link) install(s *Session, from *attempt) error {
	l.turn <- struct{}{}
	defer func() { <-l.turn }()
	if old := l.older(from); old != nil {
		_ = old.Close() // never fails
	}
	if l.put(s, from) {
		return nil
	}
	_ = s.Close() // never fails
	return errLinkClosed
}

// takes reports whether a session from an attempt is wanted; nil: from the peer. The
// caller holds mu.
func (l *Link) takes(from *attempt) bool {
	return !l.closed && (from == nil || l.attempt == from)
}

// older is the session that another takes the place of. Its handlers may run although it
// has ended.
func (l *Link) older(from *attempt) *Session {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.takes(from) {
		return nil
	}
	return l.session
}

func (l *Link) put(s *Session, from *attempt) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.takes(from) {
		return false
	}
	l.session, l.failure = s, nil
	l.notify()
	l.running.Go(func() { l.watch(s) })
	return true
}

// watch tells of a session's end.
func (l *Link) watch(s *Session) {
	<-s.Done()
	l.mu.Lock()
	l.notify()
	l.mu.Unlock()
	_ = s.Close() // never fails
}

// live reports whether there is a session. The caller holds mu.
func (l *Link) live() bool { return l.session != nil && l.session.Err() == nil }

// notify wakes all who wait for a change. The caller holds mu.
func (l *Link) notify() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// Keep connects at once and, whenever the session has ended, again and again, until ctx
// ends or the Link is closed. It returns the reason.
func (l *Link) Keep(ctx context.Context) error {
	if l.connecter == nil {
		return ErrDisconnected
	}
	for b := (backoff{}); ; {
		s, err := l.connect(ctx)
		if err == nil {
			err = hold(ctx, s, &b)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if errors.Is(err, errLinkClosed) {
			return err
		}
		if err := l.await(ctx, b.next()); err != nil {
			return err
		}
	}
}

// hold waits for the end of a session.
func hold(ctx context.Context, s *Session, b *backoff) error {
	start := time.Now()
	select {
	case <-s.Done():
	case <-ctx.Done():
	}
	if time.Since(start) >= maxBackoff {
		b.reset()
	}
	return s.Err()
}

// look returns the state, and what is closed when it may be another one.
func (l *Link) look() (State, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		return Closed, l.changed
	case l.live():
		return Ready, l.changed
	case l.attempt != nil:
		return Connecting, l.changed
	}
	return Disconnected, l.changed
}

// State is the present one.
func (l *Link) State() State {
	state, _ := l.look()
	return state
}

// WaitForStateChange waits until the state is another than from and returns it, or the
// cause of ctx's end.
func (l *Link) WaitForStateChange(ctx context.Context, from State) (State, error) {
	for {
		state, changed := l.look()
		if state != from {
			return state, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return state, context.Cause(ctx)
		}
	}
}

// LastError is why the last session ended or the last attempt to make one failed; nil
// while there is a session, and before the first attempt.
func (l *Link) LastError() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failure == nil && l.session != nil {
		return l.session.Err()
	}
	return l.failure
}

// Close closes the session, if there is one, and waits for all that the Link has started.
// It must not be called by a handler.
func (l *Link) Close() error {
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		if l.attempt != nil {
			l.giveUp(l.attempt)
		}
		l.notify()
	}
	s := l.session
	l.mu.Unlock()
	if s != nil {
		_ = s.Close() // never fails
	}
	l.running.Wait()
	return nil
}

var _ Dialer = (*Link)(nil)
