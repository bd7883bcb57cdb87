package zfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
)

// SenderOptions configure a Sender.
type SenderOptions struct {
	// Program is the path of zfs; "": the one in PATH.
	Program string
	// Job names the replication cursors and the step holds. A name is for one sender
	// at a time, on all machines that the pool may be imported on.
	Job string
	// Filter says which datasets are offered, by their whole names; nil: all of all pools.
	Filter func(dataset string) bool
	// Logger is told of each process, at debug level; nil: nobody is.
	Logger *slog.Logger

	// Encrypted demands that a dataset is encrypted, and sends it raw.
	Encrypted bool
	// Raw sends encrypted datasets as they are on disk (-w); others may be sent, too.
	Raw bool
	// Properties adds the dataset's properties to the stream (-p).
	Properties bool
	// BackupProperties sends properties as they were received, if they were (-b).
	BackupProperties bool
	// LargeBlocks keeps blocks of more than 128 KiB (-L).
	LargeBlocks bool
	// Compressed sends blocks compressed, as they are on disk (-c).
	Compressed bool
	// EmbeddedData sends blocks that are small enough to lie in their pointers so (-e).
	EmbeddedData bool
	// Saved is zrepl's option for what a broken receive left behind (-S). zfs has no
	// step of it: it refuses the flag for any snapshot, and so every step.
	Saved bool
}

// A Sender offers datasets and their snapshots and bookmarks. It is an endpoint.Sender
// and an endpoint.TokenReader.
type Sender struct {
	opts    SenderOptions
	program *program
	lister  *versionLister

	mu      sync.Mutex
	sending map[string]claim // by filesystem
}

var (
	_ endpoint.Sender      = (*Sender)(nil)
	_ endpoint.TokenReader = (*Sender)(nil)
)

// NewSender checks the options; it starts nothing.
func NewSender(opts SenderOptions) (*Sender, error) {
	if err := validateJob(opts.Job); err != nil {
		return nil, err
	}
	p := newProgram(opts.Program, opts.Logger)
	if opts.Saved {
		p.log.Warn("zfs sends no snapshot with the option saved (-S): all steps are going to fail", "job", opts.Job)
	}
	return &Sender{opts: opts, program: p, lister: newVersionLister(p), sending: map[string]claim{}}, nil
}

// check checks the name of a dataset that a request names: endpoint.ErrNotFound if the
// filter does not select it.
func (s *Sender) check(fs string) error {
	if err := checkDataset(fs); err != nil {
		return err
	}
	if s.opts.Filter != nil && !s.opts.Filter(fs) {
		return fmt.Errorf("%w: filesystem %s", endpoint.ErrNotFound, fs)
	}
	return nil
}

// datasets lists those that the filter selects.
func (s *Sender) datasets(ctx context.Context) ([]dataset, error) {
	all, err := s.program.datasets(ctx, true)
	return slices.DeleteFunc(all, func(d dataset) bool { return s.check(d.name) != nil }), err
}

// ListFilesystems lists the datasets that the filter selects, and no others: a parent
// need not be among them.
func (s *Sender) ListFilesystems(ctx context.Context, _ *pdu.ListFilesystemReq) (*pdu.ListFilesystemRes, error) {
	datasets, err := s.datasets(ctx)
	if err != nil {
		return nil, err
	}
	res := &pdu.ListFilesystemRes{}
	names := make([]string, len(datasets))
	for i, d := range datasets {
		names[i] = d.name
		res.Filesystems = append(res.Filesystems, &pdu.Filesystem{Path: d.name, IsPlaceholder: d.placeholder})
	}
	s.lister.listed("", names)
	return res, nil
}

// ListFilesystemVersions lists snapshots and bookmarks. After ListFilesystems, asking for
// filesystems in the order of its answer starts one process for many of them.
func (s *Sender) ListFilesystemVersions(ctx context.Context, req *pdu.ListFilesystemVersionsReq) (*pdu.ListFilesystemVersionsRes, error) {
	fs := req.GetFilesystem()
	if err := s.check(fs); err != nil {
		return nil, err
	}
	versions, err := s.lister.versions(ctx, fs)
	if err != nil {
		return nil, err
	}
	return &pdu.ListFilesystemVersionsRes{Versions: pduVersions(versions)}, nil
}

// DestroySnapshots says in the result of a snapshot that has holds which these are.
func (s *Sender) DestroySnapshots(ctx context.Context, req *pdu.DestroySnapshotsReq) (*pdu.DestroySnapshotsRes, error) {
	if err := s.check(req.GetFilesystem()); err != nil {
		return nil, err
	}
	defer s.lister.changed(req.GetFilesystem())
	return s.program.destroySnapshots(ctx, req.GetFilesystem(), req.GetSnapshots())
}

// ReplicationCursor tells the newest version that a cursor of the job marks.
func (s *Sender) ReplicationCursor(ctx context.Context, req *pdu.ReplicationCursorReq) (*pdu.ReplicationCursorRes, error) {
	if err := s.check(req.GetFilesystem()); err != nil {
		return nil, err
	}
	versions, err := s.lister.versions(ctx, req.GetFilesystem())
	if err != nil {
		return nil, err
	}
	for _, v := range slices.Backward(versions) {
		if isCursor(&v, s.opts.Job) {
			return &pdu.ReplicationCursorRes{Result: &pdu.ReplicationCursorRes_Guid{Guid: v.guid}}, nil
		}
	}
	return &pdu.ReplicationCursorRes{Result: &pdu.ReplicationCursorRes_Notexist{Notexist: true}}, nil
}

// SendDry asks zfs for the size of the step. It is 0, unknown, where zfs cannot tell.
func (s *Sender) SendDry(ctx context.Context, req *pdu.SendReq) (*pdu.SendRes, error) {
	st, err := s.openStep(ctx, req)
	if err != nil {
		return nil, err
	}
	size, err := s.program.estimate(ctx, s.sendArgs(st))
	if err != nil && ctx.Err() != nil {
		return nil, err
	}
	return &pdu.SendRes{UsedResumeToken: st.token != "", ExpectedSize: size}, nil
}

// Send starts a step. Before its stream begins, From and To are protected as the
// request's guarantee says, and what earlier steps of the job left behind on the
// filesystem is removed. While the job sends another step of the filesystem, it is
// endpoint.ErrBusy; the same one may be sent again: its connection may have broken without
// this side having learnt of it.
func (s *Sender) Send(ctx context.Context, req *pdu.SendReq) (*pdu.SendRes, io.ReadCloser, error) {
	g, err := guarantee(req)
	if err != nil {
		return nil, nil, err
	}
	release, err := s.claim(req, g)
	if err != nil {
		return nil, nil, err
	}
	stream, err := s.send(ctx, req, g, release)
	if err != nil {
		release()
		return nil, nil, fmt.Errorf("send %s@%s: %w", req.GetFilesystem(), req.GetTo().GetName(), err)
	}
	return &pdu.SendRes{UsedResumeToken: req.GetResumeToken() != ""}, stream, nil
}

// claim is a step that is being sent, as often as count says. Steps that are equal protect
// the same versions, so that none removes what the other one needs.
type claim struct {
	from, to  string
	guarantee pdu.ReplicationGuaranteeKind
	count     int
}

// claim keeps other steps of the filesystem from beginning until release is called.
func (s *Sender) claim(req *pdu.SendReq, g pdu.ReplicationGuaranteeKind) (release func(), err error) {
	fs := req.GetFilesystem()
	mine := claim{from: identity(req.GetFrom()), to: identity(req.GetTo()), guarantee: g}
	s.mu.Lock()
	defer s.mu.Unlock()
	others := s.sending[fs]
	if mine.count = others.count; others.count > 0 && others != mine {
		return nil, fmt.Errorf("%w: another step of %s is being sent", endpoint.ErrBusy, fs)
	}
	mine.count++
	s.sending[fs] = mine
	return func() { s.release(fs) }, nil
}

func identity(v *pdu.FilesystemVersion) string {
	return fmt.Sprintf("%v %s %#x", v.GetType(), v.GetName(), v.GetGuid())
}

func (s *Sender) release(fs string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.sending[fs]
	if c.count--; c.count == 0 {
		delete(s.sending, fs)
		return
	}
	s.sending[fs] = c
}

// send calls release, unless it fails, when the process has ended.
func (s *Sender) send(ctx context.Context, req *pdu.SendReq, g pdu.ReplicationGuaranteeKind, release func()) (io.ReadCloser, error) {
	st, err := s.openStep(ctx, req)
	if err != nil {
		return nil, err
	}
	defer s.lister.changed(st.fs)
	if err := s.protect(ctx, st, g); err != nil {
		return nil, fmt.Errorf("protect the step's versions: %w", err)
	}
	return s.program.openStream(ctx, s.sendArgs(st), release)
}

// step is one transfer, with everything checked that the sender can know.
type step struct {
	fs       string
	from     *version // nil: a full step
	to       version
	token    string
	versions []version // all of fs
}

// openStep checks a request against the versions on disk.
func (s *Sender) openStep(ctx context.Context, req *pdu.SendReq) (*step, error) {
	if _, err := endpoint.MatchStreamKind(req.GetStreamKinds(), endpoint.StreamZFS); err != nil {
		return nil, err
	}
	st := &step{fs: req.GetFilesystem(), token: req.GetResumeToken()}
	if err := s.check(st.fs); err != nil {
		return nil, err
	}
	if req.GetTo() == nil || req.GetTo().GetType() != pdu.FilesystemVersion_Snapshot {
		return nil, fmt.Errorf("%w: only a snapshot can be sent", endpoint.ErrInvalid)
	}
	var err error
	if st.versions, err = s.program.versions(ctx, st.fs); err != nil {
		return nil, err
	}
	if err := st.find(req); err != nil {
		return nil, err
	}
	return st, s.checkPolicy(ctx, st)
}

// find finds both versions. From may be a bookmark, or absent.
func (st *step) find(req *pdu.SendReq) (err error) {
	if st.to, err = findVersion(st.versions, req.GetTo()); err != nil || req.GetFrom() == nil {
		return err
	}
	from, err := findVersion(st.versions, req.GetFrom())
	if err == nil && from.createTXG >= st.to.createTXG {
		err = fmt.Errorf("%w: From is not older than To", endpoint.ErrInvalid)
	}
	st.from = &from
	return err
}

func (st *step) fromGUID() uint64 {
	if st.from == nil {
		return 0
	}
	return st.from.guid
}

// checkPolicy checks what the options say of encryption, and that the resume token is for
// this very step and sends no other way than they say.
func (s *Sender) checkPolicy(ctx context.Context, st *step) error {
	if !s.opts.Encrypted && st.token == "" {
		return nil
	}
	datasets, err := s.program.datasets(ctx, false, st.fs)
	if err != nil {
		return err
	}
	encrypted := len(datasets) == 1 && datasets[0].encrypted()
	if s.opts.Encrypted && !encrypted {
		return fmt.Errorf("%w: %s is not encrypted, and the job sends encrypted filesystems only", endpoint.ErrFailedPrecondition, st.fs)
	}
	if st.token == "" {
		return nil
	}
	t, err := s.program.readToken(ctx, st.token)
	if err != nil {
		return err
	}
	return t.fits(st, s.raw() && encrypted)
}

func (s *Sender) raw() bool { return s.opts.Encrypted || s.opts.Raw }

// sendArgs are the arguments of zfs for the step. A token knows all but itself, and zfs
// takes no other flag with it.
func (s *Sender) sendArgs(st *step) []string {
	if st.token != "" {
		return []string{"send", "-t", st.token}
	}
	args := []string{"send"}
	for _, flag := range []struct {
		set  bool
		name string
	}{
		{s.raw(), "-w"}, {s.opts.Properties, "-p"}, {s.opts.BackupProperties, "-b"}, {s.opts.LargeBlocks, "-L"},
		{s.opts.Compressed, "-c"}, {s.opts.EmbeddedData, "-e"}, {s.opts.Saved, "-S"},
	} {
		if flag.set {
			args = append(args, flag.name)
		}
	}
	if st.from != nil {
		args = append(args, "-i", st.from.fullName(st.fs))
	}
	return append(args, st.to.fullName(st.fs))
}

// ReadResumeToken implements endpoint.TokenReader.
func (s *Sender) ReadResumeToken(ctx context.Context, token string) (endpoint.ResumeStep, error) {
	return s.program.readResumeStep(ctx, token)
}

// SendCompleted moves the job's replication cursor to the step's To, unless the
// guarantee is none, and removes everything else that the job keeps on the filesystem. It is
// endpoint.ErrBusy while the job sends another step of the filesystem, which needs that.
func (s *Sender) SendCompleted(ctx context.Context, req *pdu.SendCompletedReq) (*pdu.SendCompletedRes, error) {
	g, err := guarantee(req.GetOriginalReq())
	if err != nil {
		return nil, err
	}
	release, err := s.claim(req.GetOriginalReq(), g)
	if err != nil {
		return nil, err
	}
	defer release()
	st, err := s.completedStep(ctx, req.GetOriginalReq(), g)
	if err != nil {
		return nil, err
	}
	defer s.lister.changed(st.fs)
	if err := s.settle(ctx, st, g); err != nil {
		return nil, fmt.Errorf("complete %s@%s: %w", st.fs, st.to.name, err)
	}
	return &pdu.SendCompletedRes{}, nil
}

// completedStep needs no From: it may be gone, and nothing is made of it.
func (s *Sender) completedStep(ctx context.Context, req *pdu.SendReq, g pdu.ReplicationGuaranteeKind) (*step, error) {
	if req.GetTo() == nil || req.GetTo().GetType() != pdu.FilesystemVersion_Snapshot {
		return nil, fmt.Errorf("%w: a completed step has a snapshot as To", endpoint.ErrInvalid)
	}
	st := &step{fs: req.GetFilesystem()}
	err := s.check(st.fs)
	if err != nil {
		return nil, err
	}
	if st.versions, err = s.program.versions(ctx, st.fs); err != nil {
		return nil, err
	}
	st.to, err = s.completedVersion(st.versions, req.GetTo(), g)
	return st, err
}

// completedVersion finds To. Where it was destroyed meanwhile, the bookmark that marks it is as
// good, and without a guarantee none is needed.
func (s *Sender) completedVersion(versions []version, to *pdu.FilesystemVersion, g pdu.ReplicationGuaranteeKind) (version, error) {
	v, err := findVersion(versions, to)
	if !errors.Is(err, endpoint.ErrNotFound) {
		return v, err
	}
	if g == pdu.ReplicationGuaranteeKind_GuaranteeNothing {
		return version{name: to.GetName(), guid: to.GetGuid()}, nil
	}
	for _, v := range versions {
		if v.guid == to.GetGuid() && (isCursor(&v, s.opts.Job) || isTentativeCursor(&v, s.opts.Job)) {
			return v, nil
		}
	}
	return v, err
}
