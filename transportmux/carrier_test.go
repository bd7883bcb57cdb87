package transportmux

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

// newTestCarrier reads what a peer has sent, and keeps what it is sent.
func newTestCarrier(in []byte) (*carrier, *wireOfBytes) {
	w := &wireOfBytes{in: bytes.NewReader(in)}
	_, end := context.WithCancelCause(context.Background())
	return newCarrier(w, false, 4, end), w
}

// A wireOfBytes never waits.
type wireOfBytes struct {
	net.Conn
	in  io.Reader
	out [][]byte // one for each Write
}

func (w *wireOfBytes) Read(p []byte) (int, error) { return w.in.Read(p) }
func (w *wireOfBytes) Write(p []byte) (int, error) {
	w.out = append(w.out, bytes.Clone(p))
	return len(p), nil
}
func (*wireOfBytes) CloseWrite() error                { return nil }
func (*wireOfBytes) SetReadDeadline(time.Time) error  { return nil }
func (*wireOfBytes) SetWriteDeadline(time.Time) error { return nil }

func frameOf(h header, body ...byte) []byte { return append(h[:], body...) }

// TestUnreadBytesAreBounded: the stream that would have too many is reset, for yamux and
// for the peer; the others live on.
func TestUnreadBytesAreBounded(t *testing.T) {
	second := frameOf(newHeader(typeData, 0, 3, 2), 'c', 'd')
	c, _ := newTestCarrier(bytes.Join([][]byte{
		frameOf(newHeader(typeData, flagSYN, 1, 2), 'a', 'b'),
		frameOf(newHeader(typeWindow, flagSYN, 3, 0)), second,
		frameOf(newHeader(typeData, 0, 1, 1), '!'),
	}, nil))
	c.unread = maxUnread - 3
	seen, err := io.ReadAll(c)
	if !errors.Is(err, errEnded) {
		t.Error(err)
	}
	want := bytes.Join([][]byte{
		frameOf(newHeader(typeData, flagSYN, 1, 2), 'a', 'b'),
		frameOf(newHeader(typeWindow, flagSYN, 3, 0)),
		frameOf(newHeader(typeWindow, flagRST, 3, 0)),
		frameOf(newHeader(typeData, 0, 1, 1), '!'),
	}, nil)
	if !bytes.Equal(seen, want) {
		t.Errorf("yamux reads\n% x, want\n% x", seen, want)
	}
	if reset := newHeader(typeWindow, flagRST, 3, 0); !bytes.Equal(c.takeControl(), reset[:]) {
		t.Error("the peer is not told")
	}
	c.consumed(c.flow(1), 3)
	c.drop(1, c.flow(1))
	c.drop(3, c.flow(3))
	if c.unread != maxUnread-3 || len(c.flows) != 1 {
		t.Errorf("%d bytes unread and %d streams are left", c.unread-maxUnread+3, len(c.flows))
	}
}

// TestHeaderAndBodyInOneWrite: yamux writes them one after the other.
func TestHeaderAndBodyInOneWrite(t *testing.T) {
	c, w := newTestCarrier(nil)
	body := bytes.Repeat([]byte("x"), maxPiece)
	for _, h := range []header{newHeader(typeWindow, flagSYN, 1, 1), newHeader(typeData, 0, 1, maxPiece), newHeader(typeWindow, flagFIN, 1, 0)} {
		if n, err := c.Write(h[:]); n != headerSize || err != nil {
			t.Errorf("Write: %d, %v", n, err)
		}
		if h.body() > 0 {
			if n, err := c.Write(body); n != len(body) || err != nil {
				t.Errorf("Write: %d, %v", n, err)
			}
		}
	}
	if len(w.out) != 3 || len(w.out[1]) != 64<<10 || !bytes.HasSuffix(w.out[1], body) {
		t.Errorf("%d writes, want 3: a header, a frame of 64 KiB, a header", len(w.out))
	}
}

func TestBackoff(t *testing.T) {
	var b backoff
	for _, bound := range []time.Duration{250, 500, 1000, 2000, 4000, 8000, 16000, 30000, 30000} {
		if wait := b.next(); wait < 0 || wait >= bound*time.Millisecond || b.bound != bound*time.Millisecond {
			t.Errorf("waits %v of %v, want up to %v ms", wait, b.bound, bound)
		}
	}
	if b.reset(); b.next() >= minBackoff {
		t.Error("it goes on after reset")
	}
}
