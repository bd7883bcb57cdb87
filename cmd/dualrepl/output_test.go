package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/dualrepl/dualrepl/endpoint/dir"
	"github.com/dualrepl/dualrepl/internal/config"
	"github.com/dualrepl/dualrepl/internal/daemon"
	"github.com/dualrepl/dualrepl/internal/terminal"
)

// TestExitCodes: each kind of error has its code, and is printed once, without what
// would move a cursor.
func TestExitCodes(t *testing.T) {
	broken := errors.New("broken\x1b[2J")
	for _, tc := range []struct {
		err  error
		want int
	}{
		{broken, exitFailed},
		{marked{broken, errConfig}, exitUsage},
		{marked{broken, errUsage}, exitUsage},
		{fmt.Errorf("%w: %w", broken, daemon.ErrJob), exitUsage},
		{marked{broken, errIncomplete}, exitIncomplete},
	} {
		var b strings.Builder
		if got := (&app{started: true}).report(&b, &cobra.Command{}, tc.err); got != tc.want {
			t.Errorf("%v: exit code %d, want %d", tc.err, got, tc.want)
		}
		if !strings.HasPrefix(b.String(), `dualrepl: broken\x1b[2J`) || strings.Count(b.String(), "\n") != 1 {
			t.Errorf("%v: printed %q", tc.err, &b)
		}
	}
}

// newOutput is a command with its two outputs.
func newOutput() (cmd *cobra.Command, stdout, stderr *bytes.Buffer) {
	cmd, stdout, stderr = &cobra.Command{}, &bytes.Buffer{}, &bytes.Buffer{}
	cmd.SetContext(context.Background())
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	return cmd, stdout, stderr
}

// TestIncompleteRestore: what could not be applied is listed, and is an error of its own.
func TestIncompleteRestore(t *testing.T) {
	whole := newRestoreResult(&dir.RestoreReport{Filesystem: "docs", Version: "v", Inconsistent: []string{"new\nline"}}, "to")
	if err := whole.incomplete(); err != nil {
		t.Error(err)
	}
	r := newRestoreResult(&dir.RestoreReport{
		Filesystem: "docs", Version: "v", Files: 1, Bytes: 2,
		NotApplied: []dir.Mismatch{{Problem: "owner 7:7: no"}, {Path: "a\nb\xff", Problem: "mode: no"}, {Path: "c", Problem: "owner 7:7: no"}},
	}, "to")
	cmd, stdout, stderr := newOutput()
	if err := printRestore(cmd, r, true, false); err != nil {
		t.Fatal(err)
	}
	if want := "docs@v is restored to to, except for what is listed below: 1 file, 2 B\n"; stdout.String() != want {
		t.Errorf("printed %q, want %q", stdout, want)
	}
	if want := "Could not be applied:\n  \".\" and 1 more: owner 7:7: no\n  \"a\\nb\\xff\": mode: no\n"; stderr.String() != want {
		t.Errorf("listed %q, want %q", stderr, want)
	}
	if err := r.incomplete(); !errors.Is(err, errIncomplete) || !strings.Contains(err.Error(), "3 things") {
		t.Errorf("error is %v", err)
	}
}

// TestIncompleteSnapshots: what a snapshot lacks, and what is damaged, is an error of its own.
func TestIncompleteSnapshots(t *testing.T) {
	results := newSnapshotResults([]daemon.Snapshot{
		{Filesystem: "whole", Version: "v", Report: &dir.SnapshotReport{}},
		{Filesystem: "failed", Version: "v", Err: errors.New("failed")},
	})
	if err := incompleteSnapshots(results); err != nil {
		t.Error(err)
	}
	results = newSnapshotResults([]daemon.Snapshot{
		{Filesystem: "docs", Version: "v", Report: &dir.SnapshotReport{Inconsistent: []string{`"a" is left out`}, Damaged: []string{"b\xff"}}},
	})
	err := incompleteSnapshots(results)
	if !errors.Is(err, errIncomplete) || !strings.Contains(err.Error(), "docs@v is taken except for 1 entry") {
		t.Errorf("error is %v", err)
	}
	cmd, _, stderr := newOutput()
	if err := printSnapshots(cmd, results, false); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"docs@v does not have as it was:\n  \"a\" is left out\n", "Damaged in the version before:\n  b\\xff\n"} {
		if !strings.Contains(stderr.String(), want) {
			t.Errorf("listed %q, want %q", stderr, want)
		}
	}
}

// TestNoProgress: without a terminal nobody finds out how much there will be.
func TestNoProgress(t *testing.T) {
	bars := terminal.NewProgress(&strings.Builder{})
	defer bars.Close()
	if oneAfterAnother(bars) != nil {
		t.Error("progress that nobody sees")
	}
}

// TestSignals: commands that a signal ends in an orderly way have a context that ends with
// it; any other ends at once.
func TestSignals(t *testing.T) {
	a := &app{}
	watching := []string{"daemon", "quickstart", "replicate", "restore", "snapshot", "verify"}
	for _, cmd := range newRoot(a).Commands() {
		cmd.SetContext(t.Context())
		if err := a.start(cmd, nil); err != nil {
			t.Fatal(err)
		}
		if got := cmd.Context() != t.Context(); got != slices.Contains(watching, cmd.Name()) {
			t.Errorf("%s: watches signals: %v", cmd.Name(), got)
		}
	}
}

// TestCommand: what a hint says can be copied.
func TestCommand(t *testing.T) {
	for file, want := range map[string]string{
		config.DefaultPath: "dualrepl snapshot docs",
		"./my push.yml":    "dualrepl snapshot docs --config './my push.yml'",
	} {
		if got := (&app{configFile: file}).command("snapshot", "docs"); got != want {
			t.Errorf("%s: %s, want %s", file, got, want)
		}
	}
}

func TestCounted(t *testing.T) {
	for want, got := range map[string]string{
		"0 files":   counted(0, "file"),
		"1 entry":   counted(1, "entry"),
		"2 entries": counted(2, "entry"),
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// TestPrintSome: a long list is cut, and says so; its lines stay lines.
func TestPrintSome(t *testing.T) {
	var b strings.Builder
	printSome(&b, "Heading:", nil)
	if b.Len() > 0 {
		t.Errorf("printed %q for nothing", b.String())
	}
	lines := make([]string, shownAtMost+2)
	lines[0] = "two\nlines"
	printSome(&b, "Heading:", lines)
	if got := b.String(); strings.Count(got, "\n") != shownAtMost+2 || !strings.Contains(got, "and 2 more") {
		t.Errorf("printed %q", got)
	}
}

func TestEscaped(t *testing.T) {
	for path, want := range map[string]string{"täglich": "täglich", "\xff\"": `\xff\"`} {
		if got := escaped(path); got != want {
			t.Errorf("escaped(%q) = %q, want %q", path, got, want)
		}
	}
}

func TestNewLogger(t *testing.T) {
	for _, tc := range []struct {
		logging config.Logging
		want    string
	}{
		{config.Logging{Level: "info", Format: config.FormatText}, "level=INFO msg=told job=docs\n"},
		{config.Logging{Level: "info", Format: config.FormatJSON}, `{"level":"INFO","msg":"told","job":"docs"}` + "\n"},
		{config.Logging{Level: "warn", Format: config.FormatText, Time: true}, ""},
	} {
		var out strings.Builder
		handler, err := newHandler(&out, tc.logging)
		if err != nil {
			t.Fatal(err)
		}
		slog.New(handler).Info("told", "job", "docs")
		if out.String() != tc.want {
			t.Errorf("%+v: got %q, want %q", tc.logging, out.String(), tc.want)
		}
	}
}
