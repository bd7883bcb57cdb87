package btrfs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/dualrepl/dualrepl/endpoint"
	"golang.org/x/sys/unix"
)

// Names in a root and beside the snapshots of a filesystem.
const (
	metaDir       = ".dualrepl"
	stateName     = "state.json"
	stateTempName = "state.json.new"
	stateLockName = "state.lock"
	receiveLock   = "receive.lock"
	receivingName = "receiving"
)

// validateFilesystem refuses also the names that a root needs for itself.
func validateFilesystem(name string) error {
	if err := endpoint.ValidateFilesystem(name); err != nil {
		return err
	}
	if slices.Contains(strings.Split(name, "/"), metaDir) {
		return fmt.Errorf("%w: a filesystem cannot be called %s", endpoint.ErrInvalid, metaDir)
	}
	return nil
}

// validateVersion refuses also names that are too long for a subvolume.
func validateVersion(name string) error {
	if len("@"+name) > maxNameBytes {
		return fmt.Errorf("%w: a version's name of %d bytes", endpoint.ErrInvalid, len(name))
	}
	return endpoint.ValidateVersionName(name)
}

// A folder is an open directory. Its children are opened by name, none through a symbolic link.
type folder struct {
	*os.Root
	file *os.File // the same directory, for ioctls
}

func openFolder(root *os.Root, err error) (*folder, error) {
	if err != nil {
		return nil, err
	}
	file, err := root.Open(".")
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return &folder{root, file}, nil
}

// openRoot opens the directory that everything lies in.
func openRoot(name string) (*folder, error) {
	f, err := openFolder(os.OpenRoot(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: root: %w", endpoint.ErrNotFound, err)
	}
	if err != nil {
		return nil, fmt.Errorf("root: %w", kernelError(err))
	}
	if err := checkBtrfs(f.file); err != nil {
		return nil, errors.Join(fmt.Errorf("root: %w", err), f.Close())
	}
	return f, nil
}

// Close closes both.
func (f *folder) Close() error { return errors.Join(f.file.Close(), f.Root.Close()) }

// child opens the directory name; with create it is made if need be.
func (f *folder) child(name string, create bool) (*folder, error) {
	st, err := f.Lstat(name)
	if create && errors.Is(err, fs.ErrNotExist) {
		if err = f.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("make %s/%s: %w", f.Name(), name, kernelError(err))
		}
		st, err = f.Lstat(name)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s/%s", endpoint.ErrNotFound, f.Name(), name)
	}
	if err != nil {
		return nil, kernelError(err)
	}
	if !st.IsDir() {
		return nil, fmt.Errorf("%w: %s/%s is in the way: it is no directory", endpoint.ErrFailedPrecondition, f.Name(), name)
	}
	return openFolder(f.OpenRoot(name))
}

// descend opens the directory at a path below f, one component after another.
func (f *folder) descend(name string, create bool) (*folder, error) {
	dir := f
	for part := range strings.SplitSeq(name, "/") {
		next, err := dir.child(part, create)
		if dir != f {
			dir.Close()
		}
		if err != nil {
			return nil, err
		}
		dir = next
	}
	return dir, nil
}

// subvolume opens the root directory of the subvolume at a path below f, for the caller to
// close; endpoint.ErrNotFound, errNoSubvolume.
func (f *folder) subvolume(name string) (*os.File, subvolume, error) {
	dir, err := f.descend(name, false)
	if err != nil {
		return nil, subvolume{}, err
	}
	dir.Root.Close()
	v, err := statSubvolume(dir.file)
	if err != nil {
		return nil, v, errors.Join(err, dir.file.Close())
	}
	return dir.file, v, nil
}

// entries lists a directory, sorted by name.
func (f *folder) entries() ([]fs.DirEntry, error) {
	d, err := f.Open(".")
	if err != nil {
		return nil, err
	}
	defer d.Close()
	entries, err := d.ReadDir(-1)
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return cmp.Compare(a.Name(), b.Name()) })
	return entries, err
}

// filesystem is an open directory of versions, for one piece of work.
type filesystem struct {
	*folder
	name string
	meta *folder
}

// openFilesystem opens the directory of a filesystem's versions below f. If there is none
// it is made with create, and endpoint.ErrNotFound without.
func (f *folder) openFilesystem(name string, create bool) (*filesystem, error) {
	if err := validateFilesystem(name); err != nil {
		return nil, err
	}
	dir, err := f.descend(name, create)
	if err != nil {
		return nil, fmt.Errorf("filesystem %s: %w", name, err)
	}
	meta, err := dir.child(metaDir, create)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("filesystem %s: %w", name, err), dir.Close())
	}
	return &filesystem{dir, name, meta}, nil
}

// Close closes both directories.
func (f *filesystem) Close() error { return errors.Join(f.meta.Close(), f.folder.Close()) }

// fsInfo is a filesystem in a listing.
type fsInfo struct {
	name        string
	placeholder bool // only there because a child is
}

// list lists the directories of versions below f, parents before children.
func (f *folder) list() ([]fsInfo, error) { return f.listBelow("") }

func (f *folder) listBelow(prefix string) ([]fsInfo, error) {
	entries, err := f.entries()
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", f.Name(), kernelError(err))
	}
	var infos []fsInfo
	for _, e := range entries {
		name := path.Join(prefix, e.Name())
		if !e.IsDir() || validateFilesystem(name) != nil {
			continue
		}
		more, err := f.listChild(e.Name(), name)
		if err != nil {
			return nil, err
		}
		infos = append(infos, more...)
	}
	return infos, nil
}

// listChild lists one directory and what is below it. Where there are no filesystems, as in
// a lost+found, there is nothing to list.
func (f *folder) listChild(entry, name string) ([]fsInfo, error) {
	dir, err := f.child(entry, false)
	if errors.Is(err, endpoint.ErrNotFound) || errors.Is(err, endpoint.ErrPermission) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	below, err := dir.listBelow(name)
	if err != nil {
		return nil, err
	}
	st, err := dir.Lstat(metaDir)
	placeholder := err != nil || !st.IsDir()
	if placeholder && len(below) == 0 {
		return nil, nil
	}
	return append([]fsInfo{{name, placeholder}}, below...), nil
}

// flock opens and locks a file among the metadata; closing it unlocks.
func (f *filesystem) flock(name string, how int) (*os.File, error) {
	file, err := f.meta.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock filesystem %s: %w", f.name, kernelError(err))
	}
	for {
		err := unix.Flock(int(file.Fd()), how)
		if err == nil {
			return file, nil
		}
		if !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock filesystem %s: %w", f.name, err), file.Close())
		}
	}
}

// How long a receive waits for the one before it, and how often it looks: that one's
// connection may have just broken.
const (
	busyWait = 3 * time.Second
	busyPoll = 20 * time.Millisecond
)

// lockReceive takes the lock that one receive has at a time, in this process and all
// others; endpoint.ErrBusy.
func (f *filesystem) lockReceive(ctx context.Context) (*os.File, error) {
	for begin := time.Now(); ; {
		file, err := f.flock(receiveLock, unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return file, err
		}
		if time.Since(begin) > busyWait {
			return nil, fmt.Errorf("%w: another receive is working on filesystem %s", endpoint.ErrBusy, f.name)
		}
		select {
		case <-time.After(busyPoll):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
