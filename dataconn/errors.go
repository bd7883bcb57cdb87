package dataconn

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// ErrProtocol: the peer sent what the protocol does not allow. Trying again does not help.
var ErrProtocol = errors.New("data channel protocol error")

// ErrCorrupt: bytes were changed on their way, as Features.Sum has shown. It is in the
// chain of a ConnError: another try may do better.
var ErrCorrupt = errors.New("data channel checksum mismatch")

// noErrorText stands in for an error without text, which an older peer would take for success.
const noErrorText = "error without a text"

// ErrNotSent: a request failed before the peer's handler could see it, and none will. It
// is in the chain, beside the reason, of what the Client's methods return.
var ErrNotSent = errors.New("data request was not sent")

// notSentError is ErrNotSent with the text of its reason.
type notSentError struct{ error }

func (e notSentError) Unwrap() []error { return []error{e.error, ErrNotSent} }

// A StreamError is why a Receive failed whose own stream did: Err is what its Read
// returned, so that an error in its chain that is a peer's is another connection's.
type StreamError struct {
	Err error
}

// Error says that it is the stream's, and the text.
func (e *StreamError) Error() string { return "read the stream to send: " + e.Err.Error() }

// Unwrap returns the error of Read.
func (e *StreamError) Unwrap() error { return e.Err }

// RemoteError is an error that the peer's handler returned, or the reader of a
// stream at the peer's end. The connection was sound; a broken one never is a
// RemoteError.
type RemoteError struct {
	Text   string      // UTF-8, never empty
	Status *spb.Status // with Features.Status: Text is its message, the code is not OK; otherwise nil
}

// Error says that it is the peer's, and the text.
func (e *RemoteError) Error() string { return "remote: " + e.Text }

// GRPCStatus returns the Status, nil if there is none: status.Code and status.FromError
// look for it.
func (e *RemoteError) GRPCStatus() *status.Status {
	if e.Status == nil {
		return nil
	}
	return status.FromProto(e.Status)
}

// ConnError is a connection that broke, or that the peer gave up, before the
// request was done. Err tells how: the network's error, io.ErrUnexpectedEOF for an
// end in the middle, os.ErrDeadlineExceeded for a silent peer. It is a net.Error,
// and worth another try.
type ConnError struct {
	Err error
}

var _ net.Error = (*ConnError)(nil)

// Error says that the connection was lost, and why.
func (e *ConnError) Error() string { return "data connection lost: " + e.Err.Error() }

// Unwrap returns the cause.
func (e *ConnError) Unwrap() error { return e.Err }

// Timeout tells whether the peer was silent for too long.
func (e *ConnError) Timeout() bool {
	var cause net.Error
	return errors.As(e.Err, &cause) && cause.Timeout()
}

// Temporary is always true: a new connection may do better.
func (e *ConnError) Temporary() bool { return true }

var (
	errCorrupt = &ConnError{Err: ErrCorrupt}

	errReset = &ConnError{fmt.Errorf("the peer shut it down: %w", io.ErrUnexpectedEOF)}

	errUnbegun = &ConnError{fmt.Errorf("the peer closed it before the request began: %w", io.ErrUnexpectedEOF)}

	errPeerSilent = &ConnError{fmt.Errorf("nothing received for %v: %w", peerTimeout, os.ErrDeadlineExceeded)}
	errPeerStuck  = &ConnError{fmt.Errorf("nothing sent or received for %v: %w", peerTimeout, os.ErrDeadlineExceeded)}

	errRequestLate = &ConnError{fmt.Errorf("no whole request within %v: %w", requestTimeout, os.ErrDeadlineExceeded)}

	errDone         = fmt.Errorf("request is done: %w", net.ErrClosed)
	errStreamClosed = fmt.Errorf("stream was closed: %w", net.ErrClosed)
	errDraining     = fmt.Errorf("server is shutting down: %w", net.ErrClosed)
	errClientClosed = fmt.Errorf("data channel client was closed: %w", net.ErrClosed)
)

func protocolError(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrProtocol}, args...)...)
}

// lostError makes a ConnError of a wire's error. An end of file is never the end of
// a message or stream: that is a frame.
func lostError(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return &ConnError{err}
}

func remoteText(text []byte) error {
	if len(text) == 0 {
		return &RemoteError{Text: noErrorText}
	}
	return &RemoteError{Text: strings.ToValidUTF8(string(text), "\uFFFD")}
}

// remoteStatus is lenient with a status that has no code or message: it says that there
// was an error all the same.
func remoteStatus(b []byte) error {
	if len(b) > maxErrorText {
		return protocolError("status of %d bytes is over the limit of %d", len(b), maxErrorText)
	}
	st := new(spb.Status)
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(b, st); err != nil {
		return protocolError("status: %v", err)
	}
	if st.Code == int32(codes.OK) {
		st.Code = int32(codes.Unknown)
	}
	if st.Message == "" {
		st.Message = noErrorText
	}
	return &RemoteError{Text: st.Message, Status: st}
}

// errorText is the text of err as it may be sent: valid UTF-8, not empty, not too long.
func errorText(err error) string { return validText(err.Error(), maxErrorText) }

func validText(text string, limit int) string {
	text = strings.ToValidUTF8(text, "\uFFFD")
	if text == "" {
		return noErrorText
	}
	if len(text) > limit {
		text = strings.ToValidUTF8(text[:limit], "") // not half a character at the end
	}
	return text
}

// statusOf is what ClientOptions.StatusOf and ServeOptions.StatusOf are unless set.
func statusOf(err error) *spb.Status { return status.Convert(err).Proto() }

// encodeStatus encodes a status as it may be sent: the details go first if it is too long.
func encodeStatus(from *spb.Status) []byte {
	st := &spb.Status{
		Code: from.GetCode(), Message: validText(from.GetMessage(), maxErrorText), Details: from.GetDetails(),
	}
	if st.Code == int32(codes.OK) {
		st.Code = int32(codes.Unknown)
	}
	b, err := proto.Marshal(st)
	if err == nil && len(b) <= maxErrorText {
		return b
	}
	st.Message, st.Details = validText(st.Message, maxErrorText-statusOverhead), nil
	b, _ = proto.Marshal(st) // a number and valid UTF-8
	return b
}

// errorPayload is err as it crosses on this connection.
func (c *conn) errorPayload(err error) []byte {
	if !c.features.Status {
		return []byte(errorText(err))
	}
	return encodeStatus(c.statusOf(err))
}
