package zfs

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/dualrepl/dualrepl/endpoint/internal/pipe"
)

// sendStream is the output of a zfs send.
type sendStream struct {
	ctx     context.Context // ends with Close, too
	cancel  context.CancelCauseFunc
	out     *os.File
	process *process
}

// openStream starts zfs. It calls release when the process has ended, and before Read
// tells so; if it fails, it does not.
func (p *program) openStream(ctx context.Context, sendArgs []string, release func()) (*sendStream, error) {
	out, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("pipe from zfs: %w", err)
	}
	defer w.Close()
	pipe.Enlarge(out)
	s := &sendStream{out: out}
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	cmd := p.command(s.ctx, sendArgs...)
	cmd.Stdout = w
	if s.process, err = p.start(s.ctx, cmd, release); err != nil {
		s.cancel(nil)
		out.Close()
		return nil, err
	}
	// A zfs that the kernel does not let die would keep a Read waiting.
	context.AfterFunc(s.ctx, func() { out.Close() })
	return s, nil
}

// Read returns io.EOF only if zfs has succeeded: otherwise, at the end of what it has
// sent, a *CommandError.
func (s *sendStream) Read(p []byte) (int, error) {
	n, err := s.out.Read(p)
	switch {
	case err == nil:
		return n, nil
	case s.ctx.Err() != nil:
		return n, fmt.Errorf("send: %w", context.Cause(s.ctx))
	case err != io.EOF:
		return n, fmt.Errorf("send: %w", err)
	}
	if err := s.process.wait(); err != nil {
		return n, err
	}
	return n, io.EOF
}

// WriteTo implements io.WriterTo, with large reads.
func (s *sendStream) WriteTo(w io.Writer) (int64, error) {
	return io.CopyBuffer(w, struct{ io.Reader }{s}, make([]byte, pipe.Size))
}

// Close ends zfs if it is still sending, and waits for its end.
func (s *sendStream) Close() error {
	s.cancel(os.ErrClosed)
	_ = s.process.wait() // its error is of being ended, or was Read's
	return nil
}
