package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/dualrepl/dualrepl/dataconn"
	"github.com/dualrepl/dualrepl/transportmux"
)

// callError is a failed call: the status for status.Code, what errors.Is can find as its
// causes, and what became of it.
type callError struct {
	method  string
	status  *status.Status
	causes  []error // none: the status says all that is known
	outcome Outcome
}

// Error leaves out what gRPC makes of a connection that did not come about.
func (e *callError) Error() string {
	if dial := (*transportmux.DialError)(nil); e.outcome == NotSent && errors.As(e, &dial) {
		return fmt.Sprintf("%s: cannot connect: %v", e.method, dial)
	}
	return fmt.Sprintf("%s: %s: %s", e.method, e.status.Code(), e.status.Message())
}

// GRPCStatus is what status.Code and status.FromError look for.
func (e *callError) GRPCStatus() *status.Status { return e.status }

// Unwrap is for errors.Is and errors.As.
func (e *callError) Unwrap() []error { return e.causes }

// became is for OutcomeOf.
func (e *callError) became() Outcome { return e.outcome }

// newCallError finds the causes of a failed control call: what the endpoint said, or else
// what happened on this side: the end of ctx, the client's own end, the connection.
func (c *Client) newCallError(ctx context.Context, method string, err error, rec *record) error {
	if answer := new(callError); errors.As(err, &answer) {
		return err
	}
	e := &callError{method: method, status: status.Convert(err), outcome: rec.outcome()}
	cause := context.Cause(ctx)
	_, gone := cause.(peerGone) //nolint:errorlint // one that is wrapped is another call's
	switch {
	case e.outcome == Answered && !(cause != nil && isEndOfContext(e.status)):
		e.causes = nonNil(sentinelOf(e.status), c.overdue(ctx, e.status))
	case gone, errors.Is(err, ErrDisconnected):
		e.status = status.New(codes.Unavailable, ErrDisconnected.Error())
		e.causes = nonNil(cause, err)
	case cause != nil:
		e.causes = []error{cause}
	case c.closed.Load():
		e.causes = []error{net.ErrClosed}
	case e.outcome == NotSent && e.status.Code() == codes.Unavailable:
		e.causes = nonNil(ErrDisconnected, c.connecting.last())
	default: // gRPC's own, at either end
		e.causes = nonNil(ownSentinel(e.status), c.overdue(ctx, e.status))
	}
	return e
}

// isEndOfContext reports whether a status may be gRPC's own for the end of a context.
func isEndOfContext(st *status.Status) bool {
	return st.Code() == codes.Canceled || st.Code() == codes.DeadlineExceeded
}

// overdue is the cause of a call that the server's clock ended before ours did: an
// endpoint's own deadline is none of ours.
func (c *Client) overdue(ctx context.Context, st *status.Status) error {
	deadline, ok := ctx.Deadline()
	if ok && st.Code() == codes.DeadlineExceeded && time.Until(deadline) < clockSlack {
		return context.DeadlineExceeded
	}
	return nil
}

// ownSentinel is what gRPC itself refuses at this end.
func ownSentinel(st *status.Status) error {
	if st.Code() == codes.ResourceExhausted {
		return ErrTooLarge
	}
	return nil
}

func nonNil(errs ...error) []error {
	var some []error
	for _, err := range errs {
		if err != nil {
			some = append(some, err)
		}
	}
	return some
}

// newDataError gives a data request's error what it has on the control channel: the
// outcome, the status with the sentinel, if the peer sent one, and ErrDisconnected, if
// there was no connection. Otherwise it stays as it is.
func newDataError(ctx context.Context, method string, err error) error {
	if err == nil || err == io.EOF { // bare, as io.Reader's contract has it
		return err
	}
	e := &dataError{err, dataOutcome(ctx, err)}
	var remote *dataconn.RemoteError
	var dial *transportmux.DialError
	switch {
	case e.outcome == Answered && errors.As(err, &remote) && remote.Status != nil:
		st := status.FromProto(remote.Status)
		return &callError{method: method, status: st, causes: nonNil(sentinelOf(st), err), outcome: Answered}
	case e.outcome == NotSent && errors.As(err, &dial):
		st := status.New(codes.Unavailable, dial.Error())
		return &callError{method: method, status: st, causes: nonNil(ErrDisconnected, err), outcome: NotSent}
	}
	return e
}

// dataOutcome goes by what err is. What is in the chain of the caller's own stream's
// error, or of why ctx ended, may have been said of another call.
func dataOutcome(ctx context.Context, err error) Outcome {
	others := context.Cause(ctx)
	if stream := (*dataconn.StreamError)(nil); errors.As(err, &stream) {
		others = errors.Join(others, stream.Err)
	}
	switch remote := new(*dataconn.RemoteError); {
	case errors.Is(err, dataconn.ErrNotSent) && !errors.Is(others, dataconn.ErrNotSent):
		return NotSent
	case errors.As(err, remote) && !errors.As(others, remote):
		return Answered
	}
	return MayHaveRun
}

// dataError is an error of package dataconn, and what became of its request.
type dataError struct {
	error
	outcome Outcome
}

// Unwrap is for errors.Is and errors.As.
func (e *dataError) Unwrap() error { return e.error }

// became is for OutcomeOf.
func (e *dataError) became() Outcome { return e.outcome }

// sentStream is what a client sends, as its receiver reads it.
type sentStream struct{ io.Reader }

// Read implements io.Reader.
func (s sentStream) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	return n, newDataError(context.Background(), "the client's stream", err)
}

// WriteTo implements io.WriterTo, by the data channel's own.
func (s sentStream) WriteTo(w io.Writer) (int64, error) {
	n, err := io.Copy(w, s.Reader)
	return n, newDataError(context.Background(), "the client's stream", err)
}

// interceptStream is every control stream's way to the wire.
func (c *Client) interceptStream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	c.counters.controlCalls.Add(1)
	s := &clientStream{c: c, desc: desc, method: method}
	ctx, s.over = context.WithCancel(ctx)
	ctx, s.rec = withRecord(ctx)
	err := intercept(ctx, c.opts.Interceptors, c.call(transportmux.LabelControl, method), func(ctx context.Context) error {
		return c.invoke(ctx, method, s.rec, opts, func(ctx context.Context, opts []grpc.CallOption) (err error) {
			s.ctx = ctx
			s.ClientStream, err = streamer(ctx, desc, cc, method, opts...)
			return err
		})
	})
	if err != nil {
		s.over()
		return nil, err
	}
	return s, nil
}

// clientStream gives a stream's errors their causes.
type clientStream struct {
	grpc.ClientStream
	c      *Client
	desc   *grpc.StreamDesc
	ctx    context.Context // the caller's: the stream's own ends with the stream
	over   func()          // lets go of ctx
	method string
	rec    *record
}

func (s *clientStream) explain(err error) error {
	if err == nil || err == io.EOF { // bare, as gRPC's contract has it
		return err
	}
	return s.c.newCallError(s.ctx, s.method, err, s.rec)
}

// SendMsg implements grpc.ClientStream.
func (s *clientStream) SendMsg(m any) error { return s.explain(s.ClientStream.SendMsg(m)) }

// RecvMsg implements grpc.ClientStream.
func (s *clientStream) RecvMsg(m any) error {
	err := s.explain(s.ClientStream.RecvMsg(m))
	if err != nil || !s.desc.ServerStreams {
		s.over()
	}
	return err
}
