package dir

import (
	"context"
	"errors"
	"io"
	"sync"

	"golang.org/x/sync/errgroup"
)

const (
	// maxWorkers read or write files at once: more gain little, and take the disk from
	// others.
	maxWorkers = 4
	// batchEntries and batchBytes bound what a worker takes at once: neighbours, so that
	// directories are seldom opened twice, but no more than one large file.
	batchEntries = 64
	batchBytes   = 4 << 20
)

// An entryWorker does something for each entry that it is given.
type entryWorker interface {
	// entry may change the entry at index i, and no other.
	entry(ctx context.Context, i int) error
	io.Closer
}

// inParallel gives each entry to one of several workers. It returns when all have ended,
// with their first error; ctx ends them, too.
func inParallel[W entryWorker](ctx context.Context, entries []Entry, open func() (W, error)) error {
	b := &batches{entries: entries}
	g, ctx := errgroup.WithContext(ctx)
	for range maxWorkers {
		g.Go(func() error {
			w, err := open()
			if err != nil {
				return err
			}
			return errors.Join(b.work(ctx, w), w.Close())
		})
	}
	return g.Wait()
}

// batches hands out entries.
type batches struct {
	mu      sync.Mutex
	entries []Entry
	next    int // not handed out yet
}

func (b *batches) take() (start, end int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	start = b.next
	for bytes := int64(0); b.next < len(b.entries) && b.next < start+batchEntries && bytes < batchBytes; b.next++ {
		bytes += b.entries[b.next].Size
	}
	return start, b.next
}

// work takes batches until none is left.
func (b *batches) work(ctx context.Context, w entryWorker) error {
	for {
		i, end := b.take()
		if i == end {
			return nil
		}
		for ; i < end; i++ {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err := w.entry(ctx, i); err != nil {
				return err
			}
		}
	}
}
