package terminal

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
)

// NewLogger returns a logger for commands that talk to a person: it writes warnings and
// errors to w, one line each, as "dualrepl: message: error (key value, key value)".
// Groups are left out of keys.
func NewLogger(w io.Writer) *slog.Logger { return slog.New(handler{w: w}) }

// handler writes each record with one Write, which w serializes.
type handler struct {
	w     io.Writer
	attrs []slog.Attr // of With
}

func (h handler) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelWarn }

func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	h.attrs = append(h.attrs[:len(h.attrs):len(h.attrs)], attrs...)
	return h
}

func (h handler) WithGroup(string) slog.Handler { return h }

func (h handler) Handle(_ context.Context, record slog.Record) error {
	line := "dualrepl: " + record.Message
	var details []string
	add := func(a slog.Attr) bool {
		if err, ok := a.Value.Any().(error); ok {
			line += ": " + err.Error()
		} else {
			details = append(details, a.Key+" "+a.Value.String())
		}
		return true
	}
	for _, a := range h.attrs {
		add(a)
	}
	record.Attrs(add)
	if len(details) > 0 {
		line += " (" + strings.Join(details, ", ") + ")"
	}
	_, err := fmt.Fprintln(h.w, Printable(line))
	return err
}
