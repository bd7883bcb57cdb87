package rpc

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
)

// An endpoint's error keeps its code, its sentinel and its text across both channels.
func TestErrorsCrossTheWire(t *testing.T) {
	var answer error
	client := connect(t, localPair, &fake{hook: func(context.Context, string, proto.Message) error { return answer }})
	for _, c := range []struct {
		answer   error
		code     codes.Code
		sentinel error // on the client
	}{
		{endpoint.ErrNotFound, codes.NotFound, endpoint.ErrNotFound},
		{endpoint.ErrInvalid, codes.InvalidArgument, endpoint.ErrInvalid},
		{endpoint.ErrBusy, codes.Aborted, endpoint.ErrBusy},
		{endpoint.ErrNoSpace, codes.ResourceExhausted, endpoint.ErrNoSpace},
		{endpoint.ErrStaleToken, codes.OutOfRange, endpoint.ErrStaleToken},
		{endpoint.ErrPermission, codes.PermissionDenied, endpoint.ErrPermission},
		{endpoint.ErrUnimplemented, codes.Unimplemented, endpoint.ErrUnimplemented},
		{endpoint.ErrFailedPrecondition, codes.FailedPrecondition, endpoint.ErrFailedPrecondition},
		{ErrTooLarge, codes.ResourceExhausted, ErrTooLarge},
		{errors.New("disk on fire"), codes.Unknown, nil},
		{context.DeadlineExceeded, codes.DeadlineExceeded, nil},
		{context.Canceled, codes.Canceled, nil},
		{status.Error(codes.DataLoss, "from further away"), codes.DataLoss, nil},
	} {
		answer = fmt.Errorf("filesystem %q: %w", "a/b", c.answer)
		for _, r := range requests() {
			_, err := r.do(t.Context(), client, strings.NewReader(""))
			checkCallError(t, r.method, err, c.code, c.sentinel, c.answer)
		}
	}
}

func checkCallError(t *testing.T, method string, err error, code codes.Code, sentinel, answer error) {
	t.Helper()
	if status.Code(err) != code || !strings.Contains(err.Error(), method) || !strings.Contains(err.Error(), answer.Error()) {
		t.Errorf("%s: %v became %v", method, answer, err)
	}
	if errors.Is(err, ErrTooLarge) != errors.Is(sentinel, ErrTooLarge) {
		t.Errorf("%s: %v became %v", method, answer, err)
	}
	for _, s := range sentinelCodes {
		if errors.Is(err, s.sentinel) != errors.Is(sentinel, s.sentinel) {
			t.Errorf("%s: %v became %v", method, answer, err)
		}
	}
}

// A client served on: the far error keeps its code through both.
func TestErrorsCrossTwoServers(t *testing.T) {
	far := connect(t, localPair, &fake{hook: func(context.Context, string, proto.Message) error {
		return fmt.Errorf("far: %w", endpoint.ErrNoSpace)
	}})
	near := connect(t, localPair, far)
	_, err := near.ListFilesystems(t.Context(), &pdu.ListFilesystemReq{})
	if !errors.Is(err, endpoint.ErrNoSpace) || status.Code(err) != codes.ResourceExhausted {
		t.Errorf("error is %v", err)
	}
}

// A call that took too long says so, whichever end noticed it first; an endpoint's own
// deadline is none of the caller's.
func TestServerNoticesDeadlineFirst(t *testing.T) {
	client, answered := new(Client), new(record)
	answered.answered.Store(true)
	for _, tt := range []struct {
		left time.Duration
		rec  *record
		ours bool
	}{
		{clockSlack / 2, answered, true},
		{clockSlack / 2, new(record), true}, // the server's gRPC only reset the stream
		{time.Hour, answered, false},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), tt.left)
		err := client.newCallError(ctx, "SendDry", status.Error(codes.DeadlineExceeded, "stream terminated"), tt.rec)
		cancel()
		if status.Code(err) != codes.DeadlineExceeded || errors.Is(err, context.DeadlineExceeded) != tt.ours {
			t.Errorf("%v before the deadline: error is %v", tt.left, err)
		}
	}
}

// gRPC's own statuses of these codes are no endpoint's answers. ResourceExhausted is what
// it makes of a message over the limit.
func TestCodesOfLibraryAreNoSentinels(t *testing.T) {
	for _, code := range []codes.Code{codes.OK, codes.Unknown, codes.Internal, codes.Unavailable, 99} {
		if err := sentinelOf(status.New(code, "text")); err != nil {
			t.Errorf("%v is %v", code, err)
		}
	}
	if err := sentinelOf(status.New(codes.ResourceExhausted, "text")); !errors.Is(err, ErrTooLarge) {
		t.Errorf("error is %v", err)
	}
}
