package btrfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/dualrepl/dualrepl/endpoint"
)

// Snapshot takes a snapshot of each filesystem. One that fails does not keep the others
// from theirs; nil: none did. A name that is taken is endpoint.ErrFailedPrecondition.
func (s *Sender) Snapshot(ctx context.Context, name string, filesystems []string) map[string]error {
	failed := map[string]error{}
	for _, fs := range filesystems {
		if err := s.snapshot(ctx, name, fs); err != nil {
			failed[fs] = fmt.Errorf("snapshot %s@%s: %w", fs, name, err)
		}
	}
	if len(failed) == 0 {
		return nil
	}
	return failed
}

func (s *Sender) snapshot(ctx context.Context, name, filesystem string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := validateVersion(name); err != nil {
		return err
	}
	root, err := openRoot(s.opts.Root)
	if err != nil {
		return err
	}
	defer root.Close()
	source, v, err := s.source(root, filesystem)
	if err != nil {
		return err
	}
	if source == nil {
		return fmt.Errorf("%w: it was received", endpoint.ErrFailedPrecondition)
	}
	defer source.Close()
	if v.received != (uuid{}) {
		return errMadeWritable
	}
	return takeSnapshot(root, source, filesystem, name)
}

// takeSnapshot takes a snapshot of source into the store of the root.
func takeSnapshot(root *folder, source *os.File, filesystem, name string) error {
	store, err := openStore(root)
	if err != nil {
		return err
	}
	defer store.Close()
	f, err := store.openFilesystem(filesystem, true)
	if err != nil {
		return err
	}
	defer f.Close()
	return createSnapshot(f.file, "@"+name, source, subvolReadOnly)
}

// errMadeWritable: the snapshots of such a subvolume all have its received UUID, so that
// they could not be told from each other, nor from the version that it was.
var errMadeWritable = fmt.Errorf("%w: this subvolume was received and made writable; replace it by a writable snapshot of itself",
	endpoint.ErrFailedPrecondition)

// openStore opens the directory of a sender's snapshots. It is made as a subvolume.
func openStore(root *folder) (*folder, error) {
	store, err := root.child(metaDir, false)
	if !errors.Is(err, endpoint.ErrNotFound) {
		return store, err
	}
	if err := createSubvolume(root.file, metaDir); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	if err := root.Chmod(metaDir, 0o700); err != nil {
		return nil, err
	}
	return root.child(metaDir, false)
}
