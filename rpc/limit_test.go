package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/dualrepl/dualrepl/pdu"
	"github.com/dualrepl/dualrepl/transport/local"
	"github.com/dualrepl/dualrepl/transportmux"
)

// waiting is a fake whose control calls wait until the test lets them.
type waiting struct {
	fake
	begun chan struct{}
	let   chan struct{}
}

func newWaiting(t *testing.T) *waiting {
	w := &waiting{begun: make(chan struct{}, 100), let: make(chan struct{})}
	w.size = 64 * megabyte // more than is under way anywhere
	w.hook = func(ctx context.Context, method string, _ proto.Message) error {
		if method != "ListFilesystems" {
			return nil
		}
		w.begun <- struct{}{}
		select {
		case <-w.let:
		case <-ctx.Done():
		}
		return nil
	}
	return w
}

// list runs n calls until they are let, and returns once they have begun; wait returns
// when they have ended.
func (w *waiting) list(t *testing.T, client *Client, n int) (wait func()) {
	var calls sync.WaitGroup
	for range n {
		calls.Go(func() {
			if _, err := client.ListFilesystems(t.Context(), &pdu.ListFilesystemReq{}); err != nil {
				t.Errorf("a call within the limit: %v", err)
			}
		})
		<-w.begun
	}
	return calls.Wait
}

// usageOf returns the figures of one limit, as text; "" if there are none.
func usageOf(s *Server, client, limit string) string {
	for _, u := range s.Usage() {
		if u.Client == client && u.Limit == limit {
			return fmt.Sprintf("%d of %d, %d refused", u.InUse, u.Max, u.Refused)
		}
	}
	return ""
}

func checkUsage(t *testing.T, s *Server, limit, want string) {
	t.Helper()
	if got := usageOf(s, alice, limit); got != want {
		t.Errorf("%s: %q, not %q", limit, got, want)
	}
}

// awaitUsage is for what the client knows before the server has counted it.
func awaitUsage(s *Server, limit, want string) {
	for usageOf(s, alice, limit) != want {
		runtime.Gosched()
	}
}

// The request over the limit is answered at once, on either channel, and counted; then
// there is room again.
func TestRequestsLimit(t *testing.T) {
	forEachWay(t, func(t *testing.T, p pair, opts ClientOptions) {
		l, c := p(t)
		h := newWaiting(t)
		s := NewServer(h, ServerOptions{Limits: Limits{Requests: 3}})
		run(t, s, l)
		client := newClient(t, c, opts)
		wait := h.list(t, client, 2)
		_, stream, err := client.Send(t.Context(), sendReq()) // until it is closed
		check(t, err)
		for _, r := range requests() {
			_, err := r.do(t.Context(), client, newContent())
			checkRefused(t, r, err, ErrLimit, opts)
			if !r.onData() && status.Code(err) != codes.ResourceExhausted {
				t.Errorf("%s: code is %v", r.method, status.Code(err))
			}
		}
		checkUsage(t, s, "requests", fmt.Sprintf("3 of 3, %d refused", len(requests())))
		check(t, stream.Close())
		close(h.let)
		wait()
		sometime(t, func() error { _, err := client.SendDry(t.Context(), sendReq()); return err })
		sometime(t, func() error { _, err := client.Receive(t.Context(), receiveReq(), newContent()); return err })
	})
}

// sometime does what fails only until the server has noticed an end that the client
// knows of.
func sometime(t *testing.T, do func() error) {
	t.Helper()
	for {
		err := do()
		if err == nil {
			return
		}
		if !strings.Contains(err.Error(), ErrLimit.Error()) {
			t.Fatal(err)
		}
	}
}

// A request counts for the identity, whatever connection it came over.
func TestLimitIsTheIdentitys(t *testing.T) {
	mine, his := local.New(alice), local.New("bob")
	h := newWaiting(t)
	s := NewServer(h, ServerOptions{Limits: Limits{Requests: 1}})
	run(t, s, mine.Listener())
	run(t, s, his.Listener())
	wait := h.list(t, newClient(t, mine.Connecter(), ClientOptions{}), 1)
	_, err := newClient(t, mine.Connecter(), ClientOptions{}).SendDry(t.Context(), sendReq())
	if !errors.Is(err, ErrLimit) {
		t.Errorf("error is %v", err)
	}
	_, err = newClient(t, his.Connecter(), ClientOptions{}).SendDry(t.Context(), sendReq())
	check(t, err)
	close(h.let)
	wait()
}

// Over the limit of connections every request is answered so, on a connection of either
// channel.
func TestConnectionsLimit(t *testing.T) {
	forEachWay(t, func(t *testing.T, p pair, opts ClientOptions) {
		l, c := p(t)
		s := NewServer(&fake{}, ServerOptions{Limits: Limits{Connections: 1}})
		run(t, s, l)
		// The one: not a stream within a mux connection, which is another.
		first, err := transportmux.Dial(t.Context(), c, transportmux.LabelControl, nil)
		check(t, err)
		awaitUsage(s, "connections", "1 of 1, 0 refused") // its label is on its way
		client := newClient(t, c, opts)
		for _, r := range requests() {
			_, err := r.do(t.Context(), client, newContent())
			checkRefused(t, r, err, ErrLimit, opts)
		}
		check(t, first.Close())
	})
}

// What is over the limit is kept for a while, and only a few of it. Time is virtual.
func TestRefusedConnectionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, c := localPair(t)
		s := NewServer(&fake{}, ServerOptions{Limits: Limits{Connections: 2}})
		run(t, s, l)
		start := time.Now()
		var conns sync.WaitGroup
		lived := make([]time.Duration, maxRefusing+10)
		for i := range lived {
			conn, err := transportmux.Dial(t.Context(), c, []string{transportmux.LabelControl, transportmux.LabelData}[i%2], nil)
			check(t, err)
			synctest.Wait()
			conns.Go(func() {
				_, _ = io.Copy(io.Discard, conn)
				lived[i] = time.Since(start)
				conn.Close()
			})
		}
		synctest.Wait()
		if got := lived[2+maxRefusing:]; slices.Max(got) > 0 {
			t.Errorf("what is over both limits lived for %v", got)
		}
		checkUsage(t, s, "connections", fmt.Sprintf("2 of 2, %d refused", len(lived)-2))
		conns.Wait() // the first two end as a request is late
		if got := lived[2 : 2+maxRefusing]; slices.Max(got) != refusalTime || slices.Min(got) != refusalTime {
			t.Errorf("what is over the limit lived for %v", got)
		}
		synctest.Wait()
		checkUsage(t, s, "connections", fmt.Sprintf("0 of 2, %d refused", len(lived)-2))
	})
}

// A message over the limit is refused, and counted.
func TestMessageSizeLimit(t *testing.T) {
	forEachWay(t, func(t *testing.T, p pair, opts ClientOptions) {
		l, c := p(t)
		s := NewServer(&fake{}, ServerOptions{Limits: Limits{MessageSize: 1000}})
		run(t, s, l)
		client := newClient(t, c, opts)
		for n, want := range map[int]error{1: nil, 100: ErrTooLarge} {
			_, err := client.DestroySnapshots(t.Context(), &pdu.DestroySnapshotsReq{
				Filesystem: "a/b", Snapshots: slices.Repeat([]*pdu.FilesystemVersion{version()}, n),
			})
			if !errors.Is(err, want) || want != nil && status.Code(err) != codes.ResourceExhausted {
				t.Errorf("%d snapshots: error is %v", n, err)
			}
		}
		awaitUsage(s, "message_size", "0 of 1000, 1 refused") // gRPC answers before anybody is told
	})
}

// A handshake that gives way is counted, and logged with the limit's name.
func TestPendingHandshakesLimit(t *testing.T) {
	log := &buffer{}
	l, _ := tcpPair(t)
	s := NewServer(&fake{}, ServerOptions{
		Limits: Limits{PendingHandshakes: 1}, Logger: slog.New(slog.NewTextHandler(log, nil)),
	})
	run(t, s, l)
	conns := make([]net.Conn, 3)
	for i := range conns {
		var err error
		conns[i], err = net.Dial("tcp", l.Addr().String())
		check(t, err)
		defer conns[i].Close()
	}
	for _, conn := range conns[:2] {
		_, _ = io.Copy(io.Discard, conn) // ends when it has given way
	}
	want := Usage{Limit: "pending_handshakes", InUse: 1, Max: 1, Refused: 2}
	for !slices.Contains(s.Usage(), want) || !strings.Contains(log.String(), want.Limit) {
		runtime.Gosched() // the client may know first
	}
}

// Clients come and go: those with nothing in use are forgotten, but for some of which
// there is something to tell.
func TestUsageIsBounded(t *testing.T) {
	u := newUsage(Limits{Connections: 1})
	for i := range 3 * maxRefused {
		client := fmt.Sprint(i)
		release, err := u.acquire(client, limitConnections)
		check(t, err)
		if i%2 == 0 {
			if _, err := u.acquire(client, limitConnections); !errors.Is(err, ErrLimit) {
				t.Fatalf("error is %v", err)
			}
		}
		release()
	}
	if len(u.clients) != maxRefused {
		t.Errorf("%d clients are remembered", len(u.clients))
	}
	if got := len(u.list()); got != 1+3*maxRefused {
		t.Errorf("%d figures", got)
	}
}

func TestDefaultLimits(t *testing.T) {
	want := Limits{DefaultConnections, DefaultRequests, DefaultMessageSize, transportmux.DefaultMaxPending}
	if got := (Limits{Requests: -1}).withDefaults(); got != want {
		t.Errorf("%+v", got)
	}
	set := Limits{1, 2, 3, 4}
	if got := set.withDefaults(); got != set {
		t.Errorf("%+v", got)
	}
}
