package dir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/dualrepl/dualrepl/endpoint"
	"golang.org/x/sys/unix"
)

// Names in a store. Below a filesystem's directory lie metaDir, a directory
// "@version" for each snapshot, and the child filesystems.
const (
	metaDir         = ".dualrepl"
	receivingDir    = metaDir + "/receiving"
	snapshottingDir = metaDir + "/snapshotting"
	bookmarksDir    = metaDir + "/bookmarks"
	treesDir        = metaDir + "/trees"
	destroyingName  = "destroying-" // in metaDir, before a random number
	lockName        = metaDir + "/lock"
	treeName        = "tree"
	manifestName    = "manifest"
	scanName        = "scan"

	bookmarkTempName = metaDir + "/bookmark.new"
)

// maxJobBytes is the length of a job's name: short enough that a bookmark's stays
// below that of any name.
const maxJobBytes = 200

// ValidateFilesystem checks that a filesystem's name is one of an endpoint's, and
// not one that the store needs for itself. The error is endpoint.ErrInvalid.
func ValidateFilesystem(name string) error {
	if err := endpoint.ValidateFilesystem(name); err != nil {
		return err
	}
	if slices.Contains(strings.Split(name, "/"), metaDir) {
		return fmt.Errorf("%w: a filesystem cannot be called %s", endpoint.ErrInvalid, metaDir)
	}
	return nil
}

// ValidateVersion checks that a version's name is one of an endpoint's, and short
// enough for a store. The error is endpoint.ErrInvalid.
func ValidateVersion(name string) error {
	if len("@"+name) > MaxNameBytes {
		return fmt.Errorf("%w: a version's name of %d bytes", endpoint.ErrInvalid, len(name))
	}
	return endpoint.ValidateVersionName(name)
}

// ValidateJob checks a job's name, which becomes part of bookmarks' names: it has no
// space (ownerName). The error is endpoint.ErrInvalid.
func ValidateJob(name string) error {
	if err := endpoint.ValidateVersionName(name); err != nil || len(name) > maxJobBytes || strings.Contains(name, " ") {
		return fmt.Errorf("%w: %q is not a job's name", endpoint.ErrInvalid, name)
	}
	return nil
}

// store is a directory with filesystems and their versions.
type store struct {
	root *os.Root
}

// openStore opens the store at path. If there is none, it is made with create and
// endpoint.ErrNotFound without.
func openStore(path string, create bool) (*store, error) {
	if create {
		if err := os.MkdirAll(path, 0o700); err != nil {
			return nil, fmt.Errorf("store: %w", err)
		}
	}
	root, err := os.OpenRoot(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: store %s", endpoint.ErrNotFound, path)
	}
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	return &store{root: root}, nil
}

func (s *store) Close() error { return s.root.Close() }

// fsInfo is a filesystem in a listing.
type fsInfo struct {
	Name        string
	Placeholder bool // only there because a child is
}

// list lists all filesystems, parents before children.
func (s *store) list() ([]fsInfo, error) {
	infos, err := s.listBelow("")
	if err != nil {
		return nil, fmt.Errorf("list store: %w", err)
	}
	return infos, nil
}

func (s *store) listBelow(dir string) ([]fsInfo, error) {
	entries, err := readDir(s.root, path.Join(".", dir))
	if err != nil {
		return nil, err
	}
	var infos []fsInfo
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		if !e.IsDir() || ValidateFilesystem(name) != nil {
			continue
		}
		below, err := s.listBelow(name)
		if exhausted(err) {
			return nil, err
		} // else what cannot be looked into, such as a lost+found, has nothing to list
		_, err = s.root.Lstat(name + "/" + metaDir)
		if placeholder := err != nil; !placeholder || len(below) > 0 {
			infos = append(infos, fsInfo{Name: name, Placeholder: placeholder})
		}
		infos = append(infos, below...)
	}
	return infos, nil
}

// readDir lists a directory, sorted by name.
func readDir(root *os.Root, name string) ([]fs.DirEntry, error) {
	d, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	entries, err := d.ReadDir(-1)
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return entries, err
}

// filesystem opens one filesystem. If there is none by that name, it is made with
// create and endpoint.ErrNotFound without.
func (s *store) filesystem(name string, create bool) (*filesystem, error) {
	if err := ValidateFilesystem(name); err != nil {
		return nil, err
	}
	if create {
		if err := s.root.MkdirAll(name+"/"+bookmarksDir, 0o700); err != nil {
			return nil, fmt.Errorf("filesystem %s: %w", name, err)
		}
	}
	if _, err := s.root.Lstat(name + "/" + metaDir); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: filesystem %s", endpoint.ErrNotFound, name)
	}
	root, err := s.root.OpenRoot(name)
	if err != nil {
		return nil, fmt.Errorf("filesystem %s: %w", name, err)
	}
	return openFilesystemAt(name, root)
}

// isPlaceholder says whether a name, which is no filesystem's, is that of a parent.
func (s *store) isPlaceholder(name string) bool {
	st, err := s.root.Lstat(name)
	return err == nil && st.IsDir()
}

// openFilesystem opens one filesystem of the store at path.
func openFilesystem(path, name string, create bool) (*filesystem, error) {
	s, err := openStore(path, create)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	return s.filesystem(name, create)
}

// filesystem is one open filesystem of a store, for one piece of work.
type filesystem struct {
	name string
	root *os.Root
	disk *os.File // root, for sync
	lost error    // of the first sync that failed

	// For whom work is done; by default nobody who is named and has a log.
	whose string // store this is, in errors that the other side gets too
	job   string
	log   *storeLog
}

// storeLog is told of what is wrong in a store and stops nobody.
type storeLog struct {
	*slog.Logger
	told sync.Map // messages
}

// once warns, unless that was said before: a daemon lists its versions every few
// minutes.
func (l *storeLog) once(msg string, args ...any) {
	if _, before := l.told.LoadOrStore(fmt.Sprintln(msg, args), nil); !before {
		l.Warn(msg, args...)
	}
}

func openFilesystemAt(name string, root *os.Root) (*filesystem, error) {
	disk, err := root.Open(".")
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return &filesystem{name: name, root: root, disk: disk, whose: "the store",
		log: &storeLog{Logger: slog.New(slog.DiscardHandler)}}, nil
}

func (f *filesystem) Close() error { return errors.Join(f.disk.Close(), f.root.Close()) }

// sync writes everything of the file system below to disk. All of a piece of work
// uses one descriptor: that one learns of every write-back error since it was opened,
// also of those that another's sync has met. After an error sync fails for good, since
// the kernel tells it once, and what was written before may be lost.
func (f *filesystem) sync() error {
	if f.lost == nil {
		f.lost = os.NewSyscallError("syncfs", unix.Syncfs(int(f.disk.Fd())))
	}
	return f.lost
}

// fsLock is the writer's lock of a filesystem.
type fsLock struct{ file *os.File }

func (l *fsLock) unlock() { l.file.Close() }

// lock takes the writer's lock, which one receive, snapshot or destroy has at a
// time, in this process and all others; endpoint.ErrBusy at once if it is taken. It
// removes what interrupted snapshots and destroys left; receivingDir stays.
func (f *filesystem) lock(ctx context.Context) (*fsLock, error) {
	lock, err := f.tryLock()
	if err != nil {
		return nil, err
	}
	f.removeLeftovers(ctx)
	return lock, nil
}

// tryLock is lock, but for what takes time.
func (f *filesystem) tryLock() (*fsLock, error) {
	file, err := f.flock(lockName, unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("%w: another process or job is working on filesystem %s", endpoint.ErrBusy, f.name)
	}
	if err != nil {
		return nil, fmt.Errorf("lock filesystem %s: %w", f.name, err)
	}
	if err := f.root.Rename(snapshottingDir, destroyingPath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		f.log.Warn("an interrupted snapshot is in the way", "filesystem", f.name, "err", err)
	}
	f.hideUnusedTrees()
	return &fsLock{file: file}, nil
}

// flock opens and locks a file; closing it unlocks.
func (f *filesystem) flock(name string, how int) (*os.File, error) {
	file, err := f.root.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := flock(file, how); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

func flock(file *os.File, how int) error {
	for {
		if err := unix.Flock(int(file.Fd()), how); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// removeLeftovers removes what was hidden: snapshots that were destroyed, work that
// was interrupted. It needs no lock. What it cannot remove, or not before ctx ends, is
// in nobody's way, and is tried again under the next lock.
func (f *filesystem) removeLeftovers(ctx context.Context) {
	entries, err := readDir(f.root, metaDir)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), destroyingName) {
			err = errors.Join(err, removeAll(ctx, f.root, path.Join(metaDir, e.Name())))
		}
	}
	if err != nil && ctx.Err() == nil {
		f.log.Warn("what was destroyed or interrupted could not be removed", "filesystem", f.name, "err", err)
	}
}

// removeAll removes name and all below it, until ctx ends. Others may do the same at
// the same time.
func removeAll(ctx context.Context, root *os.Root, name string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	err := root.Remove(name)
	if errors.Is(err, fs.ErrExist) { // a directory with something in it
		if err = removeContent(ctx, root, name); err == nil {
			err = root.Remove(name)
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// removeContent removes what it can.
func removeContent(ctx context.Context, root *os.Root, dir string) error {
	sub, err := root.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer sub.Close()
	entries, err := readDir(sub, ".")
	for _, e := range entries {
		err = errors.Join(err, removeAll(ctx, sub, e.Name()))
		if ctx.Err() != nil {
			break
		}
	}
	return err
}

// destroyingPath is a new name for what removeLeftovers is to remove: that of an
// earlier one may still be taken.
func destroyingPath() string {
	return path.Join(metaDir, fmt.Sprintf("%s%016x", destroyingName, randomGUID()))
}

// newestSnapshot returns the last of a listing's snapshots; endpoint.ErrNotFound.
func newestSnapshot(versions []versionInfo) (versionInfo, error) {
	for _, v := range slices.Backward(versions) {
		if !v.Bookmark {
			return v, nil
		}
	}
	return versionInfo{}, fmt.Errorf("%w: there is no version yet", endpoint.ErrNotFound)
}

// snapshotByName finds a snapshot; "" is the newest. endpoint.ErrNotFound.
func (f *filesystem) snapshotByName(name string) (versionInfo, error) {
	l, err := f.listAll()
	if err != nil {
		return versionInfo{}, err
	}
	if name == "" {
		return newestSnapshot(l.good)
	}
	v, err := l.find(name, false)
	if err != nil {
		err = fmt.Errorf("filesystem %s: %w", f.name, err)
	}
	return v, err
}

// versionByGUID finds a snapshot or else a bookmark; endpoint.ErrNotFound.
func (f *filesystem) versionByGUID(guid uint64) (versionInfo, error) {
	versions, err := f.versions()
	if err != nil {
		return versionInfo{}, err
	}
	return findGUID(versions, guid)
}

// findGUID finds a snapshot or else a bookmark; a listing has snapshots first.
func findGUID(versions []versionInfo, guid uint64) (versionInfo, error) {
	for _, v := range versions {
		if v.GUID == guid {
			return v, nil
		}
	}
	return versionInfo{}, fmt.Errorf("%w: version with GUID %#x", endpoint.ErrNotFound, guid)
}

// readManifest decodes and checks the version's manifest.
func (f *filesystem) readManifest(v versionInfo) (*Manifest, error) {
	data, err := readLimited(f.root, v.manifest)
	if err != nil {
		return nil, f.damaged(v, err)
	}
	m, err := DecodeManifest(data)
	return m, f.damaged(v, err)
}

// readManifestFile reads the version's manifest and checks its digest.
func (f *filesystem) readManifestFile(v versionInfo) ([]byte, error) {
	data, err := readLimited(f.root, v.manifest)
	if err == nil {
		_, _, err = splitManifest(data)
	}
	return data, f.damaged(v, err)
}

// readLimited reads no more of a manifest than what is enough to refuse it.
func readLimited(root *os.Root, name string) ([]byte, error) {
	file, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, MaxManifestBytes+int64(len(Digest{}))+1))
}

// openTree opens a snapshot's tree, its own or the one that it shares.
func (f *filesystem) openTree(v versionInfo) (*treeDir, error) {
	return openTreeDir(f.root, path.Join(path.Dir(v.manifest), treeName))
}

// commit makes a built version visible: work (a path below the filesystem's root
// that holds treeName, manifestName and, a sender's, scanName) becomes "@name", in
// one rename after everything in it is on disk. The caller holds the lock.
func (f *filesystem) commit(work string, m *Manifest) error {
	if err := f.checkName(m.Name); err != nil {
		return err
	}
	if err := f.keepTXGAbove(m.CreateTXG); err != nil {
		return err
	}
	if err := f.sync(); err != nil {
		return fmt.Errorf("sync version %s@%s: %w", f.name, m.Name, err)
	}
	if err := f.root.Rename(work, "@"+m.Name); err != nil {
		return fmt.Errorf("make version visible: %w", err)
	}
	return errors.Join(syncDir(f.root, "."), syncDir(f.root, path.Dir(work)))
}

// checkName refuses the name of a new version if it is taken.
func (f *filesystem) checkName(version string) error {
	v, err := f.snapshotInfo(version)
	switch {
	case err == nil:
		return fmt.Errorf("%w: version %s@%s exists already", endpoint.ErrFailedPrecondition, f.name, version)
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case !isDamage(err):
		return err
	}
	return fmt.Errorf("%w: version %s@%s exists already in %s, but cannot be read: %w; to go on, remove it: rm -rf %q",
		endpoint.ErrFailedPrecondition, f.name, version, f.whose, err, f.place(v))
}

func syncDir(root *os.Root, name string) error {
	d, err := root.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// treeMode is the mode that a file or directory has in a tree: without set-id and
// write bits, so that nobody edits what several versions share, but readable (and
// directories changeable) by the store's owner, who need not be root.
func treeMode(e *Entry) os.FileMode {
	if e.Type == TypeDir {
		return os.FileMode(e.Mode&0o755 | 0o700)
	}
	return os.FileMode(e.Mode&0o555 | 0o400)
}
