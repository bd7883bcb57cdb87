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
	"github.com/dualrepl/dualrepl/transport"
)

// SenderOptions configure a Sender.
type SenderOptions struct {
	// Store is the directory that keeps the snapshots. It is made when first needed.
	Store string
	// Directories are the directories to take snapshots of, by the name of the
	// filesystem that they are. They need not exist yet.
	Directories map[string]string
	// Job names the replication cursor and the holds. Calls that come from a client,
	// which its identity in their context tells, have cursor and holds of the client's
	// own: several may pull from one job, each with its own progress.
	Job string
	// Filter says which filesystems are offered; nil: all.
	Filter func(filesystem string) bool
	// Logger is told of each step, at debug level, and of what is damaged in the store;
	// nil: nobody is.
	Logger *slog.Logger
}

// A Sender offers the snapshots of directories. It is an endpoint.Sender and an
// endpoint.TokenReader.
type Sender struct {
	opts SenderOptions
	log  *storeLog
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
	return &Sender{opts: opts, log: &storeLog{Logger: opts.Logger.With("job", opts.Job)}}, nil
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
	return s.openStored(name, false)
}

func (s *Sender) openStored(name string, create bool) (*filesystem, error) {
	f, err := openFilesystem(s.opts.Store, name, create)
	if err == nil {
		f.whose, f.job, f.log = "the sender's store", s.opts.Job, s.log
	}
	return f, err
}

// owner names whose cursor and holds a call is about.
func (s *Sender) owner(ctx context.Context) string {
	if client, ok := transport.ClientIdentityFromContext(ctx); ok {
		return ownerName(s.opts.Job, client)
	}
	return s.opts.Job
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
// and clients as bookmarks. A placeholder has none.
func (s *Sender) ListFilesystemVersions(ctx context.Context, req *pdu.ListFilesystemVersionsReq) (*pdu.ListFilesystemVersionsRes, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	name := req.GetFilesystem()
	if s.filesystems()[name] {
		return &pdu.ListFilesystemVersionsRes{}, nil // a placeholder
	}
	if _, err := s.directory(name); err != nil {
		return nil, err
	}
	res, err := listVersions(s.opts.Store, name, s.log)
	if errors.Is(err, endpoint.ErrNotFound) {
		return &pdu.ListFilesystemVersionsRes{}, nil // no snapshot was taken yet
	}
	return res, err
}

// DestroySnapshots refuses, in its result, a snapshot that a step holds, or that is
// being sent.
func (s *Sender) DestroySnapshots(ctx context.Context, req *pdu.DestroySnapshotsReq) (*pdu.DestroySnapshotsRes, error) {
	f, err := s.open(req.GetFilesystem())
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.destroySnapshots(ctx, req.GetSnapshots())
}

// ReplicationCursor tells the version that the cursor of the job, or of its client
// that asks, points to.
func (s *Sender) ReplicationCursor(ctx context.Context, req *pdu.ReplicationCursorReq) (*pdu.ReplicationCursorRes, error) {
	if _, err := s.directory(req.GetFilesystem()); err != nil {
		return nil, err
	}
	guid, err := s.cursor(ctx, req.GetFilesystem())
	if errors.Is(err, endpoint.ErrNotFound) {
		return &pdu.ReplicationCursorRes{Result: &pdu.ReplicationCursorRes_Notexist{Notexist: true}}, nil
	}
	if err != nil {
		return nil, err
	}
	return &pdu.ReplicationCursorRes{Result: &pdu.ReplicationCursorRes_Guid{Guid: guid}}, nil
}

func (s *Sender) cursor(ctx context.Context, name string) (uint64, error) {
	f, err := s.openStored(name, false)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	v, err := f.cursor(s.owner(ctx))
	return v.GUID, err
}

// SendCompleted moves the replication cursor to the step's To and lets go of what
// the step held.
func (s *Sender) SendCompleted(ctx context.Context, req *pdu.SendCompletedReq) (*pdu.SendCompletedRes, error) {
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
	owner := s.owner(ctx)
	if err := f.moveCursor(owner, to); err != nil {
		return nil, err
	}
	if err := f.setHolds(stepHoldTag(owner)); err != nil {
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
	return st.res(), nil
}

// Send starts a step. To is not destroyed before the stream is closed. With the
// guarantee of resumability From and To are held until SendCompleted, or until the
// same job, or client of the job, begins another step of the filesystem.
func (s *Sender) Send(ctx context.Context, req *pdu.SendReq) (*pdu.SendRes, io.ReadCloser, error) {
	st, err := s.openStep(ctx, req, true)
	if err != nil {
		return nil, nil, err
	}
	s.log.Debug("sending", "filesystem", req.GetFilesystem(), "from_guid", st.fromGUID(), "to", st.to.Name,
		"bytes", st.bodyLength()-st.offset, "resumed", st.resumed)
	return st.res(), st.stream(ctx), nil
}

// step is one transfer, computed from the manifests of its two versions.
type step struct {
	tree    *treeDir // of to, which it protects; nil: not to be sent
	damaged func(error) error
	from    *Manifest // nil: a full step
	to      *Manifest
	plan    *Plan
	head    []byte // of the body: everything before the literals
	resumed bool
	offset  int64 // in the body
}

// openStep finds the versions that req names and plans the step between them. One
// that is to be sent has To's tree open, for the stream to close.
func (s *Sender) openStep(ctx context.Context, req *pdu.SendReq, send bool) (*step, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if _, err := endpoint.MatchStreamKind(req.GetStreamKinds(), endpoint.StreamDir); err != nil {
		return nil, err
	}
	f, err := s.open(req.GetFilesystem())
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st := &step{}
	if err := s.loadStep(ctx, f, st, req, send); err != nil {
		return nil, errors.Join(fmt.Errorf("send %s@%s: %w", f.name, req.GetTo().GetName(), err), st.close())
	}
	return st, nil
}

func (st *step) close() error {
	if st.tree == nil {
		return nil
	}
	return st.tree.Close()
}

func (s *Sender) loadStep(ctx context.Context, f *filesystem, st *step, req *pdu.SendReq, send bool) error {
	from, to, err := f.findStep(req)
	if err != nil {
		return err
	}
	st.damaged = func(err error) error { return f.damaged(to, err) }
	if send {
		if st.tree, err = f.protect(from, to, stepHoldTag(s.owner(ctx)), toHold(req, from, to)); err != nil {
			return err
		}
	}
	if st.to, err = f.readManifest(to); err != nil {
		return err
	}
	if from != nil {
		if st.from, err = f.readManifest(*from); err != nil {
			return err
		}
	}
	if err := st.compute(); err != nil {
		return err
	}
	if req.GetResumeToken() == "" {
		return nil
	}
	return st.resume(req.GetResumeToken())
}

// findStep looks up both versions. From may be a bookmark, or absent.
func (f *filesystem) findStep(req *pdu.SendReq) (from *versionInfo, to versionInfo, err error) {
	if req.GetTo() == nil || req.GetTo().GetType() != pdu.FilesystemVersion_Snapshot {
		return nil, to, fmt.Errorf("%w: only a snapshot can be sent", endpoint.ErrInvalid)
	}
	versions, err := f.versions()
	if err != nil {
		return nil, to, err
	}
	to, err = findGUID(versions, req.GetTo().GetGuid())
	if err == nil && to.Bookmark || to.Name != req.GetTo().GetName() {
		err = fmt.Errorf("%w: snapshot %s with GUID %#x", endpoint.ErrNotFound, req.GetTo().GetName(), req.GetTo().GetGuid())
	}
	if err != nil || req.GetFrom() == nil {
		return nil, to, err
	}
	v, err := findGUID(versions, req.GetFrom().GetGuid())
	if err == nil && v.CreateTXG >= to.CreateTXG {
		err = fmt.Errorf("%w: From is not older than To", endpoint.ErrInvalid)
	}
	return &v, to, err
}

// toHold returns the GUIDs that the step's holds are on, instead of those of the step
// before.
func toHold(req *pdu.SendReq, from *versionInfo, to versionInfo) []uint64 {
	guids := []uint64{to.GUID}
	if from != nil {
		guids = append(guids, from.GUID)
	}
	if endpoint.GuaranteeOf(req.GetReplicationConfig(), from == nil) != pdu.ReplicationGuaranteeKind_GuaranteeResumability {
		return nil
	}
	return guids
}

func (st *step) compute() error {
	st.plan = NewPlan(st.from, st.to)
	delta := encodeDelta(st.from, st.to)
	if err := checkDelta(st.from, st.to, delta); err != nil {
		return fmt.Errorf("%w: %w", endpoint.ErrFailedPrecondition, err)
	}
	st.head = binary.BigEndian.AppendUint64(make([]byte, 0, deltaPrefixLen+len(delta)), uint64(len(delta)))
	st.head = append(st.head, delta...)
	return nil
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
