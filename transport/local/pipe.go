package local

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// bufferSize is what one direction holds in bytes, as a socket's buffers do: large
// enough that reader and writer seldom wait for each other, small enough to stay in
// the processor's cache.
const bufferSize = 256 << 10

// A pipe is one direction of a connection: a ring buffer between a reader and a writer.
type pipe struct {
	mu      sync.Mutex
	changed sync.Cond // any of the fields below

	buf    []byte // nil until the first write
	start  int    // of the unread bytes
	unread int
	ended  bool // by CloseWrite or Close of the writer

	reader, writer side
}

// A side is what stops one of the two ends.
type side struct {
	closed  bool
	expired bool        // its deadline has passed
	timer   *time.Timer // to the deadline
}

func newPipe() *pipe {
	p := &pipe{}
	p.changed.L = &p.mu
	return p
}

// stopped is the error of a side that its own owner has stopped.
func (s *side) stopped() error {
	switch {
	case s.closed:
		return net.ErrClosed
	case s.expired:
		return os.ErrDeadlineExceeded
	}
	return nil
}

func (p *pipe) read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		if err := p.reader.stopped(); err != nil {
			return 0, opError("read", err)
		}
		if p.unread > 0 || len(b) == 0 {
			return p.take(b), nil
		}
		if p.ended {
			return 0, io.EOF
		}
		p.changed.Wait()
	}
}

func (p *pipe) write(b []byte) (written int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		if err := p.writeError(); err != nil {
			return written, opError("write", err)
		}
		written += p.put(b[written:])
		if written == len(b) {
			return written, nil
		}
		p.changed.Wait()
	}
}

func (p *pipe) writeError() error {
	if err := p.writer.stopped(); err != nil {
		return err
	}
	if p.ended || p.reader.closed {
		return syscall.EPIPE
	}
	return nil
}

// take moves unread bytes to b.
func (p *pipe) take(b []byte) (n int) {
	for n < len(b) && p.unread > 0 {
		end := min(p.start+p.unread, len(p.buf))
		moved := copy(b[n:], p.buf[p.start:end])
		p.start = (p.start + moved) % len(p.buf)
		p.unread -= moved
		n += moved
	}
	p.changed.Broadcast()
	return n
}

// put moves what there is room for from b to the buffer.
func (p *pipe) put(b []byte) (n int) {
	if p.buf == nil {
		p.buf = make([]byte, bufferSize)
	}
	for n < len(b) && p.unread < len(p.buf) {
		free := (p.start + p.unread) % len(p.buf)
		end := min(free+len(p.buf)-p.unread, len(p.buf))
		moved := copy(p.buf[free:end], b[n:])
		p.unread += moved
		n += moved
	}
	p.changed.Broadcast()
	return n
}

func (p *pipe) closeWrite() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.writer.closed {
		return opError("close", net.ErrClosed)
	}
	p.ended = true
	p.changed.Broadcast()
	return nil
}

func (p *pipe) abandonWrite() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	p.abandon(&p.writer)
}

func (p *pipe) abandonRead() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.buf, p.start, p.unread = nil, 0, 0
	p.abandon(&p.reader)
}

// abandon closes a side. The caller holds mu.
func (p *pipe) abandon(s *side) {
	s.closed = true
	s.stopTimer()
	p.changed.Broadcast()
}

func (s *side) stopTimer() {
	if s.timer != nil {
		s.timer.Stop()
		s.timer = nil
	}
}

func (p *pipe) setDeadline(s *side, t time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.closed {
		return opError("set deadline", net.ErrClosed)
	}
	s.stopTimer()
	wait := time.Until(t)
	s.expired = !t.IsZero() && wait <= 0
	if !t.IsZero() && wait > 0 {
		s.timer = p.expireAfter(s, wait)
	}
	p.changed.Broadcast()
	return nil
}

// expireAfter starts a timer that acts only as long as it is the side's current one.
func (p *pipe) expireAfter(s *side, wait time.Duration) *time.Timer {
	var timer *time.Timer
	timer = time.AfterFunc(wait, func() {
		p.mu.Lock() // held by setDeadline until timer is set
		defer p.mu.Unlock()
		if s.timer == timer {
			s.expired = true
			p.changed.Broadcast()
		}
	})
	return timer
}
