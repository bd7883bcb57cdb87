package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/dualrepl/dualrepl/internal/config"
)

// place is a directory for one test, with a source to replicate.
type place struct {
	t    *testing.T
	dir  string
	logs *logBuffer
}

func newPlace(t *testing.T) *place {
	p := &place{t: t, dir: t.TempDir(), logs: newLogBuffer()}
	p.write("one", "first content")
	return p
}

func (p *place) path(name string) string { return filepath.Join(p.dir, name) }

// write writes a file of the source.
func (p *place) write(name, content string) {
	p.t.Helper()
	if err := os.MkdirAll(p.path("source"), 0o755); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(p.path("source/"+name), []byte(content), 0o644); err != nil {
		p.t.Fatal(err)
	}
}

// config parses jobs, in which DIR is the place.
func (p *place) config(jobs string) *config.Config {
	p.t.Helper()
	cfg, err := config.Parse("test.yml", []byte(strings.ReplaceAll(jobs, "DIR", p.dir)))
	if err != nil {
		p.t.Fatal(err)
	}
	return cfg
}

func (p *place) logger() *slog.Logger { return slog.New(slog.NewTextHandler(p.logs, nil)) }

// start runs a daemon until the returned function stops it, which the test's end does too.
func (p *place) start(cfg *config.Config) (stop func() error) {
	p.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- New(cfg, p.logger()).Run(ctx) }()
	stop = sync.OnceValue(func() error { cancel(); return <-ended })
	p.t.Cleanup(func() { _ = stop() })
	return stop
}

// received returns what a version's tree holds, by name, of the newest version below root.
func (p *place) received(root string) map[string]string {
	p.t.Helper()
	files := map[string]string{}
	trees, err := filepath.Glob(p.path(root) + "/@*/tree")
	if err != nil || len(trees) == 0 {
		p.t.Fatalf("no version below %s: %v", root, err)
	}
	paths, _ := filepath.Glob(trees[len(trees)-1] + "/*")
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			p.t.Fatal(err)
		}
		files[filepath.Base(path)] = string(data)
	}
	return files
}

// logBuffer collects logs and tells waiters of them.
type logBuffer struct {
	mu      sync.Mutex
	changed *sync.Cond
	buf     bytes.Buffer
}

func newLogBuffer() *logBuffer {
	b := &logBuffer{}
	b.changed = sync.NewCond(&b.mu)
	return b
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.changed.Broadcast()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// await returns when the text has been logged n times.
func (b *logBuffer) await(t *testing.T, text string, n int) {
	t.Helper()
	stop := context.AfterFunc(t.Context(), b.changed.Broadcast)
	defer stop()
	b.mu.Lock()
	defer b.mu.Unlock()
	for strings.Count(b.buf.String(), text) < n {
		if t.Context().Err() != nil {
			t.Fatalf("%q was not logged %d times:\n%s", text, n, b.buf.String())
		}
		b.changed.Wait()
	}
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

const pushToSink = `
jobs:
  - name: backups
    type: sink
    endpoint: {type: dir, root: DIR/received}
    serve: {type: local, listener_name: here}
  - name: docs
    type: push
    connect: {type: local, listener_name: here, client_identity: alice}
    endpoint: {type: dir, store: DIR/store, directories: {docs: DIR/source}}
    filesystems: {"<": true}
    snapshotting: {type: periodic, prefix: dr_, interval: 1s}
`

// TestPushToSink: one daemon with both sides replicates each new snapshot.
func TestPushToSink(t *testing.T) {
	p := newPlace(t)
	stop := p.start(p.config(pushToSink))
	p.logs.await(t, "replication done", 1)
	if got := p.received("received/alice/docs"); got["one"] != "first content" {
		t.Errorf("received %q", got)
	}
	p.write("two", "second content")
	p.logs.await(t, "replication done", 3)
	if got := p.received("received/alice/docs"); got["two"] != "second content" {
		t.Errorf("received %q", got)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if logs := p.logs.String(); strings.Contains(logs, "level=ERROR") || !strings.Contains(logs, "daemon stopped") {
		t.Errorf("logs:\n%s", logs)
	}
}

// TestPullFromSource: two daemons over TCP, the source taking the snapshots.
func TestPullFromSource(t *testing.T) {
	p := newPlace(t)
	address := freeAddress(t)
	p.start(p.config(`
jobs:
  - name: offers
    type: source
    serve: {type: tcp, listen: "` + address + `", clients: {"127.0.0.1": bob}}
    endpoint: {type: dir, store: DIR/store, directories: {docs: DIR/source}}
    filesystems: {"<": true}
    snapshotting: {type: periodic, prefix: dr_, interval: 1h}
`))
	p.logs.await(t, "snapshot taken", 1)
	p.start(p.config(`
jobs:
  - name: fetch
    type: pull
    connect: {type: tcp, address: "` + address + `"}
    endpoint: {type: dir, root: DIR/received}
    root_fs: from/bob
    interval: 1h
`))
	p.logs.await(t, "replication done", 1)
	if got := p.received("received/from/bob/docs"); got["one"] != "first content" {
		t.Errorf("received %q", got)
	}
}

// TestRestartTakesNoEarlySnapshot: a daemon that starts again goes on with the
// schedule, and replicates what is left at once.
func TestRestartTakesNoEarlySnapshot(t *testing.T) {
	p := newPlace(t)
	cfg := p.config(strings.Replace(pushToSink, "interval: 1s", "interval: 1h", 1))
	job, err := Open(cfg, "docs", p.logger())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := job.Snapshot(t.Context(), false, nil); err != nil {
		t.Fatal(err)
	}
	stop := p.start(cfg)
	p.logs.await(t, "replication done", 1)
	if err := stop(); err != nil {
		t.Error(err)
	}
	if strings.Contains(p.logs.String(), "snapshot taken") {
		t.Errorf("a snapshot before its time:\n%s", p.logs)
	}
}

// TestManualJobsWait: nothing happens that nobody asked for.
func TestManualJobsWait(t *testing.T) {
	p := newPlace(t)
	stop := p.start(p.config(strings.Replace(pushToSink, "type: periodic, prefix: dr_, interval: 1s", "type: manual", 1) + `
  - name: fetch
    type: pull
    connect: {type: tcp, address: "127.0.0.1:1"}
    endpoint: {type: dir, root: DIR/fetched}
    interval: manual
`))
	p.logs.await(t, "is manual", 2)
	if err := stop(); err != nil {
		t.Error(err)
	}
	if logs := p.logs.String(); strings.Contains(logs, "taken") || strings.Contains(logs, "replication") {
		t.Errorf("logs:\n%s", logs)
	}
}

// TestRunReportsAddressInUse: the daemon does not start by halves.
func TestRunReportsAddressInUse(t *testing.T) {
	p := newPlace(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	const sink = `
  - name: %s
    type: sink
    endpoint: {type: dir, root: DIR/%[1]s}
    serve: {type: tcp, listen: "%s", clients: {"127.0.0.1": alice}}`
	cfg := p.config("jobs:" + fmt.Sprintf(sink, "free", freeAddress(t)) + fmt.Sprintf(sink, "taken", l.Addr()))
	err = New(cfg, p.logger()).Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "job taken") || !strings.Contains(err.Error(), l.Addr().String()) {
		t.Errorf("error is %v", err)
	}
}

// TestFailuresAreLogged: a source that is gone and a peer that is not there do not
// end the daemon.
func TestFailuresAreLogged(t *testing.T) {
	p := newPlace(t)
	stop := p.start(p.config(`
jobs:
  - name: docs
    type: snap
    endpoint: {type: dir, store: DIR/store, directories: {docs: DIR/nowhere}}
    filesystems: {"<": true}
    snapshotting: {type: periodic, prefix: dr_, interval: 1s}
`))
	p.logs.await(t, "snapshot failed", 2)
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestOpenUnknownJob(t *testing.T) {
	p := newPlace(t)
	_, err := Open(p.config(pushToSink), "doks", p.logger())
	if !errors.Is(err, ErrJob) || !strings.Contains(err.Error(), "backups, docs") {
		t.Errorf("error is %v", err)
	}
}

// TestWrongJob: a job that does not do what is asked says so.
func TestWrongJob(t *testing.T) {
	p := newPlace(t)
	cfg := p.config(pushToSink)
	for _, tc := range []struct {
		job  string
		ask  func(*Job) error
		want string
	}{
		{"backups", func(j *Job) error { _, err := j.Snapshot(t.Context(), false, nil); return err }, "takes no snapshots"},
		{"backups", func(j *Job) error { _, err := j.Replicate(t.Context(), nil); return err }, "only push and pull"},
		{"docs", func(j *Job) error { _, err := j.Replicate(t.Context(), nil); return err }, "inside the daemon"},
	} {
		job, err := Open(cfg, tc.job, p.logger())
		if err != nil {
			t.Fatal(err)
		}
		if err := tc.ask(job); !errors.Is(err, ErrJob) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: error is %v, want one that says %q", tc.job, err, tc.want)
		}
	}
}

func TestStore(t *testing.T) {
	p := newPlace(t)
	jobs := OpenAll(p.config(pushToSink), p.logger())
	for i, want := range []string{p.path("received"), p.path("store")} {
		if got := jobs[i].Store(); got != want {
			t.Errorf("store of %s is %s, want %s", jobs[i].Name(), got, want)
		}
	}
}
