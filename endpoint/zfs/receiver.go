package zfs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
)

// How placeholders are encrypted, which cannot be changed once they are there.
const (
	// PlaceholderUnspecified makes placeholders where their parent is not encrypted, so
	// that there is nothing to choose; elsewhere only the client's root, as if inherited.
	PlaceholderUnspecified = "unspecified"
	// PlaceholderOff makes placeholders that are not encrypted: what is received below
	// them is encrypted only if it was sent raw.
	PlaceholderOff = "off"
	// PlaceholderInherit makes placeholders that are encrypted as their parent is: what is
	// received below them and was not sent raw is, too, as long as the key is loaded.
	PlaceholderInherit = "inherit"
)

// ReceiverOptions configure a Receiver.
type ReceiverOptions struct {
	// Program is the path of zfs; "": the one in PATH.
	Program string
	// Job names the hold on the version received last.
	Job string
	// RootFS is the dataset below which everything is received. It must exist.
	RootFS string
	// PerClient keeps each client below RootFS/<client identity>. The identity is that of
	// the call's context; a call without is refused.
	PerClient bool
	// Logger is told of each process, at debug level; nil: nobody is.
	Logger *slog.Logger

	// Inherit are properties that a received dataset inherits, whatever the stream says (-x).
	Inherit []string
	// Override are properties that a received dataset gets, whatever the stream says (-o).
	// Those that only filesystems have are left out for volumes.
	Override map[string]string
	// PlaceholderEncryption is one of the constants; "": PlaceholderUnspecified.
	PlaceholderEncryption string
}

func (o *ReceiverOptions) check() error {
	if err := validateJob(o.Job); err != nil {
		return err
	}
	if err := checkDataset(o.RootFS); err != nil {
		return fmt.Errorf("root_fs: %w", err)
	}
	for name := range o.Override {
		if slices.Contains(o.Inherit, name) {
			return fmt.Errorf("%w: the property %q is both inherited and overridden", endpoint.ErrInvalid, name)
		}
	}
	if _, ok := o.Override[placeholderProperty]; ok || slices.Contains(o.Inherit, placeholderProperty) {
		return fmt.Errorf("%w: the property %s marks placeholders and cannot be set", endpoint.ErrInvalid, placeholderProperty)
	}
	switch o.PlaceholderEncryption {
	case "", PlaceholderUnspecified, PlaceholderOff, PlaceholderInherit:
		return nil
	}
	return fmt.Errorf("%w: encryption of placeholders %q: unspecified, off or inherit", endpoint.ErrInvalid, o.PlaceholderEncryption)
}

// A Receiver keeps what senders send below one dataset. It is an endpoint.Receiver and
// an endpoint.TokenReader.
type Receiver struct {
	opts      ReceiverOptions
	program   *program
	lister    *versionLister
	receiving keyedLock // datasets that are being received into
	placing   keyedLock // the hierarchy, under one key: of two receives one makes their common parents
}

var (
	_ endpoint.Receiver    = (*Receiver)(nil)
	_ endpoint.TokenReader = (*Receiver)(nil)
)

// NewReceiver checks the options; it starts nothing.
func NewReceiver(opts ReceiverOptions) (*Receiver, error) {
	if err := opts.check(); err != nil {
		return nil, err
	}
	p := newProgram(opts.Program, opts.Logger)
	return &Receiver{opts: opts, program: p, lister: newVersionLister(p)}, nil
}

// clientRoot is the dataset below which the call's client sees and makes datasets.
func (r *Receiver) clientRoot(ctx context.Context) (string, error) {
	if !r.opts.PerClient {
		return r.opts.RootFS, nil
	}
	id, err := endpoint.ClientIdentity(ctx)
	if err != nil {
		return "", err
	}
	if err := endpoint.ValidateVersionName(id); err != nil {
		return "", fmt.Errorf("%w: client identity %q cannot be the name of a dataset: %w", endpoint.ErrPermission, id, err)
	}
	return r.opts.RootFS + "/" + id, nil
}

// target is the dataset of a filesystem that a request names.
func (r *Receiver) target(ctx context.Context, filesystem string) (string, error) {
	root, err := r.clientRoot(ctx)
	if err != nil {
		return "", err
	}
	if err := endpoint.ValidateFilesystem(filesystem); err != nil {
		return "", err
	}
	name := root + "/" + filesystem
	return name, endpoint.ValidateFilesystem(name) // for its length
}

// ListFilesystems lists all below the client's root. A client that never sent anything
// has none.
func (r *Receiver) ListFilesystems(ctx context.Context, _ *pdu.ListFilesystemReq) (*pdu.ListFilesystemRes, error) {
	root, err := r.clientRoot(ctx)
	if err != nil {
		return nil, err
	}
	datasets, err := r.program.datasets(ctx, true, root)
	if errors.Is(err, endpoint.ErrNotFound) {
		datasets, err = nil, r.checkRoot(ctx)
	}
	if err != nil {
		return nil, err
	}
	res := &pdu.ListFilesystemRes{StreamKinds: []string{string(endpoint.StreamZFS)}}
	var names []string
	for _, d := range datasets {
		if path, ok := strings.CutPrefix(d.name, root+"/"); ok {
			names = append(names, d.name)
			res.Filesystems = append(res.Filesystems, &pdu.Filesystem{Path: path, IsPlaceholder: d.placeholder, ResumeToken: d.token})
		}
	}
	r.lister.listed(root, names)
	return res, nil
}

// checkRoot returns an error if there is no RootFS.
func (r *Receiver) checkRoot(ctx context.Context) error {
	_, err := r.program.datasets(ctx, false, r.opts.RootFS)
	if errors.Is(err, endpoint.ErrNotFound) {
		return r.noRoot()
	}
	return err
}

func (r *Receiver) noRoot() error {
	return fmt.Errorf("%w: root_fs does not exist: %s", endpoint.ErrNotFound, r.opts.RootFS)
}

// ListFilesystemVersions lists snapshots and bookmarks. After ListFilesystems, asking for
// filesystems in the order of its answer starts one process for many of them.
func (r *Receiver) ListFilesystemVersions(ctx context.Context, req *pdu.ListFilesystemVersionsReq) (*pdu.ListFilesystemVersionsRes, error) {
	name, err := r.target(ctx, req.GetFilesystem())
	if err != nil {
		return nil, err
	}
	versions, err := r.lister.versions(ctx, name)
	if err != nil {
		return nil, err
	}
	return &pdu.ListFilesystemVersionsRes{Versions: pduVersions(versions)}, nil
}

// DestroySnapshots says in the result of a snapshot that has holds which these are.
func (r *Receiver) DestroySnapshots(ctx context.Context, req *pdu.DestroySnapshotsReq) (*pdu.DestroySnapshotsRes, error) {
	name, err := r.target(ctx, req.GetFilesystem())
	if err != nil {
		return nil, err
	}
	defer r.lister.changed(name)
	return r.program.destroySnapshots(ctx, name, req.GetSnapshots())
}

// SendCompleted does nothing: Receive has done all.
func (r *Receiver) SendCompleted(context.Context, *pdu.SendCompletedReq) (*pdu.SendCompletedRes, error) {
	return &pdu.SendCompletedRes{}, nil
}

// ReplicationCursor is endpoint.ErrUnimplemented: only senders have one.
func (r *Receiver) ReplicationCursor(context.Context, *pdu.ReplicationCursorReq) (*pdu.ReplicationCursorRes, error) {
	return nil, fmt.Errorf("%w: a receiver has no replication cursor", endpoint.ErrUnimplemented)
}

// ReadResumeToken has zfs read the token.
func (r *Receiver) ReadResumeToken(ctx context.Context, token string) (endpoint.ResumeStep, error) {
	return r.program.readResumeStep(ctx, token)
}

// keyedLock is a lock for each of many things. Its zero value is ready.
type keyedLock struct {
	mu   sync.Mutex
	held map[string]chan struct{} // closed when it is let go
}

// lock waits for the lock until ctx ends; the error is then its cause.
func (l *keyedLock) lock(ctx context.Context, key string) (unlock func(), err error) {
	for {
		mine := make(chan struct{})
		others := l.take(key, mine)
		if others == nil {
			return func() { l.release(key, mine) }, nil
		}
		select {
		case <-others:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// take returns nil if the lock is now the caller's, else what is closed when it may be
// worth trying again.
func (l *keyedLock) take(key string, mine chan struct{}) (others chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if others := l.held[key]; others != nil {
		return others
	}
	if l.held == nil {
		l.held = map[string]chan struct{}{}
	}
	l.held[key] = mine
	return nil
}

func (l *keyedLock) release(key string, mine chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.held, key)
	close(mine)
}

// busyWait is how long a receive waits for the one before it into the same dataset: one
// whose connection has just broken still writes down what came.
const busyWait = 3 * time.Second

// lockTarget lets one receive at a time into a dataset: endpoint.ErrBusy.
func (r *Receiver) lockTarget(ctx context.Context, name string) (unlock func(), err error) {
	busy := fmt.Errorf("%w: another step is being received", endpoint.ErrBusy)
	ctx, cancel := context.WithTimeoutCause(ctx, busyWait, busy)
	defer cancel()
	return r.receiving.lock(ctx, name)
}
