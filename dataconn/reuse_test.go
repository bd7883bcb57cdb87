package dataconn

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/dualrepl/dualrepl/pdu"
	"github.com/dualrepl/dualrepl/transport"
)

const unbegun = " 20000000 00000000"

// pooled is a client of servers in memory, which answer with the same handler.
type pooled struct {
	*Client
	mu    sync.Mutex
	wires []*memWire // the client's ends, as they were dialled
	wg    sync.WaitGroup
	serve func(*memWire)
}

// connectWith returns a client and servers that have agreed on features.
func connectWith(h Handler, features Features, adjust ...func(*ClientOptions, *ServeOptions)) *pooled {
	client, server := ClientOptions{}, ServeOptions{Features: features}
	for _, f := range adjust {
		f(&client, &server)
	}
	p := &pooled{serve: func(w *memWire) { ServeConn(context.Background(), w, h, server) }}
	p.Client = NewClient(func(context.Context) (transport.Wire, Features, error) {
		client, server := memPair()
		p.mu.Lock()
		defer p.mu.Unlock()
		p.wires = append(p.wires, client)
		p.wg.Go(func() { p.serve(server) })
		return client, features, nil
	}, client)
	return p
}

// reusing is connectWith for reuse alone.
func reusing(h Handler, adjust ...func(*ClientOptions, *ServeOptions)) *pooled {
	return connectWith(h, Features{Reuse: true}, adjust...)
}

func (p *pooled) close() {
	_ = p.Close()
	p.wg.Wait()
}

func (p *pooled) dials() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.wires)
}

// ping fails the test if it fails, or if it was not on the n-th connection.
func (p *pooled) ping(t *testing.T, n int) {
	t.Helper()
	if _, err := p.Ping(t.Context(), pingReq); err != nil {
		t.Errorf("ping: %v", err)
	}
	if p.dials() != n {
		t.Errorf("%d connections, want %d", p.dials(), n)
	}
}

// dialWith returns a client whose connections a test plays the peer of: the first is to
// peer, and there is no second.
func dialWith(features Features) (*Client, *memWire) {
	client, peer := memPair()
	wires := make(chan *memWire, 1)
	wires <- client
	return NewClient(func(context.Context) (transport.Wire, Features, error) {
		select {
		case w := <-wires:
			return w, features, nil
		default:
			return nil, Features{}, errors.New("no other connection")
		}
	}, ClientOptions{}), peer
}

// echoing answers all requests: what it receives must be data, and is what it sends.
func echoing(data []byte) handler {
	return handler{
		ping: handlePing(nil).Ping,
		send: func(_ context.Context, req *pdu.SendReq) (*pdu.SendRes, io.ReadCloser, error) {
			if req.ResumeToken != "" {
				return nil, nil, errors.New(req.ResumeToken)
			}
			return sendRes, io.NopCloser(bytes.NewReader(data)), nil
		},
		recv: func(_ context.Context, _ *pdu.ReceiveReq, r io.Reader) (*pdu.ReceiveRes, error) {
			got, err := io.ReadAll(r)
			if err == nil && !bytes.Equal(got, data) {
				err = errors.New("received something else")
			}
			return new(pdu.ReceiveRes), err
		},
	}
}

// step makes the i-th of many small requests of all kinds, those that fail included,
// none of which breaks a connection.
func step(ctx context.Context, cl *Client, i int, data []byte) error {
	switch i % 5 {
	case 0:
		echo := fmt.Sprint(i)
		res, err := cl.Ping(ctx, &pdu.PingReq{Message: echo})
		if err == nil && res.Echo != echo {
			err = fmt.Errorf("echo %s of %s", res.Echo, echo)
		}
		return err
	case 1, 2:
		got, err := callSend(ctx, cl)
		if err == nil && got != string(data) {
			err = errors.New("sent something else")
		}
		return err
	case 3:
		token := fmt.Sprint(i)
		_, _, err := cl.Send(ctx, &pdu.SendReq{ResumeToken: token})
		if remote, ok := errors.AsType[*RemoteError](err); !ok || remote.Text != token {
			return fmt.Errorf("error %w of %s", err, token)
		}
		return nil
	default:
		_, err := cl.Receive(ctx, recvReq, bytes.NewReader(data))
		return err
	}
}

// Ten thousand steps, one after another, need one connection.
func TestReuse(t *testing.T) {
	data := pattern(4 << 10)
	for _, f := range []Features{
		{Reuse: true}, {Reuse: true, Status: true}, {Reuse: true, Status: true, Sum: true},
	} {
		t.Run(fmt.Sprintf("%+v", f), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := connectWith(echoing(data), f)
				defer p.close()
				for i := range 10_000 {
					if err := step(t.Context(), p.Client, i, data); err != nil {
						t.Fatalf("step %d: %v", i, err)
					}
				}
				if p.dials() != 1 {
					t.Errorf("%d connections", p.dials())
				}
			})
		})
	}
}

// No more connections are made than requests run at once, nor kept than may be.
func TestReuseAtOnce(t *testing.T) {
	const n = 8
	synctest.Test(t, func(t *testing.T) {
		p := reusing(handler{ping: func(_ context.Context, req *pdu.PingReq) (*pdu.PingRes, error) {
			time.Sleep(time.Second)
			return &pdu.PingRes{Echo: req.Message}, nil
		}}, func(c *ClientOptions, _ *ServeOptions) { c.MaxIdle = 3 })
		defer p.close()
		for round := range 3 {
			var wg sync.WaitGroup
			for range n {
				wg.Go(func() {
					if _, err := p.Ping(t.Context(), pingReq); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			synctest.Wait()
			if want := n + round*(n-3); p.dials() != want || len(p.pool.idle) != 3 {
				t.Errorf("round %d: %d connections, want %d; %d idle", round, p.dials(), want, len(p.pool.idle))
			}
		}
	})
}

// Without the feature, or a pool, every request has a connection of its own.
func TestNoReuse(t *testing.T) {
	for name, p := range map[string]func(Handler) *pooled{
		"not agreed on": func(h Handler) *pooled { return connectWith(h, Features{}) },
		"no pool": func(h Handler) *pooled {
			return reusing(h, func(c *ClientOptions, _ *ServeOptions) { c.MaxIdle = -1 })
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := p(handlePing(nil))
				defer p.close()
				for i := range 10 {
					p.ping(t, i+1)
				}
			})
		})
	}
}

// Both sides end an idle connection in time, and no request notices.
func TestIdleTimeout(t *testing.T) {
	for name, tt := range map[string]struct{ client, wait time.Duration }{
		"client's":           {time.Minute, time.Minute},
		"client's, not yet":  {time.Minute, time.Minute - time.Second},
		"server's":           {time.Hour, serverIdleTimeout},
		"server's, just now": {serverIdleTimeout, serverIdleTimeout},
		"server's, not yet":  {time.Hour, serverIdleTimeout - time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := reusing(handlePing(nil), func(c *ClientOptions, _ *ServeOptions) { c.IdleTimeout = tt.client })
				defer p.close()
				p.ping(t, 1)
				time.Sleep(tt.wait)
				synctest.Wait()
				if strings.HasSuffix(name, "not yet") {
					p.ping(t, 1)
					return
				}
				if len(p.pool.idle) != 0 {
					t.Error("it is still there")
				}
				p.ping(t, 2)
			})
		})
	}
}

// A connection that broke while it was idle is not used, however it broke.
func TestBrokenIdleConnection(t *testing.T) {
	arrive := func(b []byte) func(*memWire) {
		return func(w *memWire) { w.in.set(func() { w.in.data = append(w.in.data, b...) }) }
	}
	for name, tt := range map[string]struct {
		breakIt func(*memWire)
		after   time.Duration
	}{
		"peer is gone": {func(w *memWire) {
			w.out.set(func() { w.out.reset = true })
			w.in.set(func() { w.in.eof = true })
		}, 0},
		"packets are lost":  {(*memWire).vanish, idleSilence + tick},
		"a text":            {arrive([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")), 0},
		"a response":        {arrive(unhex(t, pingResponse)), 0},
		"an unknown frame":  {arrive(unhex(t, "00000063 00000000")), 0},
		"reset":             {arrive(rstFrame), 0},
		"unbegun and reset": {arrive(unhex(t, unbegun+reset)), 0},
		"half a frame":      {arrive(beatFrame[:2]), heartbeatInterval + 2*tick},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := reusing(handlePing(nil))
				defer p.close()
				p.ping(t, 1)
				tt.breakIt(p.wires[0])
				time.Sleep(tt.after)
				synctest.Wait()
				p.ping(t, 2)
				time.Sleep(peerTimeout + tick)
				synctest.Wait()
				if len(p.pool.idle) != 1 {
					t.Errorf("%d idle connections", len(p.pool.idle))
				}
			})
		})
	}
}

// A server whose packets are lost while it is idle loses its client in time.
func TestVanishedIdleClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := reusing(handlePing(nil))
		p.ping(t, 1)
		p.wires[0].vanish()
		begin := time.Now()
		p.wg.Wait()
		if d := time.Since(begin); d > 15*time.Second {
			t.Errorf("after %v", d)
		}
		p.close()
	})
}

// play is a server, byte by byte: it expects each request and sends what answers it.
func play(t *testing.T, w *memWire, exchanges ...string) {
	t.Helper()
	for i := 0; i < len(exchanges); i += 2 {
		expect(t, w, unhex(t, exchanges[i]))
		if _, err := w.Write(unhex(t, exchanges[i+1])); err != nil {
			t.Error(err)
		}
	}
}

const pingResponse = responseOK + "00000004 00000004 0a026869" + end

// The bytes of two requests on one connection, and of the client's idle time-out.
func TestReuseVectors(t *testing.T) {
	t.Run("client", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			cl, peer := dialWith(Features{Reuse: true})
			var wg sync.WaitGroup
			wg.Go(func() {
				play(t, peer, pingRequest, pingResponse, sendRequest, sendResponse+brokenStream,
					sendRequest, diskFull, recvRequest+stream, responseOK+end, pingRequest, pingResponse)
				wg.Go(func() {
					writeSlowly(peer, heartbeatInterval, slices.Repeat([][]byte{beatFrame}, int(DefaultIdleTimeout/heartbeatInterval)))
				})
				b, err := io.ReadAll(peer)
				if b = bytes.ReplaceAll(b, beatFrame, nil); !bytes.Equal(b, rstFrame) || err != nil {
					t.Errorf("the end: % x, %v", b, err)
				}
				peer.CloseWriteAfter(unhex(t, unbegun+reset))
			})
			for i, call := range []func(context.Context, *Client) (string, error){
				callPing, callSend, callSend, callReceive(strings.NewReader("abc")), callPing,
			} {
				if _, err := call(t.Context(), cl); (err != nil) != (i == 1 || i == 2) {
					t.Error(err)
				}
			}
			wg.Wait()
			cl.Close()
		})
	})
	t.Run("server", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			server, peer := memPair()
			drain, stop := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			wg.Go(func() {
				ServeConn(t.Context(), server, handler{
					ping: handlePing(nil).Ping, send: handleSend(broken("ab", errDied), nil).Send, recv: handleReceive(nil).Receive,
				}, ServeOptions{Features: Features{Reuse: true}, Drain: drain})
			})
			for _, exchange := range [][2]string{
				{pingRequest, pingResponse}, {sendRequest, sendResponse + brokenStream}, {recvRequest + stream, responseOK + end}, {pingRequest, pingResponse},
			} {
				if _, err := peer.Write(unhex(t, exchange[0])); err != nil {
					t.Error(err)
				}
				expect(t, peer, unhex(t, exchange[1]))
			}
			stop()
			expect(t, peer, unhex(t, unbegun+reset))
			expectEOF(t, peer)
			feed(t, peer, unhex(t, reset))
			wg.Wait()
			peer.Close()
		})
	})
}

// A request that was not begun is sent anew elsewhere, with what was read of its stream.
func TestNotBegun(t *testing.T) {
	data := pattern(replayLimit)
	for name, call := range map[string]func(context.Context, *Client) error{
		"ping": func(ctx context.Context, cl *Client) error { _, err := cl.Ping(ctx, pingReq); return err },
		"send": func(ctx context.Context, cl *Client) error { return step(ctx, cl, 1, data) },
		"recv": func(ctx context.Context, cl *Client) error { return step(ctx, cl, 4, data) },
		"recv, in small pieces": func(ctx context.Context, cl *Client) error {
			_, err := cl.Receive(ctx, recvReq, iotest.HalfReader(bytes.NewReader(data)))
			return err
		},
		"recv, from a slow source": func(ctx context.Context, cl *Client) error {
			_, err := cl.Receive(ctx, recvReq, &slowReader{bytes.NewReader(data), 0, time.Minute})
			return err
		},
	} {
		t.Run(name+"/unbegun", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := reusing(echoing(data))
				defer p.close()
				serve, connections := p.serve, 0
				p.serve = func(w *memWire) {
					if connections++; connections < maxTries {
						refuseLater(w)
					} else {
						serve(w)
					}
				}
				if err := call(t.Context(), p.Client); err != nil {
					t.Error(err)
				}
				p.ping(t, maxTries)
			})
		})
		t.Run(name+"/cannot be sent", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := reusing(echoing(data))
				defer p.close()
				client, _ := memPair()
				client.out.reset = true // nothing has told the client
				c := newConn(t.Context(), client, Features{Reuse: true}, false)
				c.start()
				p.pool.put(c)
				if err := call(t.Context(), p.Client); err != nil {
					t.Error(err)
				}
				p.ping(t, 1)
			})
		})
	}
}

// refuseLater is a server that stops while a request comes in.
func refuseLater(w *memWire) {
	time.Sleep(time.Second)
	w.CloseWriteAfter(join(frame(typeUnbegun, ""), rstFrame))
	_, _ = io.Copy(io.Discard, w)
	w.Close()
}

// A request that nobody begins fails, and says that it has not run; so does one whose
// stream has been read too far to be sent anew.
func TestNeverBegun(t *testing.T) {
	for name, tt := range map[string]struct {
		stream io.Reader // nil: a ping
		dials  int
	}{
		"ping":          {nil, maxTries},
		"short stream":  {strings.NewReader("abc"), maxTries},
		"long stream":   {bytes.NewReader(pattern(replayLimit + 1)), 1},
		"broken stream": {broken("abc", errDied), maxTries},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := reusing(nil)
				defer p.close()
				p.serve = refuseLater
				call := callPing
				if tt.stream != nil {
					call = callReceive(tt.stream)
				}
				_, err := call(t.Context(), p.Client)
				if !errors.Is(err, ErrNotSent) || p.dials() != tt.dials {
					t.Errorf("error %v after %d connections", err, p.dials())
				}
				if lost, isLost := errors.AsType[*ConnError](err); name != "broken stream" && (!isLost || err.Error() != lost.Error()) {
					t.Errorf("error %v is no broken connection", err)
				}
			})
		})
	}
}

// What an error says of a request: that it was not sent, was answered, or may have run.
func TestOutcome(t *testing.T) {
	for name, tt := range map[string]struct {
		response string
		notSent  bool
		remote   bool
	}{
		"unbegun":                      {unbegun + reset, true, false},
		"answered":                     {diskFull, false, true},
		"answered, then unbegun":       {diskFull + unbegun + reset, false, true},
		"reset":                        {reset, false, false},
		"end":                          {"", false, false},
		"unbegun in the response":      {responseOK + unbegun + reset, false, false},
		"unbegun in a frame's place":   {"00000003 00000001 48" + unbegun + reset, false, false},
		"protocol error":               {"00000063 00000000", false, false},
		"a request":                    {pingRequest, false, false},
		"unbegun that has a payload":   {"20000000 00000001 00", false, false},
		"heartbeats, and then unbegun": {heartbeat + heartbeat + unbegun + reset, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cl, peer := dialWith(Features{Reuse: true})
				go func() {
					expect(t, peer, unhex(t, pingRequest))
					peer.CloseWriteAfter(unhex(t, tt.response))
				}()
				_, err := cl.Ping(t.Context(), pingReq)
				if err == nil || errors.Is(err, ErrNotSent) != tt.notSent || errors.As(err, new(*RemoteError)) != tt.remote {
					t.Errorf("error %v", err)
				}
				cl.Close()
			})
		})
	}
	t.Run("dial", func(t *testing.T) {
		cl := NewClient(func(context.Context) (transport.Wire, Features, error) { return nil, Features{}, errDied }, ClientOptions{})
		if _, err := cl.Ping(t.Context(), pingReq); !errors.Is(err, ErrNotSent) || !errors.Is(err, errDied) || err.Error() != "died" {
			t.Errorf("error %v", err)
		}
		cl.Close()
		if _, err := cl.Ping(t.Context(), pingReq); !errors.Is(err, ErrNotSent) || !errors.Is(err, net.ErrClosed) {
			t.Errorf("closed: error %v", err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errDied)
		if _, err := NewClient(nil, ClientOptions{}).Ping(ctx, pingReq); !errors.Is(err, ErrNotSent) || !errors.Is(err, errDied) {
			t.Errorf("cancelled: error %v", err)
		}
	})
}

// A Receive that waits for its slow source, to be sent anew, ends with its context; one
// that cannot be sent anew does not wait.
func TestNotBegunFromSlowSource(t *testing.T) {
	for name, tt := range map[string]struct {
		read int // of the stream, before its source pauses
		want error
	}{
		"nothing read":  {0, context.DeadlineExceeded},
		"too much read": {replayLimit + 1, io.ErrUnexpectedEOF},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := reusing(nil)
				defer p.close()
				p.serve = refuseLater
				r, w := io.Pipe()
				defer w.Close()
				go func() { _, _ = w.Write(pattern(tt.read)) }()
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				begin := time.Now()
				_, err := p.Receive(ctx, recvReq, r)
				if !errors.Is(err, tt.want) || !errors.Is(err, ErrNotSent) || p.dials() != 1 {
					t.Errorf("error %v after %d connections", err, p.dials())
				}
				if d := time.Since(begin); d > time.Minute || tt.read > 0 && d > 3*time.Second {
					t.Errorf("after %v", d)
				}
			})
		})
	}
}

// The error of another request, as the cause that this one's context ended with, does not
// say what became of this one.
func TestCauseOfAnotherRequest(t *testing.T) {
	for _, cause := range []error{&RemoteError{Text: "died"}, notSentError{errUnbegun}} {
		for name, call := range map[string]func(context.Context, *Client) (string, error){
			"ping": callPing, "recv": callReceive(strings.NewReader("abc")),
			"recv, sending": callReceive(readerFunc(func(p []byte) (int, error) { time.Sleep(tick / 1000); return len(p), nil })),
		} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := reusing(waiting(make(chan struct{}), true))
					defer p.close()
					ctx, cancel := context.WithCancelCause(t.Context())
					time.AfterFunc(time.Millisecond, func() { cancel(cause) })
					_, err := call(ctx, p.Client)
					if !errors.Is(err, context.Canceled) || errors.Is(err, ErrNotSent) || errors.As(err, new(*RemoteError)) || !strings.Contains(err.Error(), cause.Error()) {
						t.Errorf("error %v", err)
					}
				})
			})
		}
	}
}

// A request of an endpoint that a server does not know is answered, whatever follows it.
func TestUnknownEndpointWithStream(t *testing.T) {
	for _, reuse := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			server, peer := memPair()
			statusOf := func(err error) *spb.Status {
				synctest.Wait() // for whoever might read the stream
				return status.Convert(err).Proto()
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				ServeConn(t.Context(), server, nil, ServeOptions{Features: Features{Reuse: reuse, Status: true}, StatusOf: statusOf})
			}()
			if _, err := peer.Write(join(appendMessage(nil, typeRequestHeader, "/v2/recv"), endFrame, unhex(t, stream))); err != nil {
				t.Error(err)
			}
			want := headerError + string(encodeStatus(status.New(codes.Unknown, errNoEndpoint.Error()).Proto()))
			expect(t, peer, appendMessage(nil, typeResponseHeader, want))
			peer.Close()
			<-done
		})
	}
}

// A server that stops lets a request finish that runs, and ends the connection then.
func TestDrain(t *testing.T) {
	for _, features := range []Features{{Reuse: true}, {}} {
		synctest.Test(t, func(t *testing.T) {
			drain, stop := context.WithCancel(t.Context())
			p := connectWith(handler{send: func(ctx context.Context, _ *pdu.SendReq) (*pdu.SendRes, io.ReadCloser, error) {
				stop()
				time.Sleep(time.Minute)
				return sendRes, io.NopCloser(strings.NewReader("abc")), ctx.Err()
			}}, features, func(_ *ClientOptions, s *ServeOptions) { s.Drain = drain })
			if got, err := callSend(t.Context(), p.Client); got != "abc" || err != nil {
				t.Errorf("%q, %v", got, err)
			}
			p.wg.Wait() // the client does not need to close
			begin := time.Now()
			if _, err := callSend(t.Context(), p.Client); err == nil || errors.Is(err, ErrNotSent) != features.Reuse {
				t.Errorf("afterwards: %v", err)
			}
			if d := time.Since(begin); d > resetTimeout {
				t.Errorf("after %v", d)
			}
			p.close()
		})
	}
}

// A client that still reads the last stream when its server stops, slowly, loses nothing.
func TestDrainWaitsForSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		drain, stop := context.WithCancel(t.Context())
		data := pattern(memBuffer / 2)
		p := reusing(handler{send: func(context.Context, *pdu.SendReq) (*pdu.SendRes, io.ReadCloser, error) {
			return sendRes, io.NopCloser(bytes.NewReader(data)), nil
		}}, func(_ *ClientOptions, s *ServeOptions) { s.Drain = drain })
		defer p.close()
		_, r, err := p.Send(t.Context(), sendReq)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		stop()
		time.Sleep(time.Minute)
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		r.Close()
		p.wg.Wait()
	})
}

// A client that does not go when its server's patience ends is thrown out.
func TestServerEndsStubbornClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, peer := memPair()
		begin := time.Now()
		var wg sync.WaitGroup
		defer wg.Wait()
		wg.Go(func() {
			_, _ = peer.Write(unhex(t, pingRequest))
			writeSlowly(peer, heartbeatInterval, slices.Repeat([][]byte{beatFrame}, 1000))
		})
		go func() { _, _ = io.Copy(io.Discard, peer) }()
		ServeConn(t.Context(), server, handlePing(nil), ServeOptions{Features: Features{Reuse: true}})
		if d := time.Since(begin); d > 2*serverIdleTimeout {
			t.Errorf("after %v", d)
		}
	})
}

// The time for a request counts anew, from its first frame on.
func TestLateSecondRequest(t *testing.T) {
	request := unhex(t, pingRequest)
	synctest.Test(t, func(t *testing.T) {
		server, peer := memPair()
		done := make(chan time.Time)
		go func() {
			ServeConn(t.Context(), server, handlePing(nil), ServeOptions{Features: Features{Reuse: true}})
			done <- time.Now()
		}()
		go func() { _, _ = io.Copy(io.Discard, peer) }()
		for range 2 {
			_, _ = peer.Write(request)
			writeSlowly(peer, heartbeatInterval, slices.Repeat([][]byte{beatFrame}, 12))
		}
		begin := time.Now()
		_, _ = peer.Write(request[:headerSize])
		go writeSlowly(peer, time.Second, [][]byte{request[8:9], request[9:10], request[10:11]})
		if d := (<-done).Sub(begin); d > requestTimeout {
			t.Errorf("after %v", d)
		}
	})
}

// A peer that sends a request before it has the answer to the one before is cut off, and
// its handler's context ends.
func TestPipelinedRequest(t *testing.T) {
	for name, tt := range map[string]struct{ first, then string }{
		"a request":          {pingRequest, pingRequest},
		"a request in parts": {pingRequest, "00000001"},
		"a stream":           {pingRequest, stream},
		"behind a stream":    {recvRequest + stream, pingRequest},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server, peer := memPair()
				ended, done := make(chan struct{}), make(chan struct{})
				go func() {
					defer close(done)
					ServeConn(t.Context(), server, waiting(ended, true), ServeOptions{Features: Features{Reuse: true}})
				}()
				peer.CloseWriteAfter(unhex(t, tt.first+tt.then))
				<-ended
				<-done
				expect(t, peer, unhex(t, reset)) // it has begun
				expectEOF(t, peer)
			})
		})
	}
}

// Between requests only a request may come.
func TestJunkBetweenRequests(t *testing.T) {
	for _, junk := range []string{stream, pingResponse, unbegun + reset, end, "00000063 00000000"} {
		synctest.Test(t, func(t *testing.T) {
			server, peer := memPair()
			done := make(chan struct{})
			go func() {
				defer close(done)
				ServeConn(t.Context(), server, handlePing(nil), ServeOptions{Features: Features{Reuse: true}})
			}()
			_, _ = peer.Write(unhex(t, pingRequest))
			expect(t, peer, unhex(t, pingResponse))
			_, _ = peer.Write(unhex(t, junk))
			_, _ = io.Copy(io.Discard, peer)
			peer.Close()
			<-done
		})
	}
}

// A handler's context ends with its request, though the connection lives on.
func TestContextOfRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		contexts := make(chan context.Context, 3)
		p := reusing(handler{
			ping: func(ctx context.Context, _ *pdu.PingReq) (*pdu.PingRes, error) {
				contexts <- ctx
				return new(pdu.PingRes), nil
			},
			send: func(ctx context.Context, _ *pdu.SendReq) (*pdu.SendRes, io.ReadCloser, error) {
				contexts <- ctx
				return sendRes, io.NopCloser(readerFunc(func([]byte) (int, error) { return 0, errors.Join(io.EOF, ctx.Err()) })), nil
			},
			recv: receiving(func(ctx context.Context, r io.Reader) error { contexts <- ctx; _, err := io.ReadAll(r); return err }).recv,
		})
		defer p.close()
		for _, call := range []func(context.Context, *Client) (string, error){callPing, callSend, callReceive(strings.NewReader("abc"))} {
			_, _ = call(t.Context(), p.Client)
			synctest.Wait()
			if ctx := <-contexts; ctx.Err() == nil {
				t.Error("the context lives")
			}
		}
		p.ping(t, 1)
	})
}

// What ends a request early ends its connection, and no other request is confused.
func TestEarlyEnds(t *testing.T) {
	data := pattern(3 * frameSize)
	h := echoing(data)
	errFull := errors.New("disk full")
	for name, end := range map[string]func(context.Context, *pooled) error{
		"stream closed": func(ctx context.Context, p *pooled) error {
			_, r, err := p.Send(ctx, sendReq)
			if err != nil {
				return err
			}
			_, err = io.CopyN(io.Discard, r, 1000)
			return errors.Join(err, r.Close(), r.Close())
		},
		"cancelled": func(ctx context.Context, p *pooled) error {
			ctx, cancel := context.WithCancel(ctx)
			_, r, err := p.Send(ctx, sendReq)
			cancel()
			if err != nil {
				return err
			}
			if _, err := io.Copy(io.Discard, r); err != nil && !errors.Is(err, context.Canceled) {
				return err // nil: it was faster
			}
			return r.Close()
		},
		"early error": func(ctx context.Context, p *pooled) error {
			if _, err := p.Receive(ctx, &pdu.ReceiveReq{Filesystem: "full"}, endless{}); err.Error() != "remote: disk full" {
				return err
			}
			return nil
		},
		"broken stream": func(ctx context.Context, p *pooled) error {
			if _, err := p.Receive(ctx, recvReq, broken("abc", errDied)); !errors.Is(err, errDied) || errors.Is(err, ErrNotSent) {
				return err
			}
			return nil
		},
		"early error, all sent": func(ctx context.Context, p *pooled) error {
			if _, err := p.Receive(ctx, &pdu.ReceiveReq{Filesystem: "full"}, strings.NewReader("abc")); err.Error() != "remote: disk full" {
				return err
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := handler{ping: h.ping, send: h.send, recv: func(ctx context.Context, req *pdu.ReceiveReq, r io.Reader) (*pdu.ReceiveRes, error) {
					if req.Filesystem == "full" {
						return nil, errFull
					}
					return h.recv(ctx, req, r)
				}}
				p := reusing(h)
				defer p.close()
				for i := range 100 {
					if err := end(t.Context(), p); err != nil {
						t.Fatal(err)
					}
					if err := step(t.Context(), p.Client, i, data); err != nil {
						t.Fatalf("the request after it: %v", err)
					}
				}
			})
		})
	}
}

// Closing a stream at its end leaves the connection alone, which others use already.
func TestCloseStreamAtEnd(t *testing.T) {
	data := pattern(1000)
	l := tcpPool(t, echoing(data))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 200 {
				_, r, err := l.Send(t.Context(), sendReq)
				if err != nil {
					t.Error(err)
					return
				}
				var closing sync.WaitGroup
				closing.Go(func() { r.Close() })
				b, err := io.ReadAll(r)
				if closing.Wait(); err == nil && !bytes.Equal(b, data) || err != nil && !errors.Is(err, net.ErrClosed) {
					t.Errorf("%d bytes, %v", len(b), err)
				}
			}
		})
	}
	wg.Wait()
}

// tcpPool returns a client, with reuse, of a server on loopback.
func tcpPool(t testing.TB, h Handler) *Client {
	return connectTCPWith(t, h, Features{Reuse: true, Status: true}, asItIs)
}

// Many requests of all kinds at once, those that break connections included, while
// servers stop and others take their place: each request ends as it would alone, and
// what has not failed has run once.
func TestReuseStress(t *testing.T) {
	const workers, rounds = 8, 150
	data := pattern(10_000)
	var began, answered atomic.Int64
	h := echoing(data)
	ping := h.ping
	h.ping = func(ctx context.Context, req *pdu.PingReq) (*pdu.PingRes, error) {
		began.Add(1)
		return ping(ctx, req)
	}
	servers := newServers(t, h, Features{Reuse: true, Status: true, Sum: true, Zstd: true, Level: 1})
	cl := NewClient(servers.dial, ClientOptions{})
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range rounds {
				if w == 0 && i%10 == 0 { // not so often that a request meets it with each try
					servers.replace()
				}
				if err := step(t.Context(), cl, w+i, data); err != nil {
					t.Errorf("request %d.%d: %v", w, i, err)
				} else if (w+i)%5 == 0 {
					answered.Add(1)
				}
				if rand.IntN(10) == 0 {
					breakOff(t.Context(), cl)
				}
			}
		})
	}
	wg.Wait()
	cl.Close()
	if began.Load() != answered.Load() {
		t.Errorf("%d pings were answered, %d ran", answered.Load(), began.Load())
	}
}

// breakOff leaves a request in the middle.
func breakOff(ctx context.Context, cl *Client) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(rand.IntN(2000))*time.Microsecond)
	defer cancel()
	if _, r, err := cl.Send(ctx, sendReq); err == nil {
		_, _ = io.CopyN(io.Discard, r, rand.Int64N(10_000))
		r.Close()
	}
}

// servers is a server on loopback that is stopped and started again, as one.
type servers struct {
	*net.TCPListener
	features Features
	mu       sync.Mutex
	drain    context.Context
	stop     context.CancelFunc
}

func newServers(t *testing.T, h Handler, features Features) *servers {
	s := &servers{TCPListener: listenTCP(t), features: features}
	s.drain, s.stop = context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := s.AcceptTCP()
			if err != nil {
				return
			}
			wg.Go(func() {
				ServeConn(context.Background(), conn, h, ServeOptions{Features: features, Drain: s.draining()})
			})
		}
	})
	t.Cleanup(func() { s.Close(); s.stop(); wg.Wait() })
	return s
}

// replace stops the server and starts the next one.
func (s *servers) replace() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop()
	s.drain, s.stop = context.WithCancel(context.Background())
}

func (s *servers) draining() context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.drain
}

func (s *servers) dial(ctx context.Context) (transport.Wire, Features, error) {
	wire, _, err := dialer(s.Addr())(ctx)
	return wire, s.features, err
}

// Over TCP, as many connections as requests at once.
func TestReuseTCP(t *testing.T) {
	const n = 4
	data := pattern(4 << 10)
	s := newServers(t, echoing(data), Features{Reuse: true})
	var dials atomic.Int64
	cl := NewClient(func(ctx context.Context) (transport.Wire, Features, error) {
		dials.Add(1)
		return s.dial(ctx)
	}, ClientOptions{})
	defer cl.Close()
	var wg sync.WaitGroup
	for w := range n {
		wg.Go(func() {
			for i := range 10_000 / n {
				if err := step(t.Context(), cl, i, data); err != nil {
					t.Errorf("step %d.%d: %v", w, i, err)
					return
				}
			}
		})
	}
	wg.Wait()
	if dials.Load() > n {
		t.Errorf("%d connections", dials.Load())
	}
}

// A server that dies in the middle of a request is an error of that request, which may
// have run, and of no other.
func TestServerDiesInRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := reusing(handlePing(nil))
		defer p.close()
		p.ping(t, 1)
		p.wires[0].vanish()
		_, err := p.Ping(t.Context(), pingReq)
		if checkTimeout(t, err); errors.Is(err, ErrNotSent) {
			t.Errorf("error %v", err)
		}
		p.ping(t, 2)
	})
}

func TestReplay(t *testing.T) {
	for _, size := range []int{0, 1, 5000, replayLimit, replayLimit + 1, 3 * replayLimit} {
		data := pattern(size)
		r := &replay{src: iotest.HalfReader(bytes.NewReader(data))}
		for range 3 {
			got, err := io.ReadAll(r)
			if !bytes.Equal(got, data) || err != nil {
				t.Fatalf("%d of %d bytes, %v", len(got), size, err)
			}
			if r.rewind() != (size <= replayLimit) {
				t.Fatalf("%d bytes: rewind", size)
			}
			if size > replayLimit {
				break
			}
		}
	}
}

// A Receive handler that stops reading right before the end frame leaves the connection
// usable; one that leaves data unread does not.
func TestHandlerLeavesEnd(t *testing.T) {
	for left := range 3 {
		synctest.Test(t, func(t *testing.T) {
			data := pattern(1000)
			p := reusing(receiving(func(_ context.Context, r io.Reader) error {
				_, err := io.ReadFull(r, make([]byte, len(data)-left))
				return err
			}))
			defer p.close()
			for range 10 {
				if _, err := p.Receive(t.Context(), recvReq, bytes.NewReader(data)); err != nil {
					t.Error(err)
				}
				synctest.Wait()
			}
			if want := min(1+9*left, 10); p.dials() != want {
				t.Errorf("%d bytes left: %d connections, want %d", left, p.dials(), want)
			}
		})
	}
}
