package quickstart

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// logTail is how much of the passive side's log an error shows, in bytes.
const logTail = 2 << 10

// passive is the passive side's process.
type passive struct {
	ctx    context.Context // ends when the process does; its cause is why
	cancel context.CancelCauseFunc
	cmd    *exec.Cmd
	log    string
	done   chan struct{} // closed when the process has ended
}

// startPassive starts `program daemon`. It need not be ready yet.
func startPassive(ctx context.Context, program, configFile, logFile string) (*passive, error) {
	log, err := os.OpenFile(logFile, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close() // the process has its own
	p := &passive{cmd: exec.Command(program, "daemon", "--config", configFile), log: logFile, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	// It must not outlive us, however we end; and a ctrl-C is ours, not its.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the passive side: %w", err)
	}
	p.ctx, p.cancel = context.WithCancelCause(ctx)
	go p.wait()
	return p, nil
}

// wait ends with the process.
func (p *passive) wait() {
	defer close(p.done)
	err := p.cmd.Wait()
	p.cancel(fmt.Errorf("the passive side has ended (%v); its log: %s\n%s", describe(err), p.log, tail(p.log)))
}

func describe(err error) string {
	if err == nil {
		return "exit status 0"
	}
	return err.Error()
}

// tail is the end of a file, from the beginning of a line.
func tail(file string) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	if len(data) > logTail {
		data = data[len(data)-logTail:]
		_, after, _ := strings.Cut(string(data), "\n")
		return after
	}
	return string(data)
}

// pid is the process's id.
func (p *passive) pid() int { return p.cmd.Process.Pid }

// stop ends the process in an orderly way.
func (p *passive) stop() error {
	err := p.cmd.Process.Signal(syscall.SIGTERM)
	<-p.done
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop the passive side: %w", err)
	}
	if !p.cmd.ProcessState.Success() {
		return context.Cause(p.ctx)
	}
	return nil
}

// freeAddress is an address on this machine that nobody listens on at the moment.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().String(), nil
}
