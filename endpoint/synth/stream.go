package synth

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
)

// blockSize is the period of the content in bytes: prime, and small enough for the
// block to stay in the CPU's cache.
const blockSize = 131071

var block = sync.OnceValue(func() []byte {
	b := make([]byte, blockSize)
	_, _ = rand.NewChaCha8([32]byte{'s', 'y', 'n', 't', 'h'}).Read(b) // never fails
	return b
})

// content returns the bytes of a seed's content from offset on, up to the end of
// the block.
func content(seed uint64, offset int64) []byte {
	start := (seed%blockSize + uint64(offset)%blockSize) % blockSize
	return block()[start:]
}

// Spec describes a Stream. Offsets count content bytes from 0.
type Spec struct {
	Seed   uint64
	Size   int64 // content ends here with io.EOF
	Offset int64 // the stream starts here
	FailAt int64 // where Fail is returned instead of more content
	Fail   error // nil: the stream does not fail
}

// Stream is generated content. Read copies out of a shared block; WriteTo writes
// that block itself, without copying. It is not safe for concurrent use.
type Stream struct {
	ctx    context.Context
	head   []byte // precedes the content
	spec   Spec
	closed bool
}

// NewStream returns the stream that spec describes.
func NewStream(spec Spec) *Stream {
	return &Stream{ctx: context.Background(), spec: spec}
}

// Read implements io.Reader. After Close it returns os.ErrClosed.
func (s *Stream) Read(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		chunk, err := s.next(len(p) - n)
		if err != nil && n == 0 {
			return 0, err
		}
		if err != nil {
			break
		}
		n += copy(p[n:], chunk)
		s.advance(len(chunk))
	}
	return n, nil
}

// WriteTo implements io.WriterTo: it writes the rest of the stream.
func (s *Stream) WriteTo(w io.Writer) (int64, error) {
	var total int64
	for {
		chunk, err := s.next(blockSize)
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
		n, err := w.Write(chunk)
		s.advance(n)
		total += int64(n)
		if err != nil {
			return total, err
		}
	}
}

// Close ends the stream; it never fails.
func (s *Stream) Close() error {
	s.closed = true
	return nil
}

// next returns the next bytes, at least one and at most limit, or why there are none.
func (s *Stream) next(limit int) ([]byte, error) {
	if s.closed {
		return nil, os.ErrClosed
	}
	if s.ctx.Err() != nil {
		return nil, context.Cause(s.ctx)
	}
	if len(s.head) > 0 {
		return s.head[:min(limit, len(s.head))], nil
	}
	end, reason := s.spec.Size, io.EOF
	if s.spec.Fail != nil && s.spec.FailAt <= end {
		end, reason = s.spec.FailAt, s.spec.Fail
	}
	if s.spec.Offset >= end {
		return nil, reason
	}
	chunk := content(s.spec.Seed, s.spec.Offset)
	return chunk[:min(int64(limit), int64(len(chunk)), end-s.spec.Offset)], nil
}

func (s *Stream) advance(n int) {
	if len(s.head) > 0 {
		s.head = s.head[n:]
		return
	}
	s.spec.Offset += int64(n)
}

// ErrMismatch: the bytes are not those of the seed's content.
var ErrMismatch = errors.New("content differs from what was generated")

// Checker compares what is written to it with a seed's content.
type Checker struct {
	seed   uint64
	offset int64
}

// NewChecker returns a Checker that expects the content of seed from offset on.
func NewChecker(seed uint64, offset int64) *Checker {
	return &Checker{seed: seed, offset: offset}
}

// Write returns ErrMismatch, which says where, at the first byte that differs.
func (c *Checker) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		want := content(c.seed, c.offset)
		want = want[:min(len(want), len(rest))]
		if !bytes.Equal(rest[:len(want)], want) {
			good := commonPrefix(rest, want)
			c.offset += int64(good)
			return len(p) - len(rest) + good, fmt.Errorf("at byte %d: %w", c.offset, ErrMismatch)
		}
		c.offset += int64(len(want))
		rest = rest[len(want):]
	}
	return len(p), nil
}

// Offset returns up to where the content was right.
func (c *Checker) Offset() int64 { return c.offset }

func commonPrefix(a, b []byte) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}
