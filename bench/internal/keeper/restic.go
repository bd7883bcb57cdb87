package keeper

import (
	"context"
	"os"
	"path/filepath"

	"github.com/dualrepl/dualrepl/bench/internal/process"
)

// restic keeps versions in a repository of chunks.
type restic struct{ places Places }

func (r *restic) run(ctx context.Context, args ...string) (process.Usage, error) {
	global := []string{
		"--repo", filepath.Join(r.places.Passive, "repository"), "--cache-dir", filepath.Join(r.places.Active, "cache"),
		"--password-file", filepath.Join(r.places.Active, "password"), "--quiet",
	}
	return process.Run(ctx, "restic", append(global, args...)...)
}

// Start implements Keeper.
func (r *restic) Start(ctx context.Context) error {
	if err := os.WriteFile(filepath.Join(r.places.Active, "password"), []byte("benchmark\n"), 0o600); err != nil {
		return err
	}
	_, err := r.run(ctx, "init")
	return err
}

// Daemon implements Keeper.
func (r *restic) Daemon() *process.Daemon { return nil }

// Keep implements Keeper.
func (r *restic) Keep(ctx context.Context) (process.Usage, error) {
	return r.run(ctx, "backup", r.places.Source)
}

// Verify implements Keeper.
func (r *restic) Verify(ctx context.Context) (process.Usage, error) {
	return r.run(ctx, "check", "--read-data")
}

// Restore implements Keeper.
func (r *restic) Restore(ctx context.Context, target string) (process.Usage, error) {
	return r.run(ctx, "restore", "latest", "--target", target)
}
