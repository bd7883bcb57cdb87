package rpc

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/endpoint/synth"
	"github.com/dualrepl/dualrepl/pdu"
	"github.com/dualrepl/dualrepl/transport"
	"github.com/dualrepl/dualrepl/transport/local"
)

const megabyte = 1 << 20

// recorder is a fake's hook that keeps what arrives.
type recorder struct {
	mu       sync.Mutex
	requests map[string]proto.Message
	clients  map[string]string
}

func (r *recorder) hook(ctx context.Context, method string, req proto.Message) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.requests == nil {
		r.requests, r.clients = map[string]proto.Message{}, map[string]string{}
	}
	r.requests[method] = proto.Clone(req)
	r.clients[method], _ = transport.ClientIdentityFromContext(ctx)
	return nil
}

func (r *recorder) client(method string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.clients[method]
}

func TestRoundTrips(t *testing.T) {
	for name, p := range transports {
		t.Run(name, func(t *testing.T) {
			rec := &recorder{}
			h := &fake{hook: rec.hook, versions: []*pdu.FilesystemVersion{bookmark(), version()}, size: 3*megabyte + 1}
			client := connect(t, p, h)
			check(t, client.WaitForConnectivity(t.Context()))
			for _, r := range requests() {
				stream := synth.NewStream(synth.Spec{Seed: version().Guid, Size: h.size})
				res, err := r.do(t.Context(), client, stream)
				check(t, err)
				if want := h.answer(t, r); !proto.Equal(res, want) {
					t.Errorf("%s answered %v, not %v", r.method, res, want)
				}
				if got := rec.requests[r.method]; !proto.Equal(got, r.req) {
					t.Errorf("%s arrived as %v, not %v", r.method, got, r.req)
				}
				if id := rec.client(r.method); id != alice {
					t.Errorf("%s came from %q", r.method, id)
				}
			}
			checkStats(t, client.Stats(), h.size)
		})
	}
}

// answer is what the handler says without anything in between.
func (f fake) answer(t *testing.T, r request) (res proto.Message) {
	f.hook = nil
	var err error
	switch req := r.req.(type) {
	case *pdu.ListFilesystemReq:
		res, err = f.ListFilesystems(t.Context(), req)
	case *pdu.ListFilesystemVersionsReq:
		res, err = f.ListFilesystemVersions(t.Context(), req)
	case *pdu.DestroySnapshotsReq:
		res, err = f.DestroySnapshots(t.Context(), req)
	case *pdu.SendCompletedReq:
		res, err = f.SendCompleted(t.Context(), req)
	case *pdu.ReplicationCursorReq:
		res, err = f.ReplicationCursor(t.Context(), req)
	case *pdu.SendReq:
		res, err = f.SendDry(t.Context(), req) // Send's is the same
	case *pdu.ReceiveReq:
		res = &pdu.ReceiveRes{}
	}
	check(t, err)
	return res
}

func checkStats(t *testing.T, got Stats, size int64) {
	t.Helper()
	if got.ControlSent < 100 || got.ControlReceived < 100 {
		t.Errorf("few control bytes: %+v", got)
	}
	got.ControlSent, got.ControlReceived = 0, 0
	want := Stats{ControlCalls: 7, DataRequests: 3, DataConnections: 1, DataSent: uint64(size), DataReceived: uint64(size)}
	if got != want {
		t.Errorf("stats are %+v, not %+v", got, want)
	}
}

func TestFailure09ListingExceedsMessageLimit(t *testing.T) {
	h := &fake{}
	for i := range 50_000 {
		v := version()
		v.Guid, v.Name = uint64(i+1), strings.Repeat("n", endpoint.MaxNameLength)
		h.versions = append(h.versions, v)
	}
	if size := proto.Size(&pdu.ListFilesystemVersionsRes{Versions: h.versions}); size < 4*megabyte {
		t.Fatalf("the listing's %d bytes fit gRPC's default", size)
	}
	client := connect(t, tcpPair, h)
	list, err := client.ListFilesystemVersions(t.Context(), &pdu.ListFilesystemVersionsReq{Filesystem: "a"})
	check(t, err)
	res, err := client.DestroySnapshots(t.Context(), &pdu.DestroySnapshotsReq{Filesystem: "a", Snapshots: list.Versions})
	check(t, err)
	if len(res.Results) != len(h.versions) {
		t.Errorf("%d results", len(res.Results))
	}
}

// A message over the limit says so, and is not mistaken for a full disk.
func TestMessageOverTheLimit(t *testing.T) {
	v := version()
	v.Creation = strings.Repeat("x", maxMessage)
	client := connect(t, localPair, &fake{versions: []*pdu.FilesystemVersion{v}})
	_, err := client.ListFilesystemVersions(t.Context(), &pdu.ListFilesystemVersionsReq{Filesystem: "a"})
	if status.Code(err) != codes.ResourceExhausted || !errors.Is(err, ErrTooLarge) || errors.Is(err, endpoint.ErrNoSpace) {
		t.Errorf("error is %.200q", err)
	}
	_, err = client.ListFilesystems(t.Context(), &pdu.ListFilesystemReq{})
	check(t, err) // the connection lives
}

// A handler that never answers: every call ends after CallTimeout, and tells the
// handler's context. Time is virtual.
func TestFailure10ControlCallsWithoutDeadline(t *testing.T) {
	for _, timeout := range []time.Duration{0, time.Second, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			ended := make(chan struct{}, 1)
			h := &fake{hook: func(ctx context.Context, _ string, _ proto.Message) error {
				<-ctx.Done()
				ended <- struct{}{}
				return context.Cause(ctx)
			}}
			l, c := localPair(t)
			serve(t, l, h, ServerOptions{})
			client := newClient(t, c, ClientOptions{CallTimeout: timeout})
			for _, r := range requests() {
				if r.onData() {
					continue
				}
				start := time.Now()
				_, err := r.do(t.Context(), client, nil)
				if took := time.Since(start); took != client.opts.CallTimeout {
					t.Errorf("%s took %v, not %v", r.method, took, client.opts.CallTimeout)
				}
				if status.Code(err) != codes.DeadlineExceeded || !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%s: %v", r.method, err)
				}
				<-ended
			}
		})
	}
}

// Time is virtual, since a handler that does not read its stream learns of the end
// only when a heartbeat fails.
func TestCancelledCallerEndsTheHandler(t *testing.T) {
	for _, r := range requests() {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan struct{})
			client := connect(t, localPair, &fake{hook: func(ctx context.Context, _ string, _ proto.Message) error {
				cancel()
				<-ctx.Done()
				close(ended)
				return context.Cause(ctx)
			}})
			_, err := r.do(ctx, client, neverRead{ctx})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("%s: error is %v", r.method, err)
			}
			<-ended
		})
	}
}

// neverRead is a stream that says nothing until its context ends.
type neverRead struct{ ctx context.Context }

func (r neverRead) Read([]byte) (int, error) {
	<-r.ctx.Done()
	return 0, context.Cause(r.ctx)
}

func TestCloseTwiceWhileCallsRun(t *testing.T) {
	for name, p := range transports {
		t.Run(name, func(t *testing.T) {
			var begun sync.WaitGroup
			client := connect(t, p, &fake{hook: func(ctx context.Context, _ string, _ proto.Message) error {
				begun.Done()
				<-ctx.Done()
				return context.Cause(ctx)
			}})
			begun.Add(len(requests()))
			errs := make(chan error)
			for _, r := range requests() {
				go func() {
					_, err := r.do(context.Background(), client, synth.NewStream(synth.Spec{}))
					errs <- err
				}()
			}
			begun.Wait()
			check(t, client.Close())
			for range requests() {
				if err := <-errs; !errors.Is(err, net.ErrClosed) {
					t.Errorf("error is %v", err)
				}
			}
			check(t, client.Close())
			checkClosed(t, client)
		})
	}
}

// checkClosed: calls after Close fail at once, also the one that would wait.
func checkClosed(t *testing.T, client *Client) {
	t.Helper()
	for _, r := range requests() {
		if _, err := r.do(context.Background(), client, strings.NewReader("")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s after Close: %v", r.method, err)
		}
	}
	if err := client.WaitForConnectivity(context.Background()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("WaitForConnectivity after Close: %v", err)
	}
}

// connecterFunc is a Connecter.
type connecterFunc func(context.Context) (transport.Wire, error)

func (f connecterFunc) Connect(ctx context.Context) (transport.Wire, error) { return f(ctx) }

func TestWaitForConnectivity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, c := localPair(t)
		serve(t, l, &fake{}, ServerOptions{})
		up := time.Now().Add(5 * time.Minute)
		client := newClient(t, connecterFunc(func(ctx context.Context) (transport.Wire, error) {
			if time.Now().Before(up) {
				return nil, syscall.ECONNREFUSED
			}
			return c.Connect(ctx)
		}), ClientOptions{})

		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err := client.WaitForConnectivity(ctx)
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("error is %v", err)
		}
		check(t, client.WaitForConnectivity(t.Context()))
		if late := time.Since(up); late > pingInterval {
			t.Errorf("noticed the peer only after %v", late)
		}
	})
}

// A peer that accepts and says nothing is no connectivity either.
func TestWaitForConnectivitySilentPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := local.New(alice)
		go func() {
			for {
				if _, err := tr.Listener().Accept(t.Context()); err != nil {
					return
				}
			}
		}()
		defer tr.Listener().Close()
		client := newClient(t, tr.Connecter(), ClientOptions{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := client.WaitForConnectivity(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error is %v", err)
		}
	})
}

// What failed to connect is in the chain of the calls that needed the connection,
// and is transient as far as gRPC's code tells.
func TestControlCallTellsWhyItCannotConnect(t *testing.T) {
	client := newClient(t, connecterFunc(func(context.Context) (transport.Wire, error) {
		return nil, syscall.ECONNREFUSED
	}), ClientOptions{})
	for range 2 { // the attempt, and the time until the next one
		_, err := client.ListFilesystems(t.Context(), &pdu.ListFilesystemReq{})
		if status.Code(err) != codes.Unavailable || !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("error is %v", err)
		}
	}
}

// lastWire remembers the newest of its connections.
type lastWire struct {
	transport.Connecter
	wire atomic.Pointer[net.TCPConn]
}

func (l *lastWire) Connect(ctx context.Context) (transport.Wire, error) {
	wire, err := l.Connecter.Connect(ctx)
	if err == nil {
		l.wire.Store(wire.(*net.TCPConn))
	}
	return wire, err
}

func TestFailure11ConnectionResetsArePermanent(t *testing.T) {
	l, c := tcpPair(t)
	last := &lastWire{Connecter: c}
	var once sync.Once
	serve(t, l, &fake{hook: func(ctx context.Context, _ string, _ proto.Message) error {
		once.Do(func() {
			last.wire.Load().SetLinger(0) // Close resets
			last.wire.Load().Close()
			<-ctx.Done()
		})
		return nil
	}}, ServerOptions{})
	client := newClient(t, last, ClientOptions{})
	_, err := client.ListFilesystems(t.Context(), &pdu.ListFilesystemReq{})
	if status.Code(err) != codes.Unavailable {
		t.Errorf("error is %v", err)
	}
	_, err = client.ListFilesystems(t.Context(), &pdu.ListFilesystemReq{})
	check(t, err) // on a new connection
}

// cable is a Connecter whose wires all lose what is written, both ways, once cut.
type cable struct {
	transport.Connecter
	transport.Listener
	cut atomic.Bool
}

type cableWire struct {
	transport.Wire
	cable *cable
}

func (c *cable) Connect(ctx context.Context) (transport.Wire, error) {
	wire, err := c.Connecter.Connect(ctx)
	return cableWire{wire, c}, err
}

func (w cableWire) Write(p []byte) (int, error) {
	if w.cable.cut.Load() {
		return len(p), nil
	}
	return w.Wire.Write(p)
}

func (w cableWire) Read(p []byte) (int, error) {
	for {
		n, err := w.Wire.Read(p)
		if err != nil || !w.cable.cut.Load() {
			return n, err
		}
	}
}

// Close of an end that the other cannot hear of.
func (w cableWire) Close() error {
	if w.cable.cut.Load() {
		return w.SetDeadline(time.Unix(1, 0))
	}
	return w.Wire.Close()
}

// A peer that vanishes without a packet is noticed within 15 s on both sides.
// Time is virtual.
func TestControlPeerVanishes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, c := localPair(t)
		cable := &cable{Connecter: c}
		handlerEnded := make(chan time.Time, 1)
		serve(t, l, &fake{hook: func(ctx context.Context, _ string, _ proto.Message) error {
			<-ctx.Done()
			handlerEnded <- time.Now()
			return context.Cause(ctx)
		}}, ServerOptions{})
		client := newClient(t, cable, ClientOptions{})
		var cut time.Time
		time.AfterFunc(42*time.Second, func() {
			cut = time.Now()
			cable.cut.Store(true)
		})
		_, err := client.ListFilesystems(t.Context(), &pdu.ListFilesystemReq{})
		if status.Code(err) != codes.Unavailable {
			t.Errorf("error is %v", err)
		}
		if took := time.Since(cut); took > controlSilence {
			t.Errorf("the client noticed after %v", took)
		}
		if took := (<-handlerEnded).Sub(cut); took > controlSilence {
			t.Errorf("the server noticed after %v", took)
		}
	})
}

// A connection that idles for an hour stays: each side hears the other's pings.
func TestControlIdleConnectionStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, c := localPair(t)
		serve(t, l, &fake{}, ServerOptions{})
		var connections atomic.Int32
		client := newClient(t, connecterFunc(func(ctx context.Context) (transport.Wire, error) {
			connections.Add(1)
			return c.Connect(ctx)
		}), ClientOptions{})
		for range 3 {
			_, err := client.ListFilesystems(t.Context(), &pdu.ListFilesystemReq{})
			check(t, err)
			time.Sleep(20 * time.Minute)
		}
		if n := connections.Load(); n != 1 {
			t.Errorf("%d connections", n)
		}
	})
}

// The stream's error is the reader's, and an early Close is no failure.
func TestStreamErrors(t *testing.T) {
	failing := io.NopCloser(synth.NewStream(synth.Spec{Size: megabyte, FailAt: megabyte / 2, Fail: errors.New("disk on fire")}))
	client := connect(t, tcpPair, &fake{stream: failing})
	_, stream, err := client.Send(t.Context(), sendReq())
	check(t, err)
	n, err := io.Copy(io.Discard, stream)
	checkRemote(t, err, "disk on fire")
	if n != megabyte/2 || client.Stats().DataReceived != megabyte/2 {
		t.Errorf("%d bytes arrived", n)
	}
	check(t, stream.Close())

	local := errors.New("the sender's own")
	_, err = client.Receive(t.Context(), receiveReq(), synth.NewStream(synth.Spec{Seed: version().Guid, Size: megabyte, FailAt: 7, Fail: local}))
	if !errors.Is(err, local) {
		t.Errorf("error is %v", err)
	}
}
