package dataconn

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/dualrepl/dualrepl/pdu"
)

// A vector is one exchange, byte for byte, as a base peer has it.
type vector struct {
	name     string
	request  string // all that the client sends before the response
	response string
	call     func(context.Context, *Client) (string, error)
	handler  Handler
	want     string // what call returns: the response and its stream, or the error
}

const (
	end       = " 00020000 00000000"
	heartbeat = " 01000000 00000000"
	reset     = " 10000000 00000000"

	responseOK = "00000003 0000000b 48414e444c4552204f4b0a" + end // "HANDLER OK\n"

	pingRequest = "00000001 00000008 2f76312f70696e67" + end + // "/v1/ping"
		"00000002 00000004 0a026869" + end // Message: "hi"
	sendRequest = "00000001 00000008 2f76312f73656e64" + end + // "/v1/send"
		"00000002 0000000a 0a0161 1a05 120131 1807" + end // Filesystem: "a", To: {Name: "1", Guid: 7}
	recvRequest = "00000001 00000008 2f76312f72656376" + end + // "/v1/recv"
		"00000002 0000000c 0a0161 1205 120131 1807 1801" + end // and ClearResumeToken: true
	sendResponse = responseOK + " 00000004 00000004 0801 1003" + end // UsedResumeToken: true, ExpectedSize: 3

	stream       = " 00000005 00000003 616263" + end                          // "abc"
	brokenStream = " 00000005 00000002 6162 00010000 00000004 64696564" + end // "ab", "died"
	diskFull     = "00000003 00000018 48414e444c4552204552524f523a0a 6469736b2066756c6c" + end
	emptyError   = "00000003 00000023 48414e444c4552204552524f523a0a 6572726f7220776974686f757420612074657874" + end
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var (
	version  = &pdu.FilesystemVersion{Name: "1", Guid: 7}
	pingReq  = &pdu.PingReq{Message: "hi"}
	sendReq  = &pdu.SendReq{Filesystem: "a", To: version}
	recvReq  = &pdu.ReceiveReq{Filesystem: "a", To: version, ClearResumeToken: true}
	sendRes  = &pdu.SendRes{UsedResumeToken: true, ExpectedSize: 3}
	errDied  = errors.New("died")
	errNoMsg = errors.New("")
)

func callPing(ctx context.Context, cl *Client) (string, error) {
	res, err := cl.Ping(ctx, pingReq)
	return res.GetEcho(), err
}

func callSend(ctx context.Context, cl *Client) (string, error) {
	res, r, err := cl.Send(ctx, sendReq)
	if err != nil {
		return "", err
	}
	defer r.Close()
	if !proto.Equal(res, sendRes) {
		return "", errors.New("wrong response")
	}
	b, err := io.ReadAll(r)
	return string(b), err
}

func callReceive(r io.Reader) func(context.Context, *Client) (string, error) {
	return func(ctx context.Context, cl *Client) (string, error) {
		_, err := cl.Receive(ctx, recvReq, r)
		return "", err
	}
}

// broken is a stream that fails after the first bytes.
func broken(s string, err error) io.Reader {
	return io.MultiReader(strings.NewReader(s), readerFunc(func([]byte) (int, error) { return 0, err }))
}

func handlePing(err error) Handler {
	return handler{ping: func(_ context.Context, req *pdu.PingReq) (*pdu.PingRes, error) {
		return &pdu.PingRes{Echo: req.Message}, err
	}}
}

func handleSend(r io.Reader, err error) Handler {
	return handler{send: func(_ context.Context, req *pdu.SendReq) (*pdu.SendRes, io.ReadCloser, error) {
		if !proto.Equal(req, sendReq) {
			return nil, nil, errors.New("wrong request")
		}
		return sendRes, io.NopCloser(r), err
	}}
}

func handleReceive(err error) Handler {
	return handler{recv: func(_ context.Context, req *pdu.ReceiveReq, r io.Reader) (*pdu.ReceiveRes, error) {
		b, rerr := io.ReadAll(r)
		var remote *RemoteError
		if errors.As(rerr, &remote) {
			return nil, errors.New("cannot read: " + remote.Text)
		}
		if string(b) != "abc" || rerr != nil || !proto.Equal(req, recvReq) {
			return nil, errors.New("wrong request")
		}
		return new(pdu.ReceiveRes), err
	}}
}

func vectors() []vector {
	full := errors.New("disk full")
	return []vector{
		{"ping", pingRequest, responseOK + "00000004 00000004 0a026869" + end, callPing, handlePing(nil), "hi"},
		{"ping, error", pingRequest, diskFull, callPing, handlePing(full), "remote: disk full"},
		{"ping, error without text", pingRequest, emptyError, callPing, handlePing(errNoMsg), "remote: error without a text"},
		{"send", sendRequest, sendResponse + stream, callSend, handleSend(strings.NewReader("abc"), nil), "abc"},
		{"send, empty stream", sendRequest, sendResponse + end, callSend, handleSend(strings.NewReader(""), nil), ""},
		{"send, error", sendRequest, diskFull, callSend, handleSend(nil, full), "remote: disk full"},
		{"send, broken stream", sendRequest, sendResponse + brokenStream, callSend, handleSend(broken("ab", errDied), nil), "remote: died"},
		{"recv", recvRequest + stream, responseOK + end, callReceive(strings.NewReader("abc")), handleReceive(nil), ""},
		{"recv, error", recvRequest + stream, diskFull, callReceive(strings.NewReader("abc")), handleReceive(full), "remote: disk full"},
		{
			"recv, broken stream", recvRequest + brokenStream,
			"00000003 00000020 48414e444c4552204552524f523a0a 63616e6e6f7420726561643a2064696564" + end,
			callReceive(broken("ab", errDied)), handleReceive(nil), "read the stream to send: died",
		},
	}
}

// TestVectors plays the base peer on either side of each exchange.
func TestVectors(t *testing.T) { playVectors(t, Features{}) }

func playVectors(t *testing.T, f Features) {
	for _, v := range vectors() {
		t.Run(v.name+"/client", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { v.client(t, f) })
		})
		t.Run(v.name+"/server", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { v.server(t, f) })
		})
	}
}

// spoken makes what one side says with the features of frames of the base protocol.
func spoken(f Features) func(frames []byte) []byte {
	if f.Sum {
		return new(bitwise).seal
	}
	return func(frames []byte) []byte { return frames }
}

func (v *vector) client(t *testing.T, f Features) {
	cl, peer := dialWith(f)
	theirs, ours := spoken(f), spoken(f)
	done := make(chan struct{})
	go func() {
		defer close(done)
		expect(t, peer, theirs(unhex(t, v.request)))
		feed(t, peer, ours(unhex(t, v.response+reset)))
		expect(t, peer, theirs(unhex(t, reset)))
		expectEOF(t, peer)
		peer.Close()
	}()
	got, err := v.call(t.Context(), cl)
	if err != nil {
		got = err.Error()
	}
	if got != v.want {
		t.Errorf("got %q, want %q", got, v.want)
	}
	<-done
	cl.Close()
}

func (v *vector) server(t *testing.T, f Features) {
	server, peer := memPair()
	theirs, ours := spoken(f), spoken(f)
	done := make(chan struct{})
	go func() {
		defer close(done)
		ServeConn(t.Context(), server, v.handler, ServeOptions{Features: f})
	}()
	if _, err := peer.Write(ours(unhex(t, v.request))); err != nil {
		t.Error(err)
	}
	expect(t, peer, theirs(unhex(t, v.response)))
	feed(t, peer, ours(unhex(t, reset)))
	expect(t, peer, theirs(unhex(t, reset)))
	expectEOF(t, peer)
	peer.Close()
	<-done
}

// expect reads as many bytes as are wanted, and compares.
func expect(t *testing.T, r io.Reader, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(r, got); err != nil || !bytes.Equal(got, want) {
		t.Errorf("got % x, %v\nwant % x", got[:n], err, want)
	}
}

func expectEOF(t *testing.T, r io.Reader) {
	t.Helper()
	if b, err := io.ReadAll(r); err != nil || len(b) > 0 {
		t.Errorf("got % x, %v, want the end", b, err)
	}
}

// feed writes the last bytes of one side, and ends its direction.
func feed(t *testing.T, w *memWire, b []byte) {
	t.Helper()
	if _, err := w.Write(b); err != nil {
		t.Error(err)
	}
	w.CloseWrite()
}

// A base peer's heartbeats come between any two frames.
func TestHeartbeatsBetweenFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := vector{
			request: sendRequest,
			response: heartbeat + responseOK + heartbeat + heartbeat + "00000004 00000004 0801 1003" + heartbeat + end +
				heartbeat + "00000005 00000003 616263" + heartbeat + end + heartbeat,
			call: callSend, want: "abc",
		}
		v.client(t, Features{})
	})
}

func TestUnknownEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := vector{
			request:  "00000001 00000001 78" + end + end,
			response: "00000003 00000030" + hex.EncodeToString([]byte("HANDLER ERROR:\nrequested endpoint does not exist")) + end,
		}
		v.server(t, Features{})
	})
}

// When a side is silent, a heartbeat goes out in the sixth second, and then every five.
func TestHeartbeatVector(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		server, peer := memPair()
		go ServeConn(t.Context(), server, handler{ping: func(context.Context, *pdu.PingReq) (*pdu.PingRes, error) {
			<-release
			return new(pdu.PingRes), nil
		}}, ServeOptions{})
		if _, err := peer.Write(unhex(t, pingRequest)); err != nil {
			t.Fatal(err)
		}
		for range 10 {
			begin := time.Now()
			expect(t, peer, unhex(t, heartbeat))
			if d := time.Since(begin); d < heartbeatInterval-tick || d > heartbeatInterval+tick {
				t.Errorf("heartbeat after %v", d)
			}
			if _, err := peer.Write(unhex(t, heartbeat)); err != nil {
				t.Fatal(err)
			}
		}
		close(release)
		expect(t, peer, unhex(t, responseOK+end+reset))
		peer.Close()
	})
}
