package main

import (
	"context"
	"io"
	"log/slog"
	"log/syslog"

	"github.com/dualrepl/dualrepl/internal/config"
)

// syslogFacility is zrepl's default.
const syslogFacility = syslog.LOG_LOCAL0

// newSyslogHandler hands records to the system's log, which w is a connection to, each
// with its severity.
func newSyslogHandler(w *syslog.Writer, l config.Logging) (slog.Handler, error) {
	var all severities
	for i, write := range []func(string) error{w.Debug, w.Info, w.Warning, w.Err} {
		handler, err := newHandler(lines(write), l)
		if err != nil {
			return nil, err
		}
		all[i] = handler
	}
	return all, nil
}

// lines takes each write for a message.
type lines func(string) error

func (f lines) Write(line []byte) (int, error) { return len(line), f(string(line)) }

var _ io.Writer = lines(nil)

// severities are the handlers for records of the levels debug, info, warn and error.
type severities [4]slog.Handler

// of is the handler for a level.
func (s severities) of(level slog.Level) slog.Handler {
	return s[min(max(0, int((level-slog.LevelDebug)/4)), len(s)-1)]
}

// Enabled implements slog.Handler.
func (s severities) Enabled(ctx context.Context, level slog.Level) bool {
	return s.of(level).Enabled(ctx, level)
}

// Handle implements slog.Handler.
func (s severities) Handle(ctx context.Context, record slog.Record) error {
	return s.of(record.Level).Handle(ctx, record)
}

// WithAttrs implements slog.Handler.
func (s severities) WithAttrs(attrs []slog.Attr) slog.Handler {
	for i, handler := range s {
		s[i] = handler.WithAttrs(attrs)
	}
	return s
}

// WithGroup implements slog.Handler.
func (s severities) WithGroup(name string) slog.Handler {
	for i, handler := range s {
		s[i] = handler.WithGroup(name)
	}
	return s
}
