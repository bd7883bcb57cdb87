package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
)

// TestTwoProcesses builds the example and runs both of its sides.
func TestTwoProcesses(t *testing.T) {
	program := filepath.Join(t.TempDir(), "custom-endpoint")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	out, err := exec.Command(program, "read", startServer(t, program)).CombinedOutput()
	want := "note-1: buy paper\nnote-2: feed the cat\nnote-3: write the other end\n"
	if err != nil || string(out) != want {
		t.Errorf("read: %v, output is\n%s", err, out)
	}
}

// startServer starts the passive side and returns its address. It is stopped, and
// must end well, at the end of the test.
func startServer(t *testing.T, program string) string {
	t.Helper()
	server := exec.CommandContext(t.Context(), program, "serve", "127.0.0.1:0")
	server.Cancel = func() error { return server.Process.Signal(os.Interrupt) }
	stderr := &bytes.Buffer{}
	server.Stderr = stderr
	stdout, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatalf("the server says nothing: %v\n%s", err, stderr)
	}
	t.Cleanup(func() {
		if err := server.Wait(); server.ProcessState.ExitCode() != 0 {
			t.Errorf("the server ended with %v\n%s", err, stderr)
		}
	})
	_, address, _ := strings.Cut(strings.TrimSpace(line), "listening on ")
	return address
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{nil, {"serve"}, {"write", "127.0.0.1:1"}} {
		if err := run(t.Context(), args, io.Discard); err == nil {
			t.Errorf("run(%q) succeeds", args)
		}
	}
}

func TestNotebookSend(t *testing.T) {
	n := notebook{"a", "b", "c"}
	version := func(number uint64) *pdu.FilesystemVersion { return &pdu.FilesystemVersion{Guid: number} }
	tests := []struct {
		req  *pdu.SendReq
		want string
		err  error
	}{
		{&pdu.SendReq{Filesystem: "notes", To: version(2)}, "a\nb\n", nil},
		{&pdu.SendReq{Filesystem: "notes", From: version(1), To: version(3)}, "b\nc\n", nil},
		{&pdu.SendReq{Filesystem: "notes", From: version(2), To: version(2)}, "", endpoint.ErrInvalid},
		{&pdu.SendReq{Filesystem: "notes", From: version(1 << 63), To: version(2)}, "", endpoint.ErrInvalid},
		{&pdu.SendReq{Filesystem: "notes", To: version(4)}, "", endpoint.ErrNotFound},
		{&pdu.SendReq{Filesystem: "notes"}, "", endpoint.ErrNotFound},
		{&pdu.SendReq{Filesystem: "other", To: version(1)}, "", endpoint.ErrNotFound},
		{&pdu.SendReq{Filesystem: "notes", To: version(1), ResumeToken: "x"}, "", endpoint.ErrStaleToken},
	}
	for _, tt := range tests {
		_, stream, err := n.Send(t.Context(), tt.req)
		if !errors.Is(err, tt.err) {
			t.Errorf("Send(%v): %v, want %v", tt.req, err, tt.err)
		}
		if err != nil {
			continue
		}
		if got, err := io.ReadAll(stream); err != nil || string(got) != tt.want {
			t.Errorf("Send(%v): %q, %v", tt.req, got, err)
		}
	}
}
