package quickstart

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// startScript starts a shell script in the place of the program.
func startScript(t *testing.T, script string) (*passive, error) {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, "program")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
	return startPassive(t.Context(), program, "sink.yml", filepath.Join(dir, "log"))
}

// TestPassiveEnds: whoever waits for a passive side that has ended is told why.
func TestPassiveEnds(t *testing.T) {
	p, err := startScript(t, `echo "$@: port in use" >&2; exit 1`)
	if err != nil {
		t.Fatal(err)
	}
	<-p.ctx.Done()
	for _, err := range []error{context.Cause(p.ctx), p.stop()} {
		for _, want := range []string{"exit status 1", p.log, "daemon --config sink.yml: port in use"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %q in it", err, want)
			}
		}
	}
}

func TestPassiveStops(t *testing.T) {
	// The shell ends well when the signal interrupts its reading.
	p, err := startScript(t, `mkfifo "$0.fifo"; trap 'exit 0' TERM; echo ready; read x <>"$0.fifo"`)
	if err != nil {
		t.Fatal(err)
	}
	for tail(p.log) != "ready\n" {
		if p.ctx.Err() != nil {
			t.Fatal(context.Cause(p.ctx))
		}
	}
	if err := p.stop(); err != nil {
		t.Error(err)
	}
}

func TestPassiveDoesNotStart(t *testing.T) {
	dir := t.TempDir()
	if _, err := startPassive(t.Context(), dir+"/nowhere", "sink.yml", dir+"/log"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error is %v", err)
	}
	if _, err := startPassive(t.Context(), "/bin/true", "sink.yml", dir+"/nowhere/log"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error is %v", err)
	}
}

func TestTail(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(file, []byte(strings.Repeat("a line of the log\n", logTail)), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := tail(file); len(got) > logTail || !strings.HasPrefix(got, "a line") || !strings.HasSuffix(got, "log\n") {
		t.Errorf("%q", got)
	}
	if got := tail(file + "-2"); !strings.Contains(got, "no such file") {
		t.Errorf("%q", got)
	}
}
