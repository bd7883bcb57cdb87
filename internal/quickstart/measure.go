package quickstart

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/dualrepl/dualrepl/internal/daemon"
)

// Transfer is what one replication took.
type Transfer struct {
	Duration   time.Duration   `json:"duration_ns"`
	Channels   daemon.Channels `json:"channels"`
	ActiveCPU  time.Duration   `json:"active_cpu_ns"`  // of the active side's process, all that it did meanwhile
	PassiveCPU time.Duration   `json:"passive_cpu_ns"` // of the passive side's, to 10 ms
}

// DataBytes are the bytes of the streams.
func (t Transfer) DataBytes() uint64 { return t.Channels.DataSent + t.Channels.DataReceived }

// ControlBytes are the bytes on the control channel, both ways.
func (t Transfer) ControlBytes() uint64 { return t.Channels.ControlSent + t.Channels.ControlReceived }

// leastForFigures is how many bytes it takes for a figure per GiB to say something.
const leastForFigures = 32 << 20

// Figures are the GiB of data in a second and the CPU seconds of both sides for a
// GiB, reading, hashing and writing files included; not ok if too little was sent.
func (t Transfer) Figures() (throughput, cpu float64, ok bool) {
	if t.DataBytes() < leastForFigures || t.Duration <= 0 {
		return 0, 0, false
	}
	gib := float64(t.DataBytes()) / (1 << 30)
	return gib / t.Duration.Seconds(), (t.ActiveCPU + t.PassiveCPU).Seconds() / gib, true
}

// replicate runs the push job once and measures it.
func (t *tour) replicate(ctx context.Context, what string) (Transfer, error) {
	job, err := daemon.Open(t.push, pushJob, t.opts.Logger)
	if err != nil {
		return Transfer{}, err
	}
	if err := job.WaitForPeer(ctx); err != nil {
		return Transfer{}, err
	}
	t.step("replicating to the passive side (process %d, mutual TLS): %s", t.passive.pid(), what)
	begin, err := t.readClocks()
	if err != nil {
		return Transfer{}, err
	}
	replicated, err := job.Replicate(ctx, t.opts.Progress)
	if err != nil {
		return Transfer{}, err
	}
	end, err := t.readClocks()
	transfer := end.since(begin)
	transfer.Channels = replicated.Channels
	return transfer, err
}

// clocks are the time and the CPU time of both processes.
type clocks struct {
	wall            time.Time
	active, passive time.Duration
}

func (t *tour) readClocks() (c clocks, err error) {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return c, fmt.Errorf("read the CPU time: %w", err)
	}
	c.wall = time.Now()
	c.active = time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	c.passive, err = processCPU(t.passive.pid())
	return c, err
}

func (c clocks) since(begin clocks) Transfer {
	return Transfer{
		Duration:  c.wall.Sub(begin.wall),
		ActiveCPU: c.active - begin.active, PassiveCPU: c.passive - begin.passive,
	}
}

// processCPU reads another process's CPU time.
func processCPU(pid int) (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("read the passive side's CPU time: %w", err)
	}
	return parseStat(stat)
}

// Of /proc/PID/stat, see proc_pid_stat(5): the fields behind the process's name, in
// ticks of 10 ms on every architecture that Go runs on.
const (
	statUser, statSystem = 11, 12
	statTick             = 10 * time.Millisecond
)

func parseStat(stat []byte) (time.Duration, error) {
	// The name is in parentheses and may hold anything.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) <= statSystem {
		return 0, fmt.Errorf("read the passive side's CPU time: %q is no stat line", stat)
	}
	user, err := strconv.ParseInt(string(fields[statUser]), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read the passive side's CPU time: %w", err)
	}
	system, err := strconv.ParseInt(string(fields[statSystem]), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read the passive side's CPU time: %w", err)
	}
	return time.Duration(user+system) * statTick, nil
}
