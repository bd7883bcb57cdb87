package e2e

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var (
	program string      // path of the built dualrepl
	sources []goPackage // what it is built from
)

func TestMain(m *testing.M) { os.Exit(buildAndRun(m)) }

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "dualrepl-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := build(dir); err != nil {
		fmt.Fprintln(os.Stderr, "building the program:", err)
		return 1
	}
	return m.Run()
}

// build also takes what is there: a virtual machine has the program along with these
// tests, and no Go.
func build(dir string) (err error) {
	const main = module + "/cmd/dualrepl"
	if _, err := exec.LookPath("go"); err != nil {
		program, err = exec.LookPath("dualrepl")
		return err
	}
	if sources, err = listPackages("-deps", main); err != nil {
		return err
	}
	program = filepath.Join(dir, "dualrepl")
	build := exec.Command("go", "build", "-o", program, main)
	build.Stderr = os.Stderr
	return build.Run()
}

// setup is one push job and one sink job, connected through a proxy.
type setup struct {
	t       *testing.T
	source  string // the directory that is replicated
	store   string // the sender's store
	root    string // the receiver's root
	push    string // config of the active side
	sink    string // config of the passive side
	listen  string // address of the passive side
	proxy   *proxy // between the two
	build   string // of the passive side's program
	passive *process
	idle    int // descriptors of the passive side while it has nothing to do
}

func newSetup(t *testing.T, root string) *setup {
	t.Helper()
	dependOnProgram(t)
	dir := t.TempDir()
	s := &setup{
		t: t, root: root, listen: freeAddress(t), build: program,
		source: filepath.Join(dir, "source"), store: filepath.Join(dir, "store"),
		push: filepath.Join(dir, "push.yml"), sink: filepath.Join(dir, "sink.yml"),
	}
	s.proxy = startProxy(t, s.listen)
	s.write(s.sink, fmt.Sprintf(`
jobs:
  - name: backups
    type: sink
    endpoint: {type: dir, root: %q}
    serve: {type: tcp, listen: %q, clients: {"127.0.0.1": alice}}
`, s.root, s.listen))
	s.write(s.push, fmt.Sprintf(`
jobs:
  - name: docs
    type: push
    connect: {type: tcp, address: %q}
    endpoint: {type: dir, store: %q, directories: {docs: %q}}
    filesystems: {"<": true}
    snapshotting: {type: manual}
`, s.proxy.addr(), s.store, s.source))
	if err := os.MkdirAll(s.source, 0o755); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *setup) write(path, text string) {
	s.t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

// fill writes n files of size random bytes each, the same for the same seed.
func (s *setup) fill(prefix string, seed uint64, n, size int) {
	s.t.Helper()
	random := rand.NewChaCha8([32]byte{byte(seed)})
	data := make([]byte, size)
	for i := range n {
		random.Read(data)
		s.write(filepath.Join(s.source, fmt.Sprintf("%s-%04d", prefix, i)), string(data))
	}
}

// startPassive starts the passive side's daemon and waits until it accepts.
func (s *setup) startPassive() {
	s.t.Helper()
	s.passive = startProgram(s.t, s.build, "daemon", "--config", s.sink)
	s.eventually("the passive side listens", func() bool {
		conn, err := net.Dial("tcp", s.listen)
		if err != nil {
			return false
		}
		conn.Close()
		return true
	})
	s.idle = s.passive.descriptors(s.t)
}

// settle waits until the passive side has no more descriptors than when it was idle.
func (s *setup) settle() {
	s.t.Helper()
	s.eventually(fmt.Sprintf("the passive side has %d descriptors as before", s.idle), func() bool {
		return s.passive.descriptors(s.t) <= s.idle
	})
}

// eventually polls what another process does, which no channel can tell us.
func (s *setup) eventually(what string, holds func() bool) {
	s.t.Helper()
	for range 1500 {
		if holds() {
			return
		}
		if s.passive.hasEnded() {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	s.t.Fatalf("not within 30 s: %s\npassive side:\n%s", what, s.passive)
}

// run runs the program to its end and returns its output.
func (s *setup) run(args ...string) (string, error) {
	out, err := exec.Command(program, args...).CombinedOutput()
	return string(out), err
}

func (s *setup) mustRun(args ...string) string {
	s.t.Helper()
	out, err := s.run(args...)
	if err != nil {
		s.t.Fatalf("dualrepl %s: %v\n%s\npassive side:\n%s", strings.Join(args, " "), err, out, s.passive)
	}
	return out
}

// compare restores the newest version from the receiver and compares it with the source.
func (s *setup) compare() {
	s.t.Helper()
	target := filepath.Join(s.t.TempDir(), "restored")
	s.mustRun("restore", "--config", s.sink, "backups", "alice/docs", target)
	out, err := exec.Command("diff", "-r", "--no-dereference", s.source, target).CombinedOutput()
	if err != nil {
		s.t.Fatalf("the restored tree differs from the source: %v\n%s", err, out)
	}
	s.mustRun("verify", "--config", s.sink, "backups")
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
