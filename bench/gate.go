package main

import (
	"context"
	"io"
	"sync/atomic"
)

// opening is how many streams of a gate may be on their way at a time: a server drops
// the oldest of too many connections that have not said what they are for.
const opening = 64

// A gate has streams wait for each other: none gets beyond it before all have come. A
// nil gate is open.
type gate struct {
	ctx     context.Context // when it ends, nobody waits any more
	missing atomic.Int64
	open    chan struct{}
	opening chan struct{}
}

func newGate(ctx context.Context, all int) *gate {
	g := &gate{ctx: ctx, open: make(chan struct{}), opening: make(chan struct{}, opening)}
	g.missing.Store(int64(all))
	return g
}

// enter waits until a stream may be opened. It has to move something next.
func (g *gate) enter() error {
	if g == nil {
		return nil
	}
	select {
	case g.opening <- struct{}{}:
		return nil
	case <-g.ctx.Done():
		return context.Cause(g.ctx)
	}
}

func (g *gate) pass() error {
	if g.missing.Add(-1) == 0 {
		close(g.open)
	}
	select {
	case <-g.open:
		return nil
	case <-g.ctx.Done():
		return context.Cause(g.ctx)
	}
}

// A turnstile passes the gate once, after so many bytes.
type turnstile struct {
	gate   *gate
	left   int64
	opened bool
	past   bool
}

func (t *turnstile) count(n int) error {
	if !t.opened {
		t.opened = true
		<-t.gate.opening
	}
	t.left -= int64(n)
	if t.past || t.left > 0 {
		return nil
	}
	t.past = true
	return t.gate.pass()
}

// reader returns src, which waits at the gate after so many bytes.
func (g *gate) reader(src io.Reader, after int64) io.Reader {
	if g == nil {
		return src
	}
	return &gatedReader{src, turnstile{gate: g, left: after}}
}

type gatedReader struct {
	src io.Reader
	turnstile
}

// Read implements io.Reader.
func (r *gatedReader) Read(p []byte) (int, error) {
	n, err := r.src.Read(p)
	if err != nil {
		return n, err
	}
	return n, r.count(n)
}

// writer returns dst, which waits at the gate after so many bytes.
func (g *gate) writer(dst io.Writer, after int64) io.Writer {
	if g == nil {
		return dst
	}
	return &gatedWriter{dst, turnstile{gate: g, left: after}}
}

type gatedWriter struct {
	dst io.Writer
	turnstile
}

// Write implements io.Writer.
func (w *gatedWriter) Write(p []byte) (int, error) {
	n, err := w.dst.Write(p)
	if err != nil {
		return n, err
	}
	return n, w.count(n)
}
