package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/dualrepl/dualrepl/internal/certs"
)

// A medium is where a test's data lies: an endpoint's configuration on both sides, and
// how to look at what arrived.
type medium interface {
	// sending and receiving are the keys of a job.
	sending() string
	receiving() string
	// source is a directory within the one filesystem, docs, of the sender.
	source() string
	// compare fails the test unless the newest version that the pair's receiver has is
	// what the source holds.
	compare(p *pair)
	// resumes reports whether a broken step goes on where it broke.
	resumes() bool
}

// builds are the paths of the programs at the two ends, and which extensions the active
// side is configured to want, beside those that it always does.
type builds struct{ active, passive, wishes string }

const allExtensions = ", mux: true, zstd: {level: 3}, checksum: always"

// end is a program with its configuration, and the job that is in it.
type end struct{ program, config, job string }

// pair is a pair of jobs, connected through a proxy.
type pair struct {
	*setup
	data             medium // of the sender
	active           end
	sender, receiver end
	client           string // the prefix of what the receiver calls a filesystem
}

// newPair starts the passive side.
func newPair(t *testing.T, b builds, direction, transport string, from, to medium) *pair {
	t.Helper()
	dir := t.TempDir()
	s := &setup{
		t: t, listen: freeAddress(t), build: b.passive, source: from.source(),
		push: filepath.Join(dir, "active.yml"), sink: filepath.Join(dir, "passive.yml"),
	}
	s.proxy = startProxy(t, s.listen)
	active, passive := end{b.active, s.push, "active"}, end{b.passive, s.sink, "passive"}
	connect, serve := s.transport(transport, filepath.Join(dir, "certs"), b.wishes)
	sending := from.sending() + "\n    snapshotting: {type: manual}\n"
	p := &pair{setup: s, data: from, active: active}
	if direction == "push" {
		p.sender, p.receiver, p.client = active, passive, "alice/"
		p.configure(active, "push", connect+sending)
		p.configure(passive, "sink", serve+to.receiving())
	} else {
		p.sender, p.receiver = passive, active
		p.configure(active, "pull", connect+to.receiving()+"\n    interval: 1h")
		p.configure(passive, "source", serve+sending)
	}
	p.startPassive()
	return p
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

func (p *pair) configure(e end, kind, keys string) {
	p.t.Helper()
	p.write(e.config, fmt.Sprintf("jobs:\n  - name: %s\n    type: %s\n%s\n", e.job, kind, keys))
}

// Steps of a pair, in bytes.
const (
	fullSize        = 16 << 20
	incrementalSize = 4 << 20
	brokenSize      = 40 << 20
	breakAt         = 24 << 20
	overhead        = 1 << 20 // what planning, certificates and frames may add to a step
)

// replicate makes a full step, an incremental one, and one whose connections break.
func (p *pair) replicate() {
	p.step("full", fullSize, fullSize)
	p.step("incremental", incrementalSize, incrementalSize)
	p.proxy.cutAfter(breakAt)
	again := int64(breakAt)
	if p.data.resumes() {
		again = repeatLimit
	}
	p.step("broken", brokenSize, brokenSize+again)
}

// step adds size bytes and replicates them, which may take some more than expected on
// the wire.
func (p *pair) step(prefix string, size, expected int64) {
	p.t.Helper()
	p.fill(prefix, uint64(len(prefix)), 8, int(size/8))
	p.mustRunAt(p.sender, "snapshot", p.sender.job)
	before := p.proxy.carriedBytes()
	p.mustRunAt(p.active, "replicate", p.active.job)
	if carried := p.proxy.carriedBytes() - before; carried < size || carried > expected+overhead {
		p.t.Errorf("the %s step of %d bytes was %d bytes on the wire, expected up to %d", prefix, size, carried, expected+overhead)
	}
	p.data.compare(p)
}

func (p *pair) mustRunAt(e end, args ...string) string {
	p.t.Helper()
	out, err := p.runAt(e, args...)
	if err != nil {
		p.t.Fatalf("%v: %v\n%s\npassive side:\n%s", args, err, out, p.passive)
	}
	return out
}

// runAt returns what the program has written, and how it ended.
func (p *pair) runAt(e end, args ...string) (string, error) {
	out, err := exec.Command(e.program, append(args, "--config", e.config)...).CombinedOutput()
	return string(out), err
}

// sameTree fails the test unless two directories have the same content.
func sameTree(t *testing.T, want, got string) {
	t.Helper()
	if out, err := exec.Command("diff", "-r", "--no-dereference", want, got).CombinedOutput(); err != nil {
		t.Fatalf("%s differs from %s: %v\n%s", got, want, err, out)
	}
}

// directories is the medium of the dir endpoint.
type directories struct{ dir string }

func newDirectories(t *testing.T) directories {
	t.Helper()
	d := directories{t.TempDir()}
	if err := os.Mkdir(d.source(), 0o755); err != nil {
		t.Fatal(err)
	}
	return d
}

func (d directories) source() string { return filepath.Join(d.dir, "source") }
func (d directories) root() string   { return filepath.Join(d.dir, "root") }
func (directories) resumes() bool    { return true }

func (d directories) sending() string {
	return fmt.Sprintf(`
    endpoint: {type: dir, store: %q, directories: {docs: %q}}
    filesystems: {"<": true}`, filepath.Join(d.dir, "store"), d.source())
}

func (d directories) receiving() string {
	return fmt.Sprintf(`
    endpoint: {type: dir, root: %q}`, d.root())
}

func (d directories) compare(p *pair) {
	p.t.Helper()
	target := filepath.Join(p.t.TempDir(), "restored")
	p.mustRunAt(p.receiver, "restore", p.receiver.job, p.client+"docs", target)
	p.mustRunAt(p.receiver, "verify", p.receiver.job)
	sameTree(p.t, d.source(), target)
}
