package zfs

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"

	"github.com/dualrepl/dualrepl/endpoint"
)

const placeholderOff = "off"

// makeAncestors makes those of a dataset's ancestors that are missing, the client's root
// among them but never RootFS, as placeholders.
func (r *Receiver) makeAncestors(ctx context.Context, name string) error {
	unlock, err := r.placing.lock(ctx, r.opts.RootFS)
	if err != nil {
		return err
	}
	defer unlock()
	parent, missing, err := r.findAncestors(ctx, name)
	if err != nil {
		return err
	}
	encrypted := parent.encrypted()
	for _, ancestor := range slices.Backward(missing) {
		if encrypted, err = r.makePlaceholder(ctx, ancestor, encrypted); err != nil {
			return fmt.Errorf("make a place for %s: %w", name, err)
		}
	}
	return nil
}

// findAncestors returns the nearest ancestor of a dataset and those that are missing
// between them, the lowest first.
func (r *Receiver) findAncestors(ctx context.Context, name string) (nearest *dataset, missing []string, err error) {
	for ancestor := path.Dir(name); ; ancestor = path.Dir(ancestor) {
		nearest, err := r.inspect(ctx, ancestor)
		if err != nil || nearest != nil {
			return nearest, missing, err
		}
		if ancestor == r.opts.RootFS {
			return nil, nil, r.noRoot()
		}
		missing = append(missing, ancestor)
	}
}

// makePlaceholder tells whether the placeholder is encrypted, as its parent is or not.
func (r *Receiver) makePlaceholder(ctx context.Context, name string, parentEncrypted bool) (encrypted bool, err error) {
	// Without -u zfs says that it failed if an unprivileged user runs it, mountpoint or not.
	args := []string{"create", "-u", "-o", placeholderProperty + "=" + placeholderOn, "-o", "mountpoint=none"}
	switch {
	case r.opts.PlaceholderEncryption == PlaceholderOff:
		args = append(args, "-o", "encryption=off")
		parentEncrypted = false
	case r.opts.PlaceholderEncryption == PlaceholderInherit || !parentEncrypted:
	case r.opts.PerClient && path.Dir(name) == r.opts.RootFS: // the client's root
	default:
		return false, fmt.Errorf("%w: the parent of the placeholder %s is encrypted: set placeholder encryption to inherit or off",
			endpoint.ErrFailedPrecondition, name)
	}
	_, err = r.program.run(ctx, append(args, name)...)
	return parentEncrypted, err
}

// emptyPlaceholder destroys the snapshots of a placeholder: others' tools may have made
// them, and zfs does not replace what has some. It returns what is then there.
func (r *Receiver) emptyPlaceholder(ctx context.Context, target *dataset, head *streamHead) (*dataset, error) {
	versions, err := r.program.versions(ctx, target.name)
	if err != nil {
		return nil, err
	}
	names := snapshotNames(versions)
	for name, err := range inBatches(ctx, names, func(names []string) error { return r.program.destroy(ctx, target.name, names) }) {
		return nil, fmt.Errorf("empty the placeholder: destroy @%s: %w", name, err)
	}
	if head.raw || target.encrypted() {
		return nil, r.destroyPlaceholder(ctx, target)
	}
	return target, nil
}

// destroyPlaceholder is for what zfs cannot replace: a dataset has one key for all of its
// life, and for what is received onto it. It succeeds for a placeholder without children.
func (r *Receiver) destroyPlaceholder(ctx context.Context, target *dataset) error {
	_, err := r.program.run(ctx, "destroy", target.name)
	if err == nil || errors.Is(err, endpoint.ErrNotFound) {
		return nil
	}
	if said(err, "has children") {
		return fmt.Errorf("%w: zfs cannot receive onto the placeholder %s, as it or the stream is encrypted; "+
			"move the datasets below it away first (zfs rename): %w", endpoint.ErrFailedPrecondition, target.name, err)
	}
	return err
}

func snapshotNames(versions []version) []string {
	var names []string
	for _, v := range versions {
		if !v.bookmark {
			names = append(names, v.name)
		}
	}
	return names
}
