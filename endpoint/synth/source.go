package synth

import (
	"context"
	"fmt"
	"io"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
)

// Source is an endpoint.Sender of generated data; its zero value has no filesystems.
type Source struct{ store }

var (
	_ endpoint.Sender      = (*Source)(nil)
	_ endpoint.TokenReader = (*Source)(nil)
)

// AddFilesystem adds a filesystem without versions. Its parents are placeholders
// unless they are added too.
func (s *Source) AddFilesystem(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.create(path)
}

// Snapshot adds a version to a filesystem, which it makes if need be. Any step that
// ends in this version, full or incremental, carries size bytes of content.
func (s *Source) Snapshot(path, name string, size int64) *pdu.FilesystemVersion {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.create(path).add(name, 0, size).FilesystemVersion
}

// SendDry implements endpoint.Sender. The estimate is exact.
func (s *Source) SendDry(ctx context.Context, req *pdu.SendReq) (*pdu.SendRes, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st, err := s.plan(ctx, req)
	return st.response(req), err
}

// Send implements endpoint.Sender. The stream is also an io.WriterTo.
func (s *Source) Send(ctx context.Context, req *pdu.SendReq) (*pdu.SendRes, io.ReadCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st, err := s.plan(ctx, req)
	if err != nil {
		return nil, nil, err
	}
	f := s.takeFault(req.Filesystem)
	spec := Spec{Seed: st.to, Size: st.size, Offset: st.offset, FailAt: f.offset, Fail: f.err}
	return st.response(req), &Stream{ctx: ctx, head: st.header(), spec: spec}, nil
}

// plan checks a request and returns the step that it asks for; s.mu is held.
func (s *Source) plan(ctx context.Context, req *pdu.SendReq) (step, error) {
	if _, err := endpoint.MatchStreamKind(req.GetStreamKinds(), endpoint.StreamSynth); err != nil {
		return step{}, err
	}
	fs, err := s.open(ctx, req.GetFilesystem())
	if err != nil {
		return step{}, err
	}
	to, err := fs.to(req.GetTo())
	if err != nil {
		return step{}, err
	}
	if err := fs.checkFrom(req.GetFrom(), to); err != nil {
		return step{}, err
	}
	st := step{from: req.GetFrom().GetGuid(), to: to.Guid, size: to.size}
	if req.GetResumeToken() == "" {
		return st, nil
	}
	resumed, err := parseToken(req.GetResumeToken())
	if err != nil {
		return step{}, err
	}
	if resumed.from != st.from || resumed.to != st.to || resumed.size != st.size {
		return step{}, fmt.Errorf("%w: it is of another step", endpoint.ErrStaleToken)
	}
	return resumed, nil
}

func (s step) response(req *pdu.SendReq) *pdu.SendRes {
	return &pdu.SendRes{UsedResumeToken: req.GetResumeToken() != "", ExpectedSize: uint64(s.size - s.offset)}
}

func (fs *filesystem) to(v *pdu.FilesystemVersion) (*snapshot, error) {
	if v == nil || v.Type != pdu.FilesystemVersion_Snapshot {
		return nil, fmt.Errorf("%w: To %v is not a snapshot", endpoint.ErrInvalid, v)
	}
	snap := fs.find(v.Guid)
	if snap == nil || snap.Name != v.Name {
		return nil, fmt.Errorf("snapshot %q: %w", v.Name, endpoint.ErrNotFound)
	}
	return snap, nil
}

// checkFrom wants a version of this filesystem that is older than to; nil is a full step.
func (fs *filesystem) checkFrom(from *pdu.FilesystemVersion, to *snapshot) error {
	if from == nil {
		return nil
	}
	known := fs.cursor
	if from.Type == pdu.FilesystemVersion_Snapshot {
		known = fs.find(from.Guid).version()
	}
	if known == nil || known.Guid != from.Guid || known.Name != from.Name {
		return fmt.Errorf("from %q: %w", from.Name, endpoint.ErrNotFound)
	}
	if known.CreateTXG >= to.CreateTXG {
		return fmt.Errorf("%w: from %q is not older than to %q", endpoint.ErrInvalid, from.Name, to.Name)
	}
	return nil
}

func (s *snapshot) version() *pdu.FilesystemVersion {
	if s == nil {
		return nil
	}
	return s.FilesystemVersion
}

// SendCompleted implements endpoint.Endpoint: To becomes the replication cursor, a
// bookmark that outlives the snapshot.
func (s *Source) SendCompleted(ctx context.Context, req *pdu.SendCompletedReq) (*pdu.SendCompletedRes, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fs, err := s.open(ctx, req.GetOriginalReq().GetFilesystem())
	if err != nil {
		return nil, err
	}
	to, err := fs.to(req.GetOriginalReq().GetTo())
	if err != nil {
		return nil, err
	}
	fs.cursor = &pdu.FilesystemVersion{
		Type: pdu.FilesystemVersion_Bookmark, Name: fmt.Sprintf("CURSOR_G_%016x", to.Guid),
		Guid: to.Guid, CreateTXG: to.CreateTXG, Creation: to.Creation,
	}
	return &pdu.SendCompletedRes{}, nil
}

// ReplicationCursor implements endpoint.Endpoint.
func (s *Source) ReplicationCursor(ctx context.Context, req *pdu.ReplicationCursorReq) (*pdu.ReplicationCursorRes, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fs, err := s.open(ctx, req.GetFilesystem())
	if err != nil {
		return nil, err
	}
	if fs.cursor == nil {
		return &pdu.ReplicationCursorRes{Result: &pdu.ReplicationCursorRes_Notexist{Notexist: true}}, nil
	}
	return &pdu.ReplicationCursorRes{Result: &pdu.ReplicationCursorRes_Guid{Guid: fs.cursor.Guid}}, nil
}
