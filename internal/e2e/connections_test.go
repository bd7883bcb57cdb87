package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dualrepl/dualrepl/internal/certs"
)

// site is a directory with the configurations and data of several sides.
type site struct {
	t         *testing.T
	dir       string
	transport string
	address   string // that is listened on
}

// eachTransport runs a test over each transport between processes.
func eachTransport(t *testing.T, test func(s *site)) {
	for _, transport := range []string{"tcp", "tls"} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			dependOnProgram(t)
			s := &site{t: t, dir: t.TempDir(), transport: transport, address: freeAddress(t)}
			if err := certs.Make(s.dir, "hub", "alice", "vault"); err != nil {
				t.Fatal(err)
			}
			test(s)
		})
	}
}

func (s *site) path(name string) string { return filepath.Join(s.dir, name) }

// write writes a file, in whose text DIR is the site.
func (s *site) write(name, text string) {
	s.t.Helper()
	if err := os.MkdirAll(filepath.Dir(s.path(name)), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(s.path(name), []byte(strings.ReplaceAll(text, "DIR", s.dir)), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// files are the certificates of one side, as keys of its configuration.
func (s *site) files(name string) string {
	f := certs.FilesOf(s.dir, name)
	return fmt.Sprintf("ca: %q, cert: %q, key: %q", f.CA, f.Cert, f.Key)
}

// serve is what lets alice and vault in, if they have a certificate. Over TCP everybody is
// alice.
func (s *site) serve(clients string) string {
	if s.transport == "tcp" {
		return fmt.Sprintf(`{type: tcp, listen: %q, clients: {"127.0.0.1": alice}}`, s.address)
	}
	return fmt.Sprintf("{type: tls, listen: %q, client_cns: [%s], %s}", s.address, clients, s.files("hub"))
}

// connect is what connects as a client, with further keys.
func (s *site) connect(client, keys string) string {
	if s.transport == "tcp" {
		return fmt.Sprintf("{type: tcp, address: %q%s}", s.address, keys)
	}
	return fmt.Sprintf("{type: tls, address: %q, server_cn: hub, %s%s}", s.address, s.files(client), keys)
}

func (s *site) daemon(config string) *process {
	s.t.Helper()
	return start(s.t, "daemon", "--config", s.path(config))
}

// await waits until a process has written a text n times.
func (s *site) await(p *process, text string, n int) {
	s.t.Helper()
	for range 3000 {
		if strings.Count(p.String(), text) >= n {
			return
		}
		if p.hasEnded() {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	s.t.Fatalf("%q was not written %d times within a minute:\n%s", text, n, p)
}

func (s *site) run(args ...string) (string, error) {
	out, err := exec.Command(program, args...).CombinedOutput()
	return string(out), err
}

// compare restores the newest version of a filesystem and compares it with the source.
func (s *site) compare(config, job, filesystem string) {
	s.t.Helper()
	target := filepath.Join(s.t.TempDir(), "restored")
	if out, err := s.run("restore", "--config", s.path(config), job, filesystem, target); err != nil {
		s.t.Fatalf("restore: %v\n%s", err, out)
	}
	if out, err := exec.Command("diff", "-r", s.path("source"), target).CombinedOutput(); err != nil {
		s.t.Errorf("the restored tree differs from the source: %v\n%s", err, out)
	}
	if out, err := s.run("verify", "--config", s.path(config), job); err != nil {
		s.t.Errorf("verify: %v\n%s", err, out)
	}
}

// TestPassiveSideConnects: a passive side that connects gets what there is, and what comes,
// whichever of the two is killed and comes back.
func TestPassiveSideConnects(t *testing.T) {
	eachTransport(t, func(s *site) {
		s.write("source/one", "first")
		s.write("sink.yml", `
jobs:
  - name: far
    type: sink
    connect: `+s.connect("alice", ", mux: true, server_identity: hub")+`
    endpoint: {type: dir, root: DIR/received}
`)
		s.write("push.yml", `
jobs:
  - name: docs
    type: push
    serve: `+s.serve("alice")+`
    endpoint: {type: dir, store: DIR/store, directories: {docs: DIR/source}}
    filesystems: {"<": true}
    snapshotting: {type: periodic, interval: 1s}
`)
		passive := s.daemon("sink.yml")
		s.await(passive, "connection refused", 1)
		active := s.daemon("push.yml")
		s.await(active, "msg=\"replication done\"", 3)

		active.kill()
		s.await(passive, "msg=disconnected", 2)
		s.write("source/two", "second")
		active = s.daemon("push.yml")
		s.await(active, "step done", 2)

		passive.kill()
		s.await(active, "waiting for the passive side to connect", 2)
		s.write("source/three", "third")
		s.await(active, "replication waits for the passive side", 2)
		passive = s.daemon("sink.yml")
		s.await(active, "the passive side has connected", 2)
		s.await(active, "step done", 6)
		s.stop(active)
		s.stop(passive)
		s.compare("sink.yml", "far", "hub/docs")
	})
}

// stop ends a daemon in good order.
func (s *site) stop(p *process) {
	s.t.Helper()
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		s.t.Fatal(err)
	}
	if <-p.ended; p.err != nil {
		s.t.Fatalf("stopping: %v\n%s", p.err, p)
	}
}

// TestSharedListener: two jobs behind one port, a push with mux and a pull without, at once
// and with each other's way barred.
func TestSharedListener(t *testing.T) {
	eachTransport(t, func(s *site) {
		s.write("source/one", "first")
		vault := "vault"
		if s.transport == "tcp" {
			vault = "alice"
		}
		s.write("hub.yml", `
listeners: [{name: main, serve: `+s.serve("alice, vault")+`}]
jobs:
  - name: laptops
    type: sink
    serve: {type: shared, listener: main, default: true, clients: [alice], verbs: [list, receive]}
    endpoint: {type: dir, root: DIR/laptops}
  - name: docs
    type: source
    serve: {type: shared, listener: main, clients: [`+vault+`], verbs: [list, send]}
    endpoint: {type: dir, store: DIR/offered, directories: {docs: DIR/source}}
    filesystems: {"<": true}
    snapshotting: {type: periodic, interval: 1h}
`)
		s.write("push.yml", `
jobs:
  - name: docs
    type: push
    connect: `+s.connect("alice", ", mux: true")+`
    endpoint: {type: dir, store: DIR/store, directories: {docs: DIR/source}}
    filesystems: {"<": true}
    snapshotting: {type: manual}
`)
		s.write("pull.yml", `
jobs:
  - name: fetch
    type: pull
    interval: manual
    connect: `+s.connect("vault", ", route: docs, zstd: {level: 3}, checksum: always")+`
    endpoint: {type: dir, root: DIR/fetched}
`)
		hub := s.daemon("hub.yml")
		s.await(hub, "snapshot taken", 1)
		for _, args := range [][]string{
			{"snapshot", "--config", s.path("push.yml"), "docs"},
			{"replicate", "--config", s.path("push.yml"), "docs"},
			{"replicate", "--config", s.path("pull.yml"), "fetch"},
		} {
			if out, err := s.run(args...); err != nil {
				s.t.Fatalf("%s: %v\n%s\nhub:\n%s", args, err, out, hub)
			}
		}
		s.compare("hub.yml", "laptops", "alice/docs")
		s.compare("pull.yml", "fetch", "docs")

		s.write("pull.yml", strings.ReplaceAll(s.read("pull.yml"), "route: docs", "route: dogs"))
		out, err := s.run("replicate", "--config", s.path("pull.yml"), "fetch")
		if err == nil || !strings.Contains(out, "correct `connect.route`") || strings.Count(out, "\n") != 1 {
			s.t.Errorf("an unknown route: %v\n%s", err, out)
		}
		s.stop(hub)
	})
}

func (s *site) read(name string) string {
	s.t.Helper()
	data, err := os.ReadFile(s.path(name))
	if err != nil {
		s.t.Fatal(err)
	}
	return string(data)
}
