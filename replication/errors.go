package replication

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/dualrepl/dualrepl/dataconn"
	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
	"github.com/dualrepl/dualrepl/versionhandshake"
)

var (
	// ErrDiverged: the receiver's newest snapshot is not on the sender. The error is
	// a *DivergedError.
	ErrDiverged = errors.New("sender and receiver have diverged")
	// ErrProtocol: an endpoint's answer breaks its contract.
	ErrProtocol = errors.New("answer breaks the protocol")
	// ErrInitial: the receiver has no version, and the policy is InitialFail.
	ErrInitial = errors.New("the receiver has no version yet, and the initial policy is to fail")
	// ErrOccupied: the sender has a placeholder where the receiver has a real filesystem.
	ErrOccupied = errors.New("the receiver has a real filesystem where the sender has a placeholder")
	// ErrParent: the filesystem's parent, which has to come first, could not be replicated.
	ErrParent = errors.New("its parent was not replicated")
)

// DivergedError lists what both sides have. It is ErrDiverged.
type DivergedError struct {
	Filesystem string
	Common     *pdu.FilesystemVersion   // the newest version on both sides; nil: none
	Sender     []*pdu.FilesystemVersion // all of the sender's, oldest first
	Receiver   []*pdu.FilesystemVersion // all of the receiver's snapshots, oldest first
}

// Error names the newest versions of both sides, and the way out.
func (e *DivergedError) Error() string {
	common, wayOut := "no version is on both sides", ""
	if e.Common != nil {
		common = "the newest version on both sides is " + versionName(e.Common)
		wayOut = "remove from the receiver what it has after that, or "
	}
	return fmt.Sprintf("%v: %s; sender has %s; receiver has %s; to go on, %smove the receiver's filesystem out of the way, so that it is sent in full",
		ErrDiverged, common, newestNames(e.Sender), newestNames(e.Receiver), wayOut)
}

// Is makes errors.Is find ErrDiverged.
func (e *DivergedError) Is(target error) bool { return target == ErrDiverged }

// newestNames names the last few versions: a list of thousands is no message.
func newestNames(versions []*pdu.FilesystemVersion) string {
	const shown = 10
	if len(versions) == 0 {
		return "none"
	}
	var b strings.Builder
	if older := len(versions) - shown; older > 0 {
		fmt.Fprintf(&b, "%d older, ", older)
		versions = versions[older:]
	}
	for i, v := range versions {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%s (guid %016x)", versionName(v), v.GetGuid())
	}
	return b.String()
}

// versionName is "@name" for a snapshot, "#name" for a bookmark, "" for none.
func versionName(v *pdu.FilesystemVersion) string {
	switch {
	case v == nil:
		return ""
	case v.Type == pdu.FilesystemVersion_Bookmark:
		return "#" + v.Name
	}
	return "@" + v.Name
}

// transientErrors are lost connections, whoever noticed first, and calls that ended
// although our own context lives.
var transientErrors = []error{
	endpoint.ErrBusy, endpoint.ErrLimit,
	io.EOF, io.ErrUnexpectedEOF, io.ErrClosedPipe, net.ErrClosed,
	os.ErrDeadlineExceeded, context.DeadlineExceeded, context.Canceled,
	syscall.ECONNRESET, syscall.ECONNREFUSED, syscall.ECONNABORTED, syscall.EPIPE,
	syscall.ETIMEDOUT, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.ENETDOWN,
}

// permanentErrors are what another attempt cannot change, even where a lost
// connection is in the chain as well.
var permanentErrors = []error{
	ErrProtocol, ErrDiverged, dataconn.ErrProtocol, versionhandshake.ErrVersion, versionhandshake.ErrBanner, versionhandshake.ErrExtension,
	endpoint.ErrNotFound, endpoint.ErrInvalid, endpoint.ErrNoSpace, endpoint.ErrStaleToken,
	endpoint.ErrPermission, endpoint.ErrUnimplemented, endpoint.ErrFailedPrecondition,
	syscall.ENOSPC, syscall.EDQUOT,
}

func isAny(err error, targets []error) bool {
	for _, target := range targets {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}

// isTransient reports whether the same may succeed later. It is asked only while our
// own context lives. An error that crossed the data channel without a code may be a
// filesystem that is busy, so it counts as one that passes.
func isTransient(err error) bool {
	if isAny(err, permanentErrors) || isMisconfigured(err) {
		return false
	}
	if isAny(err, transientErrors) {
		return true
	}
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Aborted, codes.Canceled:
		return true
	}
	if netErr := net.Error(nil); errors.As(err, &netErr) && netErr.Timeout() {
		return true
	}
	return isConnectionError(err) || isRemoteText(err)
}

// isMisconfigured reports whether connecting failed of what only a person can change: a
// host that does not exist, or a certificate that one of the two sides does not accept.
func isMisconfigured(err error) bool {
	var host *net.DNSError
	var certificate *tls.CertificateVerificationError
	var notTLS tls.RecordHeaderError
	var alert *net.OpError
	return errors.As(err, &host) && host.IsNotFound ||
		errors.As(err, &certificate) || errors.As(err, &notTLS) ||
		errors.As(err, &alert) && alert.Op == "remote error" // which is how crypto/tls shows the peer's alerts
}

func isConnectionError(err error) bool {
	var opErr *net.OpError
	var connErr *dataconn.ConnError
	return errors.As(err, &opErr) || errors.As(err, &connErr)
}

func isRemoteText(err error) bool {
	var remote *dataconn.RemoteError
	return errors.As(err, &remote) && status.Code(remote) == codes.Unknown
}

// sendError is the sender's refusal to begin a step.
type sendError struct{ error }

func (e sendError) Unwrap() error { return e.error }

// otherRefusals have nothing to do with a token, also where their text came from a sender.
var otherRefusals = []error{endpoint.ErrPermission, endpoint.ErrUnimplemented, endpoint.ErrBusy, endpoint.ErrLimit}

// tokenAtFault reports whether a step failed because of its resume token. A sender of
// the base protocol does not say so; any refusal to begin the step that is not clearly
// something else counts, because a token that is kept in vain would fail its filesystem
// for ever. A receiver made the token itself, and is believed only when it is explicit:
// its other errors (a full disk) are no reason to throw away what it has.
func tokenAtFault(err error) bool {
	if errors.Is(err, endpoint.ErrStaleToken) {
		return true
	}
	if !errors.As(err, new(sendError)) || isAny(err, otherRefusals) {
		return false
	}
	return isRemoteText(err) || !isTransient(err)
}
