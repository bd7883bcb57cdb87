package transportmux_test

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dualrepl/dualrepl/transport"
	"github.com/dualrepl/dualrepl/transport/local"
	"github.com/dualrepl/dualrepl/transportmux"
	"github.com/dualrepl/dualrepl/versionhandshake"
)

var errUnreachable = errors.New("unreachable")

// A gate is a connecter that somebody else opens, and that remembers when it was used.
type gate struct {
	transport.Connecter
	mu    sync.Mutex
	tried []time.Time
	admit chan bool // false: errUnreachable; closed: all are admitted
}

func newGate(c transport.Connecter) *gate { return &gate{Connecter: c, admit: make(chan bool)} }

func (g *gate) Connect(ctx context.Context) (transport.Wire, error) {
	g.mu.Lock()
	g.tried = append(g.tried, time.Now())
	g.mu.Unlock()
	select {
	case ok, open := <-g.admit:
		if open && !ok {
			return nil, errUnreachable
		}
		return g.Connecter.Connect(ctx)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (g *gate) attempts() []time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.tried)
}

// dialling is a Link that dials, and the sessions at the other end.
func dialling(t *testing.T) (*transportmux.Link, *gate, <-chan *transportmux.Session) {
	t.Helper()
	tr := local.New("alice")
	made := serveSessions(t, tr.Listener(), everything(echo), transportmux.SessionOptions{})
	g := newGate(tr.Connecter())
	l := transportmux.NewLink(g, transportmux.LinkOptions{PeerIdentity: "server"})
	t.Cleanup(func() { _ = l.Close() })
	return l, g, made
}

// dial is what a Dial in the background comes to.
func dial(ctx context.Context, l *transportmux.Link) <-chan error {
	result := make(chan error, 1)
	go func() {
		conn, err := l.Dial(ctx, "x")
		if err == nil {
			conn.Close()
		}
		result <- err
	}()
	return result
}

func wantState(t *testing.T, l *transportmux.Link, want transportmux.State) {
	t.Helper()
	if got := l.State(); got != want {
		t.Errorf("the link is %v, want %v", got, want)
	}
}

// TestAttemptIsShared by all callers, and outlives those that give up.
func TestAttemptIsShared(t *testing.T) {
	virtualTime(t, func(t *testing.T) {
		l, g, _ := dialling(t)
		ctx, cancel := context.WithCancel(t.Context())
		impatient := dial(ctx, l)
		var patient []<-chan error
		for range 10 {
			patient = append(patient, dial(t.Context(), l))
		}
		synctest.Wait()
		wantState(t, l, transportmux.Connecting)
		cancel()
		if err := <-impatient; !errors.Is(err, context.Canceled) {
			t.Errorf("a caller that gave up gets %v", err)
		}
		g.admit <- true
		for _, result := range patient {
			if err := <-result; err != nil {
				t.Error(err)
			}
		}
		wantState(t, l, transportmux.Ready)
		if n := len(g.attempts()); n != 1 {
			t.Errorf("%d attempts, want 1", n)
		}
	})
}

// TestAttemptThatNobodyWants is given up; the next caller's is another one.
func TestAttemptThatNobodyWants(t *testing.T) {
	virtualTime(t, func(t *testing.T) {
		l, g, _ := dialling(t)
		ctx, cancel := context.WithCancel(t.Context())
		first := dial(ctx, l)
		synctest.Wait()
		cancel()
		<-first
		wantState(t, l, transportmux.Disconnected)
		second := dial(t.Context(), l)
		g.admit <- true
		if err := <-second; err != nil {
			t.Error(err)
		}
		if n := len(g.attempts()); n != 2 {
			t.Errorf("%d attempts, want 2", n)
		}
	})
}

// TestFailedAttempt is told to its callers, and to nobody later.
func TestFailedAttempt(t *testing.T) {
	virtualTime(t, func(t *testing.T) {
		l, g, _ := dialling(t)
		first, second := dial(t.Context(), l), dial(t.Context(), l)
		synctest.Wait()
		g.admit <- false
		for _, result := range []<-chan error{first, second} {
			var dialError *transportmux.DialError
			if err := <-result; !errors.Is(err, errUnreachable) || !errors.As(err, &dialError) {
				t.Errorf("Dial: %v, want a DialError", err)
			}
		}
		wantState(t, l, transportmux.Disconnected)
		if err := l.LastError(); !errors.Is(err, errUnreachable) {
			t.Errorf("LastError is %v", err)
		}
		third := dial(t.Context(), l)
		g.admit <- true
		if err := <-third; err != nil || l.LastError() != nil {
			t.Errorf("Dial: %v, last error: %v", err, l.LastError())
		}
	})
}

// TestWaitForReadyOutlastsFailures of attempts, but not its context.
func TestWaitForReadyOutlastsFailures(t *testing.T) {
	virtualTime(t, func(t *testing.T) {
		l, g, _ := dialling(t)
		result := dial(transportmux.WaitForReady(t.Context()), l)
		for range 5 {
			g.admit <- false
		}
		g.admit <- true
		if err := <-result; err != nil {
			t.Error(err)
		}
	})
}

// TestNoMuxIsForGood: a peer without the extension is not asked again and again.
func TestLinkWithoutMux(t *testing.T) {
	tr := local.New("alice")
	serve(t, tr.Listener(), greeters, 0)
	l := transportmux.NewLink(tr.Connecter(), transportmux.LinkOptions{})
	defer l.Close()
	for _, ctx := range []context.Context{t.Context(), transportmux.WaitForReady(t.Context())} {
		if _, err := l.Dial(ctx, "x"); !errors.Is(err, transportmux.ErrNoMux) {
			t.Errorf("Dial: %v, want ErrNoMux", err)
		}
	}
}

// TestDisconnected: a Link that cannot dial fails at once, or waits if asked to.
func TestDisconnected(t *testing.T) {
	virtualTime(t, func(t *testing.T) {
		l := transportmux.NewLink(nil, transportmux.LinkOptions{})
		defer l.Close()
		start := time.Now()
		if _, err := l.Dial(t.Context(), "x"); !errors.Is(err, transportmux.ErrDisconnected) || time.Since(start) != 0 {
			t.Errorf("Dial fails after %v with %v", time.Since(start), err)
		}
		ctx, cancel := context.WithTimeout(transportmux.WaitForReady(t.Context()), time.Hour)
		defer cancel()
		if _, err := l.Dial(ctx, "x"); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Hour {
			t.Errorf("Dial that waits fails after %v with %v", time.Since(start), err)
		}
		waiting := dial(transportmux.WaitForReady(t.Context()), l)
		synctest.Wait()
		dialled, accepted := localSessions(t, everything(echo), nil)
		l.Attach(accepted)
		if err := <-waiting; err != nil {
			t.Error(err)
		}
		_ = dialled.Close()
		synctest.Wait()
		wantState(t, l, transportmux.Disconnected)
		if _, err := l.Dial(t.Context(), "x"); !errors.Is(err, transportmux.ErrDisconnected) {
			t.Errorf("Dial: %v, want ErrDisconnected", err)
		}
		if err := l.Keep(t.Context()); !errors.Is(err, transportmux.ErrDisconnected) {
			t.Errorf("Keep: %v, want ErrDisconnected", err)
		}
	})
}

// TestAttachFences: the handlers of the older session have ended before the newer one is
// there.
func TestAttachFences(t *testing.T) {
	virtualTime(t, func(t *testing.T) {
		l := transportmux.NewLink(nil, transportmux.LinkOptions{})
		defer l.Close()
		started, ended := make(chan struct{}), false
		older, first := localSessions(t, nil, everything(func(ctx context.Context, conn *transportmux.Conn) {
			defer conn.Close()
			close(started)
			<-ctx.Done()
			time.Sleep(time.Second) // what it was at
			ended = true
		}))
		l.Attach(first)
		conn := mustDial(t, older, "x")
		defer conn.Close()
		<-started
		_, second := localSessions(t, everything(echo), nil)
		attached := make(chan struct{})
		go func() {
			defer close(attached)
			l.Attach(second)
		}()
		synctest.Wait()
		wantState(t, l, transportmux.Disconnected)
		<-attached
		wantState(t, l, transportmux.Ready)
		if !ended || first.Err() == nil {
			t.Errorf("handler ended: %t, session: %v", ended, first.Err())
		}
		if err := <-dial(t.Context(), l); err != nil {
			t.Error(err)
		}
	})
}

// TestLostSessionFences: the same for a session that was lost, and a Link that dials.
func TestLostSessionFences(t *testing.T) {
	virtualTime(t, func(t *testing.T) {
		l, g, made := dialling(t)
		close(g.admit)
		started, ended := make(chan struct{}), time.Time{}
		l.Handle(everything(func(ctx context.Context, conn *transportmux.Conn) {
			defer conn.Close()
			close(started)
			<-ctx.Done()
			time.Sleep(time.Second)
			ended = time.Now()
		}))
		if err := <-dial(t.Context(), l); err != nil {
			t.Fatal(err)
		}
		session := <-made
		conn := mustDial(t, session, "x")
		<-started
		conn.Close()
		_ = session.Close()
		if err := <-dial(t.Context(), l); err != nil {
			t.Error(err)
		}
		if ended.IsZero() || !time.Now().Equal(ended) {
			t.Errorf("the new session is there at %v, the old one's handler has ended at %v", time.Now(), ended)
		}
	})
}

func TestAttachToClosedLink(t *testing.T) {
	l := transportmux.NewLink(nil, transportmux.LinkOptions{})
	_ = l.Close()
	dialled, accepted := localSessions(t, nil, nil)
	l.Attach(accepted)
	<-dialled.Done()
	<-accepted.Done()
	if _, err := l.Dial(transportmux.WaitForReady(t.Context()), "x"); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Dial: %v, want net.ErrClosed", err)
	}
}

// TestKeepBacksOff: between attempts passes a random time, up to a bound that doubles from
// 250 ms to 30 s, and starts anew when a session has lasted.
func TestKeepBacksOff(t *testing.T) {
	virtualTime(t, func(t *testing.T) {
		l, g, made := dialling(t)
		kept := make(chan error, 1)
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() { kept <- l.Keep(ctx) }()
		fail := func(attempts int) {
			for range attempts {
				g.admit <- false
				synctest.Wait()
			}
		}
		fail(12)
		g.admit <- true
		session := <-made
		time.Sleep(time.Hour)
		wantState(t, l, transportmux.Ready)
		_ = session.Close()
		lost := time.Now()
		fail(2)
		cancel(errUnreachable)
		if err := <-kept; !errors.Is(err, errUnreachable) {
			t.Errorf("Keep: %v, want the cause", err)
		}
		tried := g.attempts()
		bound := 250 * time.Millisecond
		for i := 1; i <= 12; i++ {
			if pause := tried[i].Sub(tried[i-1]); pause >= bound {
				t.Errorf("pause %d is %v, want less than %v", i, pause, bound)
			}
			bound = min(2*bound, 30*time.Second)
		}
		if pause := tried[12].Sub(tried[0]); pause < 10*time.Second {
			t.Errorf("12 pauses take %v in all", pause) // one run in some thousands has less
		}
		if pause := tried[13].Sub(lost); pause >= 250*time.Millisecond {
			t.Errorf("the first pause after a session is %v", pause)
		}
	})
}

func TestKeepEndsWithLink(t *testing.T) {
	virtualTime(t, func(t *testing.T) {
		for _, after := range []time.Duration{0, time.Minute} { // connecting, and ready
			l, g, _ := dialling(t)
			if after > 0 {
				close(g.admit)
			}
			kept := make(chan error, 1)
			go func() { kept <- l.Keep(t.Context()) }()
			time.Sleep(after)
			synctest.Wait()
			_ = l.Close()
			if err := <-kept; !errors.Is(err, net.ErrClosed) {
				t.Errorf("Keep: %v, want net.ErrClosed", err)
			}
			wantState(t, l, transportmux.Closed)
		}
	})
}

// TestStatesAreWatched from the beginning to the end of a link.
func TestStatesAreWatched(t *testing.T) {
	virtualTime(t, func(t *testing.T) {
		l, g, made := dialling(t)
		seen := make(chan transportmux.State)
		state := l.State()
		go func() {
			defer close(seen)
			for state != transportmux.Closed {
				state, _ = l.WaitForStateChange(t.Context(), state)
				seen <- state
			}
		}()
		step := func(want transportmux.State) {
			t.Helper()
			if got := <-seen; got != want {
				t.Errorf("the link is %v, want %v", got, want)
			}
		}
		result := dial(t.Context(), l)
		step(transportmux.Connecting)
		g.admit <- true
		step(transportmux.Ready)
		<-result
		_ = (<-made).Close()
		step(transportmux.Disconnected)
		_ = l.Close()
		step(transportmux.Closed)
		<-seen
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if state, err := l.WaitForStateChange(ctx, transportmux.Closed); !errors.Is(err, context.DeadlineExceeded) || state != transportmux.Closed {
			t.Errorf("after the end: %v, %v", state, err)
		}
	})
}

// TestCallersRacingDisconnectsNeverHang: each of many calls ends, while sessions come and
// go under them.
func TestCallersRacingDisconnectsNeverHang(t *testing.T) {
	l := transportmux.NewLink(nil, transportmux.LinkOptions{})
	defer l.Close()
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			for range 200 {
				conn, err := l.Dial(transportmux.WaitForReady(t.Context()), "x")
				if err != nil {
					continue // of a session that was just there
				}
				_, _ = conn.Write([]byte("anything"))
				_, _ = conn.Read(make([]byte, 1))
				conn.Close()
			}
		})
	}
	done := make(chan struct{})
	go func() {
		callers.Wait()
		close(done)
	}()
	for i := 0; ; i++ {
		dialled, accepted := localSessions(t, everything(echo), nil)
		l.Attach(accepted)
		select {
		case <-done:
			return
		case <-time.After(time.Duration(i%4) * time.Millisecond):
		}
		if i%2 == 0 {
			_ = dialled.Close()
		}
	}
}

// TestHandle: the peer of a link that dials calls back, once somebody answers.
func TestHandle(t *testing.T) {
	l, g, made := dialling(t)
	close(g.admit)
	if err := <-dial(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	session := <-made
	conn := mustDial(t, session, "x")
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("somebody answers")
	}
	conn.Close()
	identity := make(chan string, 1)
	l.Handle(everything(func(ctx context.Context, conn *transportmux.Conn) {
		identity <- conn.ClientIdentity
		echo(ctx, conn)
	}))
	conn = mustDial(t, session, "x")
	defer conn.Close()
	roundTrip(t, conn)
	if id := <-identity; id != "server" {
		t.Errorf("the peer is %q, want server", id)
	}
}

// TestLinkOffersMux once, whatever else it offers.
func TestLinkOffersMux(t *testing.T) {
	for _, lines := range [][]string{nil, {"a"}, {versionhandshake.ExtensionMux, "a"}} {
		tr := local.New("alice")
		said := make(chan []string, 1)
		ctx, stop := context.WithCancel(t.Context())
		served := make(chan error, 1)
		go func() {
			handlers := map[string]transportmux.Handler{transportmux.LabelMux: func(_ context.Context, conn *transportmux.Conn) {
				said <- conn.Peer.Extensions
				conn.Close()
			}}
			served <- transportmux.Serve(ctx, tr.Listener(), handlers, transportmux.ServeOptions{Offer: offerMux})
		}()
		l := transportmux.NewLink(tr.Connecter(), transportmux.LinkOptions{Offer: func(transport.Wire) []string { return lines }})
		<-dial(t.Context(), l)
		want := lines
		if !slices.Contains(lines, versionhandshake.ExtensionMux) {
			want = append(slices.Clone(lines), versionhandshake.ExtensionMux)
		}
		if got := <-said; !slices.Equal(got, want) {
			t.Errorf("the banner has %q, want %q", got, want)
		}
		_ = l.Close()
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}
}
