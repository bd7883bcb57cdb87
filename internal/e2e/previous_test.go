package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/dualrepl/dualrepl/internal/certs"
)

// previousRelease is the commit of v0.1.0: a peer that this program must always
// understand.
const previousRelease = "d6d89a7d1a8560fb17b653198fb56c6d1869044e"

// TestPreviousRelease replicates with a program of the previous release at one end:
// pushed and pulled, over TCP and TLS, in full, incrementally, and across a break.
func TestPreviousRelease(t *testing.T) {
	dependOnProgram(t)
	previous := previousProgram(t)
	for _, direction := range []string{"push", "pull"} {
		for _, transport := range []string{"tcp", "tls"} {
			for name, builds := range map[string]builds{
				"an old active side":                    {active: previous, passive: program},
				"an old passive side":                   {active: program, passive: previous},
				"an old passive side that is to do all": {active: program, passive: previous, wishes: allExtensions},
			} {
				t.Run(direction+" over "+transport+" with "+name, func(t *testing.T) {
					t.Parallel()
					newMixed(t, builds, direction, transport).replicate()
				})
			}
		}
	}
}

// previousProgram returns the path of the previous release's program, built from the
// git history.
func previousProgram(t *testing.T) string {
	t.Helper()
	for _, tool := range []string{"git", "tar"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("SKIPPED: building the previous release needs %s, which is not installed", tool)
		}
	}
	if out, err := exec.Command("git", "-C", "../..", "cat-file", "-e", previousRelease+"^{commit}").CombinedOutput(); err != nil {
		t.Skipf("SKIPPED: building the previous release needs the git history up to its commit %s, which is not here (git fetch --unshallow gets it): %v\n%s",
			previousRelease, err, out)
	}
	path, err := buildPrevious()
	if err != nil {
		t.Fatal("building the previous release: ", err)
	}
	return path
}

// buildPrevious builds once, into the directory that TestMain removes.
var buildPrevious = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(filepath.Dir(program), "previous")
	archive, path := dir+".tar", filepath.Join(dir, "dualrepl")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	build := exec.Command("go", "build", "-o", path, "./cmd/dualrepl")
	build.Dir = dir
	for _, cmd := range []*exec.Cmd{
		exec.Command("git", "-C", "../..", "archive", "--output", archive, previousRelease),
		exec.Command("tar", "-xf", archive, "-C", dir),
		build,
	} {
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("%s: %w\n%s", cmd, err, out)
		}
	}
	return path, nil
})

// builds are the paths of the programs at the two ends, and which extensions the active
// side is configured to want, beside those that it always does.
type builds struct{ active, passive, wishes string }

const allExtensions = ", mux: true, zstd: {level: 3}, checksum: always"

// end is a program with its configuration, and the job that is in it.
type end struct{ program, config, job string }

// mixed is a pair of jobs whose programs differ, connected through a proxy.
type mixed struct {
	*setup
	active           end
	sender, receiver end
	replicated       string // the filesystem's name at the receiver
}

// newMixed starts the passive side. The previous release's configuration has only keys that
// it knows.
func newMixed(t *testing.T, b builds, direction, transport string) *mixed {
	t.Helper()
	dir := t.TempDir()
	s := &setup{
		t: t, listen: freeAddress(t), build: b.passive,
		source: filepath.Join(dir, "source"), store: filepath.Join(dir, "store"), root: filepath.Join(dir, "root"),
		push: filepath.Join(dir, "active.yml"), sink: filepath.Join(dir, "passive.yml"),
	}
	s.proxy = startProxy(t, s.listen)
	active, passive := end{b.active, s.push, "active"}, end{b.passive, s.sink, "passive"}
	sending := fmt.Sprintf(`
    endpoint: {type: dir, store: %q, directories: {docs: %q}}
    filesystems: {"<": true}
    snapshotting: {type: manual}`, s.store, s.source)
	receiving := fmt.Sprintf(`
    endpoint: {type: dir, root: %q}`, s.root)
	connect, serve := s.transport(transport, filepath.Join(dir, "certs"), b.wishes)
	m := &mixed{setup: s, active: active}
	if direction == "push" {
		m.sender, m.receiver, m.replicated = active, passive, "alice/docs"
		m.configure(active, "push", connect+sending)
		m.configure(passive, "sink", serve+receiving)
	} else {
		m.sender, m.receiver, m.replicated = passive, active, "docs"
		m.configure(active, "pull", connect+receiving+"\n    interval: 1h")
		m.configure(passive, "source", serve+sending)
	}
	if err := os.MkdirAll(s.source, 0o755); err != nil {
		t.Fatal(err)
	}
	m.startPassive()
	return m
}

// transport makes the keys connect, with wishes among its own, and serve of a pair of jobs.
func (s *setup) transport(name, dir, wishes string) (connect, serve string) {
	s.t.Helper()
	if name == "tcp" {
		return fmt.Sprintf("    connect: {type: tcp, address: %q%s}", s.proxy.addr(), wishes),
			fmt.Sprintf(`    serve: {type: tcp, listen: %q, clients: {"127.0.0.1": alice}}`, s.listen)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := certs.Make(dir, "alice", "vault"); err != nil {
		s.t.Fatal(err)
	}
	files := func(name string) string {
		f := certs.FilesOf(dir, name)
		return fmt.Sprintf("ca: %q, cert: %q, key: %q", f.CA, f.Cert, f.Key)
	}
	return fmt.Sprintf("    connect: {type: tls, address: %q, server_cn: vault, %s%s}", s.proxy.addr(), files("alice"), wishes),
		fmt.Sprintf("    serve: {type: tls, listen: %q, client_cns: [alice], %s}", s.listen, files("vault"))
}

func (m *mixed) configure(e end, kind, keys string) {
	m.t.Helper()
	m.write(e.config, fmt.Sprintf("jobs:\n  - name: %s\n    type: %s\n%s\n", e.job, kind, keys))
}

// Steps of a mixed pair, in bytes.
const (
	fullSize        = 16 << 20
	incrementalSize = 4 << 20
	brokenSize      = 40 << 20
	breakAt         = 24 << 20
	overhead        = 1 << 20 // what planning, certificates and frames may add to a step
)

// replicate makes a full step, an incremental one, and one whose connections break.
func (m *mixed) replicate() {
	m.step("full", fullSize, fullSize)
	m.step("incremental", incrementalSize, incrementalSize)
	m.proxy.cutAfter(breakAt)
	m.step("broken", brokenSize, brokenSize+repeatLimit)
}

// step adds size bytes and replicates them, which may take some more than expected on
// the wire.
func (m *mixed) step(prefix string, size, expected int64) {
	m.t.Helper()
	m.fill(prefix, uint64(len(prefix)), 8, int(size/8))
	m.mustRunAt(m.sender, "snapshot", m.sender.job)
	before := m.proxy.carriedBytes()
	m.mustRunAt(m.active, "replicate", m.active.job)
	if carried := m.proxy.carriedBytes() - before; carried < size || carried > expected+overhead {
		m.t.Errorf("the %s step of %d bytes was %d bytes on the wire, expected up to %d", prefix, size, carried, expected+overhead)
	}
	target := filepath.Join(m.t.TempDir(), "restored")
	m.mustRunAt(m.receiver, "restore", m.receiver.job, m.replicated, target)
	m.mustRunAt(m.receiver, "verify", m.receiver.job)
	if out, err := exec.Command("diff", "-r", "--no-dereference", m.source, target).CombinedOutput(); err != nil {
		m.t.Fatalf("after the %s step the restored tree differs from the source: %v\n%s", prefix, err, out)
	}
}

func (m *mixed) mustRunAt(e end, args ...string) {
	m.t.Helper()
	out, err := exec.Command(e.program, append(args, "--config", e.config)...).CombinedOutput()
	if err != nil {
		m.t.Fatalf("%v: %v\n%s\npassive side:\n%s", args, err, out, m.passive)
	}
}
