package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Run runs a command to its end. The usage has its children, those it waited for; the
// peak is that of the largest of them.
func Run(ctx context.Context, name string, args ...string) (Usage, error) {
	cmd := exec.CommandContext(ctx, name, args...) //nolint:gosec // a benchmark's own
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Run(); err != nil {
		return Usage{}, fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, output.Bytes())
	}
	rusage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		return Usage{}, errors.ErrUnsupported
	}
	cpu := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	return Usage{CPUSeconds: cpu.Seconds(), PeakBytes: rusage.Maxrss << 10}, nil
}

// A Daemon is another program in the background.
type Daemon struct{ cmd *exec.Cmd }

// StartDaemon starts a program that runs until Stop. Its output goes to a file.
func StartDaemon(log, name string, args ...string) (*Daemon, error) {
	out, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	defer out.Close()                  // the program has its own descriptor
	cmd := exec.Command(name, args...) //nolint:gosec // a benchmark's own
	cmd.Stdout, cmd.Stderr = out, out
	return &Daemon{cmd}, cmd.Start()
}

// Stop ends it, and waits.
func (d *Daemon) Stop() error {
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	_ = d.cmd.Wait() // killed by the signal or not
	return nil
}

// clockTick is the unit of times in /proc (USER_HZ, which is 100 everywhere).
const clockTick = 10 * time.Millisecond

// Usage is what it and the children it waited for have taken so far. It waits until
// there are no others: a server's child may outlive its client a little.
func (d *Daemon) Usage(ctx context.Context) (Usage, error) {
	pid := strconv.Itoa(d.cmd.Process.Pid)
	if err := awaitNoChildren(ctx, pid); err != nil {
		return Usage{}, err
	}
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return Usage{}, err
	}
	cpu, err := cpuOf(stat)
	if err != nil {
		return Usage{}, err
	}
	peak, err := memory(pid, "VmHWM")
	return Usage{CPUSeconds: cpu.Seconds(), PeakBytes: peak}, err
}

// cpuOf reads the times out of /proc/PID/stat: of itself and of children waited for.
func cpuOf(stat []byte) (time.Duration, error) {
	after := stat[bytes.LastIndexByte(stat, ')')+1:] // the name before it may hold anything
	fields := strings.Fields(string(after))
	if len(fields) < 15 {
		return 0, fmt.Errorf("%q is no process's state", stat)
	}
	var ticks int64
	for _, field := range fields[11:15] { // utime, stime, cutime, cstime
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * clockTick, nil
}

// childTimeout bounds what awaitNoChildren waits.
const childTimeout = 10 * time.Second

func awaitNoChildren(ctx context.Context, pid string) error {
	ctx, cancel := context.WithTimeout(ctx, childTimeout)
	defer cancel()
	for {
		children, err := os.ReadFile("/proc/" + pid + "/task/" + pid + "/children")
		if err != nil {
			return err
		}
		if len(children) == 0 {
			return nil
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("process %s still has children %s: %w", pid, children, ctx.Err())
		}
	}
}
