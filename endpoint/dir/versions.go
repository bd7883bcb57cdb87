package dir

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path"
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

// versions lists snapshots and bookmarks in ascending order of CreateTXG; of one
// version the snapshot comes before its bookmarks.
func (f *filesystem) versions() ([]versionInfo, error) {
	snapshots, err := f.snapshots()
	if err != nil {
		return nil, fmt.Errorf("versions of %s: %w", f.name, err)
	}
	bookmarks, err := f.bookmarks()
	if err != nil {
		return nil, fmt.Errorf("bookmarks of %s: %w", f.name, err)
	}
	versions := append(snapshots, bookmarks...)
	slices.SortStableFunc(versions, func(a, b versionInfo) int { return cmp.Compare(a.CreateTXG, b.CreateTXG) })
	return versions, nil
}

// listVersions is versions as a peer sees it; a placeholder has none.
func listVersions(storePath, name string, log *slog.Logger) (*pdu.ListFilesystemVersionsRes, error) {
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

// snapshots lists those that can be read: one that cannot does not keep the others
// from being used. The log and ListStore tell of it.
func (f *filesystem) snapshots() ([]versionInfo, error) {
	good, damaged, err := f.readSnapshots()
	for _, d := range damaged {
		f.log.Warn("version cannot be read", "filesystem", f.name, "version", d.name, "err", d.err)
	}
	return good, err
}

// damagedVersion is a snapshot whose manifest does not tell what it is.
type damagedVersion struct {
	name string
	err  error
}

func (f *filesystem) readSnapshots() (good []versionInfo, damaged []damagedVersion, err error) {
	entries, err := readDir(f.root, ".")
	if err != nil {
		return nil, nil, err
	}
	for _, e := range entries {
		name, ok := strings.CutPrefix(e.Name(), "@")
		if !ok {
			continue
		}
		v, err := f.snapshotInfo(name)
		switch {
		case errors.Is(err, fs.ErrNotExist): // destroyed meanwhile
		case exhausted(err):
			return nil, nil, err
		case err != nil:
			damaged = append(damaged, damagedVersion{name, err})
		default:
			good = append(good, v)
		}
	}
	return good, damaged, nil
}

// exhausted says whether an error tells of this machine's state, and nothing of the
// file that was met with.
func exhausted(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOMEM)
}

func (f *filesystem) snapshotInfo(name string) (versionInfo, error) {
	v, err := f.versionInfo(path.Join("@"+name, manifestName))
	if err == nil && v.Name != name {
		err = fmt.Errorf("@%s says that it is version %q", name, v.Name)
	}
	return v, err
}

// checkThere says whether a version that was listed is still there.
func (f *filesystem) checkThere(listed versionInfo) error {
	v, err := f.versionInfo(listed.manifest)
	if errors.Is(err, fs.ErrNotExist) || err == nil && v.GUID != listed.GUID {
		return fmt.Errorf("%w: version %s was destroyed meanwhile", endpoint.ErrNotFound, listed.Name)
	}
	return err
}

// versionInfo reads the beginning of the manifest at name.
func (f *filesystem) versionInfo(name string) (versionInfo, error) {
	file, err := f.root.Open(name)
	if err != nil {
		return versionInfo{}, err
	}
	defer file.Close()
	m, err := readManifestHeader(file)
	if err != nil {
		return versionInfo{}, fmt.Errorf("%s: %w", name, err)
	}
	return versionInfo{
		Name: m.Name, GUID: m.GUID, CreateTXG: m.CreateTXG, Creation: m.Creation,
		Files: m.Files, Bytes: m.Bytes, Inconsistent: m.Inconsistent, manifest: name,
	}, nil
}

// A bookmark is a hard link of a manifest, called by its version's GUID and the
// owner (ownerName) whose replication cursor it is.
func bookmarkFile(guid uint64, owner string) string {
	return path.Join(bookmarksDir, fmt.Sprintf("%016x_%s", guid, owner))
}

func cursorName(guid uint64, owner string) string {
	return fmt.Sprintf("CURSOR_G_%016x_J_%s", guid, owner)
}

// bookmarks lists those that can be read, like snapshots.
func (f *filesystem) bookmarks() ([]versionInfo, error) {
	entries, err := readDir(f.root, bookmarksDir)
	if err != nil {
		return nil, err
	}
	var infos []versionInfo
	for _, e := range entries {
		v, err := f.bookmark(e.Name())
		switch {
		case errors.Is(err, fs.ErrNotExist): // moved on meanwhile
		case exhausted(err):
			return nil, err
		case err != nil:
			f.log.Warn("bookmark cannot be read", "filesystem", f.name, "file", e.Name(), "err", err)
		default:
			infos = append(infos, v)
		}
	}
	return infos, nil
}

func (f *filesystem) bookmark(file string) (versionInfo, error) {
	guid, owner, err := parseBookmark(file)
	if err != nil {
		return versionInfo{}, err
	}
	v, err := f.versionInfo(path.Join(bookmarksDir, file))
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
	lock, err := f.lockState()
	if err != nil {
		return err
	}
	defer lock.unlock()
	name := bookmarkFile(to.GUID, owner)
	if err := f.root.Link(to.manifest, name); err != nil && !errors.Is(err, fs.ErrExist) {
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

// destroySnapshots answers DestroySnapshots of both sides: versions that are no
// snapshots fail the request, everything else that goes wrong is one result's. It
// takes the writer's lock.
func (f *filesystem) destroySnapshots(ctx context.Context, snapshots []*pdu.FilesystemVersion) (*pdu.DestroySnapshotsRes, error) {
	for _, v := range snapshots {
		if v == nil || v.GetType() != pdu.FilesystemVersion_Snapshot {
			return nil, fmt.Errorf("%w: %q is not a snapshot", endpoint.ErrInvalid, v.GetName())
		}
	}
	lock, err := f.lock()
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
	if err := syncDir(f.root, "."); err != nil {
		return nil, err
	}
	f.removeLeftovers()
	return res, nil
}

// hide takes a snapshot out of sight, for removeLeftovers to remove. Whoever begins
// to use it needs the lock of the state, too.
func (f *filesystem) hide(want *pdu.FilesystemVersion) error {
	if err := ValidateVersion(want.GetName()); err != nil {
		return err
	}
	v, err := f.snapshotInfo(want.GetName())
	if errors.Is(err, fs.ErrNotExist) || err == nil && v.GUID != want.GetGuid() {
		return fmt.Errorf("%w: snapshot %s with GUID %#x", endpoint.ErrNotFound, want.GetName(), want.GetGuid())
	}
	if err != nil {
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
	if err := f.checkUnused(v); err != nil {
		return err
	}
	return f.root.Rename("@"+v.Name, destroyingPath())
}

// checkUnused refuses a snapshot that is held or is being sent.
func (f *filesystem) checkUnused(v versionInfo) error {
	tags, err := f.holds(v.GUID)
	if err != nil {
		return err
	}
	if len(tags) > 0 {
		return fmt.Errorf("%w: snapshot %s is held by %s", endpoint.ErrFailedPrecondition, v.Name, strings.Join(tags, ", "))
	}
	tree, err := f.openTree(v)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // damaged: nobody can use it
	}
	if err != nil {
		return err
	}
	defer tree.Close()
	if err := flock(tree.fd, unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("%w: snapshot %s is being sent", endpoint.ErrBusy, v.Name)
	}
	return nil
}

// protect makes the holds with this tag those on guids, and opens to's tree, which
// keeps that snapshot, held or not, from being destroyed until the tree is closed, in
// this process and all others. from may be nil. Both are still there when it returns
// without error.
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
	if err := f.checkThere(to); err != nil {
		return nil, err
	}
	tree, err := f.openTree(to)
	if err != nil {
		return nil, err
	}
	err = flock(tree.fd, unix.LOCK_SH|unix.LOCK_NB)
	if err == nil {
		err = f.changeState(func(s *state) { s.setHolds(tag, guids) })
	}
	if err != nil {
		return nil, errors.Join(err, tree.Close())
	}
	return tree, nil
}
