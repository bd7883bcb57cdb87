package dataconn

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dualrepl/dualrepl/pdu"
	"github.com/dualrepl/dualrepl/transport"
)

// The failures that were found in the nearest system, each with the number it has in
// the design document. Failure 2 is tested with the frames.

// An oversized message is refused at once, on both sides and in both directions.
func TestFailure01OversizedMessageBlocks(t *testing.T) {
	huge := strings.Repeat("x", maxResponse+1)
	t.Run("own request", func(t *testing.T) {
		cl := NewClient(nil, ClientOptions{}) // it must not even dial
		if _, err := cl.Ping(t.Context(), &pdu.PingReq{Message: huge}); err == nil {
			t.Error("no error")
		}
	})
	t.Run("own response", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := connect(handler{ping: func(context.Context, *pdu.PingReq) (*pdu.PingRes, error) {
				return &pdu.PingRes{Echo: huge}, nil
			}})
			defer l.close()
			var remote *RemoteError
			if _, err := l.Ping(t.Context(), pingReq); !errors.As(err, &remote) {
				t.Errorf("error %v", err)
			}
		})
	})
	for name, request := range map[string][]byte{
		"peer's request header": appendMessage(nil, typeRequestHeader, huge[:maxRequestHeader+1]),
		"peer's request":        appendMessage(appendMessage(nil, typeRequestHeader, endpointPing), typeRequest, huge[:maxRequest+1]),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { refusesRequest(t, request) })
		})
	}
	for name, response := range map[string][]byte{
		"peer's response header": appendMessage(nil, typeResponseHeader, huge[:maxResponseHeader+1]),
		"peer's response":        appendMessage(appendMessage(nil, typeResponseHeader, headerOK), typeResponse, huge),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { refusesResponse(t, response) })
		})
	}
}

// refusesRequest checks that a server says what is wrong with a request.
func refusesRequest(t *testing.T, request []byte) {
	server, peer := memPair()
	go ServeConn(t.Context(), server, handler{}, ServeOptions{})
	go func() {
		_, _ = peer.Write(request)
		peer.CloseWrite()
	}()
	r := frameReader{src: peer}
	header, err := r.message(typeResponseHeader, maxResponseHeader)
	if err != nil || !strings.HasPrefix(string(header), headerError) || !strings.Contains(string(header), ErrProtocol.Error()) {
		t.Errorf("answer %q, %v", header, err)
	}
	peer.Close()
}

func refusesResponse(t *testing.T, response []byte) {
	cl, peer := dialTo()
	go func() {
		expect(t, peer, unhex(t, pingRequest))
		_, _ = peer.Write(response) // and not a byte more
	}()
	begin := time.Now()
	if _, err := cl.Ping(t.Context(), pingReq); !errors.Is(err, ErrProtocol) {
		t.Errorf("error %v", err)
	}
	if d := time.Since(begin); d > resetTimeout {
		t.Errorf("after %v", d)
	}
	cl.Close()
}

// A request that fails leaves neither a connection nor a goroutine behind.
func TestFailure03FailedSendLeaks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, response := range map[string][]byte{
			"handler's error": unhex(t, diskFull), "reset": rstFrame, "garbage": pattern(100), "nothing": nil,
		} {
			cl, peer := dialTo()
			peer.CloseWriteAfter(response)
			if _, r, err := cl.Send(t.Context(), sendReq); err == nil || r != nil {
				t.Errorf("%s: stream %v, error %v", name, r, err)
			}
			begin := time.Now()
			if _, err := io.Copy(io.Discard, peer); err != nil { // to the client's end
				t.Errorf("%s: %v", name, err)
			}
			if d := time.Since(begin); d > 0 {
				t.Errorf("%s: the connection lived on for %v", name, d)
			}
			cl.Close()
		}
	})
	t.Run("dial fails", func(t *testing.T) {
		cl := NewClient(func(context.Context) (transport.Wire, Features, error) { return nil, Features{}, errDied }, ClientOptions{})
		if _, _, err := cl.Send(t.Context(), sendReq); !errors.Is(err, errDied) {
			t.Errorf("error %v", err)
		}
		cl.Close()
	})
}

// CloseWriteAfter writes b and ends the direction.
func (w *memWire) CloseWriteAfter(b []byte) {
	_, _ = w.Write(b)
	_ = w.CloseWrite()
}

// An error without a text is an error at the other end, as an answer and in a stream.
func TestFailure04EmptyErrorArrivesAsSuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := connect(handler{
			ping: handlePing(errNoMsg).Ping,
			send: handleSend(broken("ab", errNoMsg), nil).Send,
			recv: handleReceive(nil).Receive,
		})
		defer l.close()
		var remote *RemoteError
		if _, err := callPing(t.Context(), l.Client); !errors.As(err, &remote) || remote.Text != noErrorText {
			t.Errorf("ping: %v", err)
		}
		if got, err := callSend(t.Context(), l.Client); got != "ab" || !errors.As(err, &remote) || remote.Text != noErrorText {
			t.Errorf("send: %q, %v", got, err)
		}
		if _, err := callReceive(broken("ab", errNoMsg))(t.Context(), l.Client); !errors.Is(err, errNoMsg) {
			t.Errorf("recv: %v", err)
		}
	})
}

// A handler's context ends soon after its client did, even one that does not read.
func TestFailure06HandlersRunOnAfterClientGone(t *testing.T) {
	for _, tt := range []struct {
		name, request string
		within        time.Duration
	}{
		{"ping", pingRequest, 0},
		{"send", sendRequest, 0},
		{"recv", recvRequest + stream, 0}, // all has been read
		// The rest of the stream hides the client's end; a heartbeat that cannot be sent does not.
		{"recv, not reading", recvRequest + stream[:len(stream)-len(end)], 2*heartbeatInterval + tick},
	} {
		for how, leave := range map[string]func(*memWire){
			"close": func(w *memWire) { w.Close() },
			"reset": func(w *memWire) { w.CloseWriteAfter(rstFrame); w.Close() },
		} {
			t.Run(tt.name+"/"+how, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					server, peer := memPair()
					ended := make(chan struct{})
					go ServeConn(t.Context(), server, waiting(ended, tt.within == 0), ServeOptions{})
					if _, err := peer.Write(unhex(t, tt.request)); err != nil {
						t.Fatal(err)
					}
					synctest.Wait()
					begin := time.Now()
					leave(peer)
					<-ended
					if d := time.Since(begin); d > tt.within {
						t.Errorf("the context ended %v later", d)
					}
				})
			})
		}
	}
}

// waiting handles requests by waiting for the end of the context.
func waiting(ended chan struct{}, readsStream bool) Handler {
	wait := func(ctx context.Context) error {
		<-ctx.Done()
		close(ended)
		return ctx.Err()
	}
	return handler{
		ping: func(ctx context.Context, _ *pdu.PingReq) (*pdu.PingRes, error) { return nil, wait(ctx) },
		send: func(ctx context.Context, _ *pdu.SendReq) (*pdu.SendRes, io.ReadCloser, error) {
			return nil, nil, wait(ctx)
		},
		recv: receiving(func(ctx context.Context, r io.Reader) error {
			if readsStream {
				_, _ = io.Copy(io.Discard, r)
			}
			return wait(ctx)
		}).recv,
	}
}

// A connection that breaks is a ConnError, a net.Error, and never what a peer's handler
// said, so that it can be told from what is final; and it never looks like the end.
func TestFailure11ResetsCountAsPermanent(t *testing.T) {
	for _, tt := range []struct {
		name     string
		response string
		cause    error
	}{
		{"end before the response", "", io.ErrUnexpectedEOF},
		{"end in the response", responseOK[:20], io.ErrUnexpectedEOF},
		{"end in a frame", sendResponse + stream[:len(" 00000005 0000")], io.ErrUnexpectedEOF},
		{"end in a payload", sendResponse + stream[:len(" 00000005 00000003 61")], io.ErrUnexpectedEOF},
		{"end before the end frame", sendResponse + stream[:len(stream)-len(end)], io.ErrUnexpectedEOF},
		{"end in a trailer", sendResponse + "00010000 00000001 61", io.ErrUnexpectedEOF},
		{"reset frame", sendResponse + reset, io.ErrUnexpectedEOF},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cl, peer := dialTo()
				go func() {
					expect(t, peer, unhex(t, sendRequest))
					feed(t, peer, unhex(t, tt.response))
				}()
				_, err := callSend(t.Context(), cl)
				checkBroken(t, err, tt.cause)
				cl.Close()
			})
		})
	}
	t.Run("connection reset while sending", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			cl, peer := dialTo()
			time.AfterFunc(time.Second, func() { peer.Close() })
			_, err := cl.Receive(t.Context(), recvReq, endless{})
			checkBroken(t, err, io.ErrUnexpectedEOF)
			cl.Close()
		})
	})
	t.Run("TCP reset", func(t *testing.T) {
		cl, peer := dialTCP(t)
		go func() {
			expect(t, peer, unhex(t, pingRequest))
			_ = peer.SetLinger(0) // the close sends a reset
			peer.Close()
		}()
		_, err := cl.Ping(t.Context(), pingReq)
		checkBroken(t, err, syscall.ECONNRESET)
		cl.Close()
	})
}

func checkBroken(t *testing.T, err, cause error) {
	t.Helper()
	var lost *ConnError
	var netErr net.Error
	var remote *RemoteError
	if !errors.As(err, &lost) || !errors.As(err, &netErr) || errors.As(err, &remote) || errors.Is(err, io.EOF) {
		t.Errorf("error %v (%T) is no broken connection", err, err)
	}
	if !errors.Is(err, cause) {
		t.Errorf("error %v, want %v in the chain", err, cause)
	}
}

// An error that the handler answers while the client is still sending is what Receive
// returns, over a socket whose kernel resets what comes in after the close.
func TestEarlyErrorOverTCP(t *testing.T) {
	h := receiving(func(_ context.Context, r io.Reader) error {
		_, err := io.CopyN(io.Discard, r, 10<<20)
		return errors.Join(errors.New("disk full"), err)
	})
	l := connectTCP(t, h)
	for range 20 {
		_, err := l.Receive(t.Context(), recvReq, endless{})
		var remote *RemoteError
		if !errors.As(err, &remote) || remote.Text != "disk full" {
			t.Fatalf("error %v", err)
		}
	}
}

// Garbage never blocks or crashes a server, and costs it little.
func TestServerSurvivesGarbage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, garbage := range [][]byte{
			nil, pattern(7), pattern(1 << 16), []byte("GET / HTTP/1.1\r\n\r\n"), rstFrame, beatFrame,
			frame(typeTrailer, "x"), join(frame(typeTrailer, "x"), endFrame),
			appendMessage(appendMessage(nil, typeRequestHeader, endpointPing), typeRequest, "\xff\xff"),
		} {
			server, peer := memPair()
			done := make(chan struct{})
			go func() {
				defer close(done)
				ServeConn(t.Context(), server, handler{}, ServeOptions{})
			}()
			peer.CloseWriteAfter(garbage)
			_, _ = io.Copy(io.Discard, peer)
			peer.Close()
			<-done
		}
	})
}

// A client that says nothing is given up in time, and so is one that stops halfway.
func TestServerGivesUpSilentClient(t *testing.T) {
	for _, request := range []string{"", pingRequest[:len("00000001")], recvRequest + stream[:len(" 00000005")]} {
		synctest.Test(t, func(t *testing.T) {
			server, peer := memPair()
			begin := time.Now()
			go func() { _, _ = peer.Write(unhex(t, request)) }()
			ServeConn(t.Context(), server, handleReceive(nil), ServeOptions{})
			if d := time.Since(begin); d > 15*time.Second {
				t.Errorf("after %v", d)
			}
		})
	}
}

// A handler that breaks its own contract answers with an error.
func TestHandlerReturnsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := connect(handler{
			ping: func(context.Context, *pdu.PingReq) (*pdu.PingRes, error) { return nil, nil },
			send: func(context.Context, *pdu.SendReq) (*pdu.SendRes, io.ReadCloser, error) { return sendRes, nil, nil },
		})
		defer l.close()
		var remote *RemoteError
		if _, err := callPing(t.Context(), l.Client); !errors.As(err, &remote) {
			t.Errorf("ping: %v", err)
		}
		if _, err := callSend(t.Context(), l.Client); !errors.As(err, &remote) {
			t.Errorf("send: %v", err)
		}
	})
}

// Success before the end of the stream cannot be: the receiver has not seen all of it.
func TestEarlySuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := connect(receiving(func(context.Context, io.Reader) error { return nil }))
		defer l.close()
		if _, err := l.Receive(t.Context(), recvReq, paced{}); err == nil {
			t.Error("no error")
		}
	})
}
