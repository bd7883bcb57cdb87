package transportmux_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dualrepl/dualrepl/transport"
	"github.com/dualrepl/dualrepl/transport/local"
	"github.com/dualrepl/dualrepl/transportmux"
	"github.com/dualrepl/dualrepl/versionhandshake"
)

// Frames of yamux, by hand.
const (
	data, window, ping, goAway = 0, 1, 2, 3
	syn, ack, fin, rst         = 1, 2, 4, 8
)

func frame(kind byte, flags uint16, stream, length uint32) []byte {
	b := []byte{0, kind}
	b = binary.BigEndian.AppendUint16(b, flags)
	b = binary.BigEndian.AppendUint32(b, stream)
	return binary.BigEndian.AppendUint32(b, length)
}

// withBody is a frame of data.
func withBody(flags uint16, stream uint32, body []byte) []byte {
	return append(frame(data, flags, stream, uint32(len(body))), body...)
}

// open is a stream with its label.
func open(stream uint32, label string) []byte {
	return withBody(syn, stream, append([]byte(label), make([]byte, 64-len(label))...))
}

// rawPeer is the peer of a session that accepts, after the label.
func rawPeer(t testing.TB, acceptor lookup, opts transportmux.SessionOptions) (transport.Wire, *transportmux.Session) {
	t.Helper()
	tr := local.New("mallory")
	made := serveSessions(t, tr.Listener(), acceptor, opts)
	wire, err := tr.Connecter().Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = wire.Close() })
	if _, err := versionhandshake.Do(t.Context(), wire, offerMux(wire)); err != nil {
		t.Fatal(err)
	}
	send(t, wire, append([]byte("dualrepl_mux"), make([]byte, 52)...))
	return wire, <-made
}

func send(t testing.TB, wire transport.Wire, b []byte) {
	t.Helper()
	if _, err := wire.Write(b); err != nil {
		t.Fatalf("Write: %v", err)
	}
}

// await reads frames until one is of a kind and has a flag.
func await(t *testing.T, wire transport.Wire, kind byte, flag uint16, stream uint32) {
	t.Helper()
	for {
		h := make([]byte, 12)
		if _, err := io.ReadFull(wire, h); err != nil {
			t.Fatalf("waiting for a frame of type %d with flag %d of stream %d: %v", kind, flag, stream, err)
		}
		if h[1] == kind && binary.BigEndian.Uint16(h[2:])&flag != 0 && binary.BigEndian.Uint32(h[4:]) == stream {
			return
		}
		if h[1] == data {
			_, _ = io.CopyN(io.Discard, wire, int64(binary.BigEndian.Uint32(h[8:])))
		}
	}
}

// TestProtocolViolations end the session, with what was wrong.
func TestProtocolViolations(t *testing.T) {
	for name, test := range map[string]struct {
		say  []byte
		want string
	}{
		"not yamux":              {[]byte("GET / HTTP/1.1\r\n\r\n"), "violates"},
		"unknown version":        {append([]byte{1}, frame(ping, syn, 0, 0)[1:]...), "violates"},
		"unknown type":           {frame(4, 0, 0, 0), "violates"},
		"4 GiB":                  {append(open(1, "x"), frame(data, 0, 1, 1<<32-1)...), "violates"},
		"more than the window":   {append(append(open(1, "x"), withBody(0, 1, make([]byte, 16<<20-64))...), withBody(0, 1, make([]byte, 65))...), "window"},
		"stream opened twice":    {append(open(1, "x"), open(1, "x")...), "not its to open"},
		"stream 0":               {open(0, "x"), "not its to open"},
		"stream of the acceptor": {open(2, "x"), "not its to open"},
		"ended twice":            {append(open(1, "x"), slices.Repeat(frame(window, fin, 1, 0), 2)...), "unexpected flag"},
		"going away":             {frame(goAway, 0, 0, 0), "no more streams"},
		"half a header":          {frame(ping, syn, 0, 0)[:5], "unexpected EOF"},
		"half a frame":           {withBody(syn, 1, make([]byte, 64))[:40], "unexpected EOF"},
		"nothing":                {nil, "the peer ended"},
	} {
		t.Run(name, func(t *testing.T) {
			wire, session := rawPeer(t, everything(stall), transportmux.SessionOptions{})
			_, _ = wire.Write(test.say) // may end in the midst of it
			_ = wire.CloseWrite()
			<-session.Done()
			if err := session.Err(); !strings.Contains(err.Error(), test.want) {
				t.Errorf("the session ended with %v, want %q", err, test.want)
			}
			_, _ = io.Copy(io.Discard, wire) // ends
		})
	}
}

// TestTooManyStreams: those over the limit are refused at once, the others live on.
func TestTooManyStreams(t *testing.T) {
	var handlers atomic.Int32
	wire, session := rawPeer(t, everything(func(ctx context.Context, conn *transportmux.Conn) {
		handlers.Add(1)
		echo(ctx, conn)
	}), transportmux.SessionOptions{MaxStreams: 3})
	for id := uint32(1); id < 2*3; id += 2 {
		send(t, wire, open(id, "x"))
	}
	for range 1000 {
		send(t, wire, open(7, "x"))
		await(t, wire, window, rst, 7)
	}
	send(t, wire, withBody(fin, 1, []byte("!")))
	await(t, wire, window, fin, 1)
	send(t, wire, open(9, "x"))
	await(t, wire, window, ack, 9)
	if err := session.Err(); err != nil {
		t.Error(err)
	}
	_ = wire.Close()
	_ = session.Close() // waits for the handlers
	if n := handlers.Load(); n > 4 {
		t.Errorf("%d handlers have run, want 4", n)
	}
}

// TestRefusedDial: the side that dials learns it in its first Read.
func TestRefusedDial(t *testing.T) {
	tr := local.New("alice")
	serveSessions(t, tr.Listener(), everything(echo), transportmux.SessionOptions{MaxStreams: 1})
	conn, err := transportmux.Dial(t.Context(), tr.Connecter(), transportmux.LabelMux, offerMux)
	if err != nil {
		t.Fatal(err)
	}
	session, err := transportmux.NewSession(conn, true, nil, transportmux.SessionOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	first := mustDial(t, session, "x")
	defer first.Close()
	roundTrip(t, first)
	second, err := session.Dial(t.Context(), "x")
	if err == nil {
		_, err = second.Read(make([]byte, 1))
		second.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "connection reset") {
		t.Errorf("the second stream ends with %v, want a reset", err)
	}
	roundTrip(t, first)
}

// TestLabelsOfStreams: streams without a handler are closed, those without a label in time.
func TestLabelsOfStreams(t *testing.T) {
	virtualTime(t, func(t *testing.T) {
		known := func(label string) (transportmux.Handler, bool) { return echo, label == "echo" }
		wire, session := rawPeer(t, known, transportmux.SessionOptions{})
		for stream, say := range map[uint32][]byte{
			1: open(1, "unknown"),
			3: open(3, "two\nlines"),
			5: withBody(syn|fin, 5, []byte("short")),
		} {
			send(t, wire, say)
			await(t, wire, window, fin, stream)
		}
		start := time.Now()
		send(t, wire, frame(window, syn, 7, 0))
		for range 2 { // our own, which keep the session alive
			time.Sleep(5 * time.Second)
			send(t, wire, frame(ping, syn, 0, 0))
		}
		await(t, wire, window, fin, 7)
		if took := time.Since(start); took != 10*time.Second {
			t.Errorf("a stream without a label is closed after %v, want 10 s", took)
		}
		if err := session.Err(); err != nil {
			t.Error(err)
		}
	})
}

// TestSilentPeer ends the session with a time-out; one that pings does not.
func TestSilentPeer(t *testing.T) {
	virtualTime(t, func(t *testing.T) {
		wire, session := rawPeer(t, nil, transportmux.SessionOptions{})
		go func() { _, _ = io.Copy(io.Discard, wire) }()
		start := time.Now()
		for range 10 {
			time.Sleep(14 * time.Second)
			send(t, wire, frame(ping, ack, 0, 0))
		}
		<-session.Done()
		if took := time.Since(start); took != 155*time.Second {
			t.Errorf("the session ended after %v, want 155 s", took)
		}
		wantTimeout(t, session.Err())
	})
}

func wantTimeout(t *testing.T, err error) {
	t.Helper()
	var netErr net.Error
	if !errors.As(err, &netErr) || !netErr.Timeout() {
		t.Errorf("error is %v, want a timeout", err)
	}
}

// TestPeerThatDoesNotRead ends the session, whatever it says.
func TestPeerThatDoesNotRead(t *testing.T) {
	virtualTime(t, func(t *testing.T) {
		wire, session := rawPeer(t, nil, transportmux.SessionOptions{})
		talking := make(chan struct{})
		go func() {
			defer close(talking)
			for err := error(nil); err == nil; time.Sleep(time.Second) {
				_, err = wire.Write(append(frame(ping, ack, 0, 0), frame(window, 0, 2, 1<<20)...))
			}
		}()
		go func() {
			if conn, err := session.Dial(t.Context(), "x"); err == nil {
				_, _ = conn.Write(make([]byte, 1<<20)) // more than the connection holds
				conn.Close()
			}
		}()
		start := time.Now()
		<-session.Done()
		if took := time.Since(start); took != 30*time.Second {
			t.Errorf("the session ended after %v, want 30 s", took)
		}
		wantTimeout(t, session.Err())
		<-talking
	})
}

// TestFloods of what has to be answered end the session, if the answers are not read.
func TestFloods(t *testing.T) {
	for name, flood := range map[string][]byte{
		"pings":   frame(ping, syn, 0, 0),
		"streams": frame(window, syn, 99, 0),
	} {
		t.Run(name, func(t *testing.T) {
			wire, session := rawPeer(t, everything(stall), transportmux.SessionOptions{MaxStreams: 1})
			send(t, wire, open(1, "x"))
			for err := error(nil); err == nil; {
				_, err = wire.Write(slices.Repeat(flood, 1000))
			}
			<-session.Done()
			if err := session.Err(); !strings.Contains(err.Error(), "more than it reads") {
				t.Errorf("the session ended with %v", err)
			}
		})
	}
}

// TestClosedStreamIsForgotten: the peer may not use it, nor keep it for long.
func TestClosedStreamIsForgotten(t *testing.T) {
	closed := func(_ context.Context, conn *transportmux.Conn) { conn.Close() }
	t.Run("more data", func(t *testing.T) {
		wire, _ := rawPeer(t, everything(closed), transportmux.SessionOptions{MaxStreams: 1})
		send(t, wire, open(1, "x"))
		await(t, wire, window, fin, 1)
		send(t, wire, withBody(0, 1, make([]byte, 1<<20)))
		await(t, wire, window, rst, 1)
		send(t, wire, open(3, "x"))
		await(t, wire, window, ack, 3)
	})
	t.Run("data that nobody read", func(t *testing.T) {
		wire, _ := rawPeer(t, everything(closed), transportmux.SessionOptions{MaxStreams: 1})
		send(t, wire, append(open(1, "x"), withBody(0, 1, make([]byte, 100))...))
		await(t, wire, window, rst, 1)
		send(t, wire, open(3, "x"))
		await(t, wire, window, ack, 3)
	})
	t.Run("nothing", func(t *testing.T) {
		virtualTime(t, func(t *testing.T) {
			wire, _ := rawPeer(t, everything(closed), transportmux.SessionOptions{MaxStreams: 1})
			start := time.Now()
			send(t, wire, open(1, "x"))
			stop := make(chan struct{})
			defer close(stop)
			go func() {
				for {
					select {
					case <-time.After(4 * time.Second): // so often that no ping of ours is due
						_, _ = wire.Write(frame(ping, syn, 0, 0))
					case <-stop:
						return
					}
				}
			}()
			await(t, wire, window, rst, 1)
			if took := time.Since(start); took < 30*time.Second || took > 35*time.Second {
				t.Errorf("the stream is reset after %v, want 30 s to 35 s", took)
			}
		})
	})
}

// FuzzSession: whatever a peer sends, the session ends when it has, and nothing else.
func FuzzSession(f *testing.F) {
	f.Fuzz(func(t *testing.T, say []byte) {
		wire, session := rawPeer(t, echoOrStall, transportmux.SessionOptions{MaxStreams: 4})
		go func() {
			if conn, err := session.Dial(context.Background(), "x"); err == nil {
				_, _ = conn.Write([]byte("and back"))
				conn.Close()
			}
		}()
		read := make(chan struct{})
		go func() {
			defer close(read)
			_, _ = io.Copy(io.Discard, wire)
		}()
		_, _ = wire.Write(say)
		_ = wire.CloseWrite()
		<-session.Done()
		<-read
	})
}
