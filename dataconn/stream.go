package dataconn

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
)

// A buffer is the one that each running stream needs. When sending, a frame's
// payload lies behind headroom, so that it is aligned: the kernel copies into
// unaligned memory at half the speed. The header comes right before it.
type buffer [headroom + maxContent + tailroom]byte

const (
	headroom = 64 // a header, and up to where the processor's cache lines begin
	tailroom = 64 // the next header, or what compressing adds to data that cannot be
)

var buffers = sync.Pool{New: func() any { return new(buffer) }}

// An inStream is a stream that comes in. Its consumer's goroutine reads from the
// wire into its own buffer. Read and WriteTo are not safe for concurrent use.
type inStream struct {
	c       *conn
	settled atomic.Bool // it came to its end, or was given up, whichever was first
	atEnd   func()      // called after the last frame was read, unless the stream was given up
	err     error       // what Read returns from now on
}

// Read returns io.EOF after the peer's reader did, a RemoteError with the text of
// any other error that it returned, and otherwise why the connection ended.
func (s *inStream) Read(p []byte) (int, error) {
	if s.err != nil || len(p) == 0 {
		return 0, s.err
	}
	n, err := s.c.in.read(typeStream, p)
	if err != nil {
		s.finish(err)
		return n, s.err
	}
	return n, nil
}

func (s *inStream) finish(err error) {
	var remote *RemoteError
	if err == io.EOF || errors.As(err, &remote) {
		s.err = err
		if s.settled.CompareAndSwap(false, true) {
			s.atEnd()
		}
		return
	}
	s.err = s.c.fail(err)
}

// giveUp reports whether the stream had not come to its end. From then on it does not
// touch the connection when it does.
func (s *inStream) giveUp() bool { return s.settled.CompareAndSwap(false, true) }

// WriteTo copies the stream to w, through one buffer that stays in the processor's cache.
func (s *inStream) WriteTo(w io.Writer) (int64, error) {
	if s.err != nil {
		return 0, endIsNil(s.err)
	}
	n, readErr, writeErr := s.c.in.writeTo(w, typeStream)
	if readErr != nil {
		s.finish(readErr)
		return n, endIsNil(s.err)
	}
	return n, writeErr
}

func endIsNil(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}

// A receivedStream is what a client's Send returns.
type receivedStream struct {
	inStream
	attempt *attempt
}

// Close leaves the connection alone after the stream's end; before, it ends it at once,
// without reading what is still under way. It may run concurrently with Read, which
// then returns an error. It always succeeds.
func (s *receivedStream) Close() error {
	if s.giveUp() {
		s.attempt.abandon(errStreamClosed)
	}
	return nil
}

// An outStream gathers what the Reads of a source return, so that it goes out in
// large frames. What has been gathered when the source pauses, keep sends: the
// source's goroutine is busy with its Read then.
type outStream struct {
	buf    *buffer
	unsent atomic.Int64 // payload bytes that have been gathered and not been sent
	sent   int          // payload bytes before those; the writer's
	packer packer       // the writer's, and the source's goroutine's while unsent is 0
}

// sendStream sends what r reads, until it ends or ctx does: an error that r returns
// then is not the peer's business. Any other error of r goes to readFailed before it
// goes to the peer; the error returned is the connection's.
func (c *conn) sendStream(ctx context.Context, r io.Reader, readFailed func(error)) error {
	c.out.buf = buffers.Get().(*buffer)
	c.out.packer = newPacker(c.features)
	defer c.dropGathered()
	for {
		err := c.gather(r)
		if ctx.Err() != nil {
			return c.fail(causeOf(ctx))
		}
		if c.ctx.Err() != nil {
			return context.Cause(c.ctx)
		}
		if werr := c.flush(); werr != nil {
			return werr
		}
		if err == io.EOF {
			return c.writeLast(appendHeader(nil, typeEnd, 0))
		}
		if err != nil {
			readFailed(err)
			return c.writeLast(appendMessage(nil, typeTrailer, c.errorPayload(err)))
		}
	}
}

// gather reads until there is enough for a frame, r fails or the connection ends.
func (c *conn) gather(r io.Reader) (err error) {
	p := c.out.buf[headroom:][:frameSize]
	enough := c.out.packer.enough()
	for n, empty := 0, 0; n < enough && err == nil && c.ctx.Err() == nil; {
		var m int
		m, err = r.Read(p[n:])
		n += m
		c.out.unsent.Add(int64(m))
		if empty++; m > 0 {
			empty = 0
		} else if empty == maxEmptyReads && err == nil {
			err = io.ErrNoProgress
		}
	}
	return err
}

// flush sends what is left of what has been gathered, and makes room.
func (c *conn) flush() error {
	c.writer <- struct{}{}
	defer c.release()
	err := c.sendGathered()
	c.out.sent = 0
	return err
}

// sendGathered is for the writer. It sends what has been gathered as a frame.
func (c *conn) sendGathered() error {
	n := int(c.out.unsent.Load())
	if n == 0 {
		return c.writeErr
	}
	err := c.sendData(headroom+c.out.sent, n)
	c.out.sent += n
	c.out.unsent.Add(int64(-n))
	return err
}

// sendData is for the writer. It sends n bytes of the stream, which lie at out.buf[at:].
func (c *conn) sendData(at, n int) error {
	packed, size := c.out.packer.pack(c.out.buf[at:][:n])
	if packed == nil {
		return c.sendFrame(typeStream, c.out.buf, at, n)
	}
	defer buffers.Put(packed)
	return c.sendFrame(typeCompressed, packed, headroom, size)
}

// sendFrame is for the writer. The payload is n bytes at buf[at:]; the header takes the
// place of what lies before: headroom, or bytes that have been sent.
func (c *conn) sendFrame(typ frameType, buf *buffer, at, n int) error {
	size := c.sum.headerSize()
	frame := buf[at-size : at+n]
	c.sum.putHeader(frame[:size], typ, n)
	c.sum.add(frame[size:])
	return c.writeOut(frame)
}

// dropGathered gives the buffer back, once keep has no use for it any more.
func (c *conn) dropGathered() {
	c.writer <- struct{}{}
	defer c.release()
	c.out.unsent.Store(0)
	buffers.Put(c.out.buf)
}
