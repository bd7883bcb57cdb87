package rpc

import (
	"context"
	"errors"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/endpoint/synth"
	"github.com/dualrepl/dualrepl/pdu"
	"github.com/dualrepl/dualrepl/transport"
	"github.com/dualrepl/dualrepl/transport/local"
	"github.com/dualrepl/dualrepl/transportmux"
	ext "github.com/dualrepl/dualrepl/versionhandshake"
)

// hub is what a passive client knows the server by.
const hub = "hub"

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

// dialIn serves h from a client that dials in, until the test ends or stop is called.
func dialIn(t *testing.T, c transport.Connecter, h endpoint.Endpoint, opts ServerOptions) (client *Client, stop func()) {
	t.Helper()
	client = newClient(t, c, ClientOptions{Mux: true, PeerIdentity: hub})
	return client, serveOver(t, client, h, opts)
}

func serveOver(t *testing.T, client *Client, h endpoint.Endpoint, opts ServerOptions) (stop func()) {
	t.Helper()
	return runOver(t, NewServer(h, opts), client)
}

func runOver(t *testing.T, s *Server, client *Client) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.ServeOver(ctx, client) }()
	stop = sync.OnceFunc(func() {
		cancel()
		check(t, <-done)
	})
	t.Cleanup(stop)
	return stop
}

// awaitServer serves l with a Server that has nothing but peers.
func awaitServer(t *testing.T, l transport.Listener) *Server {
	t.Helper()
	server := NewServer(&fake{}, ServerOptions{})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		check(t, <-done)
	})
	return server
}

func peerOf(t *testing.T, s *Server) *Client {
	t.Helper()
	peer, err := s.Peer("", alice, ClientOptions{})
	check(t, err)
	t.Cleanup(func() { check(t, peer.Close()) })
	return peer
}

// Every request of the protocol works towards the side that dialled.
func TestPeerRoundTrips(t *testing.T) {
	for name, p := range transports {
		t.Run(name, func(t *testing.T) {
			l, c := p(t)
			peer := peerOf(t, awaitServer(t, l))
			rec := &recorder{}
			h := &fake{hook: rec.hook, versions: []*pdu.FilesystemVersion{version()}, size: 3*megabyte + 1}
			dialIn(t, c, h, ServerOptions{})
			for _, r := range requests() {
				stream := synth.NewStream(synth.Spec{Seed: version().Guid, Size: h.size})
				res, err := r.do(WaitForReady(t.Context()), peer, stream)
				check(t, err)
				if want := h.answer(t, r); !proto.Equal(res, want) {
					t.Errorf("%s answered %v, not %v", r.method, res, want)
				}
				if id := rec.client(r.method); id != hub {
					t.Errorf("%s came from %q", r.method, id)
				}
			}
			check(t, peer.WaitForConnectivity(t.Context()))
		})
	}
}

// Without a peer a call fails at once, or waits if it was asked to.
func TestPeerIsNotThere(t *testing.T) {
	virtualTime(t, func(t *testing.T) {
		tr := local.New(alice)
		peer := peerOf(t, awaitServer(t, tr.Listener()))
		start := time.Now()
		for _, r := range requests() {
			_, err := r.do(t.Context(), peer, strings.NewReader(""))
			if !errors.Is(err, ErrDisconnected) || OutcomeOf(err) != NotSent {
				t.Errorf("%s: %v is %v", r.method, err, OutcomeOf(err))
			}
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("that took %v", took)
		}
		if state := peer.State(); state != Disconnected {
			t.Errorf("the state is %v", state)
		}

		answers := make(chan error)
		for _, r := range requests() {
			go func() {
				_, err := r.do(WaitForReady(t.Context()), peer, strings.NewReader(""))
				answers <- err
			}()
		}
		time.Sleep(30 * time.Second)
		_, stop := dialIn(t, tr.Connecter(), &fake{}, ServerOptions{})
		for range requests() {
			check(t, <-answers)
		}
		if state := peer.State(); state != Ready {
			t.Errorf("the state is %v", state)
		}
		stop()
	})
}

// A call that waits in vain ends with its context, or with the client.
func TestPeerWaitingInVain(t *testing.T) {
	virtualTime(t, func(t *testing.T) {
		tr := local.New(alice)
		peer := peerOf(t, awaitServer(t, tr.Listener()))
		for _, r := range requests() {
			ctx, cancel := context.WithTimeout(WaitForReady(t.Context()), 5*time.Second)
			_, err := r.do(ctx, peer, strings.NewReader(""))
			if !errors.Is(err, context.DeadlineExceeded) || OutcomeOf(err) != NotSent {
				t.Errorf("%s: %v is %v", r.method, err, OutcomeOf(err))
			}
			cancel()
		}
		for _, r := range requests() {
			go func() {
				if _, err := r.do(WaitForReady(context.Background()), peer, strings.NewReader("")); err == nil {
					t.Errorf("%s succeeded", r.method)
				}
			}()
		}
		synctest.Wait()
		check(t, peer.Close())
		synctest.Wait()
	})
}

// The connection breaks: calls that run end, the client comes back by itself, and calls
// go on. States tell of it.
func TestPeerComesBack(t *testing.T) {
	l, c := tcpPair(t)
	wires := &cutter{Connecter: c}
	peer := peerOf(t, awaitServer(t, l))
	begun := make(chan struct{}, 1)
	h := &fake{hook: func(ctx context.Context, method string, _ proto.Message) error {
		if method == "SendDry" {
			begun <- struct{}{}
			<-ctx.Done()
		}
		return nil
	}}
	dialIn(t, wires, h, ServerOptions{})
	for range 3 {
		_, err := peer.ListFilesystems(WaitForReady(t.Context()), &pdu.ListFilesystemReq{})
		check(t, err)
		ended := make(chan error)
		go func() {
			_, err := peer.SendDry(t.Context(), sendReq())
			ended <- err
		}()
		<-begun
		wires.cut()
		if err := <-ended; OutcomeOf(err) != MayHaveRun {
			t.Errorf("%v is %v", err, OutcomeOf(err))
		}
		if state, err := peer.WaitForStateChange(t.Context(), Disconnected); err != nil || state != Ready {
			t.Errorf("the state is %v, %v", state, err)
		}
	}
}

func untilReady(ctx context.Context, c *Client) (err error) {
	for state := c.State(); state != Ready && err == nil; {
		state, err = c.WaitForStateChange(ctx, state)
	}
	return err
}

// A receive that runs when the side that dialled stops may finish.
func TestServeOverDrains(t *testing.T) {
	l, c := tcpPair(t)
	peer := peerOf(t, awaitServer(t, l))
	begun := make(chan struct{})
	_, stop := dialIn(t, c, &fake{hook: func(context.Context, string, proto.Message) error { close(begun); return nil }}, ServerOptions{Grace: time.Minute})
	r, w := io.Pipe()
	received := make(chan error)
	go func() {
		_, err := peer.Receive(WaitForReady(t.Context()), receiveReq(), r)
		received <- err
	}()
	content := synth.NewStream(synth.Spec{Seed: version().Guid, Size: megabyte})
	_, err := io.CopyN(w, content, megabyte/2)
	check(t, err)
	<-begun
	stopped := make(chan struct{})
	go func() { stop(); close(stopped) }()
	_, err = io.Copy(w, content)
	check(t, err)
	check(t, w.Close())
	check(t, <-received)
	<-stopped
}

// One that is not done when the grace is over ends.
func TestServeOverGraceEnds(t *testing.T) {
	virtualTime(t, func(t *testing.T) {
		tr := local.New(alice)
		peer := peerOf(t, awaitServer(t, tr.Listener()))
		_, stop := dialIn(t, tr.Connecter(), &fake{}, ServerOptions{Grace: time.Minute})
		received := make(chan error)
		go func() {
			_, err := peer.Receive(WaitForReady(t.Context()), receiveReq(), neverRead{t.Context()})
			received <- err
		}()
		time.Sleep(time.Second)
		start := time.Now()
		stop()
		if took := time.Since(start); took < time.Minute || took > time.Minute+20*time.Second {
			t.Errorf("stopping took %v", took)
		}
		if err := <-received; err == nil {
			t.Error("the receive succeeded")
		}
	})
}

func TestServeOverNeedsMux(t *testing.T) {
	_, c := localPair(t)
	for _, opts := range []ClientOptions{{PeerIdentity: hub}, {Mux: true}, {Mux: true, PeerIdentity: "a/b"}, {Mux: true, BaseProtocol: true, PeerIdentity: hub}} {
		client := newClient(t, c, opts)
		if err := NewServer(&fake{}, ServerOptions{}).ServeOver(t.Context(), client); !errors.Is(err, endpoint.ErrInvalid) {
			t.Errorf("%+v: error is %v", opts, err)
		}
	}
}

// A server without mux: the client that only calls gets connections of their own.
func TestMuxWithoutPeer(t *testing.T) {
	for name, p := range transports {
		t.Run(name, func(t *testing.T) {
			l, c := p(t)
			serve(t, l, &fake{size: megabyte}, ServerOptions{BaseProtocol: true})
			client := newClient(t, c, ClientOptions{Mux: true})
			for _, r := range requests() {
				_, err := r.do(t.Context(), client, synth.NewStream(synth.Spec{Seed: version().Guid, Size: megabyte}))
				check(t, err)
			}
		})
	}
}

// A server without routes is not asked by a client that names one.
func TestRouteWithoutRoutes(t *testing.T) {
	l, c := tcpPair(t)
	serve(t, l, &fake{hook: func(_ context.Context, method string, _ proto.Message) error {
		t.Errorf("%s was asked", method)
		return nil
	}}, ServerOptions{BaseProtocol: true})
	for _, mux := range []bool{false, true} {
		client := newClient(t, c, ClientOptions{Route: "docs", Mux: mux})
		for _, r := range requests() {
			_, err := r.do(t.Context(), client, strings.NewReader(""))
			if !errors.Is(err, ErrNoRoutes) || OutcomeOf(err) != NotSent {
				t.Errorf("%s: %v is %v", r.method, err, OutcomeOf(err))
			}
		}
	}
}

// Steps over TLS use one connection again and again, and no more than run at once.
func TestStepsReuseConnections(t *testing.T) {
	for _, tt := range []struct{ steps, atOnce int }{{2000, 1}, {10_000, 16}} {
		l, c := tlsPair(t)
		serve(t, l, &fake{size: 4 << 10}, ServerOptions{})
		client := newClient(t, c, ClientOptions{})
		var wg sync.WaitGroup
		for range tt.atOnce {
			wg.Go(func() {
				for range tt.steps / tt.atOnce {
					if _, err := client.Receive(t.Context(), receiveReq(), synth.NewStream(synth.Spec{Seed: version().Guid, Size: 4 << 10})); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if got := client.Stats().DataConnections; got > uint64(tt.atOnce) {
			t.Errorf("%d steps, %d at once, took %d connections", tt.steps, tt.atOnce, got)
		}
	}
}

// countingConnecter counts what goes over its connections, in both directions.
type countingConnecter struct {
	transport.Connecter
	bytes atomic.Int64
}

func (c *countingConnecter) Connect(ctx context.Context) (transport.Wire, error) {
	w, err := c.Connecter.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return &countingWire{w, &c.bytes}, nil
}

type countingWire struct {
	transport.Wire
	bytes *atomic.Int64
}

func (w *countingWire) Read(p []byte) (int, error) {
	n, err := w.Wire.Read(p)
	w.bytes.Add(int64(n))
	return n, err
}

func (w *countingWire) Write(p []byte) (int, error) {
	n, err := w.Wire.Write(p)
	w.bytes.Add(int64(n))
	return n, err
}

// What a client that dials in says about compression holds for calls towards it, too.
func TestPeerCompresses(t *testing.T) {
	const size = 4 * megabyte
	zeros := func() io.ReadCloser { return io.NopCloser(io.LimitReader(zeroReader{}, size)) }
	l, c := tcpPair(t)
	counted := &countingConnecter{Connecter: c}
	peer := peerOf(t, awaitServer(t, l))
	client := newClient(t, counted, ClientOptions{Mux: true, PeerIdentity: hub, Level: 1})
	serveOver(t, client, &zeroStore{fake{stream: zeros()}}, ServerOptions{})

	ctx := WaitForReady(t.Context())
	_, err := peer.Receive(ctx, receiveReq(), zeros())
	check(t, err)
	_, stream, err := peer.Send(ctx, sendReq())
	check(t, err)
	defer stream.Close()
	if n, err := io.Copy(io.Discard, stream); n != size || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
	if n := counted.bytes.Load(); n > size/4 {
		t.Errorf("%d bytes for two streams of %d zeros", n, size)
	}
}

// zeroStore takes any stream.
type zeroStore struct{ fake }

func (*zeroStore) Receive(_ context.Context, _ *pdu.ReceiveReq, stream io.Reader) (*pdu.ReceiveRes, error) {
	_, err := io.Copy(io.Discard, stream)
	return &pdu.ReceiveRes{}, err
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// A peer that was dialled names no route, whatever its banner says.
func TestPeerNamesNoRoute(t *testing.T) {
	l, c := localPair(t)
	link := transportmux.NewLink(nil, transportmux.LinkOptions{})
	serveMuxOnly(t, l, link, []string{ext.ExtensionMux, ext.Line(ext.ExtensionRoute, "secret")})
	peer, err := openClient(links{link: link, release: link.Close}, ClientOptions{})
	check(t, err)
	t.Cleanup(func() { check(t, peer.Close()) })

	rec := &recording{}
	server := NewServer(whoAnswered(rec), ServerOptions{})
	server.Handle("secret", Route{Endpoint: whoAnswered(rec)})
	client := newClient(t, c, ClientOptions{Mux: true, PeerIdentity: hub, Route: "mine"})
	runOver(t, server, client)
	for _, r := range requests() {
		_, err := r.do(WaitForReady(t.Context()), peer, newContent())
		check(t, err)
		if got, want := rec.take(), r.method+" from "+hub+"@"; !slices.Equal(got, []string{want}) {
			t.Errorf("the handler saw %q, not %q", got, want)
		}
	}
}

// serveMuxOnly attaches the mux connections that come in at l to link, with a banner of
// those lines.
func serveMuxOnly(t *testing.T, l transport.Listener, link *transportmux.Link, lines []string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	handlers := map[string]transportmux.Handler{transportmux.LabelMux: func(_ context.Context, conn *transportmux.Conn) {
		session, err := transportmux.NewSession(conn, false, nil, transportmux.SessionOptions{})
		if err != nil {
			t.Error(err)
			return
		}
		link.Attach(session)
	}}
	offer := func(transport.Wire) []string { return lines }
	go func() { done <- transportmux.Serve(ctx, l, handlers, transportmux.ServeOptions{Offer: offer}) }()
	t.Cleanup(func() {
		cancel()
		check(t, <-done)
	})
}

// ServeOver returns after the last handler has, also if that one does not care for the
// end of its context.
func TestServeOverWaitsForHandlers(t *testing.T) {
	virtualTime(t, func(t *testing.T) {
		tr := local.New(alice)
		peer := peerOf(t, awaitServer(t, tr.Listener()))
		begun := make(chan struct{})
		var running atomic.Bool
		h := &fake{hook: func(context.Context, string, proto.Message) error {
			running.Store(true)
			close(begun)
			time.Sleep(time.Hour)
			running.Store(false)
			return nil
		}}
		_, stop := dialIn(t, tr.Connecter(), h, ServerOptions{})
		received := make(chan error)
		go func() {
			_, err := peer.Receive(WaitForReady(t.Context()), receiveReq(), strings.NewReader(""))
			received <- err
		}()
		<-begun
		stop()
		if running.Load() {
			t.Error("a handler still runs")
		}
		if err := <-received; err == nil {
			t.Error("the receive succeeded")
		}
	})
}

// The state of a client whose peer cannot mux is that of the connection that it gets
// instead, also for who watches already.
func TestStateWithoutMux(t *testing.T) {
	for name, p := range transports {
		t.Run(name, func(t *testing.T) {
			l, c := p(t)
			serve(t, l, &fake{}, ServerOptions{BaseProtocol: true})
			client := newClient(t, c, ClientOptions{Mux: true})
			watched := make(chan error)
			go func() { watched <- untilReady(t.Context(), client) }()
			_, err := client.ListFilesystems(t.Context(), &pdu.ListFilesystemReq{})
			check(t, err)
			check(t, <-watched)
			ended, cancel := context.WithCancelCause(t.Context())
			cancel(io.ErrNoProgress)
			if state, err := client.WaitForStateChange(ended, Ready); state != Ready || err != io.ErrNoProgress {
				t.Errorf("the state is %v, %v", state, err)
			}
		})
	}
}
