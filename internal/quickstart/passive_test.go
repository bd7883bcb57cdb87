package quickstart

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

// TestMain runs the tests or, for TestPassiveStops, a passive side.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "daemon" {
		idle()
		return
	}
	goleak.VerifyTestMain(m)
}

// idle is a daemon that ends well, with nothing done.
func idle() {
	signalled := make(chan os.Signal, 1)
	signal.Notify(signalled, syscall.SIGTERM)
	fmt.Println("ready")
	<-signalled
}

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
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p, err := startPassive(t.Context(), program, "sink.yml", filepath.Join(t.TempDir(), "log"))
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
