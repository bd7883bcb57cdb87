package daemon

import (
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/dualrepl/dualrepl/internal/config"
	"github.com/dualrepl/dualrepl/rpc"
	"github.com/dualrepl/dualrepl/transportmux"
)

// scrape reads the metrics that a daemon shows.
func scrape(t *testing.T, address string) string {
	t.Helper()
	res, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%s, %v", res.Status, err)
	}
	return string(text)
}

func wantMetrics(t *testing.T, text string, want ...string) {
	t.Helper()
	for _, line := range want {
		if !strings.Contains("\n"+text, "\n"+line) {
			t.Errorf("no line %q in\n%s", line, text)
		}
	}
}

// TestFailuresAreCounted: replications that fail never look like ones that do not, whether
// the other side is gone, or this one.
func TestFailuresAreCounted(t *testing.T) {
	p := newPlace(t)
	address := freeAddress(t)
	p.start(p.at(address, `
global: {monitoring: [{type: prometheus, listen: "ADDRESS"}]}
jobs:
  - name: nobody
    type: pull
    connect: {type: local, listener_name: closed, client_identity: x, route: away} # which is not for x
    endpoint: {type: dir, root: DIR/nobody}
    interval: 1s
  - name: away
    type: source
    serve: {type: shared, listener: l, clients: [y]}
    endpoint: {type: dir, store: DIR/away, directories: {docs: DIR/nowhere}}
    filesystems: {"<": true}
    snapshotting: {type: periodic, interval: 1s}
  - name: other
    type: pull
    connect: {type: local, listener_name: closed, client_identity: y, route: away}
    endpoint: {type: dir, root: DIR/other}
    interval: manual
listeners: [{name: l, serve: {type: local, listener_name: closed}}]
`))
	p.logs.await(t, "replication failed", 2)
	p.logs.await(t, "snapshot failed", 1)
	text := scrape(t, address)
	wantMetrics(t, text,
		`dualrepl_replications_total{job="nobody",result="done"} 0`,
		`dualrepl_replication_last_success_timestamp_seconds{job="nobody"} 0`,
		`dualrepl_replications_total{job="other",result="failed"} 0`,
		`dualrepl_snapshots_total{job="away",result="done"} 0`,
		`go_goroutines `, `process_open_fds `,
	)
	for _, line := range []string{`dualrepl_replications_total{job="nobody",result="failed"} 0`, `dualrepl_snapshots_total{job="away",result="failed"} 0`} {
		if strings.Contains(text, line) {
			t.Errorf("%s, although there was a failure", line)
		}
	}
}

// TestSuccessIsCounted, and who is connected, and what clients have of limits.
func TestSuccessIsCounted(t *testing.T) {
	p := newPlace(t)
	address := freeAddress(t)
	cfg := p.at(address, `
global: {monitoring: [{type: prometheus, listen: "ADDRESS"}]}
jobs:
  - name: far
    type: sink
    connect: {type: local, listener_name: here, client_identity: far, mux: true, server_identity: hub}
    endpoint: {type: dir, root: DIR/received}
  - name: docs
    type: push
    serve: {type: local, listener_name: here, limits: {requests: 7}}
    endpoint: {type: dir, store: DIR/store, directories: {docs: DIR/source}}
    filesystems: {"<": true}
    snapshotting: {type: periodic, interval: 1h}
  - name: fetch
    type: pull
    serve: {type: local, listener_name: there}
    endpoint: {type: dir, root: DIR/fetched}
    interval: manual
  - name: late
    type: source
    connect: {type: local, listener_name: there, client_identity: late, mux: true, server_identity: hub}
    endpoint: {type: dir, store: DIR/store, directories: {docs: DIR/source}}
    filesystems: {"<": true}
    snapshotting: {type: manual}
`)
	p.snapshot(cfg, "docs")
	p.start(cfg)
	p.logs.await(t, `msg="replication done" job=docs`, 1)
	text := scrape(t, address)
	wantMetrics(t, text,
		`dualrepl_replications_total{job="docs",result="done"} `,
		`dualrepl_replications_total{job="docs",result="failed"} 0`,
		`dualrepl_replication_steps_total{job="docs"} 1`,
		`dualrepl_snapshots_total{job="docs",result="done"} 0`,
		`dualrepl_peer_connected{job="docs"} 1`,
		`dualrepl_peer_connected{job="far"} 1`,
		`dualrepl_limit{client="far",limit="requests",listener="docs"} 7`,
		`dualrepl_limit_in_use{client="far",limit="requests",listener="docs"} 0`,
		`dualrepl_limit_refused_total{client="far",limit="connections",listener="docs"} 0`,
	)
	for _, line := range []string{
		`dualrepl_limit_in_use{client="far",limit="connections",listener="docs"} 0`,
		`dualrepl_replication_bytes_total{job="docs"} 0`, `dualrepl_replication_last_success_timestamp_seconds{job="docs"} 0`,
	} {
		if strings.Contains(text, line+"\n") {
			t.Errorf("%s, although there was a replication", line)
		}
	}
	if strings.Contains(text, `limit="pending_handshakes",listener="far"`) {
		t.Error("nobody connects to far, and it has a limit of handshakes")
	}
	testDocumented(t, text)
}

// testDocumented: docs/config.md has each metric of ours.
func testDocumented(t *testing.T, text string) {
	t.Helper()
	docs, err := os.ReadFile("../../docs/config.md")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(text) {
		name, ours := strings.CutPrefix(line, "# TYPE dualrepl_")
		name, _, _ = strings.Cut(name, " ")
		if ours && !strings.Contains(string(docs), "\n| `dualrepl_"+name+"` |") {
			t.Errorf("docs/config.md does not describe dualrepl_%s", name)
		}
	}
}

// TestDefaultLimits: those of the configuration are those of package rpc, as documented there.
func TestDefaultLimits(t *testing.T) {
	want := config.Limits{
		Connections: rpc.DefaultConnections, Requests: rpc.DefaultRequests, MessageSize: rpc.DefaultMessageSize,
		PendingHandshakes: transportmux.DefaultMaxPending,
	}
	if config.DefaultLimits != want {
		t.Errorf("%+v, want %+v", config.DefaultLimits, want)
	}
}

// TestMonitoringAddressInUse: the daemon does not start without what it should show.
func TestMonitoringAddressInUse(t *testing.T) {
	p := newPlace(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cfg := p.at(l.Addr().String(), `global: {monitoring: [{type: prometheus, listen: "ADDRESS"}]}`+pushToSink)
	if err := New(cfg, p.logger()).Run(t.Context()); err == nil || !strings.Contains(err.Error(), "monitoring "+l.Addr().String()) {
		t.Errorf("error is %v", err)
	}
}
