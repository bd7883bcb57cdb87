package main

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/dualrepl/dualrepl/examples/internal/example"
)

// TestTwoProcesses builds the example and runs both of its sides.
func TestTwoProcesses(t *testing.T) {
	program := example.Build(t)
	directory, store, root := t.TempDir(), t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(directory, "note"), []byte("buy paper"), 0o600); err != nil {
		t.Fatal(err)
	}
	active := example.Start(t, program, "offer", "127.0.0.1:0", directory, store)
	example.Start(t, program, "keep", active.Address(t), root)
	if line := active.Line(t); line != "data: done" {
		t.Errorf("the active side says %q", line)
	}
	files, err := filepath.Glob(filepath.Join(root, "data", "@*", "tree", "note"))
	if err != nil || len(files) != 1 {
		t.Fatalf("found %v, %v", files, err)
	}
	if got, err := os.ReadFile(files[0]); err != nil || string(got) != "buy paper" {
		t.Errorf("received %q, %v", got, err)
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{nil, {"offer", "127.0.0.1:1"}, {"keep", "127.0.0.1:1"}} {
		if err := run(t.Context(), args, io.Discard); err == nil {
			t.Errorf("run(%q) succeeds", args)
		}
	}
}
