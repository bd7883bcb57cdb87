package transportmux

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dualrepl/dualrepl/transport"
)

// A carrier is the connection below yamux. It sees each frame pass, and does what yamux
// does not: it bounds what a peer can make this side hold, keeps time, remembers how
// each stream ended, and writes a header and its body at once.
//
// yamux reads in one goroutine and writes in another.
type carrier struct {
	wire       transport.Wire
	maxStreams int
	dialled    bool
	end        context.CancelCauseFunc // of the session
	closed     atomic.Bool             // by yamux

	// The reader's.
	in   *bufio.Reader
	pass []byte // what yamux reads next
	body int    // bytes after that, which come from in

	// The writer's.
	held header // waits for its body, if it has one
	join joiner

	out    chan struct{} // holds a value while somebody writes
	sentAt time.Time
	over   bool // nothing is written any more

	mu      sync.Mutex
	flows   map[uint32]*flow // all streams that somebody here has, or yamux
	unread  int              // bytes of all flows
	control []header         // to be sent
	resets  []header         // for yamux, as if the peer had sent them
	wake    chan struct{}    // tells attend of control
}

// A flow is what a carrier knows of a stream.
type flow struct {
	sent     uint64 // bytes of data that the wire has taken
	unread   int    // bytes that yamux has and nobody has read yet
	ended    bool   // the peer's direction: FIN came
	endSent  bool   // ours
	reset    bool   // by either side
	closed   bool   // nobody here has it any more
	closedAt time.Time
}

func newCarrier(wire transport.Wire, dialled bool, maxStreams int, end context.CancelCauseFunc) *carrier {
	c := &carrier{
		wire: wire, maxStreams: maxStreams, dialled: dialled, end: end,
		join: newJoiner(wire), out: make(chan struct{}, 1), sentAt: time.Now(), flows: map[uint32]*flow{}, wake: make(chan struct{}, 1),
	}
	c.in = bufio.NewReaderSize(awake{c}, readSize)
	return c
}

var (
	errProtocol = errors.New("the peer violates the protocol of one connection for all")
	errFlood    = fmt.Errorf("%w: it asks for more than it reads", errProtocol)
	errEnded    = fmt.Errorf("the peer ended the connection: %w", io.ErrUnexpectedEOF)
)

// awake reads from the wire as long as the peer is not silent for too long.
type awake struct{ *carrier }

func (a awake) Read(p []byte) (int, error) {
	if err := a.wire.SetReadDeadline(time.Now().Add(silenceTimeout)); err != nil {
		return 0, err
	}
	n, err := a.wire.Read(p)
	switch {
	case err == io.EOF:
		err = errEnded
	case isTimeout(err):
		err = fmt.Errorf("not a byte from the peer for %v: %w", silenceTimeout, err)
	}
	return n, err
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

// Read is for yamux.
func (c *carrier) Read(p []byte) (int, error) {
	for len(c.pass) == 0 && c.body == 0 {
		if err := c.next(); err != nil {
			c.fail(err)
			return 0, err
		}
	}
	if len(c.pass) > 0 {
		n := copy(p, c.pass)
		c.pass = c.pass[n:]
		return n, nil
	}
	n, err := c.in.Read(p[:min(len(p), c.body)])
	c.body -= n
	if err != nil {
		c.fail(err)
	}
	return n, err
}

// next reads a header, and the body too if yamux is not to see them.
func (c *carrier) next() error {
	var h header
	if _, err := io.ReadFull(c.in, h[:]); err != nil {
		return err
	}
	pass, err := c.admit(&h)
	if err != nil {
		return err
	}
	c.pass = c.pass[:0]
	for _, r := range c.takeResets() {
		c.pass = append(c.pass, r[:]...)
	}
	if pass {
		c.pass, c.body = append(c.pass, h[:]...), h.body()
		return nil
	}
	_, err = c.in.Discard(h.body())
	return err
}

func (c *carrier) takeResets() []header {
	c.mu.Lock()
	defer c.mu.Unlock()
	resets := c.resets
	c.resets = nil
	return resets
}

// admit takes note of a frame that came in, and tells whether yamux is to see it.
func (c *carrier) admit(h *header) (pass bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case h.version() != 0 || h.kind() > typeGoAway || h.body() > maxWindow:
		return false, fmt.Errorf("%w: frame % x", errProtocol, h[:])
	case h.kind() == typeGoAway:
		return false, fmt.Errorf("the peer takes no more streams (code %d)", h.length())
	case h.kind() == typePing:
		if h.has(flagSYN) {
			return false, c.answer(newHeader(typePing, flagACK, 0, h.length()))
		}
		return false, nil
	case h.has(flagSYN):
		return c.admitNew(h)
	}
	return c.admitOld(h, c.flows[h.stream()])
}

// admitNew is admit for the first frame of a stream.
func (c *carrier) admitNew(h *header) (pass bool, err error) {
	id := h.stream()
	fromDialler := id%2 == 1
	if id == 0 || fromDialler == c.dialled || c.flows[id] != nil {
		return false, fmt.Errorf("%w: stream %d is not its to open", errProtocol, id)
	}
	if len(c.flows) >= c.maxStreams {
		return false, c.answer(newHeader(typeWindow, flagACK|flagRST, id, 0))
	}
	c.flows[id] = &flow{}
	return c.admitOld(h, c.flows[id])
}

// admitOld is admit for a frame of a stream. Streams that are gone have nil or are reset.
func (c *carrier) admitOld(h *header, f *flow) (pass bool, err error) {
	if f == nil || f.reset {
		return false, nil
	}
	if n := h.body(); n > 0 {
		if f.closed || c.unread+n > maxUnread {
			return false, c.reset(h.stream(), f)
		}
		f.unread += n
		c.unread += n
	}
	f.ended = f.ended || h.has(flagFIN)
	f.reset = h.has(flagRST)
	c.tidy(h.stream(), f)
	return true, nil
}

// answer sends a frame soon.
func (c *carrier) answer(h header) error {
	if len(c.control) >= maxControl {
		return errFlood
	}
	c.control = append(c.control, h)
	select {
	case c.wake <- struct{}{}:
	default: // it knows
	}
	return nil
}

// reset ends a stream at once, for the peer and for yamux.
func (c *carrier) reset(id uint32, f *flow) error {
	f.reset = true
	c.resets = append(c.resets, newHeader(typeWindow, flagRST, id, 0))
	c.tidy(id, f)
	return c.answer(newHeader(typeWindow, flagRST, id, 0))
}

// tidy forgets a stream that has come to its end.
func (c *carrier) tidy(id uint32, f *flow) {
	if f.closed && (f.reset || f.ended && f.endSent) {
		delete(c.flows, id)
	}
}
