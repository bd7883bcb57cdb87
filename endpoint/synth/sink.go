package synth

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
)

// Sink is an endpoint.Receiver of generated data: it remembers versions and resume
// tokens, not content. Its zero value is empty and verifies every byte.
type Sink struct {
	store
	// Discard takes any content of the right length, unseen. Set it before use.
	Discard bool
}

var (
	_ endpoint.Receiver    = (*Sink)(nil)
	_ endpoint.TokenReader = (*Sink)(nil)
)

// ListFilesystems implements endpoint.Endpoint.
func (s *Sink) ListFilesystems(ctx context.Context, req *pdu.ListFilesystemReq) (*pdu.ListFilesystemRes, error) {
	res, err := s.store.ListFilesystems(ctx, req)
	if err == nil {
		res.StreamKinds = []string{string(endpoint.StreamSynth)}
	}
	return res, err
}

// SendCompleted implements endpoint.Endpoint.
func (s *Sink) SendCompleted(ctx context.Context, _ *pdu.SendCompletedReq) (*pdu.SendCompletedRes, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return &pdu.SendCompletedRes{}, nil
}

// ReplicationCursor implements endpoint.Endpoint.
func (s *Sink) ReplicationCursor(context.Context, *pdu.ReplicationCursorReq) (*pdu.ReplicationCursorRes, error) {
	return nil, fmt.Errorf("replication cursor of a receiver: %w", endpoint.ErrUnimplemented)
}

// Receive implements endpoint.Receiver. Where the stream breaks, what came so far
// can be resumed.
func (s *Sink) Receive(ctx context.Context, req *pdu.ReceiveReq, stream io.Reader) (*pdu.ReceiveRes, error) {
	if err := checkReceive(ctx, req); err != nil {
		return nil, err
	}
	stream, err := endpoint.ExpectStream(stream, endpoint.StreamSynth)
	if err != nil {
		return nil, err
	}
	fs, err := s.lock(req)
	if err != nil {
		return nil, err
	}
	defer s.unlock(req.Filesystem)
	st, err := readHeader(stream)
	if err != nil {
		return nil, err
	}
	body, err := s.begin(fs, req, st)
	if err != nil {
		return nil, err
	}
	err = body.copyFrom(ctx, stream)
	return &pdu.ReceiveRes{}, s.end(fs, req.To, body, err)
}

func checkReceive(ctx context.Context, req *pdu.ReceiveReq) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := endpoint.ValidateFilesystem(req.GetFilesystem()); err != nil {
		return err
	}
	if to := req.GetTo(); to == nil || to.Type != pdu.FilesystemVersion_Snapshot || to.Guid == 0 {
		return fmt.Errorf("%w: To %v is not a snapshot with a GUID", endpoint.ErrInvalid, to)
	}
	return endpoint.ValidateVersionName(req.To.Name)
}

// lock makes the caller the only one that receives into the filesystem.
func (s *Sink) lock(req *pdu.ReceiveReq) (*filesystem, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fs := s.create(req.Filesystem)
	if fs.receiving {
		return nil, fmt.Errorf("filesystem %q is being received: %w", req.Filesystem, endpoint.ErrBusy)
	}
	if req.ClearResumeToken {
		fs.partial = nil
	}
	fs.receiving = true
	return fs, nil
}

// unlock also forgets a filesystem of which nothing arrived.
func (s *Sink) unlock(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fs := s.filesystems[path]
	fs.receiving = false
	if len(fs.snapshots) == 0 && fs.partial == nil {
		delete(s.filesystems, path)
	}
}

// begin checks that the step fits what is here and takes up its body.
func (s *Sink) begin(fs *filesystem, req *pdu.ReceiveReq, st step) (*body, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	to := req.To
	if st.to != to.Guid {
		return nil, fmt.Errorf("%w: the stream is of version %x, not %x", endpoint.ErrInvalid, st.to, to.Guid)
	}
	if err := fs.checkAppend(to, st.from); err != nil {
		return nil, err
	}
	if st.offset > 0 && (fs.partial == nil || *fs.partial != st) {
		return nil, fmt.Errorf("%w: the stream continues another step", endpoint.ErrStaleToken)
	}
	b := &body{step: st, fault: s.takeFault(req.Filesystem)}
	if !s.Discard {
		b.check = NewChecker(st.to, st.offset)
	}
	return b, nil
}

// checkAppend wants from (0: none) to be the newest version and to to be new.
func (fs *filesystem) checkAppend(to *pdu.FilesystemVersion, from uint64) error {
	var newest uint64
	for _, snap := range fs.snapshots {
		if snap.Guid == to.Guid || snap.Name == to.Name {
			return fmt.Errorf("%w: snapshot %q exists", endpoint.ErrFailedPrecondition, snap.Name)
		}
		newest = snap.Guid
	}
	if from != newest {
		return fmt.Errorf("%w: the step starts from %x, the newest version is %x", endpoint.ErrFailedPrecondition, from, newest)
	}
	return nil
}

// end commits the version, or keeps what can be resumed.
func (s *Sink) end(fs *filesystem, to *pdu.FilesystemVersion, b *body, err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	fs.partial = nil
	if err == nil {
		fs.add(to.Name, to.Guid, b.size)
		return nil
	}
	if b.offset > 0 && !errors.Is(err, ErrMismatch) {
		fs.partial = &b.step
	}
	return fmt.Errorf("receive %q: %w", to.Name, err)
}

// body takes a step's content; step.offset moves as it arrives.
type body struct {
	step
	check *Checker // nil: content is discarded
	fault fault
	ctx   context.Context
}

func (b *body) copyFrom(ctx context.Context, stream io.Reader) error {
	b.ctx = ctx
	var buf []byte // a stream that writes itself needs none
	if _, ok := stream.(io.WriterTo); !ok {
		buf = make([]byte, blockSize)
	}
	if _, err := io.CopyBuffer(b, stream, buf); err != nil {
		return err
	}
	if b.offset < b.size {
		return fmt.Errorf("stream ends at byte %d of %d: %w", b.offset, b.size, io.ErrUnexpectedEOF)
	}
	return nil
}

// Write implements io.Writer.
func (b *body) Write(p []byte) (int, error) {
	if b.ctx.Err() != nil {
		return 0, context.Cause(b.ctx)
	}
	if int64(len(p)) > b.size-b.offset {
		return 0, fmt.Errorf("%w: more than %d bytes of content", ErrMismatch, b.size)
	}
	var fault error
	if b.fault.err != nil && b.offset+int64(len(p)) >= b.fault.offset {
		p, fault = p[:max(0, b.fault.offset-b.offset)], b.fault.err
	}
	if b.check != nil {
		if n, err := b.check.Write(p); err != nil {
			return n, err
		}
	}
	b.offset += int64(len(p))
	return len(p), fault
}
