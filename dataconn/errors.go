package dataconn

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
)

// ErrProtocol: the peer sent what the protocol does not allow. Trying again does not help.
var ErrProtocol = errors.New("data channel protocol error")

// noErrorText stands in for an error without text, which an older peer would take for success.
const noErrorText = "error without a text"

// RemoteError is an error that the peer's handler returned, or the reader of a
// stream at the peer's end. The connection was sound; a broken one never is a
// RemoteError. Only the text crosses.
type RemoteError struct {
	Text string // UTF-8, never empty
}

// Error says that it is the peer's, and the text.
func (e *RemoteError) Error() string { return "remote: " + e.Text }

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
	errReset = &ConnError{fmt.Errorf("the peer shut it down: %w", io.ErrUnexpectedEOF)}

	errPeerSilent = &ConnError{fmt.Errorf("nothing received for %v: %w", peerTimeout, os.ErrDeadlineExceeded)}
	errPeerStuck  = &ConnError{fmt.Errorf("nothing sent or received for %v: %w", peerTimeout, os.ErrDeadlineExceeded)}

	errRequestLate = &ConnError{fmt.Errorf("no whole request within %v: %w", requestTimeout, os.ErrDeadlineExceeded)}

	errDone         = fmt.Errorf("request is done: %w", net.ErrClosed)
	errStreamClosed = fmt.Errorf("stream was closed: %w", net.ErrClosed)
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

func remoteError(text []byte) error {
	if len(text) == 0 {
		return &RemoteError{noErrorText}
	}
	return &RemoteError{strings.ToValidUTF8(string(text), "\uFFFD")}
}

// errorText is the text of err as it may be sent: valid UTF-8, not empty, not too long.
func errorText(err error) string {
	text := strings.ToValidUTF8(err.Error(), "\uFFFD")
	if text == "" {
		return noErrorText
	}
	if len(text) > maxErrorText {
		text = strings.ToValidUTF8(text[:maxErrorText], "") // not half a character at the end
	}
	return text
}
