package daemon

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
)

// GracePeriod is how long the steps and snapshots that run when the daemon is
// stopped may take to finish, each on its own.
const GracePeriod = 30 * time.Second

// errStopping is why a step did not begin, or was cancelled.
var errStopping = errors.New("the daemon is stopping")

// A graceful replication begins no further step once ctx has ended, finishes
// those that run, and cancels what is left after GracePeriod. With no step running
// (planning, waiting before a retry) there is nothing to finish.
//
// A step runs from Send until the receiver has failed or the sender knows that the
// receiver has it all.
type graceful struct {
	stopped func() error // nil until it is stopped
	cancel  context.CancelCauseFunc
	unhook  func() bool

	mu     sync.Mutex
	steps  map[string]bool // filesystems with a running step
	expiry *time.Timer     // nil unless stopped with steps
}

// newGraceful returns the context to replicate in. The caller closes g.
func newGraceful(ctx context.Context) (g *graceful, work context.Context) {
	work, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	g = &graceful{stopped: ctx.Err, cancel: cancel, steps: make(map[string]bool)}
	g.unhook = context.AfterFunc(ctx, g.stop)
	return g, work
}

// stop is called when ctx has ended.
func (g *graceful) stop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.steps) == 0 {
		g.cancel(errStopping)
		return
	}
	g.expiry = time.AfterFunc(GracePeriod, func() { g.cancel(errStopping) })
}

// close frees what g holds.
func (g *graceful) close() {
	g.unhook()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.expiry != nil {
		g.expiry.Stop()
	}
	g.cancel(nil)
}

// begin reports whether the step may begin.
func (g *graceful) begin(filesystem string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stopped() != nil {
		return false
	}
	g.steps[filesystem] = true
	return true
}

func (g *graceful) end(filesystem string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.steps, filesystem)
	if g.stopped() != nil && len(g.steps) == 0 {
		g.cancel(errStopping)
	}
}

// gracefulSender and gracefulReceiver tell a graceful replication of its steps.
type gracefulSender struct {
	endpoint.Sender
	g *graceful
}

// Send of a step that may not begin waits until the replication is cancelled: any
// error before that would be taken for the step's own.
func (s gracefulSender) Send(ctx context.Context, req *pdu.SendReq) (*pdu.SendRes, io.ReadCloser, error) {
	if !s.g.begin(req.GetFilesystem()) {
		<-ctx.Done()
		return nil, nil, context.Cause(ctx)
	}
	res, stream, err := s.Sender.Send(ctx, req)
	if err != nil {
		s.g.end(req.GetFilesystem())
	}
	return res, stream, err
}

func (s gracefulSender) SendCompleted(ctx context.Context, req *pdu.SendCompletedReq) (*pdu.SendCompletedRes, error) {
	defer s.g.end(req.GetOriginalReq().GetFilesystem())
	return s.Sender.SendCompleted(ctx, req)
}

type gracefulReceiver struct {
	endpoint.Receiver
	g *graceful
}

func (r gracefulReceiver) Receive(ctx context.Context, req *pdu.ReceiveReq, stream io.Reader) (*pdu.ReceiveRes, error) {
	res, err := r.Receiver.Receive(ctx, req, stream)
	if err != nil {
		r.g.end(req.GetFilesystem())
	}
	return res, err
}

// withGrace returns a context that ends GracePeriod after ctx has, or when end is
// called.
func withGrace(ctx context.Context) (work context.Context, end func()) {
	work, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		timer := time.NewTimer(GracePeriod)
		defer timer.Stop()
		select {
		case <-timer.C:
			cancel(errStopping)
		case <-work.Done():
		}
	})
	return work, func() { stop(); cancel(nil) }
}
