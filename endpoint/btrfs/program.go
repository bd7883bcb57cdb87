package btrfs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dualrepl/dualrepl/endpoint"
)

// A CommandError is the failure of the btrfs program, with what it said.
type CommandError struct {
	Args   []string // without the program's path
	Stderr string   // the end of it, on one line
	Err    error
}

// Error implements error.
func (e *CommandError) Error() string {
	msg := fmt.Sprintf("btrfs %s: %v", strings.Join(e.Args, " "), e.Err)
	if e.Stderr != "" {
		msg += ": " + e.Stderr
	}
	return msg
}

// Unwrap returns how the program ended and, where what it said tells, the sentinel of
// package endpoint that it comes down to.
func (e *CommandError) Unwrap() []error {
	for _, known := range []struct {
		says string
		err  error
	}{
		{"No space left on device", endpoint.ErrNoSpace},
		{"Disk quota exceeded", endpoint.ErrNoSpace},
		{"Operation not permitted", endpoint.ErrPermission},
		{"Permission denied", endpoint.ErrPermission},
	} {
		if strings.Contains(e.Stderr, known.says) {
			return []error{e.Err, known.err}
		}
	}
	return []error{e.Err}
}

// stderrBytes is how much of what the program says is kept.
const stderrBytes = 2 << 10

// tail keeps the end of what is written to it.
type tail struct{ data []byte }

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.data = append(t.data, p...)
	t.data = t.data[max(0, len(t.data)-stderrBytes):]
	return len(p), nil
}

// String returns it on one line, from where the program began to complain.
func (t *tail) String() string {
	line := strings.Join(strings.Fields(string(t.data)), " ")
	if _, complaint, ok := strings.Cut(line, "ERROR: "); ok {
		return complaint
	}
	return line
}

// program is the btrfs program.
type program struct {
	path string
	log  *slog.Logger
	ask  sync.Once
	v2   bool // it can send and receive version 2 of the protocol
}

func newProgram(path string, log *slog.Logger) *program {
	if path == "" {
		path = "btrfs"
	}
	return &program{path: path, log: log}
}

// killGrace is how long a killed program's pipes are waited for.
const killGrace = 5 * time.Second

// run is a btrfs program that runs, or is about to.
type run struct {
	*exec.Cmd
	stderr tail
	ctx    context.Context
	cancel context.CancelFunc
}

// command prepares the program; files are its descriptors from 3 on (see descriptor).
// The end of ctx kills it: it can put off nothing that would be worth waiting for.
func (p *program) command(ctx context.Context, files []*os.File, args ...string) *run {
	r := &run{ctx: ctx}
	ctx, r.cancel = context.WithCancel(ctx)
	r.Cmd = exec.CommandContext(ctx, p.path, args...)
	r.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC")
	r.ExtraFiles, r.Stderr, r.WaitDelay = files, &r.stderr, killGrace
	return r
}

// descriptor is a path to the i-th of a program's files.
func descriptor(i int) string { return "/proc/self/fd/" + strconv.Itoa(3+i) }

// start is Start, with its error explained.
func (r *run) start() error {
	err := r.Start()
	if err == nil {
		return nil
	}
	r.cancel()
	if errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("%w: %w; install btrfs-progs", endpoint.ErrFailedPrecondition, err)
	}
	return r.error(err)
}

// wait waits for the program's end.
func (r *run) wait() error {
	defer r.cancel()
	return r.error(r.Wait())
}

// kill ends the program, whose own error is of no interest then.
func (r *run) kill() {
	r.cancel()
	_ = r.Wait()
}

func (r *run) error(err error) error {
	if err == nil {
		return nil
	}
	if r.ctx.Err() != nil {
		return context.Cause(r.ctx)
	}
	return &CommandError{Args: r.Args[1:], Stderr: r.stderr.String(), Err: err}
}

// version2 says whether the program knows version 2 of the protocol, which came with the
// options that it lists.
func (p *program) version2() bool {
	p.ask.Do(func() { p.v2 = p.offers("send", "--compressed-data") && p.offers("receive", "--force-decompress") })
	return p.v2
}

// askTime is how long the program may take to list its options.
const askTime = 10 * time.Second

func (p *program) offers(command, option string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), askTime)
	defer cancel()
	help, err := exec.CommandContext(ctx, p.path, command, "--help").Output()
	if err != nil {
		p.log.Warn("the btrfs program does not list its options", "program", p.path, "err", err)
	}
	return strings.Contains(string(help), option)
}

// kernelVersion2 says whether the kernel can send version 2 of the protocol.
func kernelVersion2() bool {
	data, err := os.ReadFile("/sys/fs/btrfs/features/send_stream_version")
	n, convErr := strconv.Atoi(strings.TrimSpace(string(data)))
	return err == nil && convErr == nil && n >= 2
}
