package main

import (
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/examples/internal/example"
	"github.com/dualrepl/dualrepl/pdu"
)

// TestTwoProcesses builds the example and runs both of its sides.
func TestTwoProcesses(t *testing.T) {
	program := example.Build(t)
	address := example.Start(t, program, "serve", "127.0.0.1:0").Address(t)
	out, err := exec.Command(program, "read", address, "home").CombinedOutput()
	want := "note-1: buy paper\nnote-2: feed the cat\nnote-3: write the other end\n"
	if err != nil || string(out) != want {
		t.Errorf("read: %v, output is\n%s", err, out)
	}
	for route, why := range map[string]string{"work": "PermissionDenied", "attic": "NotFound"} {
		out, err := exec.Command(program, "read", address, route).CombinedOutput()
		if err == nil || !strings.Contains(string(out), why) {
			t.Errorf("route %s: %v, output is\n%s", route, err, out)
		}
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{nil, {"serve"}, {"read", "127.0.0.1:1"}, {"write", "127.0.0.1:1", "home"}} {
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
