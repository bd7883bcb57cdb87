package dir

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
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
func listVersions(storePath, name string) (*pdu.ListFilesystemVersionsRes, error) {
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
	versions, err := f.versions()
	for _, v := range versions {
		res.Versions = append(res.Versions, v.pdu())
	}
	return res, err
}

func (f *filesystem) snapshots() ([]versionInfo, error) {
	entries, err := readDir(f.root, ".")
	if err != nil {
		return nil, err
	}
	var infos []versionInfo
	for _, e := range entries {
		name, ok := strings.CutPrefix(e.Name(), "@")
		if !ok {
			continue
		}
		v, err := f.versionInfo(path.Join(e.Name(), manifestName))
		if errors.Is(err, fs.ErrNotExist) {
			continue // destroyed meanwhile
		}
		if err != nil {
			return nil, err
		}
		if v.Name != name {
			return nil, fmt.Errorf("%s says that it is version %q", e.Name(), v.Name)
		}
		infos = append(infos, v)
	}
	return infos, nil
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
// job whose replication cursor it is.
func bookmarkFile(guid uint64, job string) string {
	return path.Join(bookmarksDir, fmt.Sprintf("%016x_%s", guid, job))
}

func cursorName(guid uint64, job string) string {
	return fmt.Sprintf("CURSOR_G_%016x_J_%s", guid, job)
}

func (f *filesystem) bookmarks() ([]versionInfo, error) {
	entries, err := readDir(f.root, bookmarksDir)
	if err != nil {
		return nil, err
	}
	var infos []versionInfo
	for _, e := range entries {
		guid, job, err := parseBookmark(e.Name())
		if err != nil {
			return nil, err
		}
		v, err := f.versionInfo(path.Join(bookmarksDir, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // moved on meanwhile
		}
		if err != nil {
			return nil, err
		}
		v.Name, v.Bookmark = cursorName(guid, job), true
		infos = append(infos, v)
	}
	return infos, nil
}

func parseBookmark(file string) (guid uint64, job string, err error) {
	hex, job, _ := strings.Cut(file, "_")
	guid, err = strconv.ParseUint(hex, 16, 64)
	if err != nil {
		return 0, "", fmt.Errorf("%q is not a bookmark's name", file)
	}
	return guid, job, nil
}

// cursor returns the version that the job's replication cursor points to;
// endpoint.ErrNotFound if there is none. Where a crash left two, the newer one counts.
func (f *filesystem) cursor(job string) (versionInfo, error) {
	versions, err := f.versions()
	if err != nil {
		return versionInfo{}, err
	}
	for _, v := range slices.Backward(versions) {
		if v.Bookmark && v.Name == cursorName(v.GUID, job) {
			return v, nil
		}
	}
	return versionInfo{}, fmt.Errorf("%w: replication cursor of job %s", endpoint.ErrNotFound, job)
}

// moveCursor points the job's replication cursor to a version, then lets go of
// where it was.
func (f *filesystem) moveCursor(job string, to versionInfo) error {
	lock, err := f.lockState()
	if err != nil {
		return err
	}
	defer lock.unlock()
	name := bookmarkFile(to.GUID, job)
	if err := f.root.Link(to.manifest, name); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("replication cursor: %w", err)
	}
	entries, err := readDir(f.root, bookmarksDir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		old := path.Join(bookmarksDir, e.Name())
		if _, owner, err := parseBookmark(e.Name()); err != nil || owner != job || old == name {
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
	return res, f.removeLeftovers()
}

// hide takes a snapshot out of sight, for removeLeftovers to remove.
func (f *filesystem) hide(want *pdu.FilesystemVersion) error {
	if err := ValidateVersion(want.GetName()); err != nil {
		return err
	}
	dir := "@" + want.GetName()
	v, err := f.versionInfo(path.Join(dir, manifestName))
	if errors.Is(err, fs.ErrNotExist) || err == nil && v.GUID != want.GetGuid() {
		return fmt.Errorf("%w: snapshot %s with GUID %#x", endpoint.ErrNotFound, want.GetName(), want.GetGuid())
	}
	if err != nil {
		return err
	}
	tags, err := f.holds(v.GUID)
	if err != nil {
		return err
	}
	if len(tags) > 0 {
		return fmt.Errorf("%w: snapshot %s is held by %s", endpoint.ErrFailedPrecondition, v.Name, strings.Join(tags, ", "))
	}
	if err := f.keepTXGAbove(v.CreateTXG); err != nil {
		return err
	}
	return f.root.Rename(dir, path.Join(metaDir, fmt.Sprintf("%s%016x", destroyingName, v.GUID)))
}
