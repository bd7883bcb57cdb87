package btrfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/dualrepl/dualrepl/endpoint"
)

// RootFilesystem is the name of the filesystem that a sender's root is, if that is a
// subvolume itself.
const RootFilesystem = "_root"

// offered is a filesystem that a sender has.
type offered struct {
	name     string
	received bool // it was not made here: there is nothing to take snapshots of
}

// offers say of the filesystems that were found whether they were received. A name that is also
// a subvolume's is that one's.
type offers map[string]bool

// filesystems lists what is offered, sorted so that parents come before children.
func (s *Sender) filesystems(ctx context.Context) ([]offered, error) {
	root, err := openRoot(s.opts.Root)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	found := offers{}
	if err := s.search(ctx, root, "", found); err != nil {
		return nil, err
	}
	if isFilesystem(root) {
		found[RootFilesystem] = false
	}
	var list []offered
	for name, received := range found {
		if s.opts.Filter(name) {
			list = append(list, offered{name, received})
		}
	}
	slices.SortFunc(list, func(a, b offered) int { return comparePaths(a.name, b.name) })
	return list, nil
}

// isFilesystem says whether a root is one itself.
func isFilesystem(root *folder) bool {
	v, err := statSubvolume(root.file)
	return err == nil && !v.readOnly
}

// comparePaths orders by components, so that nothing comes between a parent and its children.
func comparePaths(a, b string) int {
	return slices.Compare(strings.Split(a, "/"), strings.Split(b, "/"))
}

// search finds filesystems below dir, whose path from the root is prefix.
func (s *Sender) search(ctx context.Context, dir *folder, prefix string, found offers) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	paths, err := childPaths(dir.file)
	if err != nil {
		return err
	}
	for _, p := range paths {
		parent, last := path.Split(path.Join(prefix, p))
		parent = strings.TrimSuffix(parent, "/")
		if version, ok := strings.CutPrefix(last, "@"); ok && validateFilesystem(parent) == nil && validateVersion(version) == nil {
			if _, ok := found[parent]; !ok && dir.has(path.Join(path.Dir(p), metaDir)) {
				found[parent] = true
			}
			continue
		}
		if err := s.searchChild(ctx, dir, p, path.Join(prefix, p), found); err != nil {
			return err
		}
	}
	return nil
}

// has says whether there is a directory at a path below f.
func (f *folder) has(name string) bool {
	d, err := f.descend(name, false)
	return err == nil && d.Close() == nil
}

// searchChild looks at the subvolume at path p below dir and at those in it. One that
// cannot be a filesystem is logged and left out: so is one that another type of file system
// is mounted over, or that was just moved away.
func (s *Sender) searchChild(ctx context.Context, dir *folder, p, name string, found offers) error {
	err := validateFilesystem(name)
	if err == nil && name == RootFilesystem {
		err = fmt.Errorf("%w: that name is the root's", endpoint.ErrInvalid)
	}
	if err != nil {
		if !slices.Contains(strings.Split(name, "/"), metaDir) {
			s.log.Debug("this subvolume cannot be a filesystem", "path", name, "err", err)
		}
		return nil
	}
	child, err := dir.descend(p, false)
	if err != nil {
		s.log.Debug("cannot look into this subvolume", "path", name, "err", err)
		return nil
	}
	defer child.Close()
	v, err := statSubvolume(child.file)
	if err != nil || v.readOnly {
		return nil
	}
	found[name] = false
	return s.search(ctx, child, name, found)
}

// Filesystems lists the filesystems that snapshots can be taken of.
func (s *Sender) Filesystems(ctx context.Context) ([]string, error) {
	list, err := s.filesystems(ctx)
	var names []string
	for _, fs := range list {
		if !fs.received {
			names = append(names, fs.name)
		}
	}
	return names, err
}

// source opens the subvolume that an offered filesystem is, for the caller to close; nil
// if it was received. endpoint.ErrNotFound.
func (s *Sender) source(root *folder, name string) (*os.File, subvolume, error) {
	err := validateFilesystem(name)
	if err == nil && !s.opts.Filter(name) {
		err = fmt.Errorf("%w: filesystem %s", endpoint.ErrNotFound, name)
	}
	if err != nil {
		return nil, subvolume{}, err
	}
	where := name
	if name == RootFilesystem && isFilesystem(root) {
		where = "."
	}
	dir, v, err := root.subvolume(where)
	if errors.Is(err, errNoSubvolume) && root.has(name+"/"+metaDir) {
		return nil, v, nil
	}
	if err == nil && v.readOnly {
		err = errors.Join(fmt.Errorf("%w: it is read-only", endpoint.ErrNotFound), dir.Close())
	}
	if errors.Is(err, errNoSubvolume) {
		err = fmt.Errorf("%w: %w", endpoint.ErrNotFound, err)
	}
	if err != nil {
		return nil, v, fmt.Errorf("filesystem %s: %w", name, err)
	}
	return dir, v, nil
}

// open opens the versions of an offered filesystem. One without any yet is
// endpoint.ErrNotFound with exists.
func (s *Sender) open(ctx context.Context, name string) (f *filesystem, exists bool, err error) {
	if ctx.Err() != nil {
		return nil, false, context.Cause(ctx)
	}
	root, err := openRoot(s.opts.Root)
	if err != nil {
		return nil, false, err
	}
	defer root.Close()
	source, _, err := s.source(root, name)
	if err != nil {
		return nil, false, err
	}
	if source == nil {
		f, err = root.openFilesystem(name, false)
		return f, true, err
	}
	source.Close()
	store, err := root.child(metaDir, false)
	if err != nil {
		return nil, true, err
	}
	defer store.Close()
	f, err = store.openFilesystem(name, false)
	return f, true, err
}
