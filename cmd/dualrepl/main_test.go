package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"

	"github.com/dualrepl/dualrepl/internal/certs"
)

// exitLeaked is the exit code of a command that left a goroutine behind.
const exitLeaked = 99

// TestMain runs the tests or, for the scripts, the program itself.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"dualrepl": func() {
		code := run(os.Args[1:], os.Stdout, os.Stderr)
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = exitLeaked
		}
		os.Exit(code)
	}})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:   "testdata/script",
		Setup: setupScript,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "certs": makeCerts, "example": example,
			"start": start, "await": await, "end": end, "glob": glob,
			"damage": damage, "damagelast": damageLast, "selfsigned": selfSigned,
		},
		RequireUniqueNames: true,
	})
}

// setupScript gives the script free addresses and its own temporary directory.
func setupScript(env *testscript.Env) error {
	for _, variable := range []string{"ADDRESS", "MONITORING"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		defer l.Close()
		env.Setenv(variable, l.Addr().String())
	}
	env.Values[processesKey{}] = processes{}
	return expandConfigs(env)
}

// expandConfigs puts the script's variables into its configuration files.
func expandConfigs(env *testscript.Env) error {
	files, err := filepath.Glob(env.WorkDir + "/*.yml")
	if err != nil {
		return err
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		text := os.Expand(string(data), env.Getenv)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// exits CODE COMMAND [ARG...] runs a command that ends with that exit code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND [ARG...]")
	}
	code := 0
	err := ts.Exec(args[1], args[2:]...)
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		code = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("exit code is %d, want %s", code, args[0])
	}
}

// certs DIR NAME... makes certificates.
func makeCerts(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(os.MkdirAll(ts.MkAbs(args[0]), 0o700))
	ts.Check(certs.Make(ts.MkAbs(args[0]), args[1:]...))
}

// example NAME writes an example of the documentation to a file of that name, for
// this script's directory and address, and with times of a second.
func example(ts *testscript.TestScript, _ bool, args []string) {
	data, err := os.ReadFile(filepath.Join("../../docs/examples", args[0]))
	ts.Check(err)
	work := ts.Getenv("WORK")
	text := strings.NewReplacer(
		"127.0.0.1:8888", ts.Getenv("ADDRESS"), "127.0.0.1:8889", ts.Getenv("ADDRESS"), "127.0.0.1:9811", ts.Getenv("MONITORING"),
		"/etc/", work+"/etc/", "/home/", work+"/home/", "/srv/", work+"/srv/", "/var/", work+"/var/",
		"interval: 10m", "interval: 1s", "interval: 1h", "interval: 1s",
	).Replace(string(data))
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o600))
}

// glob PATTERN expects that files match.
func glob(ts *testscript.TestScript, _ bool, args []string) {
	if files, err := filepath.Glob(ts.MkAbs(args[0])); err != nil || len(files) == 0 {
		ts.Fatalf("nothing matches %s: %v", args[0], err)
	}
}

// damage PATTERN writes other content of the same size to the files.
func damage(ts *testscript.TestScript, _ bool, args []string) {
	files, err := filepath.Glob(ts.MkAbs(args[0]))
	ts.Check(err)
	for _, file := range files {
		damageFile(ts, file)
	}
}

// damagelast PATTERN damages the last of the files by name: that of the newest version.
func damageLast(ts *testscript.TestScript, _ bool, args []string) {
	files, err := filepath.Glob(ts.MkAbs(args[0]))
	ts.Check(err)
	damageFile(ts, slices.Max(files))
}

func damageFile(ts *testscript.TestScript, file string) {
	data, err := os.ReadFile(file)
	ts.Check(err)
	data[0] ^= 1
	ts.Check(os.Chmod(file, 0o600))
	ts.Check(os.WriteFile(file, data, 0))
}

// selfsigned FILE FLAW makes a certificate, FILE.crt and FILE.key, that is its own authority.
func selfSigned(ts *testscript.TestScript, _ bool, args []string) {
	name := filepath.Base(args[0])
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: name},
		DNSNames:     []string{name},
		NotAfter:     time.Now().Add(time.Hour),
	}
	switch args[1] {
	case "expired":
		template.NotAfter = time.Now().Add(-time.Hour)
	case "clients-only":
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	case "servers-only":
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	public, private, err := ed25519.GenerateKey(nil)
	ts.Check(err)
	cert, err := x509.CreateCertificate(nil, template, template, public, private)
	ts.Check(err)
	key, err := x509.MarshalPKCS8PrivateKey(private)
	ts.Check(err)
	ts.Check(os.MkdirAll(filepath.Dir(ts.MkAbs(args[0])), 0o700))
	for suffix, block := range map[string]*pem.Block{".crt": {Type: "CERTIFICATE", Bytes: cert}, ".key": {Type: "PRIVATE KEY", Bytes: key}} {
		ts.Check(os.WriteFile(ts.MkAbs(args[0]+suffix), pem.EncodeToMemory(block), 0o600))
	}
}

// processesKey is the key of a script's processes.
type processesKey struct{}

// processes are what a script started, by name.
type processes map[string]*process

// process is a started program with its output.
type process struct {
	cmd *exec.Cmd

	mu      sync.Mutex
	changed *sync.Cond
	log     bytes.Buffer
	ended   bool
}

// Write collects the log.
func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.changed.Broadcast()
	return p.log.Write(b)
}

// start NAME ARG... starts the program; the arguments' paths are the script's.
func start(ts *testscript.TestScript, _ bool, args []string) {
	p := &process{}
	p.changed = sync.NewCond(&p.mu)
	program, err := exec.LookPath("dualrepl")
	ts.Check(err)
	p.cmd = exec.Command(program, args[1:]...)
	p.cmd.Dir = ts.MkAbs(".")
	p.cmd.Stdout, p.cmd.Stderr = p, p
	ts.Check(p.cmd.Start())
	ts.Defer(func() { p.cmd.Process.Kill() })
	go func() {
		p.cmd.Wait()
		p.mu.Lock()
		defer p.mu.Unlock()
		p.ended = true
		p.changed.Broadcast()
	}()
	ts.Value(processesKey{}).(processes)[args[0]] = p
}

// await NAME COUNT TEXT waits until a started program has written a text so often.
func await(ts *testscript.TestScript, _ bool, args []string) {
	p := ts.Value(processesKey{}).(processes)[args[0]]
	count, err := strconv.Atoi(args[1])
	ts.Check(err)
	p.mu.Lock()
	defer p.mu.Unlock()
	for strings.Count(p.log.String(), args[2]) < count {
		if p.ended {
			ts.Fatalf("%s has ended:\n%s", args[0], p.log.String())
		}
		p.changed.Wait()
	}
}

// end NAME CODE sends SIGTERM and waits for an orderly end with that exit code.
func end(ts *testscript.TestScript, _ bool, args []string) {
	p := ts.Value(processesKey{}).(processes)[args[0]]
	ts.Check(p.cmd.Process.Signal(syscall.SIGTERM))
	p.mu.Lock()
	defer p.mu.Unlock()
	for !p.ended {
		p.changed.Wait()
	}
	ts.Logf("%s", p.log.String())
	if code := p.cmd.ProcessState.ExitCode(); strconv.Itoa(code) != args[1] {
		ts.Fatalf("%s ended with exit code %d, want %s", args[0], code, args[1])
	}
}
