package replication

import (
	"io"
	"sync/atomic"
)

// countedStream counts the bytes of a step while they flow, and remembers why the
// sender's stream failed, which a receiver's error need not tell.
type countedStream struct {
	stream io.Reader
	bytes  *atomic.Uint64
	failed atomic.Pointer[error]
}

// countedWriterTo is a countedStream whose stream can write itself: the receiver
// keeps that faster way.
type countedWriterTo struct{ *countedStream }

// countStream returns the stream to hand to a receiver, and the record that it fills.
func countStream(stream io.Reader, bytes *atomic.Uint64) (io.Reader, *countedStream) {
	c := &countedStream{stream: stream, bytes: bytes}
	if _, ok := stream.(io.WriterTo); ok {
		return countedWriterTo{c}, c
	}
	return c, c
}

func (c *countedStream) Read(p []byte) (int, error) {
	n, err := c.stream.Read(p)
	c.bytes.Add(uint64(max(n, 0)))
	if err != nil && err != io.EOF {
		c.failed.Store(&err)
	}
	return n, err
}

func (c countedWriterTo) WriteTo(w io.Writer) (int64, error) {
	cw := &countedWriter{w: w, bytes: c.bytes}
	n, err := c.stream.(io.WriterTo).WriteTo(cw)
	if err != nil && cw.err == nil {
		c.failed.Store(&err)
	}
	return n, err
}

// err is why the sender's stream failed; nil if it did not.
func (c *countedStream) err() error {
	if err := c.failed.Load(); err != nil {
		return *err
	}
	return nil
}

type countedWriter struct {
	w     io.Writer
	bytes *atomic.Uint64
	err   error
}

func (c *countedWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.bytes.Add(uint64(max(n, 0)))
	c.err = err
	return n, err
}
