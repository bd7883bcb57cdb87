package replication

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/dualrepl/dualrepl/dataconn"
	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/versionhandshake"
)

func TestClassification(t *testing.T) {
	opErr := func(err error) error { return &net.OpError{Op: "read", Net: "tcp", Err: err} }
	tests := []struct {
		name      string
		err       error
		transient bool
		token     bool // a step with a token: the token may be at fault
	}{
		{"connection reset", opErr(syscall.ECONNRESET), true, false},
		{"connection refused", opErr(syscall.ECONNREFUSED), true, false},
		{"bare errno", syscall.EPIPE, true, false},
		{"any network operation", opErr(errors.New("x")), true, false},
		{"timeout", timeoutError{}, true, false},
		{"deadline of a call", context.DeadlineExceeded, true, false},
		{"peer cancelled", status.Error(codes.Canceled, "x"), true, false},
		{"connection ends early", io.ErrUnexpectedEOF, true, false},
		{"connection closed", net.ErrClosed, true, false},
		{"data connection lost", &dataconn.ConnError{Err: errors.New("x")}, true, false},
		{"gRPC Unavailable", status.Error(codes.Unavailable, "x"), true, false},
		{"gRPC DeadlineExceeded", status.Error(codes.DeadlineExceeded, "x"), true, false},
		{"gRPC Aborted", status.Error(codes.Aborted, "x"), true, false},
		{"busy", endpoint.ErrBusy, true, false},
		{"remote text", &dataconn.RemoteError{Text: "filesystem is busy"}, true, false},
		{"gRPC Internal", status.Error(codes.Internal, "x"), false, false},
		{"gRPC ResourceExhausted", status.Error(codes.ResourceExhausted, "x"), false, false},
		{"stale token", endpoint.ErrStaleToken, false, true},
		{"invalid, though a stream ended early", fmt.Errorf("%w: %w", endpoint.ErrInvalid, io.ErrUnexpectedEOF), false, false},
		{"sender refuses, as text", sendError{&dataconn.RemoteError{Text: "no such state"}}, true, true},
		{"sender refuses", sendError{endpoint.ErrNotFound}, false, true},
		{"sender forbids", sendError{endpoint.ErrPermission}, false, false},
		{"sender is gone", sendError{io.ErrUnexpectedEOF}, true, false},
		{"no space", endpoint.ErrNoSpace, false, false},
		{"no space, errno", &fs.PathError{Op: "write", Err: syscall.ENOSPC}, false, false},
		{"permission", endpoint.ErrPermission, false, false},
		{"unimplemented", endpoint.ErrUnimplemented, false, false},
		{"a file is missing", &fs.PathError{Op: "open", Err: syscall.ENOENT}, false, false},
		{"other protocol version", fmt.Errorf("%w: %w", versionhandshake.ErrVersion, io.EOF), false, false},
		{"no banner", fmt.Errorf("%w: %w", versionhandshake.ErrBanner, io.EOF), false, false},
		{"no such host", &net.OpError{Op: "dial", Err: &net.DNSError{IsNotFound: true}}, false, false},
		{"name server does not answer", &net.OpError{Op: "dial", Err: &net.DNSError{IsTimeout: true}}, true, false},
		{"certificate not accepted here", &tls.CertificateVerificationError{Err: errors.New("x")}, false, false},
		{"certificate not accepted there", &net.OpError{Op: "remote error", Err: errors.New("tls: bad certificate")}, false, false},
		{"no TLS there", &net.OpError{Op: "read", Err: tls.RecordHeaderError{}}, false, false},
		{"sender is busy, and says so", sendError{fmt.Errorf("%w: %w", endpoint.ErrBusy, &dataconn.RemoteError{Text: "x"})}, true, false},
		{"over a limit of the sender's", sendError{fmt.Errorf("%w: %w", endpoint.ErrLimit, &dataconn.RemoteError{Text: "x"})}, true, false},
		{"protocol", ErrProtocol, false, false},
	}
	for _, tt := range tests {
		err := fmt.Errorf("receive: %w", tt.err)
		if got := isTransient(err); got != tt.transient {
			t.Errorf("%s: transient is %v", tt.name, got)
		}
		if got := tokenAtFault(err); got != tt.token {
			t.Errorf("%s: token at fault is %v", tt.name, got)
		}
	}
}

type timeoutError struct{}

func (timeoutError) Error() string   { return "heartbeat timeout" }
func (timeoutError) Timeout() bool   { return true }
func (timeoutError) Temporary() bool { return true }

// TestFailure11ConnectionResetsArePermanent: they are not.
func TestFailure11ConnectionResetsArePermanent(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.ECONNRESET, syscall.EPIPE, syscall.ECONNABORTED} {
		for _, err := range []error{errno, &net.OpError{Op: "write", Err: errno}, fmt.Errorf("data channel: %w", errno)} {
			if !isTransient(err) {
				t.Errorf("%v counts as permanent", err)
			}
		}
	}
}

func TestBackoff(t *testing.T) {
	b := Backoff{First: time.Second, Max: 10 * time.Second}
	full := []time.Duration{1, 2, 4, 8, 10, 10}
	for i, want := range full {
		want *= time.Second
		for range 100 {
			if d := b.after(i + 1); d < want/2 || d > want {
				t.Errorf("after failure %d: %v, want %v to %v", i+1, d, want/2, want)
			}
		}
	}
	if d := (Backoff{First: time.Hour, Max: time.Second}).after(1); d > time.Second {
		t.Errorf("First over Max: %v", d)
	}
}
