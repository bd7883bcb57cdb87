package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
	"github.com/dualrepl/dualrepl/rpc/service"
	"github.com/dualrepl/dualrepl/transport"
)

type text = wrapperspb.StringValue

// shout is a custom service with each kind of method. They do alike: hook, and then
// answer what was said, in capitals.
type shout struct {
	hook func(ctx context.Context, said string) error // nil: none
}

func (s shout) answer(ctx context.Context, req *text) (*text, error) {
	if s.hook != nil {
		if err := s.hook(ctx, req.GetValue()); err != nil {
			return nil, err
		}
	}
	return wrapperspb.String(strings.ToUpper(req.GetValue())), nil
}

func (s shout) list(req *text, stream grpc.ServerStreamingServer[text]) error {
	res, err := s.answer(stream.Context(), req)
	if err != nil {
		return err
	}
	return stream.Send(res)
}

func (s shout) collect(stream grpc.ClientStreamingServer[text, text]) error {
	req, err := stream.Recv()
	if err != nil {
		return err
	}
	res, err := s.answer(stream.Context(), req)
	if err != nil {
		return err
	}
	return stream.SendAndClose(res)
}

func (s shout) talk(stream grpc.BidiStreamingServer[text, text]) error {
	for {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		res, err := s.answer(stream.Context(), req)
		if err != nil {
			return err
		}
		if err := stream.Send(res); err != nil {
			return err
		}
	}
}

func (s shout) register(t *testing.T, r grpc.ServiceRegistrar) {
	t.Helper()
	shouts := service.New("acme.Shout")
	service.Unary(shouts, "Unary", s.answer)
	service.ServerStream(shouts, "List", s.list)
	service.ClientStream(shouts, "Collect", s.collect)
	service.BidiStream(shouts, "Talk", s.talk)
	check(t, shouts.Register(r))
}

// shouts calls each kind of method with one message and wants one.
var shouts = map[string]func(ctx context.Context, cc grpc.ClientConnInterface, said string) (*text, error){
	"/acme.Shout/Unary": func(ctx context.Context, cc grpc.ClientConnInterface, said string) (*text, error) {
		return service.Call[text](ctx, cc, "/acme.Shout/Unary", wrapperspb.String(said))
	},
	"/acme.Shout/List": func(ctx context.Context, cc grpc.ClientConnInterface, said string) (*text, error) {
		stream, err := service.OpenServerStream[text](ctx, cc, "/acme.Shout/List", wrapperspb.String(said))
		if err != nil {
			return nil, err
		}
		return only(stream.Recv)
	},
	"/acme.Shout/Collect": func(ctx context.Context, cc grpc.ClientConnInterface, said string) (*text, error) {
		stream, err := service.OpenClientStream[text, text](ctx, cc, "/acme.Shout/Collect")
		if err != nil {
			return nil, err
		}
		_ = stream.Send(wrapperspb.String(said)) // its error comes again
		return stream.CloseAndRecv()
	},
	"/acme.Shout/Talk": func(ctx context.Context, cc grpc.ClientConnInterface, said string) (*text, error) {
		stream, err := service.OpenBidiStream[text, text](ctx, cc, "/acme.Shout/Talk")
		if err != nil {
			return nil, err
		}
		_ = errors.Join(stream.Send(wrapperspb.String(said)), stream.CloseSend())
		return only(stream.Recv)
	},
}

// only reads a stream of one message to its end.
func only(receive func() (*text, error)) (*text, error) {
	res, err := receive()
	if err != nil {
		return nil, err
	}
	if _, err := receive(); err != io.EOF {
		return nil, fmt.Errorf("after the message: %w", err)
	}
	return res, nil
}

// serveShout serves s, and a fake, and returns a client.
func serveShout(t *testing.T, p pair, s shout, server ServerOptions, opts ClientOptions) (*Server, *Client) {
	t.Helper()
	l, c := p(t)
	srv := NewServer(&fake{}, server)
	s.register(t, srv)
	run(t, srv, l)
	return srv, newClient(t, c, opts)
}

// Methods of every kind get their message, the caller's identity and route, its metadata
// and what interceptors put into the context.
func TestCustomService(t *testing.T) {
	forEachWay(t, func(t *testing.T, p pair, opts ClientOptions) {
		var rec recording
		hook := func(ctx context.Context, said string) error {
			id, _ := transport.ClientIdentityFromContext(ctx)
			md, _ := metadata.FromIncomingContext(ctx)
			rec.add("%s from %s@%s with %v and %v", said, id, RouteFromContext(ctx), md.Get("trace"), ctx.Value(testKey{}))
			return nil
		}
		l, c := p(t)
		s := NewServer(&fake{}, ServerOptions{Interceptors: []Interceptor{rec.around("a")}})
		s.Handle("mine", Route{Clients: []string{alice}})
		shout{hook}.register(t, s)
		run(t, s, l)
		if !opts.BaseProtocol {
			opts.Route = "mine"
		}
		client := newClient(t, c, opts)
		ctx := metadata.AppendToOutgoingContext(t.Context(), "trace", "7")
		for method, call := range shouts {
			res, err := call(ctx, client.Conn(), "hey")
			check(t, err)
			if res.GetValue() != "HEY" {
				t.Errorf("%s answered %q", method, res.GetValue())
			}
			want := []string{"a before " + method, "hey from alice@" + opts.Route + " with [7] and a", "a after <nil>"}
			if got := rec.await(len(want)); !slices.Equal(got, want) {
				t.Errorf("%s: %q, not %q", method, got, want)
			}
		}
	})
}

// What a method answers with is what its caller gets; what the server refuses is the
// same as for the base protocol's methods; a panic is an answer.
func TestCustomServiceErrors(t *testing.T) {
	for name, c := range map[string]struct {
		hook     func(context.Context, string) error
		opts     ClientOptions
		sentinel error
		code     codes.Code
		none     []error // of these
	}{
		"sentinel": {hook: func(context.Context, string) error { return fmt.Errorf("no: %w", endpoint.ErrNoSpace) },
			sentinel: endpoint.ErrNoSpace, code: codes.ResourceExhausted},
		"quota": {hook: func(context.Context, string) error {
			return withDetail(status.New(codes.ResourceExhausted, "no notes left"), &errdetails.ErrorInfo{Domain: "acme", Reason: "NOTES"}).Err()
		}, code: codes.ResourceExhausted, none: []error{endpoint.ErrNoSpace, ErrLimit, ErrTooLarge}},
		"status":        {hook: func(context.Context, string) error { return status.Error(codes.DataLoss, "gone") }, code: codes.DataLoss},
		"panic":         {hook: func(context.Context, string) error { panic("fell over") }, code: codes.Internal},
		"unknown route": {opts: ClientOptions{Route: "unknown"}, sentinel: endpoint.ErrNotFound, code: codes.NotFound},
		"other's route": {opts: ClientOptions{Route: "others"}, sentinel: endpoint.ErrPermission, code: codes.PermissionDenied},
	} {
		t.Run(name, func(t *testing.T) {
			s, client := serveShout(t, localPair, shout{c.hook}, ServerOptions{}, c.opts)
			s.Handle("others", Route{Endpoint: &fake{}, Clients: []string{"bob"}})
			for method, call := range shouts {
				_, err := call(t.Context(), client.Conn(), "hey")
				if status.Code(err) != c.code || c.sentinel != nil && !errors.Is(err, c.sentinel) {
					t.Errorf("%s: error is %v", method, err)
				}
				for _, sentinel := range c.none {
					if errors.Is(err, sentinel) {
						t.Errorf("%s: error is %v: %v", method, sentinel, err)
					}
				}
			}
		})
	}
}

// A stream leaves nothing behind in a context that lives on.
func TestStreamsLetGoOfContext(t *testing.T) {
	l, c := tcpPair(t)
	s := awaitServer(t, l)
	peer := peerOf(t, s)
	screen := NewServer(&fake{}, ServerOptions{})
	shout{}.register(t, screen)
	runOver(t, screen, newClient(t, c, ClientOptions{Mux: true, PeerIdentity: hub}))
	ctx := &watchedContext{Context: WaitForReady(context.Background())}
	for method, call := range shouts {
		for range 3 {
			_, err := call(ctx, peer.Conn(), "hey")
			check(t, err)
		}
		if n := ctx.children.Load(); n != 0 {
			t.Errorf("%s: %d contexts are left", method, n)
		}
	}
}

// watchedContext counts the contexts that were made from it and may still end with it.
type watchedContext struct {
	context.Context
	children atomic.Int64
}

// Done is not nil, so that others wait for it.
func (*watchedContext) Done() <-chan struct{} { return make(chan struct{}) }

// AfterFunc is how package context waits for the end of one that is not its own.
func (c *watchedContext) AfterFunc(func()) (stop func() bool) {
	c.children.Add(1)
	return sync.OnceValue(func() bool { c.children.Add(-1); return true })
}

func TestUnknownMethods(t *testing.T) {
	forEachWay(t, func(t *testing.T, p pair, opts ClientOptions) {
		_, client := serveShout(t, p, shout{}, ServerOptions{}, opts)
		for _, method := range []string{"/acme.Shout/Nothing", "/acme.Nothing/Unary", "/" + strings.Repeat("x", 30_000) + "/y"} {
			err := client.Conn().Invoke(t.Context(), method, &pdu.PingReq{}, &pdu.PingRes{})
			if !errors.Is(err, endpoint.ErrUnimplemented) || len(status.Convert(err).Message()) > 1000 {
				t.Errorf("error is %.300v", err)
			}
		}
	})
}

// A stream is one request of the limit for as long as it lasts, and its messages are
// limited, too.
func TestCustomStreamLimits(t *testing.T) {
	s, client := serveShout(t, tcpPair, shout{}, ServerOptions{Limits: Limits{Requests: 1, MessageSize: 1000}}, ClientOptions{})
	stream, err := service.OpenBidiStream[text, text](t.Context(), client.Conn(), "/acme.Shout/Talk")
	check(t, err)
	check(t, stream.Send(wrapperspb.String("hey")))
	_, err = stream.Recv()
	check(t, err)
	for method, call := range shouts {
		if _, err := call(t.Context(), client.Conn(), "hey"); !errors.Is(err, ErrLimit) {
			t.Errorf("%s: error is %v", method, err)
		}
	}
	checkUsage(t, s, "requests", "1 of 1, 4 refused")
	check(t, stream.Send(wrapperspb.String(strings.Repeat("x", 1000))))
	if _, err := stream.Recv(); !errors.Is(err, ErrTooLarge) {
		t.Errorf("error is %v", err)
	}
	awaitUsage(s, "message_size", "0 of 1000, 1 refused")
}

// Headers are bounded: a call with too many fails, and the next one works.
func TestHeaderLimit(t *testing.T) {
	_, client := serveShout(t, tcpPair, shout{}, ServerOptions{}, ClientOptions{})
	ctx := metadata.AppendToOutgoingContext(t.Context(), "trace", strings.Repeat("x", maxHeaderList))
	call := shouts["/acme.Shout/Unary"]
	if _, err := call(ctx, client.Conn(), "hey"); err == nil {
		t.Error("it was answered")
	}
	_, err := call(t.Context(), client.Conn(), "hey")
	check(t, err)
}

// A stream without an end does not keep a server from stopping, but has its grace. Time
// is virtual.
func TestCustomStreamEndsWithGrace(t *testing.T) {
	for _, grace := range []time.Duration{0, 30 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			l, c := localPair(t)
			s := NewServer(&fake{}, ServerOptions{Grace: grace})
			shout{}.register(t, s)
			ctx, stop := context.WithCancel(t.Context())
			served := make(chan error)
			go func() { served <- s.Serve(ctx, l) }()
			client := newClient(t, c, ClientOptions{})
			stream, err := service.OpenBidiStream[text, text](t.Context(), client.Conn(), "/acme.Shout/Talk")
			check(t, err)
			say := func() error {
				err := stream.Send(wrapperspb.String("hey"))
				if err == nil {
					_, err = stream.Recv()
				}
				return err
			}
			check(t, say())
			start := time.Now()
			stop()
			synctest.Wait()
			if grace > 0 {
				check(t, say())
			}
			check(t, <-served)
			if took := time.Since(start); took != grace {
				t.Errorf("the server took %v to stop, not %v", took, grace)
			}
			if err := say(); status.Code(err) != codes.Unavailable && !errors.Is(err, io.EOF) {
				t.Errorf("the stream ended with %v", err)
			}
		})
	}
}

// Mistakes are Serve's error: gRPC would end the process.
func TestServicesThatCannotBe(t *testing.T) {
	type greeter interface{ Greet() }
	for name, desc := range map[string]*grpc.ServiceDesc{
		"the base protocol's name": {ServiceName: "Replication"},
		"registered twice":         {ServiceName: "acme.Shout"},
		"wrong implementation":     {ServiceName: "acme.Greeter", HandlerType: (*greeter)(nil)},
	} {
		t.Run(name, func(t *testing.T) {
			l, _ := localPair(t)
			s := NewServer(&fake{}, ServerOptions{})
			shout{}.register(t, s)
			s.RegisterService(desc, shout{})
			if err := s.Serve(t.Context(), l); err == nil || !strings.Contains(err.Error(), desc.ServiceName) {
				t.Errorf("Serve returned %v", err)
			}
		})
	}
}
