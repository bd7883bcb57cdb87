package dir

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
)

func TestBatches(t *testing.T) {
	sizes := func(n int, size int64) []Entry { return slices.Repeat([]Entry{{Size: size}}, n) }
	tests := []struct {
		name    string
		entries []Entry
		want    []int // where batches end
	}{
		{"none", nil, nil},
		{"one", sizes(1, 1), []int{1}},
		{"a full one", sizes(batchEntries, 0), []int{batchEntries}},
		{"one more", sizes(batchEntries+1, 0), []int{batchEntries, batchEntries + 1}},
		{"as many bytes", sizes(8, batchBytes/4), []int{4, 8}},
		{"a byte less", sizes(8, batchBytes/4-1), []int{5, 8}},
		{"large ones", sizes(3, MaxFileBytes), []int{1, 2, 3}},
		{"a large one last", append(sizes(2, 1), sizes(2, batchBytes)...), []int{3, 4}},
	}
	for _, tt := range tests {
		b := &batches{entries: tt.entries}
		var got []int
		for last := 0; ; {
			start, end := b.take()
			if start != last {
				t.Errorf("%s: a batch from %d follows one up to %d", tt.name, start, last)
			}
			if start == end {
				break
			}
			got, last = append(got, end), end
		}
		expect(t, tt.name, got, tt.want)
	}
}

// crew opens workers that count what they do.
type crew struct {
	do func(ctx context.Context, worker, i int) error

	mu      sync.Mutex
	opened  int
	open    int
	entries []int // that were given out
}

type crewWorker struct {
	*crew
	worker int // from 1
}

var errCrew = errors.New("no more workers")

// worker opens one, of at most n.
func (c *crew) worker(n int) func() (crewWorker, error) {
	return func() (crewWorker, error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.opened++; c.opened > n {
			return crewWorker{}, errCrew
		}
		c.open++
		return crewWorker{c, c.opened}, nil
	}
}

func (w crewWorker) entry(ctx context.Context, i int) error {
	w.mu.Lock()
	w.entries = append(w.entries, i)
	w.mu.Unlock()
	return w.do(ctx, w.worker, i)
}

func (w crewWorker) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open--
	return nil
}

// Each entry is given out once, whoever takes it.
func TestInParallelGivesEachOnce(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	entries, want := make([]Entry, 1000), []int(nil)
	for i := range entries {
		entries[i].Size = rnd.Int64N(batchBytes)
		want = append(want, i)
	}
	c := &crew{do: func(context.Context, int, int) error { return nil }}
	if err := inParallel(t.Context(), entries, c.worker(maxWorkers)); err != nil || c.opened != maxWorkers || c.open > 0 {
		t.Errorf("of %d workers %d are open, error %v", c.opened, c.open, err)
	}
	slices.Sort(c.entries)
	expect(t, "entries", c.entries, want)
}

// The first error ends all workers, and is the one that is returned.
func TestInParallelFails(t *testing.T) {
	errFirst, errLater := errors.New("first"), errors.New("later")
	wait := func(ctx context.Context, _, _ int) error { <-ctx.Done(); return errLater }
	tests := []struct {
		name    string
		workers int
		do      func(ctx context.Context, worker, i int) error
		want    error
	}{
		{"an entry fails", maxWorkers, func(ctx context.Context, worker, i int) error {
			if worker == 2 {
				return errFirst
			}
			return wait(ctx, worker, i)
		}, errFirst},
		{"a worker does not open", maxWorkers - 1, wait, errCrew},
		{"the context ends", maxWorkers, wait, errLater},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				c, result := &crew{do: tt.do}, make(chan error, 1)
				go func() { result <- inParallel(ctx, make([]Entry, 100*batchEntries), c.worker(tt.workers)) }()
				synctest.Wait()
				if tt.want == errLater {
					cancel()
				}
				err := <-result
				if !errors.Is(err, tt.want) || tt.want != errLater && errors.Is(err, errLater) {
					t.Errorf("error %v, want %v", err, tt.want)
				}
				if c.opened != maxWorkers || c.open > 0 || len(c.entries) > tt.workers {
					t.Errorf("of %d workers %d are open after %d entries", c.opened, c.open, len(c.entries))
				}
			})
		})
	}
}

// A context that has ended is told with its cause, and no entry given out.
func TestInParallelEnded(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errCut)
	c := &crew{}
	if err := inParallel(ctx, make([]Entry, 3), c.worker(maxWorkers)); !errors.Is(err, errCut) || len(c.entries) > 0 || c.open > 0 {
		t.Errorf("error %v; %d workers are open after %d entries", err, c.open, len(c.entries))
	}
}

// unclosable is a worker that cannot be closed.
type unclosable struct{}

func (unclosable) entry(context.Context, int) error { return nil }
func (unclosable) Close() error                     { return errCut }

func TestInParallelCloseFails(t *testing.T) {
	err := inParallel(t.Context(), make([]Entry, 3), func() (unclosable, error) { return unclosable{}, nil })
	if !errors.Is(err, errCut) {
		t.Errorf("error %v", err)
	}
}
