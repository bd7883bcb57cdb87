package zfs

import (
	"context"
	"iter"
)

// maxBatch bounds the names of one command, in bytes. The kernel takes no argument of
// 128 KiB or more, and zfs wants some names as one.
const maxBatch = 64 << 10

// batches cuts names into what one command can take.
func batches(names []string) iter.Seq[[]string] {
	return func(yield func([]string) bool) {
		start, size := 0, 0
		for i, name := range names {
			if size += len(name) + 1; size > maxBatch {
				if !yield(names[start:i]) {
					return
				}
				start, size = i, len(name)+1
			}
		}
		if start < len(names) {
			yield(names[start:])
		}
	}
}

// inBatches has act do what is all or nothing to names, as many at once as possible. Where
// it fails, each half is tried by itself, down to the names that it fails for: these, and why,
// are returned.
func inBatches(ctx context.Context, names []string, act func([]string) error) map[string]error {
	failed := map[string]error{}
	for batch := range batches(names) {
		halve(ctx, batch, act, failed)
	}
	return failed
}

func halve(ctx context.Context, names []string, act func([]string) error, failed map[string]error) {
	err := context.Cause(ctx)
	if err == nil {
		err = act(names)
	}
	switch {
	case err == nil:
	case len(names) == 1 || ctx.Err() != nil:
		for _, name := range names {
			failed[name] = err
		}
	default:
		halve(ctx, names[:len(names)/2], act, failed)
		halve(ctx, names[len(names)/2:], act, failed)
	}
}
