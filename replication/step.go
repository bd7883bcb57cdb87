package replication

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/dualrepl/dualrepl/pdu"
)

// step is a planned step on its way. All but the plan is guarded by run.mu.
type step struct {
	plannedStep
	expected uint64 // bytes of the whole attempt; 0: unknown
	begun    bool
	running  bool
	resumed  bool
	start    uint64 // filesystem.moved when the attempt began
}

// unconfirmed is a step whose stream began: the receiver may have it, although the
// sender was not told. Forgetting it would leave the sender's cursor and holds behind.
type unconfirmed struct {
	req    *pdu.SendReq
	report StepReport
}

func (f *filesystem) request(s *step) *pdu.SendReq {
	return &pdu.SendReq{
		Filesystem: f.path, From: s.from, To: s.to, ResumeToken: s.token, ReplicationConfig: f.run.opts.Protection,
		StreamKinds: f.run.kinds,
	}
}

// takeSteps takes the pending steps in order.
func (f *filesystem) takeSteps(ctx context.Context) error {
	if f.replan {
		if err := f.plan(ctx); err != nil {
			return err
		}
	}
	for len(f.pending) > 0 {
		if err := f.take(ctx, f.pending[0]); err != nil {
			return err
		}
		f.tries.failed = 0
	}
	return nil
}

// take takes one step, as soon as there is a slot for it.
func (f *filesystem) take(ctx context.Context, s *step) error {
	select {
	case f.run.slots <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-f.run.slots }()
	f.update(func() { s.begun, s.running, s.start = true, true, f.moved.Load() })
	defer f.update(func() { s.running = false })

	f.used = s.token
	if err := f.transfer(ctx, s); err != nil {
		return fmt.Errorf("step to %s: %w", versionName(s.to), err)
	}
	f.used = ""
	return f.complete(ctx)
}

// transfer moves a step's data.
func (f *filesystem) transfer(ctx context.Context, s *step) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	began := time.Now()
	req := f.request(s)
	res, stream, err := f.run.sender.Send(ctx, req)
	if err != nil {
		return fmt.Errorf("send: %w", sendError{err})
	}
	if stream == nil {
		return fmt.Errorf("%w: send returned no stream", ErrProtocol)
	}
	defer stream.Close()
	resumed := s.token != "" && res.GetUsedResumeToken()
	f.update(func() { s.resumed, s.expected = resumed, res.GetExpectedSize() })
	f.unconfirmed = &unconfirmed{req: req}
	counted, record := countStream(stream, &f.moved)
	_, err = f.run.receiver.Receive(ctx, &pdu.ReceiveReq{
		Filesystem: f.path, To: s.to, ClearResumeToken: !resumed, ReplicationConfig: f.run.opts.Protection,
	}, counted)
	f.unconfirmed.report = StepReport{
		From: versionName(s.from), To: versionName(s.to), Bytes: f.moved.Load() - s.start,
		Duration: time.Since(began), Resumed: resumed,
	}
	if cause := record.err(); cause != nil {
		return fmt.Errorf("read the sender's stream: %w", cause) // the receiver's error follows from it
	}
	if err != nil {
		return fmt.Errorf("receive: %w", err)
	}
	return nil
}

// complete tells the sender that the receiver has the unconfirmed step, which is the
// first of the pending ones.
func (f *filesystem) complete(ctx context.Context) error {
	u := f.unconfirmed
	if _, err := f.run.sender.SendCompleted(ctx, &pdu.SendCompletedReq{OriginalReq: u.req}); err != nil {
		return fmt.Errorf("step to %s: tell the sender that it is complete: %w", u.report.To, err)
	}
	f.unconfirmed = nil
	f.run.opts.Logger.Info("step done", "filesystem", f.path, "from", u.report.From, "to", u.report.To,
		"bytes", u.report.Bytes, "duration", u.report.Duration, "resumed", u.report.Resumed)
	f.update(func() { f.done, f.pending = append(f.done, u.report), f.pending[1:] })
	f.arrive()
	return nil
}

// confirm completes a step that failed on our side only: the receiver has it.
func (f *filesystem) confirm(ctx context.Context, receiver []*pdu.FilesystemVersion) error {
	if f.unconfirmed == nil {
		return nil
	}
	to := f.unconfirmed.req.To
	if !slices.ContainsFunc(snapshotsOf(receiver), func(v *pdu.FilesystemVersion) bool { return v.Guid == to.Guid }) {
		f.unconfirmed = nil
		return nil
	}
	if err := f.complete(ctx); err != nil {
		return err
	}
	f.note(fmt.Sprintf("the receiver had %s already when the step was to be repeated", versionName(to)))
	return nil
}

// estimate asks the sender for the size of a step that has not begun.
func (f *filesystem) estimate(ctx context.Context, s *step) {
	f.run.mu.Lock()
	begun := s.begun
	f.run.mu.Unlock()
	if begun || ctx.Err() != nil {
		return
	}
	res, err := f.run.sender.SendDry(ctx, f.request(s))
	if err != nil {
		f.run.opts.Logger.Debug("no estimate", "filesystem", f.path, "to", versionName(s.to), "err", err)
		return
	}
	f.update(func() {
		if !s.begun {
			s.expected = res.GetExpectedSize()
		}
	})
}
