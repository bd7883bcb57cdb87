package dir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"time"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
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
	log  *storeLog
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
	if !isRoot {
		opts.Logger.Info("not root: owners are kept in manifests only")
	}
	return &Receiver{opts: opts, log: &storeLog{Logger: opts.Logger}, boot: readBootID()}, nil
}

// storePath is the directory of the store that the call is about.
func (r *Receiver) storePath(ctx context.Context) (string, error) {
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	if !r.opts.PerClient {
		return r.opts.Root, nil
	}
	id, err := endpoint.ClientIdentity(ctx)
	if err != nil {
		return "", err
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
	r.own(f)
	return f, nil
}

// own tells a filesystem for whom it is open.
func (r *Receiver) own(f *filesystem) {
	f.whose, f.job, f.log = "the receiver's store", r.opts.Job, r.log
}

// ListFilesystems implements endpoint.Endpoint. A broken step that can not be
// continued any more, because its From is gone, is logged and has no token.
func (r *Receiver) ListFilesystems(ctx context.Context, _ *pdu.ListFilesystemReq) (*pdu.ListFilesystemRes, error) {
	path, err := r.storePath(ctx)
	if err != nil {
		return nil, err
	}
	res := &pdu.ListFilesystemRes{StreamKinds: []string{string(endpoint.StreamDir)}}
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
			if fs.ResumeToken, err = r.resumeToken(s, info.Name); err != nil {
				return nil, fmt.Errorf("resume token of %s: %w", info.Name, err)
			}
		}
		res.Filesystems = append(res.Filesystems, fs)
	}
	return res, nil
}

// resumeToken returns "" if there is no step to continue. Where that cannot be found out
// for want of descriptors or memory it is an error: a step without token is dropped by the
// next one. What is wrong with one filesystem is not the others' concern.
func (r *Receiver) resumeToken(s *store, name string) (string, error) {
	f, err := s.filesystem(name, false)
	if err != nil {
		return "", onlyExhausted(err) // else destroyed meanwhile
	}
	defer f.Close()
	r.own(f)
	token, err := f.brokenStep(r.boot)
	if err != nil || token.Offset == 0 {
		return "", err
	}
	err = f.checkStep(token.FromGUID, token.ToGUID)
	switch {
	case err == nil:
		return token.encode(), nil
	case errors.Is(err, errReceived): // killed right after its commit; the next receive clears up
	default:
		r.log.once("resume token does not fit any more", "filesystem", name, "error", err)
	}
	return "", onlyExhausted(err)
}

var errReceived = fmt.Errorf("%w: it was received already", endpoint.ErrFailedPrecondition)

// checkStep says why a step can not be received, by what versions there are.
func (f *filesystem) checkStep(from, to uint64) error {
	versions, err := f.versions()
	if err != nil {
		return err
	}
	snapshots := slices.DeleteFunc(versions, func(v versionInfo) bool { return v.Bookmark })
	found := from == 0
	for _, v := range snapshots {
		if v.GUID == to {
			return fmt.Errorf("version %s@%s: %w", f.name, v.Name, errReceived)
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
	return listVersions(path, req.GetFilesystem(), r.log)
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
	stream, err := endpoint.ExpectStream(stream, endpoint.StreamDir)
	if err != nil {
		return nil, fmt.Errorf("receive %s@%s: %w", req.GetFilesystem(), req.GetTo().GetName(), err)
	}
	f, err := r.open(ctx, req.GetFilesystem(), true)
	if err != nil {
		return nil, noSpace(err)
	}
	defer f.Close()
	// Closed when the filesystem is no longer locked: a sender that pauses would keep it so.
	body := &readAhead{}
	defer body.Close()
	lock, err := f.lockSoon(ctx)
	if err != nil {
		return nil, err
	}
	defer lock.unlock()
	if req.GetClearResumeToken() {
		if err := f.dropPartial(ctx); err != nil {
			return nil, err
		}
	}
	if err := r.receive(ctx, f, req.GetTo(), stream, body); err != nil {
		return nil, fmt.Errorf("receive %s@%s: %w", req.GetFilesystem(), req.GetTo().GetName(), noSpace(err))
	}
	return &pdu.ReceiveRes{}, nil
}

// How long a receive waits for the one before it, and how often it looks: one whose
// connection has just broken still syncs what came. A sender whose stream is refused
// comes back after a pause, and sends what the sockets hold once more.
const (
	busyWait = 3 * time.Second
	busyPoll = 20 * time.Millisecond
)

// lockSoon is lock, but for whoever is about to let go.
func (f *filesystem) lockSoon(ctx context.Context) (lock *fsLock, err error) {
	err = retry(ctx, busyPoll, busyWait, func() (busy bool, err error) {
		lock, err = f.lock(ctx)
		return errors.Is(err, endpoint.ErrBusy), err
	})
	return lock, err
}

// checkReceive refuses what could never be received, before anything is made for it.
func checkReceive(req *pdu.ReceiveReq) error {
	if err := ValidateFilesystem(req.GetFilesystem()); err != nil {
		return err
	}
	if err := endpoint.CheckReceived(req.GetTo()); err != nil {
		return err
	}
	return ValidateVersion(req.GetTo().GetName())
}

// noSpace marks the error of a full disk, or of a quota that is used up.
func noSpace(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: %w", endpoint.ErrNoSpace, err)
	}
	return err
}

// receive does a step with the filesystem locked.
func (r *Receiver) receive(ctx context.Context, f *filesystem, to *pdu.FilesystemVersion, stream io.Reader, body *readAhead) error {
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
	part, err := f.beginPartial(ctx, sr.Header, r.boot)
	if err != nil {
		return err
	}
	m, err := part.build(ctx, to, sr, body)
	if err == nil {
		err = r.commit(f, m)
	}
	if err != nil {
		return errors.Join(err, part.stop(err))
	}
	return errors.Join(part.close(), r.finish(ctx, f, m))
}

// build makes the version in receivingDir, all but visible.
func (p *partial) build(ctx context.Context, to *pdu.FilesystemVersion, sr *streamReader, body *readAhead) (*Manifest, error) {
	a := &assembler{ctx: ctx, part: p, body: body, groups: map[uint64]string{}}
	if err := a.openFrom(sr.Header); err != nil {
		return nil, err
	}
	if a.fromTree != nil {
		defer a.fromTree.Close()
	}
	body.start(sr)
	if err := a.manifest(sr.Header, to); err != nil {
		return nil, err
	}
	if err := a.build(); err != nil {
		return nil, err
	}
	return a.to, errors.Join(body.Close(), sr.finish(), p.endSync())
}

// openFrom opens what the step starts from; nothing for a full step.
func (a *assembler) openFrom(h streamHeader) (err error) {
	if h.FromGUID == 0 {
		return nil
	}
	f := a.part.fs
	if a.fromInfo, err = f.versionByGUID(h.FromGUID); err != nil {
		return err
	}
	if a.from, err = f.readManifest(a.fromInfo); err != nil {
		return err
	}
	if a.from.Digest != h.FromDigest {
		return fmt.Errorf("%w: version %s differs from the sender's", endpoint.ErrFailedPrecondition, a.fromInfo.Name)
	}
	tree, err := f.openTree(a.fromInfo)
	if err != nil {
		return f.damaged(a.fromInfo, err)
	}
	a.fromTree = newTreeCursor(tree)
	return nil
}

// commit makes the version visible, held beside the one before: there is no moment
// without a hold on the newest.
func (r *Receiver) commit(f *filesystem, m *Manifest) error {
	if err := f.holdAlso(lastReceivedHoldTag(r.opts.Job), m.GUID); err != nil {
		return err
	}
	return f.commit(receivingDir+"/"+buildName, m)
}

// finish lets go of the version before, and clears away what the receive took.
func (r *Receiver) finish(ctx context.Context, f *filesystem, m *Manifest) error {
	if err := f.setHolds(lastReceivedHoldTag(r.opts.Job), m.GUID); err != nil {
		return err
	}
	err := f.hidePartial()
	f.removeLeftovers(ctx)
	return err
}
