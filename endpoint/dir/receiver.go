package dir

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
	"github.com/dualrepl/dualrepl/transport"
	"golang.org/x/sys/unix"
)

// ReceiverOptions configure a Receiver.
type ReceiverOptions struct {
	Root string // directory of the store, or of the clients' stores; made if need be
	Job  string // names the hold on the version received last
	// PerClient gives each client a store of its own, at Root/<client identity>. The
	// identity is that of the call's context; a call without is refused.
	PerClient bool
	Logger    *slog.Logger // nil: discard
}

// Receiver makes versions out of streams of a Sender. It implements
// endpoint.Receiver and endpoint.TokenReader.
type Receiver struct {
	opts ReceiverOptions
	boot string // names the boot of this machine
}

var (
	_ endpoint.Receiver    = (*Receiver)(nil)
	_ endpoint.TokenReader = (*Receiver)(nil)
)

// NewReceiver returns a receiver. It has nothing to close.
func NewReceiver(opts ReceiverOptions) (*Receiver, error) {
	if opts.Root == "" {
		return nil, fmt.Errorf("%w: a receiver needs a root", endpoint.ErrInvalid)
	}
	if err := ValidateJob(opts.Job); err != nil {
		return nil, err
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if os.Geteuid() != 0 {
		opts.Logger.Info("not root: owners are kept in manifests only")
	}
	return &Receiver{opts: opts, boot: readBootID()}, nil
}

// storePath is the directory of the store that the call is about.
func (r *Receiver) storePath(ctx context.Context) (string, error) {
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	if !r.opts.PerClient {
		return r.opts.Root, nil
	}
	id, ok := transport.ClientIdentityFromContext(ctx)
	if !ok {
		return "", fmt.Errorf("%w: the client has no identity", endpoint.ErrPermission)
	}
	if err := transport.ValidateClientIdentity(id); err != nil {
		return "", fmt.Errorf("%w: %w", endpoint.ErrPermission, err)
	}
	return filepath.Join(r.opts.Root, id), nil
}

// open opens a filesystem of the store that the call is about.
func (r *Receiver) open(ctx context.Context, name string, create bool) (*filesystem, error) {
	path, err := r.storePath(ctx)
	if err != nil {
		return nil, err
	}
	f, err := openFilesystem(path, name, create)
	if err != nil {
		return nil, err
	}
	f.log = r.opts.Logger
	return f, nil
}

// ListFilesystems implements endpoint.Endpoint. A broken step that can not be
// continued any more, because its From is gone, is logged and has no token.
func (r *Receiver) ListFilesystems(ctx context.Context, _ *pdu.ListFilesystemReq) (*pdu.ListFilesystemRes, error) {
	path, err := r.storePath(ctx)
	if err != nil {
		return nil, err
	}
	res := &pdu.ListFilesystemRes{}
	s, err := openStore(path, false)
	if errors.Is(err, endpoint.ErrNotFound) {
		return res, nil // nothing was received yet
	}
	if err != nil {
		return nil, err
	}
	defer s.Close()
	infos, err := s.list()
	if err != nil {
		return nil, err
	}
	for _, info := range infos {
		fs := &pdu.Filesystem{Path: info.Name, IsPlaceholder: info.Placeholder}
		if !info.Placeholder {
			fs.ResumeToken = r.resumeToken(s, info.Name)
		}
		res.Filesystems = append(res.Filesystems, fs)
	}
	return res, nil
}

// resumeToken returns "" if there is no step to continue.
func (r *Receiver) resumeToken(s *store, name string) string {
	f, err := s.filesystem(name, false)
	if err != nil {
		return "" // destroyed meanwhile
	}
	defer f.Close()
	f.log = r.opts.Logger
	token, ok := f.brokenStep(r.boot)
	if !ok {
		return ""
	}
	if err := f.checkStep(token.FromGUID, token.ToGUID); err != nil {
		r.opts.Logger.Warn("resume token does not fit any more", "filesystem", name, "error", err)
		return ""
	}
	return token.encode()
}

// checkStep says why a step can not be received, by what versions there are.
func (f *filesystem) checkStep(from, to uint64) error {
	snapshots, err := f.snapshots()
	if err != nil {
		return err
	}
	found := from == 0
	for _, v := range snapshots {
		if v.GUID == to {
			return fmt.Errorf("%w: %s@%s was received already", endpoint.ErrFailedPrecondition, f.name, v.Name)
		}
		found = found || v.GUID == from
	}
	if !found {
		return fmt.Errorf("%w: %s has no version with the GUID %#x that the step starts from", endpoint.ErrFailedPrecondition, f.name, from)
	}
	if from == 0 && len(snapshots) > 0 {
		return fmt.Errorf("%w: %s has versions already; a full step would not follow from them", endpoint.ErrFailedPrecondition, f.name)
	}
	return nil
}

// ListFilesystemVersions implements endpoint.Endpoint. A placeholder has none.
func (r *Receiver) ListFilesystemVersions(ctx context.Context, req *pdu.ListFilesystemVersionsReq) (*pdu.ListFilesystemVersionsRes, error) {
	path, err := r.storePath(ctx)
	if err != nil {
		return nil, err
	}
	name := req.GetFilesystem()
	if err := ValidateFilesystem(name); err != nil {
		return nil, err
	}
	s, err := openStore(path, false)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	if _, err := s.root.Lstat(name); err != nil {
		return nil, fmt.Errorf("%w: filesystem %s", endpoint.ErrNotFound, name)
	}
	return listVersions(path, name, r.opts.Logger)
}

// DestroySnapshots implements endpoint.Endpoint.
func (r *Receiver) DestroySnapshots(ctx context.Context, req *pdu.DestroySnapshotsReq) (*pdu.DestroySnapshotsRes, error) {
	f, err := r.open(ctx, req.GetFilesystem(), false)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.destroySnapshots(ctx, req.GetSnapshots())
}

// SendCompleted implements endpoint.Endpoint: there is nothing to do.
func (r *Receiver) SendCompleted(context.Context, *pdu.SendCompletedReq) (*pdu.SendCompletedRes, error) {
	return &pdu.SendCompletedRes{}, nil
}

// ReplicationCursor implements endpoint.Endpoint: only senders have one.
func (r *Receiver) ReplicationCursor(context.Context, *pdu.ReplicationCursorReq) (*pdu.ReplicationCursorRes, error) {
	return nil, fmt.Errorf("%w: a receiver has no replication cursor", endpoint.ErrUnimplemented)
}

// ReadResumeToken implements endpoint.TokenReader.
func (r *Receiver) ReadResumeToken(_ context.Context, token string) (endpoint.ResumeStep, error) {
	return readResumeToken(token)
}

// Receive implements endpoint.Receiver. Whatever breaks it, what was received stays
// on disk and has a resume token, unless it turned out to be wrong.
func (r *Receiver) Receive(ctx context.Context, req *pdu.ReceiveReq, stream io.Reader) (*pdu.ReceiveRes, error) {
	if err := checkReceive(req); err != nil {
		return nil, err
	}
	f, err := r.open(ctx, req.GetFilesystem(), true)
	if err != nil {
		return nil, noSpace(err)
	}
	defer f.Close()
	lock, err := f.lock()
	if err != nil {
		return nil, err
	}
	defer lock.unlock()
	if req.GetClearResumeToken() {
		if err := f.dropPartial(); err != nil {
			return nil, err
		}
	}
	if err := r.receive(ctx, f, req.GetTo(), stream); err != nil {
		return nil, fmt.Errorf("receive %s@%s: %w", req.GetFilesystem(), req.GetTo().GetName(), noSpace(err))
	}
	return &pdu.ReceiveRes{}, nil
}

// checkReceive refuses what could never be received, before anything is made for it.
func checkReceive(req *pdu.ReceiveReq) error {
	if err := ValidateFilesystem(req.GetFilesystem()); err != nil {
		return err
	}
	to := req.GetTo()
	if to.GetGuid() == 0 || to.GetType() != pdu.FilesystemVersion_Snapshot {
		return fmt.Errorf("%w: only a snapshot with a GUID can be received", endpoint.ErrInvalid)
	}
	return ValidateVersion(to.GetName())
}

// noSpace marks the error of a full disk, or of a quota that is used up.
func noSpace(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: %w", endpoint.ErrNoSpace, err)
	}
	return err
}

// receive does a step with the filesystem locked.
func (r *Receiver) receive(ctx context.Context, f *filesystem, to *pdu.FilesystemVersion, stream io.Reader) error {
	sr, err := newStreamReader(stream)
	if err != nil {
		return err
	}
	if sr.Header.ToGUID != to.GetGuid() {
		return fmt.Errorf("%w: the stream is of the version with GUID %#x", endpoint.ErrInvalid, sr.Header.ToGUID)
	}
	if err := f.checkStep(sr.Header.FromGUID, sr.Header.ToGUID); err != nil {
		return err
	}
	if err := f.checkName(to.GetName()); err != nil {
		return err
	}
	part, err := r.openPartial(f, sr.Header)
	if err != nil {
		return err
	}
	m, err := r.build(ctx, f, part, to, sr)
	if err == nil {
		err = f.commit(receivingDir+"/"+buildName, m)
	}
	if err != nil {
		return errors.Join(err, part.stop(err))
	}
	return errors.Join(part.close(), r.finish(f, m))
}

func (r *Receiver) openPartial(f *filesystem, h streamHeader) (*partial, error) {
	if h.Offset > 0 {
		return f.resumePartial(h, r.boot)
	}
	return f.startPartial(h, r.boot)
}

// build makes the version in receivingDir, all but visible.
func (r *Receiver) build(ctx context.Context, f *filesystem, part *partial, to *pdu.FilesystemVersion, sr *streamReader) (*Manifest, error) {
	from, fromTree, err := f.openFrom(sr.Header)
	if err != nil {
		return nil, err
	}
	if fromTree != nil {
		defer fromTree.Close()
	}
	a := &assembler{ctx: ctx, from: from, fromTree: fromTree, part: part, body: bufio.NewReaderSize(sr, bodyBuffer), groups: map[uint64]string{}}
	if err := a.manifest(sr.Header, to); err != nil {
		return nil, err
	}
	if err := a.build(); err != nil {
		return nil, err
	}
	return a.to, sr.finish()
}

// openFrom opens what the step starts from; nothing for a full step.
func (f *filesystem) openFrom(h streamHeader) (*Manifest, *treeCursor, error) {
	if h.FromGUID == 0 {
		return nil, nil, nil
	}
	v, err := f.versionByGUID(h.FromGUID)
	if err != nil {
		return nil, nil, err
	}
	m, err := f.readManifest(v)
	if err != nil {
		return nil, nil, err
	}
	if m.Digest != h.FromDigest {
		return nil, nil, fmt.Errorf("%w: version %s differs from the sender's", endpoint.ErrFailedPrecondition, v.Name)
	}
	tree, err := f.openTree(v)
	if err != nil {
		return nil, nil, err
	}
	return m, newTreeCursor(tree), nil
}

// finish holds the version that was made, and clears away what it took.
func (r *Receiver) finish(f *filesystem, m *Manifest) error {
	if err := f.setHolds(lastReceivedHoldTag(r.opts.Job), m.GUID); err != nil {
		return err
	}
	return f.removePartial()
}
