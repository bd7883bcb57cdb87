package main

import (
	"log/slog"
	"log/syslog"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dualrepl/dualrepl/internal/config"
)

// TestSyslog: each record is a message of its level's severity, with all that the logger
// was made with.
func TestSyslog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	log, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	w, err := syslog.Dial("unixgram", path, syslogFacility, "dualrepl")
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	handler, err := newSyslogHandler(w, config.Logging{Level: "info", Format: config.FormatText})
	if err != nil {
		t.Fatal(err)
	}
	logger := slog.New(handler).With("job", "a").WithGroup("step")
	for _, tc := range []struct {
		level        slog.Level
		start, words string
	}{
		{slog.LevelInfo, "<134>", `level=INFO msg="it is so" job=a step.n=1`},
		{slog.LevelWarn, "<132>", "level=WARN"},
		{slog.LevelError, "<131>", "level=ERROR"},
		{slog.LevelError + 4, "<131>", "level=ERROR+4"},
	} {
		logger.Debug("it is not told")
		logger.Log(t.Context(), tc.level, "it is so", "n", 1)
		message := make([]byte, 1024)
		n, err := log.Read(message)
		if got := string(message[:n]); err != nil || !strings.HasPrefix(got, tc.start) || !strings.Contains(got, "dualrepl[") || !strings.Contains(got, tc.words) {
			t.Errorf("%v: got %q, %v", tc.level, got, err)
		}
	}
	if _, err := newSyslogHandler(w, config.Logging{Level: "loud"}); err == nil {
		t.Error("a level that there is not")
	}
}
