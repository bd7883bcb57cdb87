package dir

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
	"golang.org/x/sys/unix"
)

// versionInfo is a snapshot or a bookmark, as its manifest's header tells.
type versionInfo struct {
	Name         string // a bookmark's own, not that of the snapshot it was
	GUID         uint64
	CreateTXG    uint64
	Creation     int64 // nanoseconds since 1970
	Files        int64
	Bytes        int64
	Inconsistent bool
	Bookmark     bool
	manifest     string // path below the filesystem's root
}

func (v versionInfo) pdu() *pdu.FilesystemVersion {
	p := &pdu.FilesystemVersion{
		Name: v.Name, Guid: v.GUID, CreateTXG: v.CreateTXG,
		Creation: time.Unix(0, v.Creation).UTC().Format(time.RFC3339),
	}
	if v.Bookmark {
		p.Type = pdu.FilesystemVersion_Bookmark
	}
	return p
}

// damagedVersion is a snapshot or bookmark whose manifest does not tell what it is.
type damagedVersion struct {
	versionInfo // its name, and where it is
	err         error
}

// versionList is what a filesystem has.
type versionList struct {
	// good are in ascending order of CreateTXG; of one version the snapshot comes
	// before its bookmarks.
	good    []versionInfo
	damaged []damagedVersion
}

// listAll lists snapshots and bookmarks by their manifests' headers.
func (f *filesystem) listAll() (*versionList, error) {
	l := &versionList{}
	if err := l.read(f.root, ".", "@", f.snapshotInfo); err != nil {
		return nil, fmt.Errorf("versions of %s: %w", f.name, err)
	}
	if err := l.read(f.root, bookmarksDir, "", f.bookmark); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("bookmarks of %s: %w", f.name, err)
	}
	slices.SortStableFunc(l.good, func(a, b versionInfo) int { return cmp.Compare(a.CreateTXG, b.CreateTXG) })
	return l, nil
}

// read adds what a directory has with names that begin with prefix.
func (l *versionList) read(root *os.Root, dir, prefix string, info func(name string) (versionInfo, error)) error {
	entries, err := readDir(root, dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name, ok := strings.CutPrefix(e.Name(), prefix)
		if !ok {
			continue
		}
		v, err := info(name)
		switch {
		case errors.Is(err, fs.ErrNotExist): // destroyed meanwhile, or moved on
		case exhausted(err):
			return err
		case err != nil:
			l.damaged = append(l.damaged, damagedVersion{v, err})
		default:
			l.good = append(l.good, v)
		}
	}
	return nil
}

// find finds a version by its name; endpoint.ErrNotFound.
func (l *versionList) find(name string, bookmark bool) (versionInfo, error) {
	for _, v := range l.good {
		if v.Name == name && v.Bookmark == bookmark {
			return v, nil
		}
	}
	for _, d := range l.damaged {
		if d.Name == name && d.Bookmark == bookmark {
			return versionInfo{}, d.err
		}
	}
	return versionInfo{}, fmt.Errorf("%w: version %s", endpoint.ErrNotFound, name)
}

// versions lists what can be read, as versionList.good: a version that cannot does not
// keep the others from being used. The log and ListStore tell of it.
func (f *filesystem) versions() ([]versionInfo, error) {
	l, err := f.listAll()
	if err != nil {
		return nil, err
	}
	for _, d := range l.damaged {
		f.log.once("version cannot be read", "path", f.place(d.versionInfo), "err", d.err)
	}
	return l.good, nil
}

// path is all that a version is, below the filesystem's root.
func (v versionInfo) path() string {
	if v.Bookmark {
		return v.manifest
	}
	return path.Dir(v.manifest)
}

// place is where a version lies on this machine.
func (f *filesystem) place(v versionInfo) string { return filepath.Join(f.root.Name(), v.path()) }

// listVersions is versions as a peer sees it; a placeholder has none.
func listVersions(storePath, name string, log *storeLog) (*pdu.ListFilesystemVersionsRes, error) {
	s, err := openStore(storePath, false)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	res := &pdu.ListFilesystemVersionsRes{}
	f, err := s.filesystem(name, false)
	if errors.Is(err, endpoint.ErrNotFound) && s.isPlaceholder(name) {
		return res, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	f.log = log
	versions, err := f.versions()
	for _, v := range versions {
		res.Versions = append(res.Versions, v.pdu())
	}
	return res, err
}

// exhausted says whether an error tells of this machine's state, and nothing of the
// file that was met with.
func exhausted(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOMEM)
}

func destroyedError(v versionInfo) error {
	return fmt.Errorf("%w: version %s was destroyed meanwhile", endpoint.ErrNotFound, v.Name)
}

// damaged explains what is wrong with a version that is needed, and the way out, on
// either side of a connection: this is endpoint.ErrFailedPrecondition, or
// endpoint.ErrNotFound if all of it is gone. An error that does not tell of the version
// stays as it is. It may be called when f is closed.
func (f *filesystem) damaged(v versionInfo, err error) error {
	if errors.Is(err, unix.EIO) {
		return fmt.Errorf("version %s of %s in %s: %w", v.Name, f.name, f.whose, err)
	}
	if !isDamage(err) {
		return err
	}
	if _, statErr := os.Lstat(f.place(v)); errors.Is(statErr, fs.ErrNotExist) {
		return destroyedError(v)
	}
	err = fmt.Errorf("%w: version %s of %s is damaged in %s: %w", endpoint.ErrFailedPrecondition, v.Name, f.name, f.whose, err)
	if f.job == "" {
		return err
	}
	return fmt.Errorf("%w; \"dualrepl verify %s\" there looks for more; to go on without this version, remove it: rm -rf %q", err, f.job, f.place(v))
}

// isDamage says whether an error that a version was met with tells that the version is
// not what it was. What advice and holds depend on must not come of a disk that is out of
// reach for a moment: of what the system reports, only what is missing or of another kind
// is damage.
func isDamage(err error) bool {
	for _, other := range []error{nil, endpoint.ErrNotFound, context.Canceled, context.DeadlineExceeded, fs.ErrClosed} {
		if errors.Is(err, other) {
			return false
		}
	}
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return true
	}
	return errno == unix.ENOENT || errno == unix.ENOTDIR || errno == unix.EISDIR || errno == unix.ELOOP
}

// snapshotInfo reads about a snapshot; fs.ErrNotExist. Where that fails, the result
// has its name and place.
func (f *filesystem) snapshotInfo(name string) (versionInfo, error) {
	v, err := f.versionInfo(path.Join("@"+name, manifestName))
	if err == nil && v.Name != name {
		err = fmt.Errorf("@%s says that it is version %q", name, v.Name)
	}
	if errors.Is(err, fs.ErrNotExist) {
		if _, statErr := f.root.Lstat("@" + name); statErr == nil {
			err = errors.New("it has no manifest")
		}
	}
	v.Name = name
	return v, err
}

// checkThere says whether a version that was listed is still there.
func (f *filesystem) checkThere(listed versionInfo) error {
	v, err := f.versionInfo(listed.manifest)
	if err == nil && v.GUID != listed.GUID {
		return destroyedError(listed)
	}
	return f.damaged(listed, err)
}

// versionInfo reads the beginning of the manifest at name.
func (f *filesystem) versionInfo(name string) (versionInfo, error) {
	v := versionInfo{manifest: name}
	file, err := f.root.Open(name)
	if err != nil {
		return v, err
	}
	defer file.Close()
	m, err := readManifestHeader(file)
	if err != nil {
		return v, fmt.Errorf("%s: %w", name, err)
	}
	return versionInfo{
		Name: m.Name, GUID: m.GUID, CreateTXG: m.CreateTXG, Creation: m.Creation,
		Files: m.Files, Bytes: m.Bytes, Inconsistent: m.Inconsistent, manifest: name,
	}, nil
}

// A bookmark is a copy of a manifest, no link, so that damage to one spares the other.
// It is called by its version's GUID and the owner (ownerName) whose replication cursor
// it is.
func bookmarkFile(guid uint64, owner string) string {
	return path.Join(bookmarksDir, fmt.Sprintf("%016x_%s", guid, owner))
}

func cursorName(guid uint64, owner string) string {
	return fmt.Sprintf("CURSOR_G_%016x_J_%s", guid, owner)
}

// bookmark is snapshotInfo for a bookmark.
func (f *filesystem) bookmark(file string) (versionInfo, error) {
	name := path.Join(bookmarksDir, file)
	guid, owner, err := parseBookmark(file)
	if err != nil {
		return versionInfo{Name: file, Bookmark: true, manifest: name}, err
	}
	v, err := f.versionInfo(name)
	if err == nil && v.GUID != guid {
		err = fmt.Errorf("%s has the manifest of a version with GUID %#x", name, v.GUID)
	}
	v.Name, v.Bookmark = cursorName(guid, owner), true
	return v, err
}

func parseBookmark(file string) (guid uint64, owner string, err error) {
	hex, owner, _ := strings.Cut(file, "_")
	guid, err = strconv.ParseUint(hex, 16, 64)
	if err != nil {
		return 0, "", fmt.Errorf("%q is not a bookmark's name", file)
	}
	return guid, owner, nil
}

// cursor returns the version that the owner's replication cursor points to;
// endpoint.ErrNotFound if there is none. Where a crash left two, the newer one counts.
func (f *filesystem) cursor(owner string) (versionInfo, error) {
	versions, err := f.versions()
	if err != nil {
		return versionInfo{}, err
	}
	for _, v := range slices.Backward(versions) {
		if v.Bookmark && v.Name == cursorName(v.GUID, owner) {
			return v, nil
		}
	}
	return versionInfo{}, fmt.Errorf("%w: replication cursor of %s", endpoint.ErrNotFound, owner)
}

// moveCursor points the owner's replication cursor to a version, then lets go of
// where it was.
func (f *filesystem) moveCursor(owner string, to versionInfo) error {
	manifest, err := f.readManifestFile(to)
	if err != nil {
		return err
	}
	lock, err := f.lockState()
	if err != nil {
		return err
	}
	defer lock.unlock()
	name := bookmarkFile(to.GUID, owner)
	if err := f.replace(name, bookmarkTempName, manifest); err != nil {
		return fmt.Errorf("replication cursor: %w", err)
	}
	entries, err := readDir(f.root, bookmarksDir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		old := path.Join(bookmarksDir, e.Name())
		if _, whose, err := parseBookmark(e.Name()); err != nil || whose != owner || old == name {
			continue
		}
		if err := f.root.Remove(old); err != nil {
			return fmt.Errorf("replication cursor: %w", err)
		}
	}
	return syncDir(f.root, bookmarksDir)
}

// removeTime is how long DestroySnapshots removes files before it answers. A call has
// 60 s, and a tree of a million files may take longer; all that counts is done before.
const removeTime = 10 * time.Second

// destroySnapshots answers DestroySnapshots of both sides: versions that are no
// snapshots fail the request, everything else that goes wrong is one result's. It
// takes the writer's lock, but not for as long as it takes to remove files: what of
// that is not done in time, the next lock does.
func (f *filesystem) destroySnapshots(ctx context.Context, snapshots []*pdu.FilesystemVersion) (*pdu.DestroySnapshotsRes, error) {
	for _, v := range snapshots {
		if v == nil || v.GetType() != pdu.FilesystemVersion_Snapshot {
			return nil, fmt.Errorf("%w: %q is not a snapshot", endpoint.ErrInvalid, v.GetName())
		}
	}
	res, err := f.hideAll(ctx, snapshots)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, removeTime)
	defer cancel()
	f.removeLeftovers(ctx)
	return res, nil
}

// hideAll takes snapshots out of sight, for removeLeftovers to remove.
func (f *filesystem) hideAll(ctx context.Context, snapshots []*pdu.FilesystemVersion) (*pdu.DestroySnapshotsRes, error) {
	lock, err := f.tryLock()
	if err != nil {
		return nil, err
	}
	defer lock.unlock()
	res := &pdu.DestroySnapshotsRes{}
	for _, v := range snapshots {
		result := &pdu.DestroySnapshotRes{Snapshot: v}
		if ctx.Err() != nil {
			result.Error = context.Cause(ctx).Error()
		} else if err := f.hide(v); err != nil {
			result.Error = err.Error()
		}
		res.Results = append(res.Results, result)
	}
	f.hideUnusedTrees()
	return res, syncDir(f.root, ".")
}

// hide takes a snapshot out of sight. One that is damaged is known by its name alone.
func (f *filesystem) hide(want *pdu.FilesystemVersion) error {
	if err := ValidateVersion(want.GetName()); err != nil {
		return err
	}
	v, err := f.snapshotInfo(want.GetName())
	if errors.Is(err, fs.ErrNotExist) || err == nil && v.GUID != want.GetGuid() {
		return fmt.Errorf("%w: snapshot %s with GUID %#x", endpoint.ErrNotFound, want.GetName(), want.GetGuid())
	}
	if err != nil && !isDamage(err) {
		return err
	}
	if err := f.keepTXGAbove(v.CreateTXG); err != nil {
		return err
	}
	lock, err := f.lockState()
	if err != nil {
		return err
	}
	defer lock.unlock()
	if err := f.checkHolds(v); err != nil {
		return err
	}
	claimed, err := f.claim(v)
	if err != nil {
		return err
	}
	if claimed != nil {
		defer claimed.Close()
	}
	return f.root.Rename(v.path(), destroyingPath())
}

// checkHolds refuses a snapshot that is held. Holds are for steps from it or to it,
// which there are none of if it is damaged.
func (f *filesystem) checkHolds(v versionInfo) error {
	tags, err := f.holds(v.GUID)
	if err != nil || len(tags) == 0 {
		return err
	}
	_, err = f.readManifestFile(v)
	if err == nil {
		return fmt.Errorf("%w: snapshot %s is held by %s", endpoint.ErrFailedPrecondition, v.Name, strings.Join(tags, ", "))
	}
	if isDamage(err) {
		return nil
	}
	return err
}

// claim locks the directory of a snapshot that is about to be hidden, and keeps others
// from it until that is closed; nil: nobody can use it anyway. endpoint.ErrBusy if
// somebody does.
func (f *filesystem) claim(v versionInfo) (*os.File, error) {
	dir, err := f.root.Open(v.path())
	if isDamage(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	err = flock(dir, unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = fmt.Errorf("%w: snapshot %s is in use: it is being sent, verified or restored", endpoint.ErrBusy, v.Name)
	}
	if err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	return dir, nil
}

// share opens the tree of a snapshot that was listed, which keeps that, held or not,
// from being destroyed until the tree is closed, in this process and all others. It
// writes nothing, so that all who may read a store can. endpoint.ErrNotFound if the
// snapshot was destroyed meanwhile.
func (f *filesystem) share(v versionInfo) (*treeDir, error) {
	dir, err := f.root.Open(v.path())
	if err != nil {
		return nil, f.damaged(v, err)
	}
	tree, err := f.openTree(v)
	if err != nil {
		return nil, errors.Join(f.damaged(v, err), dir.Close())
	}
	tree.version = dir
	err = os.NewSyscallError("flock", flock(dir, unix.LOCK_SH)) // a claim takes moments
	if err == nil {
		err = f.checkThere(v)
	}
	if err != nil {
		return nil, errors.Join(err, tree.Close())
	}
	return tree, nil
}

// protect makes the holds with this tag those on guids, and shares to's tree. from may
// be nil. Both are still there when it returns without error.
func (f *filesystem) protect(from *versionInfo, to versionInfo, tag string, guids []uint64) (*treeDir, error) {
	lock, err := f.lockState()
	if err != nil {
		return nil, err
	}
	defer lock.unlock()
	if from != nil {
		if err := f.checkThere(*from); err != nil {
			return nil, err
		}
	}
	tree, err := f.share(to)
	if err != nil {
		return nil, err
	}
	if err := f.changeState(func(s *state) { s.setHolds(tag, guids) }); err != nil {
		return nil, errors.Join(err, tree.Close())
	}
	return tree, nil
}
