package dataconn

import (
	"context"
	"io"
	"sync"
	"sync/atomic"
	"time"

	spb "google.golang.org/genproto/googleapis/rpc/status"

	"github.com/dualrepl/dualrepl/transport"
)

// A conn is one connection and its requests, one after another. Its context is its
// life: whatever ends the connection cancels ctx with the reason, and keep then closes
// the wire.
type conn struct {
	wire     transport.Wire
	features Features
	server   bool
	ctx      context.Context
	cancel   context.CancelCauseFunc
	statusOf func(error) *spb.Status

	// in is used by one goroutine at a time: by watch while the peer says nothing, by
	// who waits for a message or a stream from its first frame to its last.
	in    frameReader
	turn  chan struct{} // watch hands it over: the first frame has come in
	quiet chan struct{} // watch takes it back
	open  atomic.Bool   // a message of the peer may begin

	// A server's.
	phase atomic.Int32
	drain context.Context // when it ends, no request may begin any more
	again bool            // another request may follow the one that is answered

	writer   chan struct{} // holds a value while somebody writes: a mutex that one need not wait for
	writeErr error         // the wire takes no more frames; the writer's
	sum      runningSum    // over what goes out; the writer's
	out      outStream     // on its way through writer, if there is one

	// What keep looks at once a tick.
	reading  atomic.Int32 // reads of the wire that are waiting for bytes
	writing  atomic.Bool
	received atomic.Bool  // since the last tick
	sent     atomic.Bool  // since the last tick
	silence  atomic.Int64 // for how long nothing has come in, as a time.Duration; keep's

	closing   chan struct{} // closed when all that matters has been sent and received
	closeOnce sync.Once

	wg    sync.WaitGroup // watch and what keep starts
	ended chan struct{}  // closed when the wire is closed and those have ended
	atEnd func()         // called then, unless nil
}

// newConn takes over the wire. Nothing runs yet: start does that.
func newConn(ctx context.Context, wire transport.Wire, features Features, server bool) *conn {
	c := &conn{
		wire: wire, features: features, server: server, writer: make(chan struct{}, 1),
		turn: make(chan struct{}, 1), quiet: make(chan struct{}, 1), closing: make(chan struct{}), ended: make(chan struct{}),
	}
	c.ctx, c.cancel = context.WithCancelCause(ctx)
	c.in.src, c.in.zstd, c.in.status = c, features.Zstd, features.Status
	c.open.Store(server)
	c.in.sum.on, c.sum.on = features.Sum, features.Sum
	return c
}

// start runs the connection's goroutines.
func (c *conn) start() {
	c.wg.Go(c.watch)
	go c.keep()
}

// keep keeps time, and ends the connection when its context does.
func (c *conn) keep() {
	defer c.end()
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	var q quietness
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-c.closing: // the wire's own deadline holds now
			<-c.ctx.Done()
			return
		case <-ticker.C:
			c.check(&q)
		}
	}
}

// end closes the wire, which ends the other goroutines.
func (c *conn) end() {
	c.tearDown()
	c.wg.Wait()
	close(c.ended)
	if c.atEnd != nil {
		c.atEnd()
	}
}

// quietness is how long nothing has happened, as far as keep has seen. Counting
// ticks, not time, forgives a machine that was suspended.
type quietness struct {
	sending, receiving, stuck time.Duration
}

func (c *conn) check(q *quietness) {
	sent, received := c.sent.Swap(false), c.received.Swap(false)
	count(&q.sending, !sent)
	count(&q.receiving, !received && c.reading.Load() > 0)
	c.silence.Store(int64(q.receiving))
	count(&q.stuck, !received && !sent && c.writing.Load())
	switch {
	case q.receiving >= peerTimeout:
		c.cancel(errPeerSilent)
	case q.stuck >= peerTimeout:
		c.cancel(errPeerStuck)
	case !sent && c.out.unsent.Load() > 0:
		c.goWrite(c.sendGathered)
	case q.sending >= heartbeatInterval:
		c.goWrite(c.beat)
	}
}

// goWrite runs send as the writer, unless something is being sent. It is no part of
// keep, since it may block for as long as a slow peer likes.
func (c *conn) goWrite(send func() error) {
	select {
	case c.writer <- struct{}{}:
		c.wg.Go(func() {
			defer c.release()
			_ = send() // a broken connection is noticed by who needs it
		})
	default:
	}
}

func count(d *time.Duration, quiet bool) {
	if quiet {
		*d += tick
	} else {
		*d = 0
	}
}

// beat is for the writer: it sends a heartbeat.
func (c *conn) beat() error {
	return c.writeFrames(appendHeader(nil, typeHeartbeat, 0))
}

// watch reads what comes in while nobody waits for a message or a stream, so that
// the peer's end is noticed, and drains the wire when the connection closes.
func (c *conn) watch() {
	for more := true; more; {
		more = c.handOver() && c.takeBack()
	}
	if c.isClosing() {
		_, _ = io.Copy(io.Discard, c.wire) // until the end, or the deadline that beginClose set
		c.cancel(errDone)
	}
}

// handOver waits for the beginning of a message, and hands the reader to who waits for
// that. If false, no message may come any more.
func (c *conn) handOver() bool {
	err := c.in.hold()
	switch {
	case err != nil:
	case c.in.typ == typeUnbegun && c.features.Reuse && !c.server:
		err = errUnbegun
	case !c.open.CompareAndSwap(true, false):
		err = protocolError("frame of type %#x where none is expected", c.in.typ)
	default:
		c.turn <- struct{}{}
		return true
	}
	if !c.isClosing() {
		_ = c.fail(err) // the cause stays with the context
	}
	return false
}

// takeBack waits until nobody reads any more. If false, nobody will.
func (c *conn) takeBack() bool {
	select {
	case <-c.quiet:
		return true
	case <-c.closing:
	case <-c.ctx.Done():
	}
	return false
}

// await waits for the beginning of the peer's message. It is the caller then who reads,
// until it calls rest.
func (c *conn) await() error {
	select {
	case <-c.turn:
		return nil
	case <-c.ctx.Done():
		return context.Cause(c.ctx)
	}
}

// rest gives the reader back to watch, after the last frame.
func (c *conn) rest() { c.quiet <- struct{}{} }

// Read reads from the wire for frameReader. An error means that the connection is lost.
func (c *conn) Read(p []byte) (int, error) {
	c.reading.Add(1)
	n, err := c.wire.Read(p)
	c.reading.Add(-1)
	if n > 0 {
		c.received.Store(true)
		return n, nil
	}
	if err != nil {
		return 0, c.fail(lostError(err))
	}
	return 0, nil
}

// write sends whole frames. An error means that nothing can be sent any more.
func (c *conn) write(frames []byte) error {
	c.writer <- struct{}{}
	defer c.release()
	return c.writeFrames(frames)
}

// writeLast is write for the last frames of a request or an answer. When they are an
// answer's, no request has begun that has none, and the client may send its next one.
func (c *conn) writeLast(frames []byte) error {
	c.writer <- struct{}{}
	defer c.release()
	if c.server {
		c.open.Store(c.again)
	}
	err := c.writeFrames(frames)
	if err == nil && c.server {
		c.phase.Store(phaseIdle)
	}
	return err
}

func (c *conn) release() { <-c.writer }

// writeFrames is for the writer. The frames are whole, and have no checks yet.
func (c *conn) writeFrames(frames []byte) error {
	return c.writeOut(c.sum.seal(frames))
}

// writeOut is for the writer. It leaves a client's connection open after an error: the server's early
// answer, or the rest of its stream, may have arrived already. A server that cannot
// write has lost its client.
func (c *conn) writeOut(frames []byte) error {
	if c.writeErr != nil {
		return c.writeErr
	}
	c.writing.Store(true)
	n, err := c.wire.Write(frames)
	c.writing.Store(false)
	c.sent.Store(true)
	if err == nil || n == len(frames) { // an error means that the peer cannot have all of it
		return nil
	}
	if c.writeErr = c.reason(lostError(err)); c.server {
		c.cancel(c.writeErr)
	}
	return c.writeErr
}

// fail ends the connection because of err, and returns why it ended: an earlier
// reason goes first.
func (c *conn) fail(err error) error {
	c.cancel(err)
	return context.Cause(c.ctx)
}

// reason is why the connection ended, or err if it has not.
func (c *conn) reason(err error) error {
	if cause := context.Cause(c.ctx); cause != nil {
		return cause
	}
	return err
}

func (c *conn) isClosing() bool {
	select {
	case <-c.closing:
		return true
	default:
		return false
	}
}

// beginClose starts the orderly end: a final deadline, a reset frame, CloseWrite.
// Then watch drains the wire, unless it is still busy with a message or stream.
func (c *conn) beginClose() {
	c.closeOnce.Do(func() {
		_ = c.wire.SetDeadline(time.Now().Add(shutdownTimeout)) // without one, the context still ends it
		close(c.closing)
		c.writer <- struct{}{}
		defer c.release()
		c.writeReset()
	})
}

// The phases of a server's connection.
const (
	phaseIdle    = iota // no request has begun, or the last one has its whole answer
	phaseBegun          // the handler has been called
	phaseRefused        // no request will begin any more
)

// begin reports whether a request may begin, which it then has.
func (c *conn) begin() bool {
	return c.drain.Err() == nil && c.phase.CompareAndSwap(phaseIdle, phaseBegun)
}

// refuse reports whether no request has begun, and then none will.
func (c *conn) refuse() bool {
	return c.phase.CompareAndSwap(phaseIdle, phaseRefused) || c.phase.Load() == phaseRefused
}

// retire ends a connection on which no request has begun. A client that reuses
// connections closes it when it has read what is still on its way, which may take its
// time: the last answer's stream may be before it.
func (c *conn) retire() {
	if !c.refuse() {
		return
	}
	if !c.features.Reuse {
		c.cancel(errDraining)
		return
	}
	c.writer <- struct{}{}
	defer c.release()
	c.writeReset()
}

// tearDown ends the connection at once. The peer is told, unless a frame is half
// written and cannot be finished.
func (c *conn) tearDown() {
	timer := time.NewTimer(resetTimeout)
	defer timer.Stop()
	select {
	case c.writer <- struct{}{}:
		_ = c.wire.SetWriteDeadline(time.Now().Add(resetTimeout)) // Close is next anyway
		c.writeReset()
		c.release()
	case <-timer.C:
	}
	_ = c.wire.Close() // nobody is left to tell
}

// writeReset is for the writer: it sends the last frame. Errors don't matter: the wire is closed next.
func (c *conn) writeReset() {
	if c.writeErr != nil {
		return
	}
	var frames []byte
	if c.server && c.features.Reuse && c.refuse() {
		frames = appendHeader(frames, typeUnbegun, 0)
	}
	if _, err := c.wire.Write(c.sum.seal(appendHeader(frames, typeReset, 0))); err == nil {
		_ = c.wire.CloseWrite()
	}
	c.writeErr = errDone
}
