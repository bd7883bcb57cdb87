package dataconn

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dualrepl/dualrepl/pdu"
)

// slowReader reads from r, but stalls once, after some bytes.
type slowReader struct {
	r     io.Reader
	after int
	stall time.Duration
}

func (s *slowReader) Read(p []byte) (int, error) {
	if s.after -= len(p); s.after < 0 && s.stall > 0 {
		time.Sleep(s.stall)
		s.stall = 0
	}
	return s.r.Read(p)
}

// A side that stalls for a minute loses nothing, whichever side it is, and whether it
// stalls at the beginning, in the middle or when all has been sent.
func TestStallLosesNothing(t *testing.T) {
	const size = 3 << 20
	data := pattern(size)
	for name, after := range map[string]int{"beginning": 0, "middle": size / 2, "end": size - 100<<10} {
		stall := func(r io.Reader) io.Reader { return &slowReader{r, after, time.Minute} }
		for kind, f := range map[string]func(*testing.T){
			"slow reader at the client": func(t *testing.T) { receiveAll(t, data, stall(bytes.NewReader(data)), io.ReadAll) },
			"slow reader at the server": func(t *testing.T) { sendAll(t, data, stall(bytes.NewReader(data)), io.ReadAll) },
			"slow receiver at the server": func(t *testing.T) {
				receiveAll(t, data, bytes.NewReader(data), func(r io.Reader) ([]byte, error) { return io.ReadAll(stall(r)) })
			},
			"slow receiver at the client": func(t *testing.T) {
				sendAll(t, data, bytes.NewReader(data), func(r io.Reader) ([]byte, error) { return io.ReadAll(stall(r)) })
			},
		} {
			t.Run(kind+"/"+name, func(t *testing.T) { synctest.Test(t, f) })
		}
	}
}

func receiveAll(t *testing.T, want []byte, src io.Reader, readAll func(io.Reader) ([]byte, error)) {
	l := connect(receiving(func(_ context.Context, r io.Reader) error {
		got, err := readAll(r)
		if !bytes.Equal(got, want) {
			t.Errorf("received %d bytes, %v; want %d", len(got), err, len(want))
		}
		return err
	}))
	defer l.close()
	if _, err := l.Receive(t.Context(), recvReq, src); err != nil {
		t.Error(err)
	}
}

func sendAll(t *testing.T, want []byte, src io.Reader, readAll func(io.Reader) ([]byte, error)) {
	l := connect(sending(src))
	defer l.close()
	_, r, err := l.Send(t.Context(), sendReq)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got, err := readAll(r); err != nil || !bytes.Equal(got, want) {
		t.Errorf("received %d bytes, %v; want %d", len(got), err, len(want))
	}
}

// A handler may work for minutes before it answers, and after the end of its stream.
func TestHandlerTakesItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := connect(handler{
			send: func(context.Context, *pdu.SendReq) (*pdu.SendRes, io.ReadCloser, error) {
				time.Sleep(5 * time.Minute)
				return sendRes, io.NopCloser(strings.NewReader("abc")), nil
			},
			recv: func(_ context.Context, _ *pdu.ReceiveReq, r io.Reader) (*pdu.ReceiveRes, error) {
				_, err := io.Copy(io.Discard, r)
				time.Sleep(5 * time.Minute)
				return new(pdu.ReceiveRes), err
			},
		})
		defer l.close()
		if got, err := callSend(t.Context(), l.Client); got != "abc" || err != nil {
			t.Errorf("send: %q, %v", got, err)
		}
		if _, err := l.Receive(t.Context(), recvReq, strings.NewReader("abc")); err != nil {
			t.Errorf("recv: %v", err)
		}
	})
}

// When packets are lost from now on, both sides notice within 15 seconds, whatever they do.
func TestVanishedPeer(t *testing.T) {
	stuck := handler{
		ping: func(ctx context.Context, _ *pdu.PingReq) (*pdu.PingRes, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		},
		send: sending(endless{}).send,
		recv: receiving(func(_ context.Context, r io.Reader) error { _, err := io.Copy(io.Discard, r); return err }).recv,
	}
	for name, call := range map[string]func(context.Context, *Client) error{
		"waiting for an answer": func(ctx context.Context, cl *Client) error { _, err := cl.Ping(ctx, pingReq); return err },
		"sending":               func(ctx context.Context, cl *Client) error { _, err := cl.Receive(ctx, recvReq, endless{}); return err },
		"waiting for a reader": func(ctx context.Context, cl *Client) error {
			r, w := io.Pipe()
			defer w.Close()
			_, err := cl.Receive(ctx, recvReq, r)
			return err
		},
		"receiving": func(ctx context.Context, cl *Client) error {
			_, r, err := cl.Send(ctx, sendReq)
			if err != nil {
				return err
			}
			defer r.Close()
			_, err = io.Copy(io.Discard, struct{ io.Reader }{r})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := connect(stuck)
				begin := time.Now()
				go func() { (<-l.wire).vanish() }()
				checkTimeout(t, call(t.Context(), l.Client))
				l.close() // waits for the server's side
				if d := time.Since(begin); d > 15*time.Second {
					t.Errorf("noticed after %v", d)
				}
			})
		})
	}
}

func checkTimeout(t *testing.T, err error) {
	t.Helper()
	var netErr net.Error
	if !errors.As(err, &netErr) || !netErr.Timeout() || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("error %v is not a timeout", err)
	}
}

// A peer that lives but neither reads nor answers is waited for: its heartbeats say so.
func TestHeartbeatsExtendWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cl, peer := dialTo()
		begin := time.Now()
		go func() {
			for time.Since(begin) < time.Minute {
				time.Sleep(heartbeatInterval)
				_, _ = peer.Write(unhex(t, heartbeat))
			}
			// Silent from now on.
		}()
		_, err := cl.Receive(t.Context(), recvReq, endless{})
		checkTimeout(t, err)
		if d := time.Since(begin); d < time.Minute+peerTimeout || d > time.Minute+15*time.Second {
			t.Errorf("gave up after %v", d)
		}
		cl.Close()
	})
}

// A cancelled caller gets its context's cause, and the handler's context ends.
func TestCancel(t *testing.T) {
	errStop := errors.New("stop")
	ended := make(chan time.Time, 1)
	wait := func(ctx context.Context) error {
		<-ctx.Done()
		ended <- time.Now()
		return ctx.Err()
	}
	h := handler{
		ping: func(ctx context.Context, _ *pdu.PingReq) (*pdu.PingRes, error) { return nil, wait(ctx) },
		send: func(ctx context.Context, _ *pdu.SendReq) (*pdu.SendRes, io.ReadCloser, error) {
			r, w := io.Pipe()
			context.AfterFunc(ctx, func() { w.CloseWithError(wait(ctx)) })
			return sendRes, r, nil
		},
		recv: receiving(func(ctx context.Context, r io.Reader) error {
			_, err := io.Copy(io.Discard, r)
			return errors.Join(wait(ctx), err)
		}).recv,
	}
	for name, call := range map[string]func(context.Context, *Client) (string, error){
		"ping": callPing, "send": callSend, "recv": callReceive(paced{}),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ended = make(chan time.Time, 1)
				l := connect(h)
				ctx, cancel := context.WithCancelCause(t.Context())
				var cancelled time.Time
				time.AfterFunc(time.Second, func() { cancelled = time.Now(); cancel(errStop) })
				_, err := call(ctx, l.Client)
				if !errors.Is(err, errStop) {
					t.Errorf("error %v, want the context's cause", err)
				}
				l.close()
				if d := (<-ended).Sub(cancelled); d > resetTimeout {
					t.Errorf("the handler's context ended %v later", d)
				}
			})
		})
	}
}

// paced is endless, but lets virtual time pass.
type paced struct{}

func (paced) Read(p []byte) (int, error) {
	time.Sleep(50 * time.Millisecond)
	return len(p), nil
}

// Closing a stream early leaves gigabytes unread, and ends the handler's context.
func TestCloseStreamEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		closed := make(chan struct{})
		l := connect(handler{send: func(context.Context, *pdu.SendReq) (*pdu.SendRes, io.ReadCloser, error) {
			return sendRes, endlessStream{closed: closed}, nil
		}})
		begin := time.Now()
		_, r, err := l.Send(t.Context(), sendReq)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(r, make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		}
		if _, err := r.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Read after Close: %v", err)
		}
		<-closed
		l.close()
		if d := time.Since(begin); d > resetTimeout {
			t.Errorf("took %v", d)
		}
	})
}

type endlessStream struct {
	endless
	closed chan struct{}
}

func (s endlessStream) Close() error {
	close(s.closed)
	return nil
}

func TestClientClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := connect(sending(endless{}))
		_, r, err := l.Send(t.Context(), sendReq)
		if err != nil {
			t.Fatal(err)
		}
		l.close()
		l.close()
		if _, err := io.Copy(io.Discard, r); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Read after the client's Close: %v", err)
		}
		if _, err := l.Ping(t.Context(), pingReq); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Ping after Close: %v", err)
		}
		r.Close()
	})
}

// A stream passes every consumer: Read with small and large buffers, and WriteTo.
func TestStreamConsumers(t *testing.T) {
	data := pattern(5*frameSize + 12345)
	want := sha256.Sum256(data)
	for name, read := range map[string]func(io.Reader) ([]byte, error){
		"read": func(r io.Reader) ([]byte, error) { return io.ReadAll(struct{ io.Reader }{r}) },
		"write to": func(r io.Reader) ([]byte, error) {
			var b bytes.Buffer
			_, err := r.(io.WriterTo).WriteTo(&b)
			return b.Bytes(), err
		},
		"large buffer": func(r io.Reader) ([]byte, error) {
			b := make([]byte, len(data)+headerSize)
			n, err := io.ReadAtLeast(r, b, len(data))
			return b[:n], err
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sendAll(t, data, bytes.NewReader(data), func(r io.Reader) ([]byte, error) {
					got, err := read(r)
					if sha256.Sum256(got) != want {
						t.Errorf("%d bytes differ", len(got))
					}
					return got, err
				})
			})
		})
	}
}

func TestWriteToWriterFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := connect(sending(endless{}))
		defer l.close()
		_, r, err := l.Send(t.Context(), sendReq)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		pr, pw := io.Pipe()
		pr.CloseWithError(errDied)
		if _, err := r.(io.WriterTo).WriteTo(pw); !errors.Is(err, errDied) {
			t.Errorf("error %v, want the writer's", err)
		}
	})
}

// A Receive that fails does not wait for a reader that blocks, and neither does Close.
func TestBlockedReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := connect(receiving(func(context.Context, io.Reader) error { return errDied }))
		r, w := io.Pipe()
		begin := time.Now()
		_, err := l.Receive(t.Context(), recvReq, r)
		if d := time.Since(begin); d > readerGrace {
			t.Errorf("returned after %v", d)
		}
		var remote *RemoteError
		if !errors.As(err, &remote) || remote.Text != "died" {
			t.Errorf("error %v", err)
		}
		l.close()
		w.Close()
	})
}

// lateContext is a context that those derived from it notice late: in a goroutine.
type lateContext struct {
	context.Context
	done chan struct{}
}

func (c lateContext) Done() <-chan struct{} { return c.done }

func (c lateContext) Err() error {
	select {
	case <-c.done:
		return context.Canceled
	default:
		return nil
	}
}

// A stream that fails because its reader was cancelled breaks the request off: the
// peer must not take that for an error of the stream.
func TestCancelledReader(t *testing.T) {
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			cl, peer := dialTo()
			ctx := lateContext{context.Background(), make(chan struct{})}
			_, err := cl.Receive(ctx, recvReq, readerFunc(func([]byte) (int, error) {
				close(ctx.done)
				return 0, ctx.Err()
			}))
			if !errors.Is(err, context.Canceled) {
				t.Errorf("error %v", err)
			}
			expect(t, peer, unhex(t, recvRequest+reset))
			expectEOF(t, peer)
			cl.Close()
		})
	}
}

// What a source has given goes out while it pauses, and heartbeats after it.
func TestPausingSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, peer := memPair()
		r, w := io.Pipe()
		var wg sync.WaitGroup
		defer wg.Wait()
		wg.Go(func() { ServeConn(t.Context(), server, handleSend(r, nil), ServeOptions{}) })
		if _, err := peer.Write(unhex(t, sendRequest)); err != nil {
			t.Fatal(err)
		}
		wg.Go(func() { writeSlowly(peer, heartbeatInterval, slices.Repeat([][]byte{beatFrame}, 20)) })
		expect(t, peer, unhex(t, sendResponse))
		for _, part := range []string{"ab", "c", strings.Repeat("d", minFrameSize-4), "e", "last"} {
			begin := time.Now()
			if _, err := io.WriteString(w, part); err != nil {
				t.Fatal(err)
			}
			expect(t, peer, frame(typeStream, part))
			if d := time.Since(begin); d > 2*tick {
				t.Errorf("sent after %v", d)
			}
			expect(t, peer, beatFrame)
			expect(t, peer, beatFrame)
		}
		w.Close()
		expect(t, peer, endFrame)
		peer.Close()
	})
}

// Small reads of a fast source share a frame.
func TestSmallReadsAreGathered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, peer := memPair()
		data := bytes.NewReader(pattern(3 * minFrameSize))
		small := readerFunc(func(p []byte) (int, error) { return data.Read(p[:4096]) })
		go ServeConn(t.Context(), server, handleSend(small, nil), ServeOptions{})
		if _, err := peer.Write(unhex(t, sendRequest)); err != nil {
			t.Fatal(err)
		}
		expect(t, peer, unhex(t, sendResponse))
		for b := range slices.Chunk(pattern(3*minFrameSize), minFrameSize) {
			expect(t, peer, frame(typeStream, string(b)))
		}
		expect(t, peer, endFrame)
		peer.Close()
	})
}

// hesitant returns nothing a number of times before each byte.
type hesitant struct{ empty, count int }

func (h *hesitant) Read(p []byte) (int, error) {
	if h.count++; h.count%(h.empty+1) != 0 {
		return 0, nil
	}
	if h.count > 10*h.empty {
		return 0, io.EOF
	}
	return copy(p, "x"), nil
}

// A source that returns nothing for ever is an error; one that hesitates is not.
func TestSourceWithoutProgress(t *testing.T) {
	for _, tt := range []struct {
		empty int
		err   error
	}{{1, nil}, {maxEmptyReads - 1, nil}, {maxEmptyReads, io.ErrNoProgress}, {1 << 40, io.ErrNoProgress}} {
		synctest.Test(t, func(t *testing.T) {
			l := connect(receiving(func(_ context.Context, r io.Reader) error {
				_, err := io.Copy(io.Discard, r)
				return err
			}))
			defer l.close()
			if _, err := l.Receive(t.Context(), recvReq, &hesitant{empty: tt.empty}); !errors.Is(err, tt.err) {
				t.Errorf("%d empty reads: error %v, want %v", tt.empty, err, tt.err)
			}
		})
	}
}

// A client from which bytes come in, but not a whole request, is dropped in time.
func TestLateRequest(t *testing.T) {
	request := unhex(t, pingRequest)
	beats := slices.Repeat([][]byte{beatFrame}, 10)
	for _, tt := range []struct {
		name   string
		every  time.Duration
		writes [][]byte
		took   time.Duration
		log    string
	}{
		{"heartbeats only", heartbeatInterval, beats, requestTimeout, errRequestLate.Error()},
		{"no end", heartbeatInterval, slices.Insert(beats, 0, request[:len(request)-headerSize]), requestTimeout, errRequestLate.Error()},
		{"a byte a second", time.Second, slices.Collect(slices.Chunk(request, 1)), requestTimeout, errRequestLate.Error()},
		{"just in time", heartbeatInterval, append(slices.Clone(beats[:5]), request), 25 * time.Second, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log bytes.Buffer
				server, peer := memPair()
				var wg sync.WaitGroup
				wg.Go(func() {
					ServeConn(t.Context(), server, handlePing(nil), ServeOptions{Logger: slog.New(slog.NewTextHandler(&log, nil))})
				})
				wg.Go(func() { writeSlowly(peer, tt.every, tt.writes) })
				begin := time.Now()
				if _, err := io.Copy(io.Discard, peer); err != nil { // to the server's end
					t.Error(err)
				}
				if d := time.Since(begin); d != tt.took {
					t.Errorf("ended after %v, want %v", d, tt.took)
				}
				peer.Close()
				wg.Wait()
				if !strings.Contains(log.String(), tt.log) || tt.log == "" && log.Len() > 0 {
					t.Errorf("logged %s", log.String())
				}
			})
		})
	}
}

func writeSlowly(w io.Writer, every time.Duration, writes [][]byte) {
	for _, b := range writes {
		if _, err := w.Write(b); err != nil {
			return
		}
		time.Sleep(every)
	}
}

// The end of ServeConn's context ends the handler's and the connection.
func TestServerStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		server, peer := memPair()
		done := make(chan struct{})
		go func() {
			defer close(done)
			ServeConn(ctx, server, sending(endless{}), ServeOptions{})
		}()
		if _, err := peer.Write(unhex(t, sendRequest)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		cancel()
		<-done
	})
}
