package dir

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"path"
	"path/filepath"
	"slices"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
)

// SenderOptions configure a Sender.
type SenderOptions struct {
	// Store is the directory that keeps the snapshots. It is made when first needed.
	Store string
	// Directories are the directories to take snapshots of, by the name of the
	// filesystem that they are. They need not exist yet.
	Directories map[string]string
	// Job names the replication cursor and the holds.
	Job string
	// Filter says which filesystems are offered; nil: all.
	Filter func(filesystem string) bool
	// Logger is told of each step, at debug level; nil: nobody is.
	Logger *slog.Logger
}

// A Sender offers the snapshots of directories. It is an endpoint.Sender and an
// endpoint.TokenReader.
type Sender struct {
	opts SenderOptions
	log  *slog.Logger
}

var (
	_ endpoint.Sender      = (*Sender)(nil)
	_ endpoint.TokenReader = (*Sender)(nil)
)

// NewSender checks the options; it opens nothing.
func NewSender(opts SenderOptions) (*Sender, error) {
	if err := ValidateJob(opts.Job); err != nil {
		return nil, err
	}
	if opts.Store == "" {
		return nil, fmt.Errorf("%w: a sender needs a store", endpoint.ErrInvalid)
	}
	for name, dir := range opts.Directories {
		if err := ValidateFilesystem(name); err != nil {
			return nil, err
		}
		if !filepath.IsAbs(dir) {
			return nil, fmt.Errorf("%w: the path %q of filesystem %s is not absolute", endpoint.ErrInvalid, dir, name)
		}
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	return &Sender{opts: opts, log: opts.Logger.With("job", opts.Job)}, nil
}

// directory returns the source of an offered filesystem; endpoint.ErrNotFound.
func (s *Sender) directory(filesystem string) (string, error) {
	if err := ValidateFilesystem(filesystem); err != nil {
		return "", err
	}
	dir, ok := s.opts.Directories[filesystem]
	if !ok || s.opts.Filter != nil && !s.opts.Filter(filesystem) {
		return "", fmt.Errorf("%w: filesystem %s", endpoint.ErrNotFound, filesystem)
	}
	return dir, nil
}

// open opens an offered filesystem of the store. One without any snapshot yet is
// endpoint.ErrNotFound, too.
func (s *Sender) open(name string) (*filesystem, error) {
	if _, err := s.directory(name); err != nil {
		return nil, err
	}
	return openFilesystem(s.opts.Store, name, false)
}

// filesystems are the offered ones and their parents; true: a placeholder.
func (s *Sender) filesystems() map[string]bool {
	placeholder := map[string]bool{}
	for name := range s.opts.Directories {
		if _, err := s.directory(name); err != nil {
			continue
		}
		placeholder[name] = false
		for parent := path.Dir(name); parent != "."; parent = path.Dir(parent) {
			_, err := s.directory(parent)
			placeholder[parent] = err != nil
		}
	}
	return placeholder
}

// ListFilesystems lists what is offered, and as placeholders the parents that are not.
func (s *Sender) ListFilesystems(ctx context.Context, _ *pdu.ListFilesystemReq) (*pdu.ListFilesystemRes, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	filesystems := s.filesystems()
	res := &pdu.ListFilesystemRes{}
	for _, name := range slices.SortedFunc(maps.Keys(filesystems), ComparePaths) {
		res.Filesystems = append(res.Filesystems, &pdu.Filesystem{Path: name, IsPlaceholder: filesystems[name]})
	}
	return res, nil
}

// ListFilesystemVersions lists snapshots, and the replication cursors of all jobs
// as bookmarks.
func (s *Sender) ListFilesystemVersions(ctx context.Context, req *pdu.ListFilesystemVersionsReq) (*pdu.ListFilesystemVersionsRes, error) {
	name := req.GetFilesystem()
	if _, err := s.directory(name); err != nil && !s.isPlaceholder(name) {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	res, err := listVersions(s.opts.Store, name)
	if errors.Is(err, endpoint.ErrNotFound) {
		return &pdu.ListFilesystemVersionsRes{}, nil // no snapshot was taken yet
	}
	return res, err
}

// isPlaceholder says whether an offered filesystem is below name.
func (s *Sender) isPlaceholder(name string) bool {
	return s.filesystems()[name]
}

// DestroySnapshots refuses, in its result, a snapshot that a step holds.
func (s *Sender) DestroySnapshots(ctx context.Context, req *pdu.DestroySnapshotsReq) (*pdu.DestroySnapshotsRes, error) {
	f, err := s.open(req.GetFilesystem())
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.destroySnapshots(ctx, req.GetSnapshots())
}

// ReplicationCursor tells the version that the job's cursor points to.
func (s *Sender) ReplicationCursor(_ context.Context, req *pdu.ReplicationCursorReq) (*pdu.ReplicationCursorRes, error) {
	if _, err := s.directory(req.GetFilesystem()); err != nil {
		return nil, err
	}
	guid, err := s.cursor(req.GetFilesystem())
	if errors.Is(err, endpoint.ErrNotFound) {
		return &pdu.ReplicationCursorRes{Result: &pdu.ReplicationCursorRes_Notexist{Notexist: true}}, nil
	}
	if err != nil {
		return nil, err
	}
	return &pdu.ReplicationCursorRes{Result: &pdu.ReplicationCursorRes_Guid{Guid: guid}}, nil
}

func (s *Sender) cursor(name string) (uint64, error) {
	f, err := openFilesystem(s.opts.Store, name, false)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	v, err := f.cursor(s.opts.Job)
	return v.GUID, err
}

// SendCompleted moves the replication cursor to the step's To and lets go of what
// the step held.
func (s *Sender) SendCompleted(_ context.Context, req *pdu.SendCompletedReq) (*pdu.SendCompletedRes, error) {
	step := req.GetOriginalReq()
	if step.GetTo().GetType() != pdu.FilesystemVersion_Snapshot || step.GetTo().GetGuid() == 0 {
		return nil, fmt.Errorf("%w: a completed step has a snapshot as To", endpoint.ErrInvalid)
	}
	f, err := s.open(step.GetFilesystem())
	if err != nil {
		return nil, err
	}
	defer f.Close()
	to, err := f.versionByGUID(step.GetTo().GetGuid())
	if err != nil {
		return nil, err
	}
	if err := f.moveCursor(s.opts.Job, to); err != nil {
		return nil, err
	}
	if err := f.setHolds(stepHoldTag(s.opts.Job)); err != nil {
		return nil, err
	}
	return &pdu.SendCompletedRes{}, nil
}

// ReadResumeToken implements endpoint.TokenReader.
func (s *Sender) ReadResumeToken(_ context.Context, token string) (endpoint.ResumeStep, error) {
	return readResumeToken(token)
}

// SendDry computes exactly how many bytes the step's body has, or, with a resume
// token, still has.
func (s *Sender) SendDry(ctx context.Context, req *pdu.SendReq) (*pdu.SendRes, error) {
	st, err := s.openStep(ctx, req, false)
	if err != nil {
		return nil, err
	}
	return st.res(), st.fs.Close()
}

// Send starts a step. With the guarantee of resumability it holds From and To until
// SendCompleted, or until this job sends another step of the filesystem.
func (s *Sender) Send(ctx context.Context, req *pdu.SendReq) (*pdu.SendRes, io.ReadCloser, error) {
	st, err := s.openStep(ctx, req, true)
	if err != nil {
		return nil, nil, err
	}
	stream, err := st.stream(ctx)
	if err := errors.Join(err, st.fs.Close()); err != nil {
		return nil, nil, err
	}
	s.log.Debug("sending", "filesystem", req.GetFilesystem(), "from_guid", st.fromGUID(), "to", st.to.Name,
		"bytes", st.bodyLength()-st.offset, "resumed", st.resumed)
	return st.res(), stream, nil
}

// step is one transfer, computed from the manifests of its two versions.
type step struct {
	fs      *filesystem
	toInfo  versionInfo
	from    *Manifest // nil: a full step
	to      *Manifest
	plan    *Plan
	head    []byte // of the body: everything before the literals
	resumed bool
	offset  int64 // in the body
}

// openStep finds the versions that req names and plans the step between them. The
// caller closes the step's filesystem.
func (s *Sender) openStep(ctx context.Context, req *pdu.SendReq, hold bool) (*step, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	f, err := s.open(req.GetFilesystem())
	if err != nil {
		return nil, err
	}
	st := &step{fs: f}
	if err := s.loadStep(st, req, hold); err != nil {
		return nil, errors.Join(fmt.Errorf("send %s@%s: %w", f.name, req.GetTo().GetName(), err), f.Close())
	}
	return st, nil
}

func (s *Sender) loadStep(st *step, req *pdu.SendReq, hold bool) error {
	from, err := st.find(req)
	if err != nil {
		return err
	}
	if hold {
		if err := s.holdStep(st, req, from); err != nil {
			return err
		}
	}
	if st.to, err = st.fs.readManifest(st.toInfo); err != nil {
		return err
	}
	if from != nil {
		if st.from, err = st.fs.readManifest(*from); err != nil {
			return err
		}
	}
	st.compute()
	if req.GetResumeToken() == "" {
		return nil
	}
	return st.resume(req.GetResumeToken())
}

// find looks up both versions. From may be a bookmark, or absent.
func (st *step) find(req *pdu.SendReq) (from *versionInfo, err error) {
	to := req.GetTo()
	if to == nil || to.GetType() != pdu.FilesystemVersion_Snapshot {
		return nil, fmt.Errorf("%w: only a snapshot can be sent", endpoint.ErrInvalid)
	}
	versions, err := st.fs.versions()
	if err != nil {
		return nil, err
	}
	st.toInfo, err = findGUID(versions, to.GetGuid())
	if err == nil && st.toInfo.Bookmark || st.toInfo.Name != to.GetName() {
		err = fmt.Errorf("%w: snapshot %s with GUID %#x", endpoint.ErrNotFound, to.GetName(), to.GetGuid())
	}
	if err != nil || req.GetFrom() == nil {
		return nil, err
	}
	v, err := findGUID(versions, req.GetFrom().GetGuid())
	if err == nil && v.CreateTXG >= st.toInfo.CreateTXG {
		err = fmt.Errorf("%w: From is not older than To", endpoint.ErrInvalid)
	}
	return &v, err
}

// holdStep makes the job's holds those that this step needs, instead of those of
// the step before.
func (s *Sender) holdStep(st *step, req *pdu.SendReq, from *versionInfo) error {
	protection := req.GetReplicationConfig().GetProtection()
	kind, guids := protection.GetInitial(), []uint64{st.toInfo.GUID}
	if from != nil {
		kind = protection.GetIncremental()
		guids = append(guids, from.GUID)
	}
	if kind != pdu.ReplicationGuaranteeKind_GuaranteeResumability {
		guids = nil
	}
	return st.fs.setHolds(stepHoldTag(s.opts.Job), guids...)
}

func (st *step) compute() {
	st.plan = NewPlan(st.from, st.to)
	delta := encodeDelta(st.from, st.to)
	st.head = binary.BigEndian.AppendUint64(make([]byte, 0, deltaPrefixLen+len(delta)), uint64(len(delta)))
	st.head = append(st.head, delta...)
}

func (st *step) bodyLength() int64 { return int64(len(st.head)) + st.plan.Literal }

func (st *step) fromGUID() uint64 {
	if st.from == nil {
		return 0
	}
	return st.from.GUID
}

// resume takes the offset from a token, if that is for this very step.
func (st *step) resume(token string) error {
	t, err := parseResumeToken(token)
	if err != nil {
		return err
	}
	if t.FromGUID != st.fromGUID() || t.ToGUID != st.to.GUID || t.ToDigest != st.to.Digest || t.Offset > st.bodyLength() {
		return fmt.Errorf("%w: it is for another step", endpoint.ErrStaleToken)
	}
	st.resumed, st.offset = true, t.Offset
	return nil
}

func (st *step) res() *pdu.SendRes {
	return &pdu.SendRes{UsedResumeToken: st.resumed, ExpectedSize: uint64(st.bodyLength() - st.offset)}
}

func (st *step) header() streamHeader {
	h := streamHeader{ToGUID: st.to.GUID, ToDigest: st.to.Digest, BodyLength: st.bodyLength(), Offset: st.offset}
	if st.from != nil {
		h.FromGUID, h.FromDigest = st.from.GUID, st.from.Digest
	}
	return h
}
