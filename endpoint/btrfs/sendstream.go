package btrfs

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/endpoint/internal/pipe"
	"github.com/dualrepl/dualrepl/pdu"
)

// step is a transfer with both its ends open.
type step struct {
	kind  endpoint.StreamKind
	files []*os.File // To and, of an incremental step, From
}

func (st *step) close() {
	for _, f := range st.files {
		f.Close()
	}
}

// openStep finds the versions that req names. Those of one that is to be sent are held as
// its guarantee asks.
func (s *Sender) openStep(ctx context.Context, req *pdu.SendReq, send bool) (*step, error) {
	if req.GetResumeToken() != "" {
		return nil, errNoTokens
	}
	kind, err := s.streamKind(req.GetStreamKinds())
	if err != nil {
		return nil, err
	}
	f, _, err := s.open(ctx, req.GetFilesystem())
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st := &step{kind: kind}
	if !send {
		err = f.openEnds(st, req, s.log)
	} else {
		err = f.updateState(func(state *state) error {
			state.setMarks(markStep, s.owner(ctx), toHold(req)...)
			return f.openEnds(st, req, s.log)
		})
	}
	if err != nil {
		st.close()
		return nil, fmt.Errorf("send %s@%s: %w", f.name, req.GetTo().GetName(), err)
	}
	return st, nil
}

// streamKind chooses version 2 of the protocol if all that take part know it.
func (s *Sender) streamKind(receiver []string) (endpoint.StreamKind, error) {
	if kernelVersion2() && s.program.version2() {
		return endpoint.MatchStreamKind(receiver, endpoint.StreamBtrfs2, endpoint.StreamBtrfs)
	}
	return endpoint.MatchStreamKind(receiver, endpoint.StreamBtrfs)
}

// toHold returns the GUIDs that the step's marks are on: both its ends, whichever the
// receiver will turn out to have. Without bookmarks, and without resuming, the guarantees of
// resumability and of incremental replication come down to the same.
func toHold(req *pdu.SendReq) []uint64 {
	switch guarantee(req) {
	case pdu.ReplicationGuaranteeKind_GuaranteeResumability, pdu.ReplicationGuaranteeKind_GuaranteeIncrementalReplication:
	default:
		return nil
	}
	guids := []uint64{req.GetTo().GetGuid()}
	if req.GetFrom() != nil {
		guids = append(guids, req.GetFrom().GetGuid())
	}
	return guids
}

// openEnds opens To and From of a step.
func (f *filesystem) openEnds(st *step, req *pdu.SendReq, log *slog.Logger) error {
	to := req.GetTo()
	if to == nil || to.GetType() != pdu.FilesystemVersion_Snapshot {
		return fmt.Errorf("%w: only a snapshot can be sent", endpoint.ErrInvalid)
	}
	versions, err := f.versions(log)
	if err != nil {
		return err
	}
	v, err := find(versions, to.GetGuid())
	if err == nil && v.name != to.GetName() {
		err = fmt.Errorf("%w: the version with GUID %#x is %s", endpoint.ErrNotFound, to.GetGuid(), v.name)
	}
	if err != nil {
		return err
	}
	if err := f.openEnd(st, v); err != nil || req.GetFrom() == nil {
		return err
	}
	from, err := find(versions, req.GetFrom().GetGuid())
	if err == nil && from.txg >= v.txg {
		err = fmt.Errorf("%w: From is not older than To", endpoint.ErrInvalid)
	}
	if err != nil {
		return err
	}
	return f.openEnd(st, from)
}

func (f *filesystem) openEnd(st *step, v version) error {
	dir, _, err := f.openVersion(v.name)
	if err == nil {
		st.files = append(st.files, dir)
	}
	return err
}

// args are those of the program for the step.
func (st *step) args(options ...string) []string {
	args := append([]string{"send", "--quiet"}, options...)
	if len(st.files) > 1 {
		args = append(args, "-p", descriptor(1))
	}
	return append(args, descriptor(0))
}

// start starts the program.
func (s *Sender) start(ctx context.Context, st *step) (*sendStream, error) {
	var options []string
	if st.kind == endpoint.StreamBtrfs2 {
		options = []string{"--proto", "2", "--compressed-data"}
	}
	return s.startWith(ctx, st, options...)
}

func (s *Sender) startWith(ctx context.Context, st *step, options ...string) (*sendStream, error) {
	r := s.program.command(ctx, st.files, st.args(options...)...)
	out, err := r.StdoutPipe()
	if err != nil {
		return nil, err
	}
	pipe.Enlarge(out)
	if err := r.start(); err != nil {
		return nil, err
	}
	return &sendStream{run: r, out: out}, nil
}

// estimate adds up what a step's data takes, uncompressed, and its metadata.
func (s *Sender) estimate(ctx context.Context, st *step) (uint64, error) {
	stream, err := s.startWith(ctx, st, "--no-data")
	if err != nil {
		return 0, err
	}
	defer stream.Close()
	start := make([]byte, streamHeaderBytes)
	if _, err := io.ReadFull(stream, start); err != nil {
		return 0, err
	}
	commands := newCommandReader(stream, 1)
	size := uint64(len(start))
	for {
		c, err := commands.next()
		if err == io.EOF {
			return size, nil
		}
		if err != nil {
			return 0, err
		}
		size += uint64(len(c.data)) + c.extentBytes()
	}
}

// sendStream is what a running program sends.
type sendStream struct {
	run *run
	out io.ReadCloser

	mu  sync.Mutex // Close waits for a Read, after it has ended the program
	err error      // sticky; set once the program was waited for
}

// Read returns io.EOF only if the program says that this was all.
func (s *sendStream) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return 0, s.err
	}
	n, err := s.out.Read(p)
	if err != nil {
		s.end(err)
		err = s.err
	}
	return n, err
}

// WriteTo implements io.WriterTo: the program's pipe is copied as the system does best.
func (s *sendStream) WriteTo(w io.Writer) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return 0, noEOF(s.err)
	}
	n, err := io.Copy(w, s.out)
	if err != nil && s.run.ctx.Err() == nil {
		return n, err
	}
	s.end(io.EOF)
	return n, noEOF(s.err)
}

func noEOF(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}

// end waits for the program, whose pipe gave err.
func (s *sendStream) end(err error) {
	if s.err = s.run.wait(); s.err == nil {
		s.err = err
	}
}

// Close ends the program. It may be called at any time, and again.
func (s *sendStream) Close() error {
	s.run.cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.end(os.ErrClosed)
		s.err = os.ErrClosed
	}
	return nil
}
