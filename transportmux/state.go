package transportmux

import (
	"context"
	"errors"
	"fmt"

	"github.com/dualrepl/dualrepl/versionhandshake"
)

// A State of a Link.
type State int

// The states of a Link. It starts as Disconnected and goes from any state to any other,
// but for Closed, which is the last.
const (
	Disconnected State = iota // there is no session, and none is being made
	Connecting                // a session is being made
	Ready                     // there is a session
	Closed                    // Close was called
)

// String is for logs.
func (s State) String() string {
	switch s {
	case Connecting:
		return "connecting"
	case Ready:
		return "ready"
	case Closed:
		return "closed"
	}
	return "disconnected"
}

var (
	// ErrDisconnected: there is no connection with the peer, and none can be made from
	// here. Nothing was sent.
	ErrDisconnected = errors.New("not connected to the peer")

	// ErrNoMux: the peer does not offer dualrepl.mux, so it gets a connection for each
	// channel. Nothing but the banner was sent.
	ErrNoMux = fmt.Errorf("%w: %s", versionhandshake.ErrExtension, versionhandshake.ExtensionMux)
)

type waitForReadyKey struct{}

// WaitForReady returns a context for calls that wait for a connection, as long as the
// context lives, instead of failing with ErrDisconnected.
func WaitForReady(ctx context.Context) context.Context {
	return context.WithValue(ctx, waitForReadyKey{}, true)
}

// WaitsForReady reports whether ctx comes from WaitForReady.
func WaitsForReady(ctx context.Context) bool { return ctx.Value(waitForReadyKey{}) != nil }
