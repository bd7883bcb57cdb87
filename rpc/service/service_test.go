package service_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/dualrepl/dualrepl/rpc/service"
)

// forEachKind runs a test with each kind of method.
func forEachKind(t *testing.T, test func(t *testing.T, call func(ctx context.Context, cc grpc.ClientConnInterface, n int) (int, error))) {
	for name, call := range kinds {
		t.Run(name, func(t *testing.T) { test(t, call) })
	}
}

func TestConcurrentCallsOfEachKind(t *testing.T) {
	cc := start(t, newService(succeed).Register)
	var wg sync.WaitGroup
	defer wg.Wait()
	for name, call := range kinds {
		for n := range 20 {
			wg.Go(func() {
				if got, err := call(t.Context(), cc, n); err != nil || got != n {
					t.Errorf("%s with %d: %d, %v", name, n, got, err)
				}
			})
		}
	}
}

func TestErrorsKeepCodeTextAndDetails(t *testing.T) {
	detailed, err := status.New(codes.ResourceExhausted, "no more").
		WithDetails(&errdetails.QuotaFailure{Violations: []*errdetails.QuotaFailure_Violation{{Subject: "alice"}}})
	check(t, err)
	for name, tt := range map[string]struct {
		err  error
		want *status.Status
	}{
		"status":  {detailed.Err(), detailed},
		"plain":   {errors.New("it is broken"), status.New(codes.Unknown, "it is broken")},
		"context": {context.Canceled, status.New(codes.Canceled, "context canceled")},
	} {
		t.Run(name, func(t *testing.T) {
			cc := start(t, newService(func(context.Context) error { return tt.err }).Register)
			forEachKind(t, func(t *testing.T, call func(context.Context, grpc.ClientConnInterface, int) (int, error)) {
				_, err := call(t.Context(), cc, 3)
				if got := status.Convert(err); !proto.Equal(got.Proto(), tt.want.Proto()) {
					t.Errorf("got %v, not %v", got, tt.want)
				}
			})
		})
	}
}

// Deadlines and cancellation reach the handler's context, and the caller need not
// wait for the handler.
func TestContexts(t *testing.T) {
	for name, tt := range map[string]struct {
		start func(context.Context) (context.Context, context.CancelFunc)
		want  codes.Code
	}{
		"deadline": {func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, 50*time.Millisecond)
		}, codes.DeadlineExceeded},
		"cancel": {context.WithCancel, codes.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			began, ended := make(chan bool, 1), make(chan struct{}, 1)
			cc := start(t, newService(func(ctx context.Context) error {
				_, limited := ctx.Deadline()
				began <- limited
				<-ctx.Done()
				ended <- struct{}{}
				return ctx.Err()
			}).Register)
			forEachKind(t, func(t *testing.T, call func(context.Context, grpc.ClientConnInterface, int) (int, error)) {
				ctx, cancel := tt.start(t.Context())
				var calling sync.WaitGroup
				calling.Go(func() {
					if _, err := call(ctx, cc, 1); status.Code(err) != tt.want {
						t.Errorf("error is %v, not %s", err, tt.want)
					}
				})
				if limited := <-began; limited != (tt.want == codes.DeadlineExceeded) {
					t.Errorf("the handler's context has a deadline: %v", limited)
				}
				if tt.want == codes.Canceled {
					cancel()
				}
				calling.Wait()
				<-ended
				cancel()
			})
		})
	}
}

func TestLargeMessages(t *testing.T) {
	const limit = 16 << 20
	cc := start(t, newService(succeed).Register, grpc.MaxRecvMsgSize(limit))
	received := grpc.MaxCallRecvMsgSize(limit)
	for _, tt := range []struct {
		size int
		want codes.Code
	}{{limit - 16, codes.OK}, {limit + 1, codes.ResourceExhausted}} {
		res, err := service.CallBytes(t.Context(), cc, "/test.Service/UnaryBytes", make([]byte, tt.size), received)
		if status.Code(err) != tt.want || err == nil && len(res) != tt.size {
			t.Errorf("%d bytes: %d, %v", tt.size, len(res), err)
		}
	}
	got, err := kinds["Unary"](t.Context(), cc, 1)
	if err != nil || got != 1 {
		t.Errorf("the connection is of no use after that: %d, %v", got, err)
	}
}

// Bytes that are no message of the handler's type never reach it, and an answer that
// is none of the caller's is an error there.
func TestWrongTypes(t *testing.T) {
	s := newService(succeed)
	service.Unary(s, "Refused", func(_ context.Context, req *text) (*text, error) {
		t.Errorf("the handler was called with %v", req)
		return req, nil
	})
	service.ServerStream(s, "RefusedStream", func(req *text, _ grpc.ServerStreamingServer[text]) error {
		t.Errorf("the handler was called with %v", req)
		return nil
	})
	cc := start(t, s.Register)
	noText := wrapperspb.Bytes([]byte{0xff}) // not UTF-8
	call := func(method string) error {
		_, err := service.Call[text](t.Context(), cc, "/test.Service/"+method, noText)
		return err
	}
	errs := map[string]error{"request": call("Refused"), "response": call("UnaryBytes")}
	stream, err := service.OpenServerStream[text](t.Context(), cc, "/test.Service/RefusedStream", noText)
	check(t, err)
	_, errs["stream"] = stream.Recv()
	for name, err := range errs {
		if status.Code(err) != codes.Internal {
			t.Errorf("%s: error is %v", name, err)
		}
	}
}

// A caller that takes a method for one of another kind is answered, rightly or with an
// error, and the connection lives.
func TestWrongKinds(t *testing.T) {
	cc := start(t, newService(succeed).Register)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for method, want := range map[string]struct{ unary, empty error }{
		"Unary":        {nil, status.Error(codes.Internal, "")},
		"ServerStream": {status.Error(codes.Internal, ""), status.Error(codes.Internal, "")},
		"ClientStream": {nil, nil},
		"BidiStream":   {nil, io.EOF},
		"None":         {status.Error(codes.Unimplemented, ""), status.Error(codes.Unimplemented, "")},
	} {
		_, err := service.Call[count](ctx, cc, "/test.Service/"+method, wrapperspb.String("x"))
		if status.Code(err) != status.Code(want.unary) {
			t.Errorf("%s called as unary: %v", method, err)
		}
		stream, err := service.OpenBidiStream[text, count](ctx, cc, "/test.Service/"+method)
		check(t, err)
		check(t, stream.CloseSend())
		if _, err := stream.Recv(); status.Code(err) != status.Code(want.empty) {
			t.Errorf("%s called with an empty stream: %v", method, err)
		}
	}
	_, err := service.CallBytes(ctx, cc, "/test.Other/Unary", nil)
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("unknown service: %v", err)
	}
}

// What the connection cannot do is an error of the caller of each kind.
func TestClosedConnection(t *testing.T) {
	cc := start(t, newService(succeed).Register)
	check(t, cc.Close())
	forEachKind(t, func(t *testing.T, call func(context.Context, grpc.ClientConnInterface, int) (int, error)) {
		if _, err := call(t.Context(), cc, 1); status.Code(err) != codes.Canceled {
			t.Errorf("error is %v", err)
		}
	})
}

// A panic goes up to the server's interceptors, which make of it what they like.
func TestPanicsAreTheServers(t *testing.T) {
	recovered := func(err *error) {
		if p := recover(); p != nil {
			*err = status.Errorf(codes.DataLoss, "recovered: %v", p)
		}
	}
	cc := start(t, newService(func(context.Context) error { panic("oops") }).Register,
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (_ any, err error) {
			defer recovered(&err)
			return next(ctx, req)
		}),
		grpc.StreamInterceptor(func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
			defer recovered(&err)
			return next(srv, stream)
		}))
	forEachKind(t, func(t *testing.T, call func(context.Context, grpc.ClientConnInterface, int) (int, error)) {
		if _, err := call(t.Context(), cc, 2); status.Code(err) != codes.DataLoss || !strings.Contains(err.Error(), "oops") {
			t.Errorf("error is %v", err)
		}
	})
}

func TestInterceptors(t *testing.T) {
	var seen []string
	var replace any
	cc := start(t, newService(succeed).Register,
		grpc.UnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			seen = append(seen, info.FullMethod)
			if replace != nil {
				req = replace
			}
			return next(ctx, req)
		}),
		grpc.StreamInterceptor(func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			seen = append(seen, info.FullMethod)
			return next(srv, stream)
		}))
	for name, call := range kinds {
		seen = nil
		_, err := call(t.Context(), cc, 1)
		check(t, err)
		if want := "/test.Service/" + name; len(seen) != 1 || seen[0] != want {
			t.Errorf("interceptors saw %q, not %q", seen, want)
		}
	}
	replace = wrapperspb.String("four")
	if got, err := kinds["Unary"](t.Context(), cc, 1); err != nil || got != 4 {
		t.Errorf("a replaced request is counted as %d, %v", got, err)
	}
	replace = "no message"
	if _, err := kinds["Unary"](t.Context(), cc, 1); status.Code(err) != codes.Internal {
		t.Errorf("a request of a wrong type is answered by %v", err)
	}
}

// Generated code is called, and calls.
func TestGeneratedCode(t *testing.T) {
	generated := health.NewServer()
	generated.SetServingStatus("x", healthpb.HealthCheckResponse_NOT_SERVING)
	s := service.New("grpc.health.v1.Health")
	service.Unary(s, "Check", generated.Check)
	service.ServerStream(s, "Watch", generated.Watch)
	for name, register := range map[string]func(grpc.ServiceRegistrar) error{
		"handlers": s.Register,
		"callers":  func(r grpc.ServiceRegistrar) error { healthpb.RegisterHealthServer(r, generated); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			cc := start(t, register)
			req := &healthpb.HealthCheckRequest{Service: "x"}
			want, err := healthpb.NewHealthClient(cc).Check(t.Context(), req)
			check(t, err)
			res, err := service.Call[healthpb.HealthCheckResponse](t.Context(), cc, healthpb.Health_Check_FullMethodName, req)
			check(t, err)
			if !proto.Equal(res, want) || res.Status != healthpb.HealthCheckResponse_NOT_SERVING {
				t.Errorf("answers are %v and %v", res, want)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			stream, err := service.OpenServerStream[healthpb.HealthCheckResponse](ctx, cc, healthpb.Health_Watch_FullMethodName, req)
			check(t, err)
			first, err := stream.Recv()
			check(t, err)
			if !proto.Equal(first, want) {
				t.Errorf("the stream begins with %v", first)
			}
		})
	}
}

// A nil message is the empty one, in both directions, as with generated code.
func TestNilMessages(t *testing.T) {
	s := service.New("test.Nil")
	service.Unary(s, "Nil", func(context.Context, *text) (*count, error) { return nil, nil })
	service.ServerStream(s, "NilStream", func(_ *text, stream grpc.ServerStreamingServer[count]) error { return stream.Send(nil) })
	cc := start(t, s.Register)
	for _, req := range []proto.Message{nil, (*text)(nil)} {
		res, err := service.Call[count](t.Context(), cc, "/test.Nil/Nil", req)
		if err != nil || !proto.Equal(res, &count{}) {
			t.Errorf("answer to %T is %v, %v", req, res, err)
		}
		stream, err := service.OpenServerStream[count](t.Context(), cc, "/test.Nil/NilStream", req)
		check(t, err)
		if n, err := receive(stream.Recv); n != 1 || err != nil {
			t.Errorf("answer to %T is a stream of %d, %v", req, n, err)
		}
	}
}

func TestNames(t *testing.T) {
	for name, tt := range map[string]struct {
		service string
		methods []string
		want    string
	}{
		"good":         {"acme.v1.Notes", []string{"Add", "Remove"}, ""},
		"no service":   {"", []string{"Add"}, `"" is not the name of a service`},
		"slash":        {"acme/Notes", []string{"Add"}, `"acme/Notes" is not the name of a service`},
		"no method":    {"acme.Notes", []string{""}, `"" is not the name of a method`},
		"dotted":       {"acme.Notes", []string{"Add.All"}, `"Add.All" is not the name of a method`},
		"twice":        {"acme.Notes", []string{"Add", "Add"}, `method "Add" is there twice`},
		"several":      {"acme.Notes", []string{"", "/"}, "\n\"/\" is not the name of a method"},
		"good and bad": {"acme.Notes", []string{"Add", "-"}, `"-" is not the name of a method`},
	} {
		t.Run(name, func(t *testing.T) {
			s := service.New(tt.service)
			for i, method := range tt.methods {
				if i%2 == 0 {
					service.Unary(s, method, func(context.Context, *text) (*text, error) { return nil, nil })
				} else {
					service.BidiStream(s, method, func(grpc.BidiStreamingServer[text, text]) error { return nil })
				}
			}
			server := grpc.NewServer()
			err := s.Register(server)
			if tt.want == "" {
				check(t, err)
				if got := len(server.GetServiceInfo()[tt.service].Methods); got != len(tt.methods) {
					t.Errorf("%d methods are registered", got)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error is %v", err)
			}
			if got := server.GetServiceInfo(); len(got) != 0 {
				t.Errorf("registered all the same: %v", got)
			}
		})
	}
}

// One Service can be registered on many servers; methods that are added later are not
// on those before.
func TestRegisteredTwice(t *testing.T) {
	s := newService(succeed)
	first := start(t, s.Register)
	service.UnaryBytes(s, "Late", func(_ context.Context, req []byte) ([]byte, error) { return req, nil })
	second := start(t, s.Register)
	for cc, want := range map[*grpc.ClientConn]codes.Code{first: codes.Unimplemented, second: codes.OK} {
		if _, err := service.CallBytes(t.Context(), cc, "/test.Service/Late", nil); status.Code(err) != want {
			t.Errorf("error is %v, not %s", err, want)
		}
	}
}
