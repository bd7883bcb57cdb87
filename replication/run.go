package replication

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
)

// run is one Run: the filesystems, and what they share.
type run struct {
	sender   endpoint.Sender
	receiver endpoint.Receiver
	opts     Options
	slots    chan struct{} // holds one element for each step that runs
	changed  chan struct{} // asks for a progress report

	kinds []string // of streams that the receiver takes; none: it did not tell

	mu          sync.Mutex // guards what follows, and the filesystems' states
	filesystems []*filesystem
	err         error
}

// Run does one replication from sender to receiver. It returns when all is done, or
// soon after ctx ends; nothing that it started runs on. The report is never nil, and
// the error is its Err: nil only if no filesystem failed. After the end of ctx the
// error has ctx's cause in its chain, and broken steps can be resumed by another Run.
func Run(ctx context.Context, sender endpoint.Sender, receiver endpoint.Receiver, opts Options) (*Report, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return &Report{Error: err.Error(), err: err}, err
	}
	r := &run{
		sender: sender, receiver: receiver, opts: opts,
		slots: make(chan struct{}, opts.Concurrency), changed: make(chan struct{}, 1),
	}
	r.withProgress(func() { r.do(ctx) })
	rep := r.report()
	return rep, rep.Err()
}

func (r *run) do(ctx context.Context) {
	err := r.prepare(ctx)
	if err == nil && r.opts.DryRun {
		r.estimate(ctx)
	}
	if err == nil && !r.opts.DryRun {
		r.execute(ctx)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
	if ctx.Err() != nil && slices.ContainsFunc(r.filesystems, (*filesystem).isPending) {
		r.err = fmt.Errorf("replication was stopped: %w", context.Cause(ctx))
	}
}

// prepare lists and plans all filesystems.
func (r *run) prepare(ctx context.Context) error {
	var list []*filesystem
	tries := r.newAttempts(r.opts.Logger)
	for {
		var err error
		if list, err = r.list(ctx); err == nil {
			break
		}
		if err := tries.again(ctx, err); err != nil {
			return err
		}
	}
	r.mu.Lock()
	r.filesystems = list
	r.mu.Unlock()
	r.notify()
	each(planConcurrency, list, func(f *filesystem) { f.prepare(ctx) })
	linkParents(list)
	return context.Cause(ctx)
}

// list returns the sender's filesystems, parents before children.
func (r *run) list(ctx context.Context) ([]*filesystem, error) {
	sender, _, err := listFilesystems(ctx, "sender", r.sender)
	if err != nil {
		return nil, err
	}
	receiver, kinds, err := listFilesystems(ctx, "receiver", r.receiver)
	if err != nil {
		return nil, err
	}
	r.kinds = kinds
	var list []*filesystem
	for path, fs := range sender {
		if r.opts.Filter(path) {
			list = append(list, newFilesystem(r, fs, receiver[path]))
		}
	}
	slices.SortFunc(list, func(a, b *filesystem) int { return strings.Compare(a.path, b.path) })
	return list, nil
}

// listFilesystems returns a peer's filesystems by path, and the kinds of streams that it takes.
func listFilesystems(ctx context.Context, side string, e endpoint.Endpoint) (byPath map[string]*pdu.Filesystem, kinds []string, err error) {
	res, err := e.ListFilesystems(ctx, &pdu.ListFilesystemReq{})
	if err != nil {
		return nil, nil, fmt.Errorf("list filesystems of the %s: %w", side, err)
	}
	byPath = map[string]*pdu.Filesystem{}
	for _, fs := range res.GetFilesystems() {
		path := fs.GetPath()
		if path == "" || byPath[path] != nil {
			return nil, nil, fmt.Errorf("%w: filesystems of the %s: %q is empty or listed twice", ErrProtocol, side, path)
		}
		byPath[path] = fs
	}
	return byPath, res.GetStreamKinds(), nil
}

// linkParents makes each filesystem that begins from nothing wait for the nearest
// one above it that does so too, unless that has nothing to send. The list is sorted.
func linkParents(list []*filesystem) {
	byPath := map[string]*filesystem{}
	for _, f := range list {
		if !f.initial || f.state == StateDone || f.state == StateEmpty {
			continue
		}
		byPath[f.path] = f
		for i := strings.LastIndexByte(f.path, '/'); i > 0 && f.parent == nil; i = strings.LastIndexByte(f.path[:i], '/') {
			f.parent = byPath[f.path[:i]]
		}
	}
}

// execute takes all steps of all filesystems.
func (r *run) execute(ctx context.Context) {
	estimating, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	for _, f := range r.filesystems {
		wg.Go(func() { f.replicate(ctx) })
	}
	estimated := make(chan struct{})
	go func() {
		defer close(estimated)
		r.estimate(estimating)
	}()
	wg.Wait()
	cancel()
	<-estimated
}

// estimate asks the sender for the sizes of all steps that have not begun. A sender
// that cannot tell makes the progress less exact, and nothing else.
func (r *run) estimate(ctx context.Context) {
	type job struct {
		f *filesystem
		s *step
	}
	var jobs []job
	r.mu.Lock()
	for _, f := range r.filesystems {
		for _, s := range f.pending {
			jobs = append(jobs, job{f, s})
		}
	}
	r.mu.Unlock()
	each(r.opts.Estimates, jobs, func(j job) { j.f.estimate(ctx, j.s) })
}

// each calls fn for every item, at most limit at once, and returns when all are done.
func each[T any](limit int, items []T, fn func(T)) {
	next := make(chan T)
	var wg sync.WaitGroup
	for range min(limit, len(items)) {
		wg.Go(func() {
			for item := range next {
				fn(item)
			}
		})
	}
	for _, item := range items {
		next <- item
	}
	close(next)
	wg.Wait()
}

// attempts counts failures in a row, and waits between them.
type attempts struct {
	max     int
	backoff Backoff
	logger  *slog.Logger
	failed  int
}

func (r *run) newAttempts(logger *slog.Logger) *attempts {
	return &attempts{max: r.opts.Attempts, backoff: r.opts.Backoff, logger: logger}
}

// again returns nil, after a pause, if what failed with err is worth another
// attempt, and otherwise the error to give up with.
func (a *attempts) again(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if !isTransient(err) {
		return err
	}
	if err := a.count(err); err != nil {
		return err
	}
	pause := a.backoff.after(a.failed)
	a.logger.Warn("trying again", "attempt", fmt.Sprintf("%d of %d", a.failed, a.max), "pause", pause.Round(time.Millisecond), "err", err)
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// count adds a failure; it returns the error to give up with after too many.
func (a *attempts) count(err error) error {
	a.failed++
	if a.failed >= a.max {
		return fmt.Errorf("given up after %d attempts: %w", a.failed, err)
	}
	return nil
}

// after is the pause after the n-th failure in a row, n >= 1.
func (b Backoff) after(n int) time.Duration {
	d := b.First
	for ; n > 1 && d < b.Max; n-- {
		d *= 2
	}
	d = min(d, b.Max)
	return d - rand.N(d/2+1)
}
