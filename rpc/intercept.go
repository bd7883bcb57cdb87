package rpc

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A Call says what a request is.
type Call struct {
	Client  string // identity of who calls; empty at the client's own end
	Route   string // that the client named; "": the default one
	Channel string // transportmux.LabelControl or transportmux.LabelData
	// Method is gRPC's full name on the control channel ("/Replication/SendDry",
	// "/acme.Notes/Add"); on the data channel Ping, Send or Receive.
	Method string
}

// An Interceptor stands around each request of both channels, at the server or at the
// client: for tracing, measuring, authorization. It calls next at most once, with ctx or
// a context made from it, and returns next's error or one of its own, which is the
// answer. Without next the request is refused; a nil does not undo what next returned.
//
// At a server, next returns when the handler has. For Send that is when it has returned
// its stream, which is read afterwards. The request's message has not been received yet
// when a control call's interceptor begins. What the server itself refuses (a route, a
// verb, a limit, an unknown method) does not get there. A panic is answered as a
// handler's.
type Interceptor func(ctx context.Context, call Call, next func(context.Context) error) error

// errNotCalled is the answer when an interceptor neither called next nor refused.
var errNotCalled = status.Error(codes.Internal, "an interceptor neither refused the request nor passed it on")

// errCalledTwice: a handler's second stream would be nobody's.
var errCalledTwice = status.Error(codes.Internal, "an interceptor passed the request on twice")

// intercept runs last inside of all interceptors, the first outermost. It succeeds only
// if last did.
func intercept(ctx context.Context, interceptors []Interceptor, call Call, last func(context.Context) error) error {
	if len(interceptors) == 0 {
		return last(ctx)
	}
	called, inner := false, errNotCalled
	err := interceptors[0](ctx, call, func(ctx context.Context) error {
		if called {
			return errCalledTwice
		}
		called = true
		inner = intercept(ctx, interceptors[1:], call, last)
		return inner
	})
	if err == nil {
		return inner
	}
	return err
}
