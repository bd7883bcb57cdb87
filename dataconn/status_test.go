package dataconn

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/dualrepl/dualrepl/pdu"
)

var info = &errdetails.ErrorInfo{Domain: "dualrepl", Reason: "NO_SPACE"}

// detailed is an error with a code, a text and details.
func detailed(t testing.TB) error {
	t.Helper()
	st, err := status.New(codes.ResourceExhausted, "disk full").WithDetails(info)
	if err != nil {
		t.Fatal(err)
	}
	return st.Err()
}

// checkDetailed checks that err is what came of detailed.
func checkDetailed(t *testing.T, err error) {
	t.Helper()
	var remote *RemoteError
	if !errors.As(err, &remote) || remote.Text != "disk full" || remote.Error() != "remote: disk full" {
		t.Errorf("error %v", err)
	}
	st, ok := status.FromError(err)
	if !ok || st.Code() != codes.ResourceExhausted || len(st.Details()) != 1 || !proto.Equal(st.Details()[0].(proto.Message), info) {
		t.Errorf("status %v, %v", st, st.Details())
	}
}

// A status crosses with code, text and details: in an answer, and behind a stream in
// either direction.
func TestStatusCrosses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failed := detailed(t)
		atHandler := make(chan error, 1)
		l := connectWith(handler{
			ping: func(context.Context, *pdu.PingReq) (*pdu.PingRes, error) { return nil, fmt.Errorf("%w", failed) },
			send: sending(broken("ab", failed)).send,
			recv: receiving(func(_ context.Context, r io.Reader) error {
				_, err := io.ReadAll(r)
				atHandler <- err
				return err
			}).recv,
		}, Features{Status: true})
		defer l.close()
		_, err := l.Receive(t.Context(), recvReq, broken("ab", failed))
		if stream := (*StreamError)(nil); !errors.As(err, &stream) || !errors.Is(err, failed) {
			t.Errorf("error %v", err)
		}
		checkDetailed(t, <-atHandler)
		_, r, err := l.Send(t.Context(), sendReq)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if string(b) != "ab" {
			t.Errorf("read %q", b)
		}
		checkDetailed(t, err)
		r.Close()
		_, err = l.Ping(t.Context(), pingReq)
		if status.Code(err) != codes.ResourceExhausted || len(status.Convert(err).Details()) != 1 {
			t.Errorf("error %v", err)
		}
	})
}

// What StatusOf says is what crosses, on both sides; without the feature only text does.
func TestStatusOf(t *testing.T) {
	for _, on := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			want, text := codes.NotFound, "no such thing"
			if !on {
				want, text = codes.Unknown, "died"
			}
			statusOf := func(err error) *spb.Status {
				if !errors.Is(err, errDied) {
					t.Errorf("asked for the status of %v", err)
				}
				return &spb.Status{Code: int32(codes.NotFound), Message: "no such thing"}
			}
			check := func(err error) error {
				var remote *RemoteError
				if !errors.As(err, &remote) || remote.Text != text || status.Code(err) != want || (remote.Status != nil) != on {
					t.Errorf("error %v", err)
				}
				return errDied
			}
			l := connectWith(handler{
				ping: handlePing(errDied).Ping,
				recv: receiving(func(_ context.Context, r io.Reader) error { _, err := io.ReadAll(r); return check(err) }).recv,
			}, Features{Status: on}, func(c *ClientOptions, s *ServeOptions) { c.StatusOf, s.StatusOf = statusOf, statusOf })
			defer l.close()
			_, err := l.Ping(t.Context(), pingReq)
			_ = check(err)
			_, _ = l.Receive(t.Context(), recvReq, broken("ab", errDied))
		})
	}
}

func TestEncodeStatus(t *testing.T) {
	long := strings.Repeat("é", maxErrorText)
	detail := func(n int) []*anypb.Any { return []*anypb.Any{{TypeUrl: "x/y", Value: make([]byte, n)}} }
	for _, tt := range []struct {
		name    string
		in      *spb.Status
		code    codes.Code
		message string
		details int
	}{
		{"nil", nil, codes.Unknown, noErrorText, 0},
		{"no code", &spb.Status{Message: "x"}, codes.Unknown, "x", 0},
		{"no message", &spb.Status{Code: 5}, codes.NotFound, noErrorText, 0},
		{"not UTF-8", &spb.Status{Code: 5, Message: "a\xff"}, codes.NotFound, "a\uFFFD", 0},
		{"details", &spb.Status{Code: 5, Message: "x", Details: detail(1000)}, codes.NotFound, "x", 1},
		{"too many details", &spb.Status{Code: 5, Message: "x", Details: detail(maxErrorText)}, codes.NotFound, "x", 0},
		{"details that are not UTF-8", &spb.Status{Code: 5, Message: "x", Details: []*anypb.Any{{TypeUrl: "\xff"}}}, codes.NotFound, "x", 0},
		{"too long", &spb.Status{Code: -1, Message: long, Details: detail(10)}, ^codes.Code(0), long[:(maxErrorText-statusOverhead)/2*2], 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := proto.Clone(tt.in)
			b := encodeStatus(tt.in)
			if len(b) > maxErrorText {
				t.Errorf("%d bytes", len(b))
			}
			var remote *RemoteError
			if err := remoteStatus(b); !errors.As(err, &remote) {
				t.Fatalf("became %v", err)
			}
			if st := remote.GRPCStatus(); st.Code() != tt.code || st.Message() != tt.message || len(remote.Status.Details) != tt.details {
				t.Errorf("became %v, %.40q and %d details", st.Code(), st.Message(), len(remote.Status.Details))
			}
			if !proto.Equal(before, tt.in) {
				t.Error("the original was changed")
			}
		})
	}
}

// A peer's status that is none is a protocol error; one that says too little is an error
// all the same.
func TestStatusOfPeer(t *testing.T) {
	huge := appendMessage(nil, typeTrailer, append([]byte{0x12, 0xff, 0xff, 0x03}, make([]byte, 0xffff)...))
	for _, tt := range []struct {
		name     string
		response []byte
		code     codes.Code // OK: ErrProtocol
	}{
		{"empty", appendMessage(nil, typeResponseHeader, headerError), codes.Unknown},
		{"code OK", appendMessage(nil, typeResponseHeader, headerError+"\x08\x00\x12\x01x"), codes.Unknown},
		{"code only", appendMessage(nil, typeResponseHeader, headerError+"\x08\x05"), codes.NotFound},
		{"text", appendMessage(nil, typeResponseHeader, headerError+"disk full"), codes.OK},
		{"cut", appendMessage(nil, typeResponseHeader, headerError+"\x08"), codes.OK},
		{"message not UTF-8", appendMessage(nil, typeResponseHeader, headerError+"\x12\x01\xff"), codes.OK},
		{"too large", appendMessage(nil, typeResponseHeader, headerError+strings.Repeat("\x08\x01", maxErrorText/2+1)), codes.OK},
		{"empty trailer", join(unhex(t, sendResponse), frame(typeTrailer, ""), endFrame), codes.Unknown},
		{"code in a trailer", join(unhex(t, sendResponse), frame(typeTrailer, "\x08"), frame(typeTrailer, "\x05"), endFrame), codes.NotFound},
		{"text in a trailer", join(unhex(t, sendResponse), frame(typeTrailer, "disk full"), endFrame), codes.OK},
		{"too large a trailer", join(unhex(t, sendResponse), huge), codes.OK},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cl, peer := dialWith(Features{Status: true})
				defer cl.Close()
				go func() {
					expect(t, peer, unhex(t, sendRequest))
					_, _ = peer.Write(tt.response)
				}()
				_, err := callSend(t.Context(), cl)
				var remote *RemoteError
				if errors.As(err, &remote) != (tt.code != codes.OK) || errors.Is(err, ErrProtocol) != (tt.code == codes.OK) {
					t.Fatalf("error %v", err)
				}
				if tt.code != codes.OK && (status.Code(err) != tt.code || remote.Text == "") {
					t.Errorf("error %v, want code %v", err, tt.code)
				}
			})
		})
	}
}

func FuzzStatus(f *testing.F) {
	f.Add([]byte("\x08\x05\x12\x04died"))
	f.Add(encodeStatus(status.Convert(detailed(f)).Proto()))
	f.Add([]byte("\x1a\x00\x1a\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var remote *RemoteError
		if err := remoteStatus(b); !errors.As(err, &remote) {
			if !errors.Is(err, ErrProtocol) {
				t.Errorf("error %v", err)
			}
			return
		}
		if remote.Text == "" || remote.GRPCStatus().Code() == codes.OK {
			t.Errorf("%q became %v", b, remote.Status)
		}
		again := encodeStatus(remote.Status)
		if len(again) > maxErrorText || !bytes.Equal(again, encodeStatus(remote.Status)) {
			t.Errorf("encoded as %d bytes", len(again))
		}
		text := remote.Text
		if err := remoteStatus(again); !errors.As(err, &remote) || len(b) < maxErrorText/2 && remote.Text != text {
			t.Errorf("%q became %v", text, err)
		}
	})
}
