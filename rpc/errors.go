package rpc

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"runtime/debug"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/dualrepl/dualrepl/endpoint"
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

// What the details of a ResourceExhausted say it is: gRPC itself uses that code for a
// message over the limit, without details.
var (
	noSpace   = &errdetails.ErrorInfo{Domain: errorDomain, Reason: "NO_SPACE"}
	overLimit = &errdetails.ErrorInfo{Domain: errorDomain, Reason: "LIMIT"}
)

const errorDomain = "dualrepl"

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
	switch {
	case errors.Is(err, endpoint.ErrNoSpace):
		st = withDetail(st, noSpace)
	case errors.Is(err, ErrLimit):
		st = withDetail(st, overLimit)
	}
	return st.Err()
}

func withDetail(st *status.Status, info *errdetails.ErrorInfo) *status.Status {
	if detailed, err := st.WithDetails(info); err == nil {
		return detailed
	}
	return st
}

// statusOf is toStatus for the data channel.
func statusOf(err error) *spb.Status { return status.Convert(toStatus(err)).Proto() }

func codeOf(err error) codes.Code {
	for _, s := range sentinelCodes {
		if errors.Is(err, s.sentinel) {
			return s.code
		}
	}
	switch {
	case errors.Is(err, ErrTooLarge), errors.Is(err, ErrLimit):
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
	if st.Code() == codes.ResourceExhausted {
		return exhaustedOf(st)
	}
	for _, s := range sentinelCodes {
		if st.Code() == s.code {
			return s.sentinel
		}
	}
	return nil
}

// exhaustedOf tells what was exhausted; nil: something of a custom service's.
func exhaustedOf(st *status.Status) error {
	if len(st.Details()) == 0 {
		return ErrTooLarge
	}
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == errorDomain {
			switch info.GetReason() {
			case overLimit.Reason:
				return ErrLimit
			case noSpace.Reason:
				return endpoint.ErrNoSpace
			}
		}
	}
	return nil
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
	closed func()
}

func (s *guardedStream) Read(p []byte) (n int, err error) {
	defer recoverPanic(s.logger, &err)
	return s.ReadCloser.Read(p)
}

func (s *guardedStream) Close() (err error) {
	defer s.closed()
	defer recoverPanic(s.logger, &err)
	return s.ReadCloser.Close()
}
