package dataconn

import (
	"log/slog"
	"time"

	spb "google.golang.org/genproto/googleapis/rpc/status"
)

// Features are the extensions of the base protocol that both ends of a connection have
// agreed on. The zero value is the base protocol.
type Features struct {
	// Reuse: the connection carries many requests, one after another.
	Reuse bool
	// Status: errors cross as google.rpc.Status, not as text.
	Status bool
	// Sum: every frame's header has a checksum over all that was sent before it.
	Sum bool
	// Zstd: frames of a stream may be compressed.
	Zstd bool
	// Level compresses the streams that this side sends, as zstd's own levels do, from
	// 1 to 22; 0 sends them as they are. It needs Zstd.
	Level int
}

// ClientOptions may be the zero value.
type ClientOptions struct {
	// MaxIdle is how many connections without a request are kept to be used again; 0:
	// DefaultMaxIdle; negative: none.
	MaxIdle int
	// IdleTimeout is how long such a connection is kept; 0: DefaultIdleTimeout.
	IdleTimeout time.Duration
	// StatusOf makes a status of an error that is to cross with Features.Status; nil:
	// that of the error's GRPCStatus method, or codes.Unknown and its text.
	StatusOf func(error) *spb.Status
}

// ServeOptions may be the zero value.
type ServeOptions struct {
	// Features are what both ends have agreed on.
	Features Features
	// Logger gets failed requests; nil: none.
	Logger *slog.Logger
	// StatusOf is as in ClientOptions.
	StatusOf func(error) *spb.Status
}
