package btrfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
	"github.com/dualrepl/dualrepl/transport"
)

// SenderOptions configure a Sender.
type SenderOptions struct {
	// Root is a directory on btrfs. The writable subvolumes below it are the
	// filesystems, by their paths from there; it itself is RootFilesystem.
	Root string
	// Program is the btrfs program; "" is that in PATH.
	Program string
	// Job names the replication cursor and the holds. Calls that come from a client, which
	// its identity in their context tells, have cursor and holds of the client's own.
	Job string
	// Filter says which filesystems are offered; nil: all.
	Filter func(filesystem string) bool
	// Logger is told of each step, at debug level; nil: nobody is.
	Logger *slog.Logger
}

// A Sender offers the snapshots of subvolumes, and what was received below its root. It is
// an endpoint.Sender and an endpoint.TokenReader.
type Sender struct {
	opts    SenderOptions
	log     *slog.Logger
	program *program
}

var (
	_ endpoint.Sender      = (*Sender)(nil)
	_ endpoint.TokenReader = (*Sender)(nil)
)

// NewSender checks the options; it opens nothing.
func NewSender(opts SenderOptions) (*Sender, error) {
	if opts.Root == "" {
		return nil, fmt.Errorf("%w: a sender needs a root", endpoint.ErrInvalid)
	}
	if err := endpoint.ValidateVersionName(opts.Job); err != nil {
		return nil, fmt.Errorf("job: %w", err)
	}
	if opts.Filter == nil {
		opts.Filter = func(string) bool { return true }
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	log := opts.Logger.With("job", opts.Job)
	return &Sender{opts, log, newProgram(opts.Program, log)}, nil
}

// owner is whose cursor and holds a call is about.
func (s *Sender) owner(ctx context.Context) owner {
	client, _ := transport.ClientIdentityFromContext(ctx)
	return owner{s.opts.Job, client}
}

// ListFilesystems lists what is offered; nothing is a placeholder.
func (s *Sender) ListFilesystems(ctx context.Context, _ *pdu.ListFilesystemReq) (*pdu.ListFilesystemRes, error) {
	list, err := s.filesystems(ctx)
	if err != nil {
		return nil, err
	}
	res := &pdu.ListFilesystemRes{}
	for _, fs := range list {
		res.Filesystems = append(res.Filesystems, &pdu.Filesystem{Path: fs.name})
	}
	return res, nil
}

// ListFilesystemVersions lists snapshots. There are no bookmarks on btrfs.
func (s *Sender) ListFilesystemVersions(ctx context.Context, req *pdu.ListFilesystemVersionsReq) (*pdu.ListFilesystemVersionsRes, error) {
	f, exists, err := s.open(ctx, req.GetFilesystem())
	if exists && errors.Is(err, endpoint.ErrNotFound) {
		return &pdu.ListFilesystemVersionsRes{}, nil // no snapshot was taken yet
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.listVersions(s.log)
}

// DestroySnapshots refuses, in its result, a snapshot that has marks (a cursor, a hold),
// or that is being sent.
func (s *Sender) DestroySnapshots(ctx context.Context, req *pdu.DestroySnapshotsReq) (*pdu.DestroySnapshotsRes, error) {
	f, _, err := s.open(ctx, req.GetFilesystem())
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.destroySnapshots(ctx, req.GetSnapshots())
}

// ReplicationCursor tells the snapshot that the cursor of the job, or of its client that
// asks, holds. If that was destroyed by hand, there is none.
func (s *Sender) ReplicationCursor(ctx context.Context, req *pdu.ReplicationCursorReq) (*pdu.ReplicationCursorRes, error) {
	none := &pdu.ReplicationCursorRes{Result: &pdu.ReplicationCursorRes_Notexist{Notexist: true}}
	f, exists, err := s.open(ctx, req.GetFilesystem())
	if exists && errors.Is(err, endpoint.ErrNotFound) {
		return none, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	state, err := f.readState()
	if err != nil {
		return nil, err
	}
	versions, err := f.versions(s.log)
	if err != nil {
		return nil, err
	}
	v, err := find(versions, state.cursor(s.owner(ctx)))
	if errors.Is(err, endpoint.ErrNotFound) {
		return none, nil
	}
	return &pdu.ReplicationCursorRes{Result: &pdu.ReplicationCursorRes_Guid{Guid: v.guid()}}, err
}

// guarantee is what a step's request asks for.
func guarantee(req *pdu.SendReq) pdu.ReplicationGuaranteeKind {
	return endpoint.GuaranteeOf(req.GetReplicationConfig(), req.GetFrom() == nil)
}

// SendCompleted moves the replication cursor to the step's To and lets go of what was held
// for the step. With the guarantee of nothing there is no cursor afterwards.
func (s *Sender) SendCompleted(ctx context.Context, req *pdu.SendCompletedReq) (*pdu.SendCompletedRes, error) {
	step := req.GetOriginalReq()
	if step.GetTo().GetType() != pdu.FilesystemVersion_Snapshot || step.GetTo().GetGuid() == 0 {
		return nil, fmt.Errorf("%w: a completed step has a snapshot as To", endpoint.ErrInvalid)
	}
	f, _, err := s.open(ctx, step.GetFilesystem())
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := f.complete(step, s.owner(ctx), s.log); err != nil {
		return nil, err
	}
	return &pdu.SendCompletedRes{}, nil
}

// complete changes the marks as a step's end asks.
func (f *filesystem) complete(step *pdu.SendReq, of owner, log *slog.Logger) error {
	guid := step.GetTo().GetGuid()
	return f.updateState(func(st *state) error {
		versions, err := f.versions(log)
		if err != nil {
			return err
		}
		if _, err := find(versions, guid); err != nil {
			return err
		}
		st.setMarks(markStep, of)
		st.setMarks(markCursor, of)
		if guarantee(step) != pdu.ReplicationGuaranteeKind_GuaranteeNothing {
			st.setMarks(markCursor, of, guid)
		}
		return nil
	})
}

// ReadResumeToken implements endpoint.TokenReader: btrfs has no resume tokens.
func (s *Sender) ReadResumeToken(context.Context, string) (endpoint.ResumeStep, error) {
	return endpoint.ResumeStep{}, errNoTokens
}

var errNoTokens = fmt.Errorf("%w: btrfs cannot continue a broken step", endpoint.ErrStaleToken)

// SendDry estimates a step by its metadata, which the kernel goes through as for the step
// itself.
func (s *Sender) SendDry(ctx context.Context, req *pdu.SendReq) (*pdu.SendRes, error) {
	st, err := s.openStep(ctx, req, false)
	if err != nil {
		return nil, err
	}
	defer st.close()
	size, err := s.estimate(ctx, st)
	if err != nil {
		return nil, fmt.Errorf("estimate %s@%s: %w", req.GetFilesystem(), req.GetTo().GetName(), err)
	}
	return &pdu.SendRes{ExpectedSize: size}, nil
}

// Send starts a step. With the guarantee of resumability or of incremental replication,
// From and To are held until SendCompleted, or until the same job, or client of the job,
// begins another step of the filesystem.
func (s *Sender) Send(ctx context.Context, req *pdu.SendReq) (*pdu.SendRes, io.ReadCloser, error) {
	st, err := s.openStep(ctx, req, true)
	if err != nil {
		return nil, nil, err
	}
	defer st.close()
	stream, err := s.start(ctx, st)
	if err != nil {
		return nil, nil, fmt.Errorf("send %s@%s: %w", req.GetFilesystem(), req.GetTo().GetName(), err)
	}
	s.log.Debug("sending", "filesystem", req.GetFilesystem(), "from", req.GetFrom().GetName(), "to", req.GetTo().GetName(), "kind", st.kind)
	return &pdu.SendRes{}, stream, nil
}
