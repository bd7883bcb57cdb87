package dataconn

import (
	"errors"
	"io"
	"sync"
)

// A buffer is the one that each running stream needs. When sending, a frame's
// payload lies behind headroom, so that it is aligned: the kernel copies into
// unaligned memory at half the speed. The header comes right before it.
type buffer [headroom + frameSize]byte

const headroom = 64

var buffers = sync.Pool{New: func() any { return new(buffer) }}

// An inStream is a stream that comes in. Its consumer's goroutine reads from the
// wire into its own buffer. Read and WriteTo are not safe for concurrent use.
type inStream struct {
	c     *conn
	atEnd func() // called once, after the last frame was read
	err   error  // what Read returns from now on
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
		s.atEnd()
		return
	}
	s.err = s.c.fail(err)
}

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
}

// Close ends the connection: in order after the stream's end, and at once before,
// without reading what is still under way. It may run concurrently with Read, which
// then returns an error. It always succeeds.
func (s *receivedStream) Close() error {
	if s.c.isClosing() {
		return nil // watch drains the wire
	}
	s.c.cancel(errStreamClosed)
	<-s.c.ended
	return nil
}

// sendStream sends what r reads. An error of r goes to readFailed before it goes to
// the peer; the error returned is the connection's.
func (c *conn) sendStream(r io.Reader, readFailed func(error)) error {
	buf := buffers.Get().(*buffer)
	defer buffers.Put(buf)
	frame := buf[headroom-headerSize:]
	for {
		n, err := c.fill(frame[headerSize:], r)
		if c.ctx.Err() != nil {
			return c.reason(errDone)
		}
		if n > 0 {
			putHeader(frame, typeStream, n)
			if werr := c.write(frame[:headerSize+n]); werr != nil {
				return werr
			}
		}
		if err == io.EOF {
			return c.write(appendHeader(nil, typeEnd, 0))
		}
		if err != nil {
			readFailed(err)
			return c.write(appendMessage(nil, typeTrailer, errorText(err)))
		}
	}
}

// fill reads until there is enough for a frame, r fails or the connection ends.
func (c *conn) fill(p []byte, r io.Reader) (n int, err error) {
	for n < minFrameSize && err == nil && c.ctx.Err() == nil {
		var m int
		m, err = r.Read(p[n:])
		n += m
	}
	return n, err
}
