package flow

import (
	"context"
	"fmt"
	"io"
	"net"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
)

// Options say what is put around an endpoint's streams; the zero value: nothing.
type Options struct {
	// Buffer is how many bytes each stream reads ahead at most, rounded up to
	// blocks of 256 KiB, of which there are at least two; 0: none.
	Buffer int64
	// Limit is shared by all streams, and by the endpoints that were given the same
	// one; nil: none.
	Limit *Limit
}

// none says that there is nothing to do.
func (o Options) none() bool { return o.Buffer <= 0 && o.Limit == nil }

// errClosed is why a stream ends early.
var errClosed = fmt.Errorf("stream was closed: %w", net.ErrClosed)

// Sender returns s with read-ahead and limit around what it sends; s itself if there
// is to be neither. What is returned is an endpoint.TokenReader if s is.
//
// Closing a stream may run concurrently with its Read, which then fails with
// net.ErrClosed. Of a buffered one it ends the context of the Send that opened it,
// unless the whole stream has been read ahead, and waits until s is not read any more.
func Sender(s endpoint.Sender, opts Options) endpoint.Sender {
	if opts.none() {
		return s
	}
	wrapped := sender{s, opts}
	if tokens, ok := s.(endpoint.TokenReader); ok {
		return struct {
			sender
			endpoint.TokenReader
		}{wrapped, tokens}
	}
	return wrapped
}

type sender struct {
	endpoint.Sender
	opts Options
}

// Send implements endpoint.Sender.
func (s sender) Send(ctx context.Context, req *pdu.SendReq) (*pdu.SendRes, io.ReadCloser, error) {
	ctx, end := context.WithCancelCause(ctx)
	res, program, err := s.Sender.Send(ctx, req)
	if err != nil || program == nil {
		end(err)
		return res, nil, err
	}
	return res, newSentStream(ctx, end, program, s.opts), nil
}

// A sentStream is what a Sender sends.
type sentStream struct {
	io.Reader // by way of the buffer and the limit
	program   io.ReadCloser
	ahead     *readAhead              // nil: none
	stop      context.CancelCauseFunc // ends the waits of buffer and limit
	end       context.CancelCauseFunc // ends the program, too
}

// newSentStream returns a stream that is an io.WriterTo if it is buffered or program is.
func newSentStream(ctx context.Context, end context.CancelCauseFunc, program io.ReadCloser, opts Options) io.ReadCloser {
	s := &sentStream{Reader: program, program: program, end: end}
	ctx, s.stop = context.WithCancelCause(ctx)
	if opts.Buffer > 0 {
		s.ahead = newReadAhead(ctx, program, opts.Buffer)
		s.Reader = s.ahead
	}
	s.Reader = opts.Limit.reader(ctx, s.Reader)
	if writerTo, ok := s.Reader.(io.WriterTo); ok {
		return struct {
			*sentStream
			io.WriterTo
		}{s, writerTo}
	}
	return s
}

// Close implements io.Closer. A program that has been read to its end is closed as it
// would be without us: before its context ends.
func (s *sentStream) Close() error {
	defer s.end(errClosed)
	s.stop(errClosed)
	if s.ahead != nil {
		if !s.ahead.atEnd() {
			s.end(errClosed)
		}
		s.ahead.wait()
	}
	return s.program.Close()
}

// startSize is how much of a stream a receiver may look at before it decides to take it,
// in bytes; it is not read ahead.
const startSize = 4 << 10

// Receiver returns r with limit and read-ahead around what it receives; r itself if
// there is to be neither. What is returned is an endpoint.TokenReader if r is.
//
// A buffered Receive returns once the Read of the stream that has begun has ended. It
// begins to read ahead when r has taken the start of the stream, so that what r refuses
// for its start, or because it is busy, is refused at once.
func Receiver(r endpoint.Receiver, opts Options) endpoint.Receiver {
	if opts.none() {
		return r
	}
	wrapped := receiver{r, opts}
	if tokens, ok := r.(endpoint.TokenReader); ok {
		return struct {
			receiver
			endpoint.TokenReader
		}{wrapped, tokens}
	}
	return wrapped
}

type receiver struct {
	endpoint.Receiver
	opts Options
}

// Receive implements endpoint.Receiver.
func (r receiver) Receive(ctx context.Context, req *pdu.ReceiveReq, stream io.Reader) (*pdu.ReceiveRes, error) {
	flowing, stop := context.WithCancelCause(ctx)
	stream = r.opts.Limit.reader(flowing, stream)
	if r.opts.Buffer > 0 {
		ahead := newReadAhead(flowing, stream, r.opts.Buffer)
		defer ahead.wait()
		stream = io.MultiReader(io.LimitReader(stream, startSize), ahead)
	}
	defer stop(errClosed) // before the wait
	return r.Receiver.Receive(ctx, req, stream)
}
