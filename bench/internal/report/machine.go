package report

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A Machine is what figures depend on, besides the work.
type Machine struct {
	Date   string `json:"date"` // of the measurement
	CPU    string `json:"cpu"`  // model
	Cores  int    `json:"cores"`
	Memory int64  `json:"memory_bytes"`
	Kernel string `json:"kernel"`
	Go     string `json:"go"` // version
}

// ThisMachine describes the one that we are on, today.
func ThisMachine() (Machine, error) {
	m := Machine{
		Date: time.Now().Format(time.DateOnly), CPU: "unknown CPU", Cores: runtime.NumCPU(), Go: runtime.Version(),
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return m, os.NewSyscallError("uname", err)
	}
	m.Kernel = unix.ByteSliceToString(name.Release[:])
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return m, os.NewSyscallError("sysinfo", err)
	}
	m.Memory = int64(info.Totalram) * int64(info.Unit) //nolint:gosec // no machine has that much
	cpus, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return m, err
	}
	if model, found := cpuModel(cpus); found {
		m.CPU = model
	}
	return m, nil
}

// cpuModel finds the first model in the text of /proc/cpuinfo. Not all architectures
// name one.
func cpuModel(cpus []byte) (string, bool) {
	for line := range bytes.Lines(cpus) {
		if key, value, found := bytes.Cut(line, []byte(":")); found && strings.TrimSpace(string(key)) == "model name" {
			return strings.TrimSpace(string(value)), true
		}
	}
	return "", false
}

// String is one line.
func (m Machine) String() string {
	return fmt.Sprintf("%s, %s, %d cores, %.1f GiB, Linux %s, %s",
		m.Date, m.CPU, m.Cores, float64(m.Memory)/(1<<30), m.Kernel, m.Go)
}
