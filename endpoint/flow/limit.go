package flow

import (
	"context"
	"io"
	"slices"
	"time"

	"golang.org/x/time/rate"
)

const (
	// defaultBurst is zrepl's default capacity of the bucket, in bytes.
	defaultBurst = 128 << 10
	// lateness is how long after its time a waiting goroutine may run again: the bucket
	// holds at least what flows meanwhile, or a fast limit would never be reached.
	lateness = 5 * time.Millisecond
	// maxPiece is how many bytes wait for the bucket at once, at most: streams take
	// turns by the piece, so that this is how far one gets ahead of another.
	maxPiece = 128 << 10
	// piecesPerSecond is how many pieces a slow limit makes of a second's bytes, so
	// that they flow evenly.
	piecesPerSecond = 10
)

// A Limit bounds the bytes that flow in a second, by a bucket of tokens. Streams that
// share it get equal parts, as long as each has bytes. It may be used concurrently.
type Limit struct {
	bucket *rate.Limiter
	piece  int
}

// NewLimit returns a limit of perSecond bytes a second; nil, which is none, if that is
// not positive. The bucket holds burst bytes (0: 128 KiB), which may flow at once
// after a pause, but never less than flows in 5 ms, since timers are late by that. It
// is empty at first.
func NewLimit(perSecond, burst int64) *Limit {
	if perSecond <= 0 {
		return nil
	}
	if burst <= 0 {
		burst = defaultBurst
	}
	burst = max(burst, perSecond/int64(time.Second/lateness))
	l := &Limit{
		bucket: rate.NewLimiter(rate.Limit(perSecond), int(burst)),
		piece:  int(min(burst, maxPiece, (perSecond+piecesPerSecond-1)/piecesPerSecond)),
	}
	l.bucket.AllowN(time.Now(), int(burst))
	return l
}

// take waits until n bytes, a piece at most, may flow.
func (l *Limit) take(ctx context.Context, n int) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	turn := l.bucket.ReserveN(time.Now(), n)
	delay := turn.Delay()
	if delay == 0 {
		return nil
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		turn.Cancel()
		return context.Cause(ctx)
	}
}

// reader returns src, limited until ctx ends: src itself if l is nil. It is an
// io.WriterTo if src is.
func (l *Limit) reader(ctx context.Context, src io.Reader) io.Reader {
	if l == nil {
		return src
	}
	r := limitedReader{ctx, l, src}
	if writerTo, ok := src.(io.WriterTo); ok {
		return limitedWriterTo{r, writerTo}
	}
	return r
}

type limitedReader struct {
	ctx   context.Context
	limit *Limit
	src   io.Reader
}

// Read returns bytes when they may flow. If ctx ends before, they are lost.
func (r limitedReader) Read(p []byte) (int, error) {
	n, err := r.src.Read(p[:min(len(p), r.limit.piece)])
	if n > 0 {
		if ended := r.limit.take(r.ctx, n); ended != nil {
			return 0, ended
		}
	}
	return n, err
}

type limitedWriterTo struct {
	limitedReader
	src io.WriterTo
}

// WriteTo implements io.WriterTo, by src's own.
func (r limitedWriterTo) WriteTo(w io.Writer) (int64, error) {
	return r.src.WriteTo(limitedWriter{r.ctx, r.limit, w})
}

type limitedWriter struct {
	ctx   context.Context
	limit *Limit
	dst   io.Writer
}

// Write writes p piece by piece, each when it may flow.
func (w limitedWriter) Write(p []byte) (written int, _ error) {
	for piece := range slices.Chunk(p, w.limit.piece) {
		if err := w.limit.take(w.ctx, len(piece)); err != nil {
			return written, err
		}
		n, err := w.dst.Write(piece)
		written += n
		if err == nil && n < len(piece) {
			err = io.ErrShortWrite
		}
		if err != nil {
			return written, err
		}
	}
	return written, nil
}
