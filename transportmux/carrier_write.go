package transportmux

import (
	"context"
	"net"
	"time"

	"github.com/dualrepl/dualrepl/transport"
)

// Write is for yamux, which writes a header, then its body if it has one.
func (c *carrier) Write(p []byte) (int, error) {
	if c.held.body() > 0 {
		h := c.held
		c.held = header{}
		return len(p), c.send(&h, p)
	}
	h := header(p)
	if h.body() > 0 {
		c.held = h
		return len(p), nil
	}
	return len(p), c.send(&h, nil)
}

// send writes one of yamux's frames.
func (c *carrier) send(h *header, body []byte) error {
	c.noteSent(h)
	c.out <- struct{}{}
	defer func() { <-c.out }()
	err := c.write(h[:], body)
	if err == nil {
		c.noteTaken(h)
	}
	return err
}

// noteTaken takes note of a frame that the wire has taken whole.
func (c *carrier) noteTaken(h *header) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f := c.flows[h.stream()]; f != nil {
		f.sent += uint64(h.body())
	}
}

// sentOf is how much of a stream the wire has taken in all. yamux has ended: what it may
// still be about to write is not written.
func (c *carrier) sentOf(f *flow) uint64 {
	c.out <- struct{}{}
	defer func() { <-c.out }()
	c.over = true
	c.mu.Lock()
	defer c.mu.Unlock()
	return f.sent
}

// noteSent takes note of a frame that goes out.
func (c *carrier) noteSent(h *header) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if h.has(flagSYN) {
		c.flows[h.stream()] = &flow{}
	}
	if f := c.flows[h.stream()]; f != nil && h.has(flagFIN) {
		f.endSent = true
		c.tidy(h.stream(), f)
	}
}

// write is for the holder of out.
func (c *carrier) write(head, body []byte) error {
	if c.over {
		return net.ErrClosed
	}
	err := c.wire.SetWriteDeadline(time.Now().Add(writeTimeout))
	if err == nil {
		err = c.join.write(head, body)
	}
	c.sentAt = time.Now()
	if err != nil {
		c.fail(err)
	}
	return err
}

// closeWrite ends this side's direction of the connection.
func (c *carrier) closeWrite() error {
	c.out <- struct{}{}
	defer func() { <-c.out }()
	return c.wire.CloseWrite()
}

// Close is for yamux, which knows why.
func (c *carrier) Close() error {
	c.closed.Store(true)
	return c.wire.Close()
}

// fail ends the session, unless yamux has.
func (c *carrier) fail(err error) {
	if !c.closed.Load() {
		c.end(lostError{err})
	}
}

// LocalAddr and RemoteAddr are for yamux, whose streams have them too.
func (c *carrier) LocalAddr() net.Addr  { return c.wire.LocalAddr() }
func (c *carrier) RemoteAddr() net.Addr { return c.wire.RemoteAddr() }

// attend sends what is not yamux's to send: pings, answers and resets.
func (c *carrier) attend(ctx context.Context) {
	timer := time.NewTimer(pingInterval)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		case <-timer.C:
		}
		c.expire()
		silent, err := c.sendControl()
		if err != nil {
			return
		}
		timer.Reset(pingInterval - silent)
	}
}

// sendControl sends what waits, or a ping if nothing was sent for long. It returns for
// how long nothing was sent.
func (c *carrier) sendControl() (silent time.Duration, err error) {
	c.out <- struct{}{}
	defer func() { <-c.out }()
	frames := c.takeControl()
	if len(frames) == 0 {
		if silent = time.Since(c.sentAt); silent < pingInterval {
			return silent, nil
		}
		ping := newHeader(typePing, flagSYN, 0, 0)
		frames = ping[:]
	}
	return 0, c.write(frames, nil)
}

func (c *carrier) takeControl() (frames []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, h := range c.control {
		frames = append(frames, h[:]...)
	}
	c.control = c.control[:0]
	return frames
}

// expire resets the streams that the peer has not ended long after this side has.
func (c *carrier) expire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, f := range c.flows {
		if f.closed && time.Since(f.closedAt) >= lingerTimeout {
			_ = c.reset(id, f) // if there is no room, the reader fails next
		}
	}
}

// flow is that of a stream that yamux has opened or accepted.
func (c *carrier) flow(id uint32) *flow {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.flows[id]
}

// consumed takes note of n bytes that were read from a stream.
func (c *carrier) consumed(f *flow, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !f.closed {
		f.unread -= n
		c.unread -= n
	}
}

// hasEnded reports whether the peer has ended its direction.
func (c *carrier) hasEnded(f *flow) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return f.ended
}

// drop is for a stream that nobody here uses any more. What is unread, or yet to come,
// resets it, as in TCP.
func (c *carrier) drop(id uint32, f *flow) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f.closed, f.closedAt = true, time.Now()
	c.unread -= f.unread
	if f.unread > 0 && !f.reset {
		if err := c.reset(id, f); err != nil {
			c.fail(err)
		}
		return
	}
	c.tidy(id, f)
}

// A joiner writes a header and its body at once.
type joiner struct {
	wire  transport.Wire
	tcp   *net.TCPConn // nil: the wire is none
	parts [2][]byte
	frame []byte
}

func newJoiner(wire transport.Wire) joiner {
	tcp, _ := wire.(*net.TCPConn)
	return joiner{wire: wire, tcp: tcp}
}

func (j *joiner) write(head, body []byte) error {
	if j.tcp != nil && len(body) > 0 {
		j.parts = [2][]byte{head, body}
		buffers := net.Buffers(j.parts[:])
		_, err := buffers.WriteTo(j.tcp)
		return err
	}
	if len(body) > 0 {
		j.frame = append(append(j.frame[:0], head...), body...)
		head = j.frame
	}
	_, err := j.wire.Write(head)
	return err
}
