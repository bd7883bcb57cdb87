package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime/debug"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/transportmux"
)

// ErrTooLarge: a control message, or a list of versions, is larger than its receiver
// takes. Trying again does not help; a shorter list does.
var ErrTooLarge = errors.New("message too large")

// sentinelCodes tells how the sentinels cross the control channel, both ways.
var sentinelCodes = []struct {
	sentinel error
	code     codes.Code
}{
	{endpoint.ErrNotFound, codes.NotFound},
	{endpoint.ErrInvalid, codes.InvalidArgument},
	{endpoint.ErrBusy, codes.Aborted},
	{endpoint.ErrNoSpace, codes.ResourceExhausted},
	{endpoint.ErrStaleToken, codes.OutOfRange},
	{endpoint.ErrPermission, codes.PermissionDenied},
	{endpoint.ErrUnimplemented, codes.Unimplemented},
	{endpoint.ErrFailedPrecondition, codes.FailedPrecondition},
}

// errPanic is what the client learns of a handler's panic.
var errPanic = errors.New("internal error: the handler panicked (its side's log has the stack)")

// errDraining never reaches a client: the connection is ended in its place, which
// tells the client to try again.
var errDraining = errors.New("server is shutting down")

// noSpace marks a ResourceExhausted as the handler's: gRPC itself uses that code
// for a message over the limit.
var noSpace = &errdetails.ErrorInfo{Domain: "dualrepl", Reason: "NO_SPACE"}

// toStatus gives a handler's error its gRPC code. An error that has one already
// (the handler is a client of somebody else) keeps it.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	if st, ok := status.FromError(err); ok && st.Code() != codes.OK {
		return st.Err()
	}
	st := status.New(codeOf(err), err.Error())
	if !errors.Is(err, endpoint.ErrNoSpace) {
		return st.Err()
	}
	if marked, err := st.WithDetails(noSpace); err == nil {
		st = marked
	}
	return st.Err()
}

func codeOf(err error) codes.Code {
	for _, s := range sentinelCodes {
		if errors.Is(err, s.sentinel) {
			return s.code
		}
	}
	switch {
	case errors.Is(err, ErrTooLarge):
		return codes.ResourceExhausted
	case errors.Is(err, errPanic):
		return codes.Internal
	case errors.Is(err, context.Canceled):
		return codes.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		return codes.DeadlineExceeded
	}
	return codes.Unknown
}

// sentinelOf is codeOf the other way: nil if the status is no sentinel's.
func sentinelOf(st *status.Status) error {
	if st.Code() == codes.ResourceExhausted && len(st.Details()) == 0 {
		return ErrTooLarge
	}
	for _, s := range sentinelCodes {
		if st.Code() == s.code {
			return s.sentinel
		}
	}
	return nil
}

// callError is a failed control call: the status for status.Code, and what
// errors.Is can find as its cause.
type callError struct {
	method string
	status *status.Status
	cause  error // nil: the status says all that is known
}

// Error leaves out what gRPC makes of a connection that did not come about.
func (e *callError) Error() string {
	if dial := (*transportmux.DialError)(nil); errors.As(e.cause, &dial) {
		return fmt.Sprintf("%s: cannot connect: %v", e.method, dial)
	}
	return fmt.Sprintf("%s: %s: %s", e.method, e.status.Code(), e.status.Message())
}

// GRPCStatus is what status.Code and status.FromError look for.
func (e *callError) GRPCStatus() *status.Status { return e.status }

func (e *callError) Unwrap() error { return e.cause }

// newCallError finds the cause of a failed call: what the endpoint said, the end
// of ctx, the client's own end, or what connecting (lastly) failed of.
func newCallError(ctx context.Context, method string, err error, closed bool, connecting error) error {
	e := &callError{method: method, status: status.Convert(err)}
	switch {
	case ctx.Err() != nil:
		e.cause = context.Cause(ctx)
	case closed:
		e.cause = net.ErrClosed
	case e.status.Code() == codes.Unavailable:
		e.cause = connecting
	case e.status.Code() == codes.DeadlineExceeded: // the server's clock was faster
		e.cause = context.DeadlineExceeded
	default:
		e.cause = sentinelOf(e.status)
	}
	return e
}

// recoverPanic, deferred, turns a panic into errPanic and logs it.
func recoverPanic(logger *slog.Logger, err *error) {
	if p := recover(); p != nil {
		logger.Error("handler panicked", "panic", p, "stack", string(debug.Stack()))
		*err = errPanic
	}
}

// guardedStream keeps a panic of a handler's stream from the process.
type guardedStream struct {
	io.ReadCloser
	logger *slog.Logger
}

func (s *guardedStream) Read(p []byte) (n int, err error) {
	defer recoverPanic(s.logger, &err)
	return s.ReadCloser.Read(p)
}

func (s *guardedStream) Close() (err error) {
	defer recoverPanic(s.logger, &err)
	return s.ReadCloser.Close()
}
