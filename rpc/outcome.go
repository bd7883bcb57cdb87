package rpc

import (
	"context"
	"errors"
	"sync/atomic"

	"google.golang.org/grpc/stats"
)

// Outcome is what is known about the handler of a call that returned. It decides whether
// the call may be made again.
type Outcome int

// The outcomes of a call.
const (
	// MayHaveRun: the call was sent, or part of it, and no answer came: the handler may
	// have run, be running, or never have begun.
	MayHaveRun Outcome = iota
	// NotSent: no handler has seen the call, and none will.
	NotSent
	// Answered: the peer has answered. Its handler has returned, or the peer refused to
	// run it.
	Answered
)

// String names the outcome.
func (o Outcome) String() string {
	switch o {
	case NotSent:
		return "not sent"
	case Answered:
		return "answered"
	}
	return "may have run"
}

// OutcomeOf tells what became of a call of a Client, on either channel, by the error that
// it returned: Answered for none. An error of something else counts as MayHaveRun.
func OutcomeOf(err error) Outcome {
	if err == nil {
		return Answered
	}
	var call interface{ became() Outcome } // the outermost: what is in its chain may be another call's
	if errors.As(err, &call) {
		return call.became()
	}
	return MayHaveRun
}

// A record is what gRPC does with one call.
type record struct {
	sent     atomic.Bool // its beginning, on any connection
	answered atomic.Bool // the peer's last word came, not the connection's
}

func (r *record) outcome() Outcome {
	switch {
	case r.answered.Load():
		return Answered
	case r.sent.Load():
		return MayHaveRun
	}
	return NotSent
}

type recordKey struct{}

// withRecord returns a context for one call, whose record callRecorder keeps.
func withRecord(ctx context.Context) (context.Context, *record) {
	r := new(record)
	return context.WithValue(ctx, recordKey{}, r), r
}

// callRecorder is the stats.Handler that keeps the records.
type callRecorder struct{}

// HandleRPC implements stats.Handler.
func (callRecorder) HandleRPC(ctx context.Context, s stats.RPCStats) {
	r, ok := ctx.Value(recordKey{}).(*record)
	if !ok {
		return
	}
	switch s.(type) {
	case *stats.OutHeader:
		r.sent.Store(true)
	case *stats.InTrailer:
		r.answered.Store(true)
	}
}

// TagRPC implements stats.Handler.
func (callRecorder) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

// TagConn implements stats.Handler.
func (callRecorder) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn implements stats.Handler.
func (callRecorder) HandleConn(context.Context, stats.ConnStats) {}
