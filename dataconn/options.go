package dataconn

import (
	"context"
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
	// Drain, if not nil, ends when no request may begin any more. One that runs then may
	// finish; the connection ends after it, or at once. A request that arrives later is
	// refused in a way that lets the client send it elsewhere, if Features.Reuse is on.
	Drain context.Context
}

func (o ServeOptions) withDefaults() ServeOptions {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.StatusOf == nil {
		o.StatusOf = statusOf
	}
	if o.Drain == nil {
		o.Drain = context.Background()
	}
	return o
}

func (o ClientOptions) withDefaults() ClientOptions {
	if o.MaxIdle == 0 {
		o.MaxIdle = DefaultMaxIdle
	}
	if o.IdleTimeout == 0 {
		o.IdleTimeout = DefaultIdleTimeout
	}
	if o.StatusOf == nil {
		o.StatusOf = statusOf
	}
	return o
}
