package main

import (
	"io"
	"os/exec"
	"testing"

	"github.com/dualrepl/dualrepl/examples/internal/example"
)

// TestTwoProcesses builds the example and runs both of its sides.
func TestTwoProcesses(t *testing.T) {
	program := example.Build(t)
	board := example.Start(t, program, "board", "127.0.0.1:0")
	out, err := exec.Command(program, "post", board.Address(t), "buy paper").CombinedOutput()
	if want := "visitor posted: buy paper\nseen\n"; err != nil || string(out) != want {
		t.Errorf("post: %v, output is\n%s", err, out)
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{nil, {"board"}, {"post", "127.0.0.1:1"}} {
		if err := run(t.Context(), args, io.Discard); err == nil {
			t.Errorf("run(%q) succeeds", args)
		}
	}
}
