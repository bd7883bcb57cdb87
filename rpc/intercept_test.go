package rpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
	"github.com/dualrepl/dualrepl/transportmux"
)

type testKey struct{}

// A recording remembers what happened, in order.
type recording struct {
	mu     sync.Mutex
	events []string
}

func (r *recording) add(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, fmt.Sprintf(format, args...))
}

func (r *recording) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer func() { r.events = nil }()
	return r.events
}

// await takes n events, the last of which may be late: an answer is there before its
// request is over.
func (r *recording) await(n int) (events []string) {
	for len(events) < n {
		runtime.Gosched()
		events = append(events, r.take()...)
	}
	return events
}

// around records when it is entered and left, and gives what is within a value.
func (r *recording) around(name string) Interceptor {
	return func(ctx context.Context, call Call, next func(context.Context) error) error {
		r.add("%s before %s", name, call.Method)
		outer, _ := ctx.Value(testKey{}).(string)
		err := next(context.WithValue(ctx, testKey{}, outer+name))
		r.add("%s after %v", name, err)
		return err
	}
}

// callOf is what an interceptor learns of a request on the route.
func callOf(r request, route string) Call {
	c := Call{Client: alice, Route: route, Channel: transportmux.LabelControl, Method: "/Replication/" + r.method}
	if r.onData() {
		c.Channel, c.Method = transportmux.LabelData, r.method
	}
	return c
}

// Interceptors stand around every request of both channels in their order, know what it
// is, and hand values and errors through.
func TestInterceptors(t *testing.T) {
	forEachWay(t, func(t *testing.T, p pair, opts ClientOptions) {
		var rec recording
		answer := fmt.Errorf("too soon: %w", endpoint.ErrBusy)
		observe := func(ctx context.Context, call Call, next func(context.Context) error) error {
			rec.add("%+v", call)
			return next(ctx)
		}
		l, c := p(t)
		s := NewServer(nil, ServerOptions{Interceptors: []Interceptor{rec.around("a"), rec.around("b"), observe}})
		handler := &fake{hook: func(ctx context.Context, method string, _ proto.Message) error {
			rec.add("handler has %v", ctx.Value(testKey{}))
			return answer
		}}
		if !opts.BaseProtocol {
			opts.Route = "mine"
		}
		s.Handle(opts.Route, Route{Endpoint: handler})
		run(t, s, l)
		client := newClient(t, c, opts)
		for _, r := range requests() {
			_, err := r.do(t.Context(), client, strings.NewReader(""))
			checkRefused(t, r, err, endpoint.ErrBusy, opts)
			call := callOf(r, opts.Route)
			want := []string{
				"a before " + call.Method, "b before " + call.Method, fmt.Sprintf("%+v", call), "handler has ab",
				"b after " + answer.Error(), "a after " + answer.Error(),
			}
			if got := rec.take(); !slices.Equal(got, want) {
				t.Errorf("%s: %q, not %q", r.method, got, want)
			}
		}
	})
}

// A ping is a request like others.
func TestInterceptedPings(t *testing.T) {
	var rec recording
	l, c := tcpPair(t)
	serve(t, l, &fake{}, ServerOptions{Interceptors: []Interceptor{rec.around("a")}})
	check(t, newClient(t, c, ClientOptions{}).WaitForConnectivity(t.Context()))
	got := rec.take()
	for _, want := range []string{"a before Ping", "a before /Replication/Ping"} {
		if !slices.Contains(got, want) {
			t.Errorf("no %q in %q", want, got)
		}
	}
}

// What an interceptor does instead of handing a request on and its error back.
func TestInterceptorsThatDecide(t *testing.T) {
	broken := errors.New("own error")
	for name, c := range map[string]struct {
		interceptor Interceptor
		code        codes.Code
		handled     bool
	}{
		"refuses": {func(context.Context, Call, func(context.Context) error) error {
			return fmt.Errorf("not today: %w", endpoint.ErrPermission)
		}, codes.PermissionDenied, false},
		"has a code": {func(context.Context, Call, func(context.Context) error) error {
			return status.Error(codes.Unauthenticated, "who are you?")
		}, codes.Unauthenticated, false},
		"replaces the error": {func(ctx context.Context, _ Call, next func(context.Context) error) error {
			return errors.Join(broken, next(ctx))
		}, codes.Unknown, true},
		"does nothing": {func(context.Context, Call, func(context.Context) error) error {
			return nil
		}, codes.Internal, false},
		"goes on twice": {func(ctx context.Context, _ Call, next func(context.Context) error) error {
			return errors.Join(next(ctx), next(ctx))
		}, codes.Internal, true},
		"panics": {func(context.Context, Call, func(context.Context) error) error {
			panic("fell over")
		}, codes.Internal, false},
		"panics afterwards": {func(ctx context.Context, _ Call, next func(context.Context) error) error {
			_ = next(ctx)
			panic("fell over")
		}, codes.Internal, true},
	} {
		t.Run(name, func(t *testing.T) {
			handled := 0
			l, connecter := localPair(t)
			s := NewServer(&fake{size: megabyte, hook: func(context.Context, string, proto.Message) error { handled++; return nil }},
				ServerOptions{Interceptors: []Interceptor{c.interceptor}})
			run(t, s, l)
			client := newClient(t, connecter, ClientOptions{})
			for _, r := range requests() {
				_, err := r.do(t.Context(), client, newContent())
				if status.Code(err) != c.code || OutcomeOf(err) != Answered {
					t.Errorf("%s: error is %v", r.method, err)
				}
			}
			if want := len(requests()); c.handled && handled != want || !c.handled && handled != 0 {
				t.Errorf("%d requests got to the handler", handled)
			}
			awaitUsage(s, "requests", fmt.Sprintf("0 of %d, 0 refused", DefaultRequests)) // a stream is closed last
		})
	}
}

// An interceptor cannot make a success of a failure: there is no response.
func TestInterceptorHidesError(t *testing.T) {
	l, c := localPair(t)
	serve(t, l, &fake{hook: func(context.Context, string, proto.Message) error { return endpoint.ErrNotFound }},
		ServerOptions{Interceptors: []Interceptor{func(ctx context.Context, _ Call, next func(context.Context) error) error {
			_ = next(ctx)
			return nil
		}}})
	client := newClient(t, c, ClientOptions{})
	for _, r := range requests() {
		_, err := r.do(t.Context(), client, strings.NewReader(""))
		checkRefused(t, r, err, endpoint.ErrNotFound, ClientOptions{})
	}
}

// What the server refuses itself does not get to interceptors: what they see is known.
func TestInterceptorsSeeNoRefusals(t *testing.T) {
	var rec recording
	l, c := localPair(t)
	s := NewServer(nil, ServerOptions{Interceptors: []Interceptor{rec.around("a")}, Logger: slog.New(slog.DiscardHandler)})
	s.Handle("others", Route{Endpoint: &fake{}, Clients: []string{"bob"}})
	s.Handle("nothing", Route{Endpoint: &fake{}, Verbs: []Verb{}})
	run(t, s, l)
	for _, route := range []string{"others", "nothing", "unknown"} {
		client := newClient(t, c, ClientOptions{Route: route})
		for _, r := range requests() {
			if _, err := r.do(t.Context(), client, strings.NewReader("")); err == nil {
				t.Errorf("route %q: %s was permitted", route, r.method)
			}
		}
		err := client.Conn().Invoke(t.Context(), "/acme.Unknown/Method", &pdu.PingReq{}, &pdu.PingRes{})
		if err == nil {
			t.Error("an unknown method was answered")
		}
	}
	if got := rec.take(); len(got) > 0 {
		t.Errorf("seen: %q", got)
	}
}
