package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// process is the program, running on its own until it ends or is killed.
type process struct {
	cmd    *exec.Cmd
	output logBuffer
	ended  chan struct{} // closed once it has ended
	err    error         // how it ended
}

// start starts the program. It is killed at the end of the test at the latest.
func start(t *testing.T, args ...string) *process {
	t.Helper()
	return startProgram(t, program, args...)
}

// startProgram is start for another build of it.
func startProgram(t *testing.T, path string, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(path, args...), ended: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.output, &p.output
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		p.err = p.cmd.Wait()
	}()
	t.Cleanup(p.kill)
	return p
}

// kill ends the process by SIGKILL, if it still runs.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.ended
}

func (p *process) hasEnded() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// String is what the process has written.
func (p *process) String() string {
	if p == nil {
		return ""
	}
	return p.output.String()
}

// quit makes the process end with a dump of its goroutines, and counts them, but for
// those that the garbage collector starts for each processor.
func (p *process) quit(t *testing.T) int {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	<-p.ended
	n := strings.Count(p.String(), "\ngoroutine ") - strings.Count(p.String(), " [GC worker")
	if n <= 0 {
		t.Fatalf("no goroutine in\n%s", p)
	}
	return n
}

// descriptors is how many files and sockets the process has open.
func (p *process) descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir(p.proc("fd"))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// residentKiB is the memory that the process has.
func (p *process) residentKiB(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile(p.proc("status"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		t.Fatalf("no VmRSS in\n%s", status)
	}
	kib, err := strconv.Atoi(fields[0])
	if err != nil {
		t.Fatal(err)
	}
	return kib
}

func (p *process) proc(name string) string {
	return filepath.Join("/proc", fmt.Sprint(p.cmd.Process.Pid), name)
}

// logBuffer collects a process's output while it runs.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// active is a replication as a process of its own.
type active struct {
	*process
	s *setup
}

func (s *setup) startActive() active {
	s.t.Helper()
	return active{start(s.t, "replicate", "--config", s.push, "docs"), s}
}

// awaitTrigger returns which transfer fired the proxy's trigger.
func (a active) awaitTrigger() int {
	a.s.t.Helper()
	select {
	case i := <-a.s.proxy.trigger:
		return i
	case <-a.ended:
		a.s.t.Fatalf("the active side ended too early: %v\n%s\npassive side:\n%s", a.err, a, a.s.passive)
		return 0
	}
}

// mustEnd waits for the end of the replication, which must be a good one.
func (a active) mustEnd() {
	a.s.t.Helper()
	if <-a.ended; a.err != nil {
		a.s.t.Fatalf("replicate: %v\n%s\npassive side:\n%s", a.err, a, a.s.passive)
	}
}
