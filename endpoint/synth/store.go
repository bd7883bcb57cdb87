package synth

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
)

// store is what Source and Sink have in common: filesystems with versions, in memory.
type store struct {
	mu          sync.Mutex
	filesystems map[string]*filesystem
	faults      map[string]fault // of each filesystem's next stream
}

type fault struct {
	offset int64
	err    error // nil: none
}

type filesystem struct {
	snapshots []*snapshot            // in order of CreateTXG
	lastTXG   uint64                 // of the newest snapshot ever made here
	cursor    *pdu.FilesystemVersion // Source: a bookmark, or nil
	partial   *step                  // Sink: the broken step that can be resumed, or nil
	receiving bool                   // Sink: a receive runs
}

type snapshot struct {
	*pdu.FilesystemVersion
	size int64 // content bytes of any step that ends here
}

// ListFilesystems implements endpoint.Endpoint.
func (s *store) ListFilesystems(ctx context.Context, _ *pdu.ListFilesystemReq) (*pdu.ListFilesystemRes, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	entries := map[string]*pdu.Filesystem{}
	for path, fs := range s.filesystems {
		for i, c := range path {
			if parent := path[:i]; c == '/' && s.filesystems[parent] == nil {
				entries[parent] = &pdu.Filesystem{Path: parent, IsPlaceholder: true}
			}
		}
		entries[path] = &pdu.Filesystem{Path: path, ResumeToken: fs.resumeToken()}
	}
	res := &pdu.ListFilesystemRes{}
	for _, path := range slices.SortedFunc(maps.Keys(entries), strings.Compare) {
		res.Filesystems = append(res.Filesystems, entries[path])
	}
	return res, nil
}

// ListFilesystemVersions implements endpoint.Endpoint.
func (s *store) ListFilesystemVersions(ctx context.Context, req *pdu.ListFilesystemVersionsReq) (*pdu.ListFilesystemVersionsRes, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fs, err := s.open(ctx, req.GetFilesystem())
	if err != nil {
		return nil, err
	}
	res := &pdu.ListFilesystemVersionsRes{}
	cursor := fs.cursor
	for _, snap := range fs.snapshots {
		if cursor != nil && cursor.CreateTXG <= snap.CreateTXG {
			res.Versions, cursor = append(res.Versions, cursor), nil
		}
		res.Versions = append(res.Versions, snap.FilesystemVersion)
	}
	if cursor != nil {
		res.Versions = append(res.Versions, cursor)
	}
	return res, nil
}

// DestroySnapshots implements endpoint.Endpoint.
func (s *store) DestroySnapshots(ctx context.Context, req *pdu.DestroySnapshotsReq) (*pdu.DestroySnapshotsRes, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fs, err := s.open(ctx, req.GetFilesystem())
	if err != nil {
		return nil, err
	}
	for _, v := range req.GetSnapshots() {
		if v == nil || v.Type != pdu.FilesystemVersion_Snapshot {
			return nil, fmt.Errorf("%w: %v is not a snapshot", endpoint.ErrInvalid, v)
		}
	}
	res := &pdu.DestroySnapshotsRes{}
	for _, v := range req.GetSnapshots() {
		result := &pdu.DestroySnapshotRes{Snapshot: v}
		if err := fs.destroy(v); err != nil {
			result.Error = err.Error()
		}
		res.Results = append(res.Results, result)
	}
	return res, nil
}

// ReadResumeToken implements endpoint.TokenReader.
func (s *store) ReadResumeToken(ctx context.Context, token string) (endpoint.ResumeStep, error) {
	if ctx.Err() != nil {
		return endpoint.ResumeStep{}, context.Cause(ctx)
	}
	st, err := parseToken(token)
	return endpoint.ResumeStep{FromGUID: st.from, ToGUID: st.to}, err
}

// FailAt makes the next stream of a filesystem fail with err after offset bytes of
// the step's content, once. A resumed stream that begins later fails at once.
func (s *store) FailAt(path string, offset int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.faults == nil {
		s.faults = map[string]fault{}
	}
	s.faults[path] = fault{offset: offset, err: err}
}

// open returns an existing filesystem; s.mu is held.
func (s *store) open(ctx context.Context, path string) (*filesystem, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err := endpoint.ValidateFilesystem(path); err != nil {
		return nil, err
	}
	fs := s.filesystems[path]
	if fs == nil {
		return nil, fmt.Errorf("filesystem %q: %w", path, endpoint.ErrNotFound)
	}
	return fs, nil
}

// create returns the filesystem, a new one if need be; s.mu is held.
func (s *store) create(path string) *filesystem {
	if s.filesystems == nil {
		s.filesystems = map[string]*filesystem{}
	}
	if s.filesystems[path] == nil {
		s.filesystems[path] = &filesystem{}
	}
	return s.filesystems[path]
}

func (fs *filesystem) resumeToken() string {
	if fs.partial == nil {
		return ""
	}
	return fs.partial.token()
}

// add appends a snapshot; guid 0 draws one.
func (fs *filesystem) add(name string, guid uint64, size int64) *snapshot {
	for guid == 0 {
		guid = rand.Uint64()
	}
	fs.lastTXG++
	snap := &snapshot{size: size, FilesystemVersion: &pdu.FilesystemVersion{
		Type: pdu.FilesystemVersion_Snapshot, Name: name, Guid: guid, CreateTXG: fs.lastTXG,
		Creation: time.Now().UTC().Format(time.RFC3339),
	}}
	fs.snapshots = append(fs.snapshots, snap)
	return snap
}

func (fs *filesystem) destroy(v *pdu.FilesystemVersion) error {
	i := slices.IndexFunc(fs.snapshots, func(snap *snapshot) bool { return snap.Name == v.Name && snap.Guid == v.Guid })
	if i < 0 {
		return fmt.Errorf("snapshot %q: %w", v.Name, endpoint.ErrNotFound)
	}
	fs.snapshots = slices.Delete(fs.snapshots, i, i+1)
	return nil
}

// find returns the snapshot with a GUID, or nil.
func (fs *filesystem) find(guid uint64) *snapshot {
	i := slices.IndexFunc(fs.snapshots, func(snap *snapshot) bool { return snap.Guid == guid })
	if i < 0 {
		return nil
	}
	return fs.snapshots[i]
}

// takeFault returns the fault that FailAt set, and forgets it; s.mu is held.
func (s *store) takeFault(path string) fault {
	f := s.faults[path]
	delete(s.faults, path)
	return f
}
