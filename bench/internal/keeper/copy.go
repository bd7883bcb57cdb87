package keeper

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/dualrepl/dualrepl/bench/internal/process"
)

// plainCopy is what cp does: one copy, and back.
type plainCopy struct {
	places Places
	done   bool
}

// Start implements Keeper.
func (*plainCopy) Start(context.Context) error { return nil }

// Daemon implements Keeper.
func (*plainCopy) Daemon() *process.Daemon { return nil }

func (c *plainCopy) path() string { return filepath.Join(c.places.Passive, "copy") }

// Keep implements Keeper: the first version only.
func (c *plainCopy) Keep(ctx context.Context) (process.Usage, error) {
	if c.done {
		return process.Usage{}, errors.ErrUnsupported
	}
	c.done = true
	return copyTree(ctx, c.places.Source, c.path())
}

// Verify implements Keeper: there is nothing to check it against.
func (*plainCopy) Verify(context.Context) (process.Usage, error) {
	return process.Usage{}, errors.ErrUnsupported
}

// Restore implements Keeper.
func (c *plainCopy) Restore(ctx context.Context, target string) (process.Usage, error) {
	return copyTree(ctx, c.path(), target)
}

// copyTree shares no blocks: where the file system could, there would be nothing to
// compare with.
func copyTree(ctx context.Context, from, to string) (process.Usage, error) {
	return process.Run(ctx, "cp", "-a", "--reflink=never", from, to)
}
