// Package example runs the examples in their tests: as their readers would, as programs.
package example

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Build builds the program of the test's directory and returns its path.
func Build(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "example")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return program
}

// A Process is a program that runs until the end of the test. It is interrupted then,
// and must end well.
type Process struct {
	lines *bufio.Reader
}

// Start runs a program.
func Start(t *testing.T, program string, args ...string) *Process {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	stderr := &bytes.Buffer{}
	cmd.Stderr = stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 0 {
			t.Errorf("%v ended with %v\n%s", args, err, stderr)
		}
	})
	return &Process{bufio.NewReader(stdout)}
}

// Line waits for the next line that the process prints.
func (p *Process) Line(t *testing.T) string {
	t.Helper()
	line, err := p.lines.ReadString('\n')
	if err != nil {
		t.Fatalf("the process says no more: %v", err)
	}
	return strings.TrimSuffix(line, "\n")
}

// Address waits for the line that says where the process listens.
func (p *Process) Address(t *testing.T) string {
	t.Helper()
	_, address, ok := strings.Cut(p.Line(t), "listening on ")
	if !ok {
		t.Fatal("the process does not say where it listens")
	}
	return address
}
