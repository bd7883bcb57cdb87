package transportmux_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/yamux"
	"golang.org/x/net/nettest"

	"github.com/dualrepl/dualrepl/transport"
	"github.com/dualrepl/dualrepl/transport/local"
	"github.com/dualrepl/dualrepl/transport/transporttest"
	"github.com/dualrepl/dualrepl/transportmux"
	"github.com/dualrepl/dualrepl/versionhandshake"
)

func offerMux(transport.Wire) []string { return []string{versionhandshake.ExtensionMux} }

// virtualTime is synctest.Test without the timers that yamux keeps in a pool from one test
// to the next: they belong to the bubble that made them. Two collections empty a pool.
func virtualTime(t *testing.T, test func(*testing.T)) {
	for range 2 {
		runtime.GC()
	}
	synctest.Test(t, test)
	for range 2 {
		runtime.GC()
	}
}

type lookup = func(label string) (transportmux.Handler, bool)

// sessions connects two sessions over a transport; either answers with its lookup.
func sessions(t testing.TB, l transport.Listener, c transport.Connecter, dialler, acceptor lookup) (dialled, accepted *transportmux.Session) {
	t.Helper()
	made := serveSessions(t, l, acceptor, transportmux.SessionOptions{})
	conn, err := transportmux.Dial(t.Context(), c, transportmux.LabelMux, offerMux)
	if err != nil {
		t.Fatal(err)
	}
	dialled, err = transportmux.NewSession(conn, true, dialler, transportmux.SessionOptions{PeerIdentity: "server"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dialled.Close() })
	return dialled, <-made
}

// serveSessions makes a session of each connection, until the test ends.
func serveSessions(t testing.TB, l transport.Listener, find lookup, opts transportmux.SessionOptions) <-chan *transportmux.Session {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	made := make(chan *transportmux.Session, 16)
	served := make(chan error, 1)
	accept := func(ctx context.Context, conn *transportmux.Conn) {
		s, err := transportmux.NewSession(conn, false, find, opts)
		if err != nil {
			t.Errorf("NewSession: %v", err)
			return
		}
		made <- s
		select {
		case <-ctx.Done():
		case <-s.Done():
		}
		_ = s.Close()
	}
	go func() {
		handlers := map[string]transportmux.Handler{transportmux.LabelMux: accept}
		served <- transportmux.Serve(ctx, l, handlers, transportmux.ServeOptions{Offer: offerMux})
	}()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return made
}

// localSessions is sessions in memory.
func localSessions(t testing.TB, dialler, acceptor lookup) (dialled, accepted *transportmux.Session) {
	tr := local.New("alice")
	return sessions(t, tr.Listener(), tr.Connecter(), dialler, acceptor)
}

// everything is answered by handler.
func everything(handler transportmux.Handler) lookup {
	return func(string) (transportmux.Handler, bool) { return handler, true }
}

// echo sends back what it reads.
func echo(_ context.Context, conn *transportmux.Conn) {
	defer conn.Close()
	_, _ = io.Copy(conn.Wire, conn.Wire) // the dialler notices
	_ = conn.CloseWrite()
}

// A streamListener is the streams of sessions as a transport.
type streamListener struct {
	streams chan *transportmux.Conn
	closed  chan struct{}
	addr    net.Addr
}

func (l *streamListener) handle(_ context.Context, conn *transportmux.Conn) {
	select {
	case l.streams <- conn:
	case <-l.closed:
		_ = conn.Close()
	}
}

func (l *streamListener) Accept(ctx context.Context) (transport.Pending, error) {
	select {
	case <-l.closed:
		return nil, net.ErrClosed
	default:
	}
	select {
	case conn := <-l.streams:
		return pendingStream{conn}, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (l *streamListener) Addr() net.Addr { return l.addr }

func (l *streamListener) Close() error {
	select {
	case <-l.closed:
	default:
		close(l.closed)
	}
	return nil
}

type pendingStream struct{ *transportmux.Conn }

func (p pendingStream) Authenticate(context.Context) (transport.Wire, string, error) {
	return p.Wire, p.ClientIdentity, nil
}

type streamConnecter struct {
	dialer   transportmux.Dialer
	listener *streamListener
}

func (c streamConnecter) Connect(ctx context.Context) (transport.Wire, error) {
	select {
	case <-c.listener.closed:
		return nil, errors.New("nobody listens") // a session goes on
	default:
	}
	conn, err := c.dialer.Dial(ctx, "x")
	if err != nil {
		return nil, err
	}
	return conn.Wire, nil
}

// TestStreamsAreWires: the streams of a session, opened from either end, are as good as
// connections of their own.
func TestStreamsAreWires(t *testing.T) {
	for name, newPair := range transports {
		for _, side := range []string{"dialler", "acceptor"} {
			t.Run(name+"/opened by the "+side, func(t *testing.T) {
				identity := map[string]string{"dialler": "alice", "acceptor": "server"}[side]
				transporttest.Run(t, func(t *testing.T) (transport.Listener, transport.Connecter) {
					l, c, _ := newPair(t)
					streams := &streamListener{streams: make(chan *transportmux.Conn), closed: make(chan struct{}), addr: l.Addr()}
					t.Cleanup(func() { streams.Close() })
					dialled, accepted := sessions(t, l, c, everything(streams.handle), everything(streams.handle))
					var dialer transportmux.Dialer = dialled
					if side == "acceptor" {
						dialer = accepted
					}
					return streams, streamConnecter{dialer, streams}
				}, transporttest.Options{Identity: identity})
			})
		}
	}
}

func TestStreamIsANetConn(t *testing.T) {
	nettest.TestConn(t, func() (client, server net.Conn, stop func(), err error) {
		streams := make(chan *transportmux.Conn)
		dialled, accepted := localSessions(t, nil, everything(func(_ context.Context, conn *transportmux.Conn) { streams <- conn }))
		conn, err := dialled.Dial(t.Context(), "x")
		if err != nil {
			return nil, nil, nil, err
		}
		server = <-streams
		return conn, server, func() {
			conn.Close()
			server.Close()
			dialled.Close()
			accepted.Close()
		}, nil
	})
}

// roundTrip has an echo answered.
func roundTrip(t *testing.T, conn *transportmux.Conn) {
	t.Helper()
	const text = "still here"
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatalf("Write: %v", err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != text {
		t.Fatalf("read %q, error %v", got, err)
	}
}

// fill writes until conn takes no more.
func fill(t *testing.T, conn *transportmux.Conn) (written int) {
	t.Helper()
	_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
	written, err := conn.Write(make([]byte, 64<<20))
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("Write: %v, want a timeout", err)
	}
	_ = conn.SetWriteDeadline(time.Time{})
	return written
}

// stall reads nothing until the session ends.
func stall(ctx context.Context, conn *transportmux.Conn) {
	defer conn.Close()
	<-ctx.Done()
}

func echoOrStall(label string) (transportmux.Handler, bool) {
	if label == "echo" {
		return echo, true
	}
	return stall, true
}

// TestStalledStreamDelaysNobody: in virtual time, which stands still while an echo is
// answered beside streams whose readers have stopped, both ways.
func TestStalledStreamDelaysNobody(t *testing.T) {
	virtualTime(t, func(t *testing.T) {
		dialled, accepted := localSessions(t, echoOrStall, echoOrStall)
		for _, s := range []*transportmux.Session{dialled, accepted} {
			conn := mustDial(t, s, "stall")
			defer conn.Close()
			if written := fill(t, conn); written != 16<<20-64 {
				t.Errorf("%d bytes are taken for a reader that has stopped, want 16 MiB, less the label", written)
			}
		}
		for _, s := range []*transportmux.Session{dialled, accepted} {
			conn := mustDial(t, s, "echo")
			defer conn.Close()
			start := time.Now()
			for range 1000 {
				roundTrip(t, conn)
			}
			if took := time.Since(start); took != 0 {
				t.Errorf("echoes waited for %v", took)
			}
		}
	})
}

// TestSaturatedStreamsDelayNobodyForLong: whatever is written, an echo is answered.
func TestSaturatedStreamsDelayNobodyForLong(t *testing.T) {
	for name, newPair := range transports {
		t.Run(name, func(t *testing.T) {
			l, c, _ := newPair(t)
			dialled, _ := sessions(t, l, c, nil, echoOrDrain)
			var running sync.WaitGroup
			defer running.Wait()
			for range 4 {
				bulk := mustDial(t, dialled, "drain")
				running.Go(func() {
					for err := error(nil); err == nil; {
						_, err = bulk.Write(make([]byte, 1<<20))
					}
				})
				defer bulk.Close()
			}
			conn := mustDial(t, dialled, "echo")
			defer conn.Close()
			for range 100 {
				roundTrip(t, conn)
			}
		})
	}
}

// TestIdleSessionLives: pings go both ways.
func TestIdleSessionLives(t *testing.T) {
	virtualTime(t, func(t *testing.T) {
		dialled, accepted := localSessions(t, nil, everything(echo))
		conn := mustDial(t, dialled, "echo")
		defer conn.Close()
		time.Sleep(24 * time.Hour)
		roundTrip(t, conn)
		if err := errors.Join(dialled.Err(), accepted.Err()); err != nil {
			t.Error(err)
		}
	})
}

// slow is a connecter whose wires take some bytes a second, one write after another.
type slow struct {
	transport.Connecter
	rate int
}

func (s slow) Connect(ctx context.Context) (transport.Wire, error) {
	w, err := s.Connecter.Connect(ctx)
	return &slowWire{w, s.rate, make(chan struct{})}, err
}

type slowWire struct {
	transport.Wire
	rate   int
	closed chan struct{}
}

func (w *slowWire) Write(p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		piece := p[n:min(len(p), n+w.rate)]
		select {
		case <-time.After(time.Duration(len(piece)) * time.Second / time.Duration(w.rate)):
		case <-w.closed:
		}
		_, err = w.Wire.Write(piece)
		n += len(piece)
	}
	return n, err
}

func (w *slowWire) Close() error {
	close(w.closed)
	return w.Wire.Close()
}

// TestSlowLineIsNotDead: bulk data fills a line of 4 KiB/s for an hour, so that each frame
// takes longer than a ping may.
func TestSlowLineIsNotDead(t *testing.T) {
	virtualTime(t, func(t *testing.T) {
		tr := local.New("alice")
		dialled, accepted := sessions(t, tr.Listener(), slow{tr.Connecter(), 4 << 10}, nil, everything(drain))
		bulk := mustDial(t, dialled, "drain")
		if _, err := bulk.Write(make([]byte, 3600*4<<10)); err != nil {
			t.Error(err)
		}
		bulk.Close()
		if err := errors.Join(dialled.Err(), accepted.Err()); err != nil {
			t.Error(err)
		}
	})
}

// TestHalfClosedStreamLives: the other direction has all the time it wants.
func TestHalfClosedStreamLives(t *testing.T) {
	virtualTime(t, func(t *testing.T) {
		dialled, _ := localSessions(t, nil, everything(func(_ context.Context, conn *transportmux.Conn) {
			defer conn.Close()
			_, _ = io.ReadAll(conn)
			time.Sleep(24 * time.Hour)
			_, _ = io.WriteString(conn, "late")
		}))
		conn := mustDial(t, dialled, "x")
		defer conn.Close()
		if err := conn.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(conn); err != nil || string(got) != "late" {
			t.Errorf("read %q, error %v", got, err)
		}
	})
}

// TestLostConnectionIsNoEnd: a stream ends with io.EOF only if its peer has ended it.
func TestLostConnectionIsNoEnd(t *testing.T) {
	tr := local.New("alice")
	wires := &lastWire{Connecter: tr.Connecter()}
	dialled, accepted := sessions(t, tr.Listener(), wires, nil, everything(func(ctx context.Context, conn *transportmux.Conn) {
		_, _ = io.WriteString(conn, "half of it")
		stall(ctx, conn)
	}))
	conn := mustDial(t, dialled, "x")
	defer conn.Close()
	if _, err := io.ReadFull(conn, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	wires.last.Close()
	got, err := io.ReadAll(conn)
	if string(got) != " of it" || !errors.Is(err, dialled.Err()) {
		t.Errorf("read %q, then %v, want the session's error", got, err)
	}
	if _, err := dialled.Dial(t.Context(), "x"); err == nil || !errors.Is(err, dialled.Err()) {
		t.Errorf("Dial: %v, want the session's error %v", err, dialled.Err())
	}
	if _, err := conn.Write([]byte{1}); err == nil || !errors.Is(err, dialled.Err()) {
		t.Errorf("Write: %v, want the session's error", err)
	}
	<-accepted.Done()
	if err := accepted.Err(); !errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		t.Errorf("the peer's session ended with %v", err)
	}
}

// lastWire remembers the last connection.
type lastWire struct {
	transport.Connecter
	last transport.Wire
}

func (l *lastWire) Connect(ctx context.Context) (w transport.Wire, err error) {
	l.last, err = l.Connecter.Connect(ctx)
	return l.last, err
}

// TestStreamsInheritFromTheirConnection: who the peer is, and what the banners said.
func TestStreamsInheritFromTheirConnection(t *testing.T) {
	handlers := make(chan *transportmux.Conn, 2)
	keep := everything(func(_ context.Context, conn *transportmux.Conn) { handlers <- conn })
	dialled, accepted := localSessions(t, keep, keep)
	for _, test := range []struct {
		from         *transportmux.Session
		dials, peers string
	}{{dialled, "server", "alice"}, {accepted, "alice", "server"}} {
		conn := mustDial(t, test.from, "x")
		peer := <-handlers
		defer conn.Close()
		defer peer.Close()
		if conn.ClientIdentity != test.dials || peer.ClientIdentity != test.peers {
			t.Errorf("identities %q and %q, want %q and %q", conn.ClientIdentity, peer.ClientIdentity, test.dials, test.peers)
		}
		for _, c := range []*transportmux.Conn{conn, peer} {
			if _, on := c.On(versionhandshake.ExtensionMux); !on || !transport.ChecksIntegrity(c.Wire) {
				t.Errorf("%+v is not like its connection", c)
			}
		}
	}
}

// TestSessionCloseWaits: handlers learn that the session ends, and what they still say
// reaches the peer.
func TestSessionCloseWaits(t *testing.T) {
	started := make(chan struct{})
	dialled, accepted := localSessions(t, nil, everything(func(ctx context.Context, conn *transportmux.Conn) {
		defer conn.Close()
		close(started)
		<-ctx.Done()
		_, _ = io.WriteString(conn, "good bye")
	}))
	conn := mustDial(t, dialled, "x")
	defer conn.Close()
	<-started
	_ = accepted.Close()
	if got, err := io.ReadAll(conn); err != nil || string(got) != "good bye" {
		t.Errorf("read %q, error %v", got, err)
	}
	<-dialled.Done()
	for name, s := range map[string]*transportmux.Session{"this": accepted, "that": dialled} {
		if _, err := s.Dial(t.Context(), "x"); err == nil || !errors.Is(err, s.Err()) {
			t.Errorf("Dial on %s side: %v, want %v", name, err, s.Err())
		}
	}
	if err := accepted.Err(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the session that was closed ended with %v", err)
	}
}

// TestCloseResetsAWriter: a peer that goes on writing to a stream nobody reads learns so.
func TestCloseResetsAWriter(t *testing.T) {
	dialled, _ := localSessions(t, nil, everything(func(_ context.Context, conn *transportmux.Conn) { conn.Close() }))
	conn := mustDial(t, dialled, "x")
	defer conn.Close()
	for {
		if _, err := conn.Write([]byte("more")); err != nil {
			if !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("Write: %v, want a reset", err)
			}
			return
		}
	}
}

// TestCloseUnblocksWrite: a Write that waits for the peer's reader.
func TestCloseUnblocksWrite(t *testing.T) {
	dialled, _ := localSessions(t, nil, everything(stall))
	conn := mustDial(t, dialled, "x")
	defer conn.Close()
	wrote := make(chan error)
	go func() {
		_, err := conn.Write(make([]byte, 64<<20))
		wrote <- err
	}()
	time.AfterFunc(10*time.Millisecond, func() { conn.Close() })
	if err := <-wrote; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Write: %v, want net.ErrClosed", err)
	}
}

// TestDialEndsWithItsContext although the line is stuck.
func TestSessionDialEndsWithContext(t *testing.T) {
	virtualTime(t, func(t *testing.T) {
		tr := local.New("alice")
		dialled, _ := sessions(t, tr.Listener(), slow{tr.Connecter(), 4 << 10}, nil, everything(stall))
		bulk := mustDial(t, dialled, "x")
		wrote := make(chan error)
		go func() {
			_, err := bulk.Write(make([]byte, 1<<20))
			wrote <- err
		}()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		_, err := dialled.Dial(ctx, "x")
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("Dial ends after %v with %v", time.Since(start), err)
		}
		if err := <-wrote; err != nil {
			t.Error(err)
		}
		bulk.Close()
	})
}

// TestBareYamux: a peer that knows the protocol only, with the library's own defaults.
func TestBareYamux(t *testing.T) {
	wire, accepted := rawPeer(t, everything(echo), transportmux.SessionOptions{})
	config := yamux.DefaultConfig()
	config.LogOutput = io.Discard
	peer, err := yamux.Client(wire, config)
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	if _, err := peer.Ping(); err != nil {
		t.Errorf("Ping: %v", err)
	}
	out, err := peer.Open()
	if err != nil {
		t.Fatal(err)
	}
	text := append([]byte("x"), make([]byte, 63)...) // a label
	text = append(text, make([]byte, 1<<20)...)
	go func() { _, _ = out.Write(text) }()
	if _, err := io.ReadFull(out, make([]byte, len(text)-64)); err != nil {
		t.Errorf("Read: %v", err)
	}
	conn := mustDial(t, accepted, "y")
	defer conn.Close()
	in, err := peer.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(io.LimitReader(in, 64)); err != nil || string(got[:2]) != "y\x00" {
		t.Errorf("the peer reads label %q, error %v", got, err)
	}
	_ = in.Close()
	if _, err := conn.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("Read: %v, want EOF", err)
	}
}

// TestNoMux: a peer without the extension sees the banner and nothing else.
func TestNoMux(t *testing.T) {
	tr := local.New("alice")
	seen := make(chan string)
	go func() {
		p, err := tr.Listener().Accept(context.Background())
		if err != nil {
			close(seen)
			return
		}
		wire, _, _ := p.Authenticate(context.Background()) // "alice" is valid
		defer wire.Close()
		_, _ = io.WriteString(wire, "0000000056 ZREPL_ZFS_REPLICATION PROTOVERSION=0007 EXTENSIONS=0000\n")
		all, _ := io.ReadAll(wire)
		seen <- string(all)
	}()
	_, err := transportmux.Dial(t.Context(), tr.Connecter(), transportmux.LabelMux, offerMux)
	if dialError := new(transportmux.DialError); !errors.Is(err, transportmux.ErrNoMux) || !errors.As(err, &dialError) {
		t.Errorf("Dial: %v, want ErrNoMux", err)
	}
	const want = "0000000069 ZREPL_ZFS_REPLICATION PROTOVERSION=0007 EXTENSIONS=0001\ndualrepl.mux\n"
	if got := <-seen; got != want {
		t.Errorf("the peer was sent %q, want %q", got, want)
	}
}

// TestSessionNeedsMux on the side that accepts, too.
func TestSessionNeedsMux(t *testing.T) {
	tr := local.New("alice")
	refused := make(chan error, 1)
	serve(t, tr.Listener(), map[string]transportmux.Handler{"x": func(_ context.Context, conn *transportmux.Conn) {
		_, err := transportmux.NewSession(conn, false, nil, transportmux.SessionOptions{})
		refused <- err
	}}, 0)
	conn, err := transportmux.Dial(t.Context(), tr.Connecter(), "x", offerMux)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := <-refused; err != transportmux.ErrNoMux {
		t.Errorf("NewSession: %v, want ErrNoMux", err)
	}
	if got, err := io.ReadAll(conn); err != nil || len(got) > 0 {
		t.Errorf("read %q, error %v, want the end", got, err)
	}
}

// A Write that fails tells what the peer cannot have got: not all of it. Here the
// connection breaks as soon as the peer has the message, while the Write may not have
// returned.
func TestWriteThatFailsWasNotSent(t *testing.T) {
	message := bytes.Repeat([]byte("message "), 1000)
	for range 300 {
		l, c, _ := newTCP(t)
		last := &lastWire{Connecter: c}
		got := make(chan bool, 1)
		dialled, accepted := sessions(t, l, last, nil, everything(func(_ context.Context, conn *transportmux.Conn) {
			_, err := io.ReadFull(conn, make([]byte, len(message)))
			_ = last.last.Close()
			got <- err == nil
		}))
		conn := mustDial(t, dialled, "x")
		n, err := conn.Write(message)
		_ = errors.Join(conn.Close(), dialled.Close(), accepted.Close())
		select {
		case whole := <-got:
			if whole && (err != nil || n < len(message)) {
				t.Fatalf("Write returned %d, %v; the peer has the whole message", n, err)
			}
		default: // its session ended before
		}
	}
}
