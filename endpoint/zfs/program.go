package zfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/dualrepl/dualrepl/endpoint"
)

const (
	// maxOutput bounds what one listing may print, in bytes: some 500,000 versions.
	maxOutput = 64 << 20
	// maxStderr is how much of the end of a process's standard error is kept, in bytes.
	maxStderr = 4 << 10
	// maxErrorArgs bounds the arguments in an error's text, in bytes.
	maxErrorArgs = 256
	// endGrace is how long a process may take to end after SIGTERM, and then after SIGKILL.
	endGrace = 5 * time.Second
)

// programPaths are where zfs usually is on machines that leave it out of the PATH of
// services and unprivileged users.
var programPaths = []string{"/usr/sbin/zfs", "/sbin/zfs", "/usr/local/sbin/zfs"}

// program starts zfs.
type program struct {
	path   string
	log    *slog.Logger
	grace  time.Duration // endGrace
	starts atomic.Uint64 // processes that were started
}

// newProgram looks for zfs itself if path is "". One that is not there is an error when
// it is first started.
func newProgram(path string, log *slog.Logger) *program {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if path == "" {
		path = findProgram()
	}
	return &program{path: path, log: log, grace: endGrace}
}

func findProgram() string {
	for _, path := range append([]string{"zfs"}, programPaths...) {
		if found, err := exec.LookPath(path); err == nil {
			return found
		}
	}
	return "zfs"
}

// command prepares a process. It ends with ctx: by SIGTERM and, if that does not help,
// SIGKILL. What zfs says is in English and in UTC, whatever the machine's language is.
func (p *program) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, p.path, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = p.grace
	return cmd
}

// run runs zfs and returns what it wrote to its standard output, also if it failed.
func (p *program) run(ctx context.Context, args ...string) ([]byte, error) {
	out := &limitedBuffer{}
	cmd := p.command(ctx, args...)
	cmd.Stdout = out
	pr, err := p.start(ctx, cmd)
	if err != nil {
		return nil, err
	}
	err = pr.wait()
	if !pr.hasExited() {
		return nil, err
	}
	if out.refused {
		err = fmt.Errorf("%s: its output is longer than %d bytes", commandLine(args), maxOutput)
	}
	return out.kept, err
}

// process is a zfs that was started.
type process struct {
	ctx    context.Context
	cmd    *exec.Cmd
	stderr tail
	ended  []func()
	exited chan struct{} // closed when it has ended; then err is set
	err    error
}

// start starts what command prepared, whose standard error is for the process's error.
// The goroutine that waits for it ends when it does; before anybody learns of it, ended are
// called.
func (p *program) start(ctx context.Context, cmd *exec.Cmd, ended ...func()) (*process, error) {
	pr := &process{ctx: ctx, cmd: cmd, ended: ended, exited: make(chan struct{})}
	cmd.Stderr = &pr.stderr
	p.log.Debug("zfs", "args", cmd.Args[1:])
	p.starts.Add(1)
	if err := cmd.Start(); err != nil {
		return nil, pr.failure(err)
	}
	go pr.reap()
	return pr, nil
}

func (pr *process) reap() {
	pr.err = pr.failure(pr.cmd.Wait())
	for _, f := range pr.ended {
		f()
	}
	close(pr.exited)
}

func (pr *process) failure(err error) error {
	if err == nil {
		return nil
	}
	if pr.ctx.Err() != nil {
		return fmt.Errorf("%s: %w", commandLine(pr.cmd.Args[1:]), context.Cause(pr.ctx))
	}
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: install it (zfsutils-linux), or say where it is", err)
	}
	return &CommandError{Args: pr.cmd.Args[1:], Stderr: withoutUsage(pr.stderr.String()), Err: err}
}

// wait waits for the end of the process and returns its error, which is the context's if
// that ended it. A process that the kernel does not let die, as on a suspended pool, is
// not waited for longer than twice the grace after the end of its context.
func (pr *process) wait() error {
	select {
	case <-pr.exited:
		return pr.err
	case <-pr.ctx.Done():
	}
	late := time.NewTimer(2 * pr.cmd.WaitDelay)
	defer late.Stop()
	select {
	case <-pr.exited:
		return pr.err
	case <-late.C:
		return fmt.Errorf("%s: cannot be killed: %w", commandLine(pr.cmd.Args[1:]), context.Cause(pr.ctx))
	}
}

func (pr *process) hasExited() bool {
	select {
	case <-pr.exited:
		return true
	default:
		return false
	}
}

// A CommandError is a zfs that failed. The endpoint's error that its standard error
// means, if any, is in its chain.
type CommandError struct {
	Args   []string // without the program
	Stderr string   // the end of it
	Err    error    // how the process ended
}

// Error names the command and what it said, in one line of bounded length.
func (e *CommandError) Error() string {
	text := commandLine(e.Args) + ": " + e.Err.Error()
	if said := oneLine(e.Stderr); said != "" {
		text += ": " + said
	}
	return text
}

// Unwrap returns how the process ended and what that means.
func (e *CommandError) Unwrap() []error {
	if m := meaning(e.Stderr); m != nil {
		return []error{m, e.Err}
	}
	return []error{e.Err}
}

// meanings are what zfs says, in lower case, and the errors that this is; the first that
// fits. zfs has nothing else to tell them apart: its exit status is 1 for all of them. The
// phrases are those of OpenZFS 2.1.
var meanings = []struct {
	phrase string
	err    error
}{
	{"permission denied", endpoint.ErrPermission},
	{"out of space", endpoint.ErrNoSpace},
	{"no space left", endpoint.ErrNoSpace},
	{"quota exceeded", endpoint.ErrNoSpace},
	{"does not match incremental source", endpoint.ErrFailedPrecondition},
	{"has been modified", endpoint.ErrFailedPrecondition},
	{"dataset is busy", endpoint.ErrFailedPrecondition},
	{"dependent clones", endpoint.ErrFailedPrecondition},
	{"key must be loaded", endpoint.ErrFailedPrecondition},
	{"has children", endpoint.ErrFailedPrecondition},
	{"must specify -f to overwrite", endpoint.ErrFailedPrecondition},
	{"destination has snapshots", endpoint.ErrFailedPrecondition},
	{"partially-complete state", endpoint.ErrFailedPrecondition},
	{"cannot be used to destroy an encrypted filesystem", endpoint.ErrFailedPrecondition},
	{"without the raw flag", endpoint.ErrInvalid},
	{"resume token is corrupt", endpoint.ErrStaleToken},
	{"used in the initial send no longer exists", endpoint.ErrStaleToken},
	{"no longer the same snapshot used in the initial send", endpoint.ErrStaleToken},
	{"does not exist", endpoint.ErrNotFound},
	{"could not find any snapshots", endpoint.ErrNotFound},
}

func meaning(stderr string) error {
	said := strings.ToLower(oneLine(stderr))
	for _, m := range meanings {
		if strings.Contains(said, m.phrase) {
			return m.err
		}
	}
	return nil
}

// said tells whether err is of a zfs that said phrase.
func said(err error, phrase string) bool {
	var failed *CommandError
	return errors.As(err, &failed) && strings.Contains(oneLine(failed.Stderr), phrase)
}

func commandLine(args []string) string {
	line := "zfs " + strings.Join(args, " ")
	if len(line) > maxErrorArgs {
		line = line[:maxErrorArgs] + "..."
	}
	return line
}

// withoutUsage leaves out the lines about the usage that zfs adds to some of its errors.
func withoutUsage(stderr string) string {
	before, _, found := strings.Cut(stderr, "usage:\n")
	if !found || before == "" {
		return stderr
	}
	return before
}

// oneLine makes one line of several: zfs breaks some of its sentences.
func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

// limitedBuffer refuses more than maxOutput bytes.
type limitedBuffer struct {
	kept    []byte
	refused bool
}

// Write implements io.Writer.
func (b *limitedBuffer) Write(p []byte) (int, error) {
	if len(p) > maxOutput-len(b.kept) {
		b.refused = true
		return 0, io.ErrShortWrite
	}
	b.kept = append(b.kept, p...)
	return len(p), nil
}

// tail keeps the last maxStderr bytes that were written to it.
type tail struct{ kept []byte }

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.kept = append(t.kept, p...)
	if over := len(t.kept) - maxStderr; over > 0 {
		t.kept = append(t.kept[:0], t.kept[over:]...)
	}
	return len(p), nil
}

// String may be called once nobody writes any more.
func (t *tail) String() string { return string(t.kept) }
