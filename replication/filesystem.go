package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
)

// filesystem drives the replication of one filesystem. What is not guarded belongs
// to the one goroutine that plans it, and then to the one that drives it.
type filesystem struct {
	run         *run
	path        string
	placeholder bool            // on the sender
	remote      *pdu.Filesystem // the receiver's entry when it was last listed; nil: none
	initial     bool            // the receiver has no version of it
	parent      *filesystem     // must be there first; nil: nothing to wait for
	arrived     chan struct{}   // closed once the receiver has a version, or none will come
	arrive      func()          // closes arrived, once
	tries       *attempts
	replan      bool            // the plan is older than the last failure
	empty       bool            // the sender has no snapshot of it
	planned     uint64          // moved when the plan was made
	dropped     map[string]bool // resume tokens that did not fit
	used        string          // resume token of the step that runs; "": none
	unconfirmed *unconfirmed    // nil: none

	moved atomic.Uint64 // bytes handed to the receiver

	// Guarded by run.mu, for reports.
	state    State
	done     []StepReport
	pending  []*step
	notes    []string
	failures int
	err      error
}

func newFilesystem(r *run, local, remote *pdu.Filesystem) *filesystem {
	f := &filesystem{
		run: r, path: local.GetPath(), placeholder: local.GetIsPlaceholder(), remote: remote,
		arrived: make(chan struct{}), dropped: map[string]bool{}, state: StatePending,
	}
	f.tries = r.newAttempts(r.opts.Logger.With("filesystem", f.path))
	f.initial = !f.placeholder && !f.isRemote()
	f.arrive = sync.OnceFunc(func() { close(f.arrived) })
	return f
}

// isRemote reports whether the receiver has the filesystem, and not just a place for it.
func (f *filesystem) isRemote() bool { return f.remote != nil && !f.remote.IsPlaceholder }

// isPending reports whether the state may still change; run.mu is held.
func (f *filesystem) isPending() bool { return f.state == StatePending }

// update changes what reports show.
func (f *filesystem) update(change func()) {
	f.run.mu.Lock()
	change()
	f.run.mu.Unlock()
	f.run.notify()
}

// note adds to the report what is not in it yet: plans repeat their notes.
func (f *filesystem) note(notes ...string) {
	for _, n := range notes {
		if !slices.Contains(f.notes, n) {
			f.run.opts.Logger.Warn(n, "filesystem", f.path)
			f.update(func() { f.notes = append(f.notes, n) })
		}
	}
}

// end sets the final state. What ctx ended has not failed: it is pending.
func (f *filesystem) end(ctx context.Context, err error) {
	if err != nil && ctx.Err() != nil {
		return
	}
	f.update(func() {
		switch f.err = err; {
		case err != nil:
			f.state = StateFailed
		case f.empty:
			f.state = StateEmpty
		default:
			f.state = StateDone
		}
	})
}

// prepare makes the first plan. Where there is nothing to do the state is final.
func (f *filesystem) prepare(ctx context.Context) {
	if f.placeholder {
		f.end(ctx, f.checkPlaceholder())
		return
	}
	if err := f.persist(ctx, f.plan); err != nil || len(f.pending) == 0 {
		f.end(ctx, err)
		return
	}
	f.initial = f.initial || f.pending[0].from == nil
}

func (f *filesystem) checkPlaceholder() error {
	if f.isRemote() {
		return ErrOccupied
	}
	return nil
}

// replicate takes all steps; when it returns the state is final or ctx has ended.
func (f *filesystem) replicate(ctx context.Context) {
	defer f.arrive()
	if f.state != StatePending {
		return
	}
	err := f.awaitParent(ctx)
	if err == nil {
		err = f.persist(ctx, f.takeSteps)
	}
	f.end(ctx, err)
}

func (f *filesystem) awaitParent(ctx context.Context) error {
	if f.parent == nil {
		return nil
	}
	select {
	case <-f.parent.arrived:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	f.run.mu.Lock()
	defer f.run.mu.Unlock()
	if f.parent.state == StateFailed && len(f.parent.done) == 0 {
		return fmt.Errorf("%w: %q", ErrParent, f.parent.path)
	}
	return nil
}

// persist repeats work until it succeeds, fails for good, or ctx ends.
func (f *filesystem) persist(ctx context.Context, work func(context.Context) error) error {
	for {
		err := work(ctx)
		if err == nil {
			return nil
		}
		if err := f.decide(ctx, err); err != nil {
			return err
		}
	}
}

// decide says what follows from a failure: nil is to try again, with a new plan.
func (f *filesystem) decide(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	f.replan = true
	f.update(func() { f.failures++ })
	token := f.used
	f.used = ""
	if token != "" && tokenAtFault(err) && len(f.dropped) < f.tries.max {
		f.dropped[token] = true
		f.note(fmt.Sprintf("resume token dropped: %v", err))
		return nil
	}
	return f.tries.again(ctx, err)
}

// plan makes the pending steps, from what both sides have now.
func (f *filesystem) plan(ctx context.Context) error {
	if f.replan {
		if err := f.relist(ctx); err != nil {
			return err
		}
	}
	in, err := f.planInput(ctx)
	if err != nil {
		return err
	}
	p, err := makePlan(in)
	if err != nil {
		return err
	}
	if err := f.confirm(ctx, in.receiver); err != nil {
		return err
	}
	f.note(p.notes...)
	f.replan, f.planned, f.empty = false, f.moved.Load(), p.empty
	f.update(func() {
		f.pending = nil
		for _, s := range p.steps {
			f.pending = append(f.pending, &step{plannedStep: s})
		}
	})
	return nil
}

// relist looks at the receiver again. If it kept more of the broken step, then the
// failure was one of many on a long way, and not one of several at the same place.
func (f *filesystem) relist(ctx context.Context) error {
	list, _, err := listFilesystems(ctx, "receiver", f.run.receiver)
	if err != nil {
		return err
	}
	before := f.remote.GetResumeToken()
	f.remote = list[f.path]
	token := f.remote.GetResumeToken()
	if token != "" && token != before && f.moved.Load() > f.planned {
		f.tries.failed = 0
	}
	return nil
}

func (f *filesystem) planInput(ctx context.Context) (planInput, error) {
	in := planInput{filesystem: f.path, policy: f.run.opts.InitialPolicy}
	var err error
	if in.sender, err = listVersions(ctx, "sender", f.run.sender, f.path); err != nil {
		return in, err
	}
	if f.isRemote() {
		if in.receiver, err = listVersions(ctx, "receiver", f.run.receiver, f.path); err != nil {
			return in, err
		}
	}
	in.token, in.resume, err = f.readToken(ctx)
	return in, err
}

func listVersions(ctx context.Context, side string, e endpoint.Endpoint, path string) ([]*pdu.FilesystemVersion, error) {
	res, err := e.ListFilesystemVersions(ctx, &pdu.ListFilesystemVersionsReq{Filesystem: path})
	if err != nil {
		return nil, fmt.Errorf("list versions of the %s: %w", side, err)
	}
	return res.GetVersions(), nil
}

// readToken returns the receiver's resume token, unless it is known not to fit, and
// what it says, if somebody here can read it.
func (f *filesystem) readToken(ctx context.Context) (string, *endpoint.ResumeStep, error) {
	token := f.remote.GetResumeToken()
	if token == "" || f.dropped[token] {
		return "", nil, nil
	}
	if f.run.opts.Tokens == nil {
		return token, nil, nil
	}
	resume, err := f.run.opts.Tokens.ReadResumeToken(ctx, token)
	if err == nil {
		return token, &resume, nil
	}
	if !errors.Is(err, endpoint.ErrStaleToken) {
		return "", nil, fmt.Errorf("read resume token: %w", err)
	}
	f.dropped[token] = true
	f.note(fmt.Sprintf("resume token dropped: %v", err))
	return "", nil, nil
}
