package btrfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
	"golang.org/x/sys/unix"
)

// ReceiverOptions configure a Receiver.
type ReceiverOptions struct {
	Root    string // directory on btrfs; made if need be
	Program string // the btrfs program; "" is that in PATH
	// PerClient gives each client a directory of its own, Root/<client identity>. The
	// identity is that of the call's context; a call without is refused.
	PerClient bool
	Job       string       // names the hold on the version received last
	Logger    *slog.Logger // nil: discard
}

// Receiver makes versions out of streams of `btrfs send`. It is an endpoint.Receiver and
// an endpoint.TokenReader.
type Receiver struct {
	opts    ReceiverOptions
	log     *slog.Logger
	program *program
}

var (
	_ endpoint.Receiver    = (*Receiver)(nil)
	_ endpoint.TokenReader = (*Receiver)(nil)
)

// NewReceiver returns a receiver, which has nothing to close. What interrupted receives left
// below the root it destroys; that it could not is logged, and tried again by the next
// receive of that filesystem.
func NewReceiver(opts ReceiverOptions) (*Receiver, error) {
	if opts.Root == "" {
		return nil, fmt.Errorf("%w: a receiver needs a root", endpoint.ErrInvalid)
	}
	if err := endpoint.ValidateVersionName(opts.Job); err != nil {
		return nil, fmt.Errorf("job: %w", err)
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	log := opts.Logger.With("job", opts.Job)
	r := &Receiver{opts, log, newProgram(opts.Program, log)}
	r.clean()
	return r, nil
}

// clean destroys what interrupted receives left.
func (r *Receiver) clean() {
	root, err := openRoot(r.opts.Root)
	if err != nil {
		return // nothing was received yet, or the disk is not there: calls will tell
	}
	defer root.Close()
	if !r.opts.PerClient {
		r.cleanBelow(root)
		return
	}
	clients, err := root.entries()
	if err != nil {
		r.log.Warn("cannot look for interrupted receives", "err", err)
	}
	for _, c := range clients {
		if c.Name() == metaDir {
			continue // a sender's
		}
		if dir, err := root.child(c.Name(), false); err == nil {
			r.cleanBelow(dir)
			dir.Close()
		}
	}
}

func (r *Receiver) cleanBelow(dir *folder) {
	infos, err := dir.list()
	for _, info := range infos {
		if !info.placeholder {
			err = errors.Join(err, cleanOne(dir, info.name))
		}
	}
	if err != nil {
		r.log.Warn("interrupted receives could not be destroyed", "err", err)
	}
}

func cleanOne(dir *folder, name string) error {
	f, err := dir.openFilesystem(name, false)
	if err != nil {
		return err
	}
	defer f.Close()
	lock, err := f.flock(receiveLock, unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil // it is under way
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	return f.destroyReceiving()
}

// open opens the directory that the call is about; endpoint.ErrNotFound without create.
func (r *Receiver) open(ctx context.Context, create bool) (*folder, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	client, err := r.client(ctx)
	if err != nil {
		return nil, err
	}
	if create {
		if err := os.MkdirAll(r.opts.Root, 0o700); err != nil {
			return nil, fmt.Errorf("root: %w", kernelError(err))
		}
	}
	root, err := openRoot(r.opts.Root)
	if err != nil || client == "" {
		return root, err
	}
	defer root.Close()
	return root.child(client, create)
}

// client is "" where all clients have one directory.
func (r *Receiver) client(ctx context.Context) (string, error) {
	if !r.opts.PerClient {
		return "", nil
	}
	id, err := endpoint.ClientIdentity(ctx)
	if err != nil {
		return "", err
	}
	if id == metaDir { // a sender's, should it have the same root
		return "", fmt.Errorf("%w: a client cannot be called %s", endpoint.ErrPermission, metaDir)
	}
	return id, nil
}

// openFilesystem opens one filesystem of the call's directory.
func (r *Receiver) openFilesystem(ctx context.Context, name string, create bool) (*filesystem, error) {
	if err := validateFilesystem(name); err != nil {
		return nil, err
	}
	dir, err := r.open(ctx, create)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return dir.openFilesystem(name, create)
}

// streamKinds are the streams that the program understands.
func (r *Receiver) streamKinds() []endpoint.StreamKind {
	if r.program.version2() {
		return []endpoint.StreamKind{endpoint.StreamBtrfs2, endpoint.StreamBtrfs}
	}
	return []endpoint.StreamKind{endpoint.StreamBtrfs}
}

// ListFilesystems implements endpoint.Endpoint. No filesystem has a resume token.
func (r *Receiver) ListFilesystems(ctx context.Context, _ *pdu.ListFilesystemReq) (*pdu.ListFilesystemRes, error) {
	res := &pdu.ListFilesystemRes{}
	for _, kind := range r.streamKinds() {
		res.StreamKinds = append(res.StreamKinds, string(kind))
	}
	dir, err := r.open(ctx, false)
	if errors.Is(err, endpoint.ErrNotFound) {
		return res, nil // nothing was received yet
	}
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	infos, err := dir.list()
	for _, info := range infos {
		res.Filesystems = append(res.Filesystems, &pdu.Filesystem{Path: info.name, IsPlaceholder: info.placeholder})
	}
	return res, err
}

// ListFilesystemVersions implements endpoint.Endpoint. A placeholder has none.
func (r *Receiver) ListFilesystemVersions(ctx context.Context, req *pdu.ListFilesystemVersionsReq) (*pdu.ListFilesystemVersionsRes, error) {
	if err := validateFilesystem(req.GetFilesystem()); err != nil {
		return nil, err
	}
	dir, err := r.open(ctx, false)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	f, err := dir.openFilesystem(req.GetFilesystem(), false)
	if errors.Is(err, endpoint.ErrNotFound) && dir.has(req.GetFilesystem()) {
		return &pdu.ListFilesystemVersionsRes{}, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.listVersions(r.log)
}

// DestroySnapshots implements endpoint.Endpoint. It refuses, in its result, the version
// received last, and what a sender holds that sends it on.
func (r *Receiver) DestroySnapshots(ctx context.Context, req *pdu.DestroySnapshotsReq) (*pdu.DestroySnapshotsRes, error) {
	f, err := r.openFilesystem(ctx, req.GetFilesystem(), false)
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

// ReadResumeToken implements endpoint.TokenReader: btrfs has no resume tokens.
func (r *Receiver) ReadResumeToken(context.Context, string) (endpoint.ResumeStep, error) {
	return endpoint.ResumeStep{}, errNoTokens
}

// Receive implements endpoint.Receiver. A broken one leaves nothing behind but the
// filesystem's empty directory.
func (r *Receiver) Receive(ctx context.Context, req *pdu.ReceiveReq, stream io.Reader) (*pdu.ReceiveRes, error) {
	in := &incoming{to: req.GetTo(), owner: owner{Job: r.opts.Job}, program: r.program}
	created, err := in.checkRequest(req)
	if err != nil {
		return nil, err
	}
	in.created = created
	if err := r.receive(ctx, in, req.GetFilesystem(), stream); err != nil {
		return nil, fmt.Errorf("receive %s@%s: %w", req.GetFilesystem(), in.to.GetName(), err)
	}
	r.log.Debug("received", "filesystem", req.GetFilesystem(), "to", in.to.GetName(), "version", in.stream.commands.version)
	return &pdu.ReceiveRes{}, nil
}

// receive makes nothing before it knows that the stream is of the version that is asked
// for, and that what the step starts from is here.
func (r *Receiver) receive(ctx context.Context, in *incoming, name string, stream io.Reader) error {
	stream, err := endpoint.ExpectStream(stream, r.streamKinds()...)
	if err != nil {
		return err
	}
	if err := in.begin(stream); err != nil {
		return err
	}
	if err := r.precheck(ctx, in, name); err != nil {
		return err
	}
	f, err := r.openFilesystem(ctx, name, true)
	if err != nil {
		return err
	}
	defer f.Close()
	return in.receive(ctx, f)
}

// precheck is checkStep for what may not be there yet.
func (r *Receiver) precheck(ctx context.Context, in *incoming, name string) error {
	f, err := r.openFilesystem(ctx, name, false)
	if errors.Is(err, endpoint.ErrNotFound) {
		return in.checkStep(nil)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	versions, err := f.versions(r.log)
	if err != nil {
		return err
	}
	return in.checkStep(versions)
}
