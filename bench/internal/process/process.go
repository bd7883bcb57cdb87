// Package process runs each end of a benchmark as a process of its own and measures
// what it takes.
package process

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Usage is what a process has taken.
type Usage struct {
	CPUSeconds float64 `json:"cpu_seconds"` // user and system
	PeakBytes  int64   `json:"peak_bytes"`  // resident, since its start
	// Of this program's own processes only:
	GrownBytes  int64 `json:"grown_bytes,omitempty"` // the peak above what was resident before; see Since
	Allocations int64 `json:"allocations,omitempty"` // objects on Go's heap

	resident int64 // bytes
}

// Now returns what this process has taken so far.
func Now() (Usage, error) {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return Usage{}, os.NewSyscallError("getrusage", err)
	}
	peak, err := memory("self", "VmHWM")
	if err != nil {
		return Usage{}, err
	}
	resident, err := memory("self", "VmRSS")
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return Usage{
		CPUSeconds: seconds(r.Utime) + seconds(r.Stime), PeakBytes: peak,
		Allocations: int64(m.Mallocs), resident: resident, //nolint:gosec // no process makes that many
	}, err
}

func seconds(t syscall.Timeval) float64 { return time.Duration(t.Nano()).Seconds() }

// memory reads a figure of a process from its status, in bytes: the peak that rusage
// has counts the memory of the process that started us.
func memory(pid, name string) (int64, error) {
	status, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		return 0, err
	}
	_, after, _ := bytes.Cut(status, []byte("\n"+name+":"))
	kib, _, found := bytes.Cut(after, []byte("kB"))
	if !found {
		return 0, fmt.Errorf("/proc/%s/status has no %s", pid, name)
	}
	n, err := strconv.ParseInt(string(bytes.TrimSpace(kib)), 10, 64)
	return n << 10, err
}

// Since returns what was taken since before. The peak stays what it is.
func (u Usage) Since(before Usage) Usage {
	return Usage{
		CPUSeconds: u.CPUSeconds - before.CPUSeconds, PeakBytes: u.PeakBytes,
		GrownBytes: u.PeakBytes - before.resident, Allocations: u.Allocations - before.Allocations,
	}
}

// A Child is this program run again for one end of a benchmark. It speaks JSON
// values on its standard output; a server ends when its standard input does.
type Child struct {
	cmd    *exec.Cmd
	stdin  io.Closer
	stdout *json.Decoder
}

// Start runs this program with args until ctx ends or Stop is called.
func Start(ctx context.Context, args ...string) (*Child, error) {
	cmd := exec.CommandContext(ctx, os.Args[0], args...) //nolint:gosec // ourselves
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return &Child{cmd, stdin, json.NewDecoder(stdout)}, cmd.Start()
}

// Read reads the child's next value.
func (c *Child) Read(v any) error {
	if err := c.stdout.Decode(v); err != nil {
		return fmt.Errorf("%v: %w", c.cmd.Args[1:], err)
	}
	return nil
}

// Stop ends the child's input, so that it ends, and reads its last value, unless
// last is nil.
func (c *Child) Stop(last any) error {
	err := c.stdin.Close()
	if last != nil {
		err = errors.Join(err, c.Read(last))
	}
	return errors.Join(err, c.cmd.Wait())
}

// Say writes a value for the process that started us.
func Say(v any) error { return json.NewEncoder(os.Stdout).Encode(v) }

// Stopped returns a context that ends when whoever started us closes our input.
func Stopped(ctx context.Context) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer cancel()
		_, _ = io.Copy(io.Discard, os.Stdin) // whatever ends it
	}()
	return ctx
}

// ConnectionsOpened is how many TCP connections were opened from this machine so far.
func ConnectionsOpened() (int64, error) {
	snmp, err := os.ReadFile("/proc/net/snmp")
	if err != nil {
		return 0, err
	}
	var names, values []string
	for line := range strings.Lines(string(snmp)) {
		if fields := strings.Fields(line); fields[0] == "Tcp:" {
			names, values = values, fields
		}
	}
	i := slices.Index(names, "ActiveOpens")
	if i < 0 {
		return 0, errors.New("/proc/net/snmp has no ActiveOpens")
	}
	return strconv.ParseInt(values[i], 10, 64)
}

// LoopbackBytes is what the loopback device has carried so far, headers included.
func LoopbackBytes() (int64, error) {
	dev, err := os.ReadFile("/proc/net/dev")
	if err != nil {
		return 0, err
	}
	_, after, found := strings.Cut(string(dev), " lo:")
	fields := strings.Fields(after)
	if !found || len(fields) == 0 {
		return 0, errors.New("/proc/net/dev has no lo")
	}
	return strconv.ParseInt(fields[0], 10, 64)
}
