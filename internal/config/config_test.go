package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// mustParse parses a configuration that has no mistakes.
func mustParse(t *testing.T, text string) *Config {
	t.Helper()
	cfg, err := Parse("test.yml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// twoJobs are a passive and an active side in one file.
const twoJobs = `
jobs:
  - name: backups
    type: sink
    endpoint: {type: dir, root: /srv/dualrepl}
    serve: {type: tcp, listen: "127.0.0.1:8888", clients: {"127.0.0.1": alice}}
  - name: docs
    type: push
    connect: {type: tcp, address: "127.0.0.1:8888"}
    endpoint: {type: dir, store: /var/lib/dualrepl, directories: {docs: /home/alice/docs}}
    filesystems: {"<": true}
    snapshotting: {type: periodic, prefix: dr_, interval: 10m}
`

func TestTwoJobs(t *testing.T) {
	want := &Config{
		Global: Global{Logging: Logging{Type: LoggingStderr, Level: "info", Format: FormatText, Time: true}},
		Jobs: []Job{{
			Name: "backups", Type: TypeSink, Line: 3,
			Endpoint: Endpoint{Type: EndpointDir, Root: "/srv/dualrepl"},
			Serve:    &Serve{Type: TransportTCP, Listen: "127.0.0.1:8888", Clients: map[string]string{"127.0.0.1": "alice"}, Limits: DefaultLimits},
		}, {
			Name: "docs", Type: TypePush, Line: 7,
			Connect: &Connect{Type: TransportTCP, Address: "127.0.0.1:8888", DialTimeout: 10 * time.Second, Checksum: ChecksumAuto},
			Endpoint: Endpoint{
				Type: EndpointDir, Store: "/var/lib/dualrepl",
				Directories: map[string]string{"docs": "/home/alice/docs"},
			},
			Filesystems:  Filter{{"<", true}},
			Snapshotting: &Snapshotting{Type: SnapshottingPeriodic, Prefix: "dr_", Interval: 10 * time.Minute},
			Replication: Replication{
				Protection:  Protection{GuaranteeResumability, GuaranteeResumability},
				Concurrency: Concurrency{Steps: 1, SizeEstimates: DefaultEstimates},
			},
			ConflictResolution: ConflictResolution{InitialMostRecent},
		}},
	}
	if got := mustParse(t, twoJobs); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// TestEveryKey sets each key to something else than its default.
func TestEveryKey(t *testing.T) {
	cfg := mustParse(t, `
global: {logging: {type: stdout, level: warn, format: json, time: false}}
jobs:
  - name: a
    type: pull
    interval: 1d
    root_fs: from/a
    connect: {type: tls, address: "[::1]:1", ca: /ca, cert: /cert, key: /key, server_cn: b, dial_timeout: 1m30s}
    endpoint: {type: dir, root: /srv/a}
    replication:
      protection: {initial: guarantee_nothing, incremental: guarantee_incremental}
      concurrency: {steps: 7, size_estimates: 3}
    conflict_resolution: {initial_replication: all}
  - name: b
    type: source
    serve: {type: tls, listen: ":1", ca: /ca, cert: /cert, key: /key, client_cns: [a, c]}
    endpoint: {type: dir, store: /store, directories: {x: /x}}
    filesystems: {x: true}
    snapshotting: {type: manual, prefix: by_hand_}
  - name: c
    type: pull
    interval: manual
    connect: {type: local, listener_name: here, client_identity: c}
    endpoint: {type: dir, root: /srv/c}
  - name: d
    type: source
    serve: {type: local, listener_name: here}
    endpoint: {type: dir, store: /store-d, directories: {x: /x}}
    filesystems: {x: true}
    snapshotting: {type: periodic, interval: 2w}
`)
	if want := (Logging{Type: LoggingStdout, Level: "warn", Format: FormatJSON}); cfg.Global.Logging != want {
		t.Errorf("logging: got %+v, want %+v", cfg.Global.Logging, want)
	}
	a, b, c, d := cfg.Jobs[0], cfg.Jobs[1], cfg.Jobs[2], cfg.Jobs[3]
	wantConnect := &Connect{
		Type: TransportTLS, Address: "[::1]:1", CA: "/ca", Cert: "/cert", Key: "/key", ServerCN: "b", DialTimeout: 90 * time.Second,
		Checksum: ChecksumAuto,
	}
	wantReplication := Replication{Protection{GuaranteeNothing, GuaranteeIncremental}, Concurrency{7, 3}}
	if !reflect.DeepEqual(a.Connect, wantConnect) || a.Replication != wantReplication ||
		a.ConflictResolution.InitialReplication != InitialAll || a.Interval != 24*time.Hour || a.ReceiveRoot() != "/srv/a/from/a" {
		t.Errorf("job a: %+v, connect %+v", a, a.Connect)
	}
	wantServe := &Serve{Type: TransportTLS, Listen: ":1", CA: "/ca", Cert: "/cert", Key: "/key", ClientCNs: []string{"a", "c"}, Limits: DefaultLimits}
	if !reflect.DeepEqual(b.Serve, wantServe) || *b.Snapshotting != (Snapshotting{Type: SnapshottingManual, Prefix: "by_hand_"}) {
		t.Errorf("job b: serve %+v, snapshotting %+v", b.Serve, b.Snapshotting)
	}
	wantConnect = &Connect{Type: TransportLocal, ListenerName: "here", ClientIdentity: "c"}
	if !reflect.DeepEqual(c.Connect, wantConnect) || c.Interval != 0 || c.ReceiveRoot() != "/srv/c" {
		t.Errorf("job c: %+v, connect %+v", c, c.Connect)
	}
	if d.Serve.ListenerName != "here" || *d.Snapshotting != (Snapshotting{Type: SnapshottingPeriodic, Prefix: DefaultPrefix, Interval: 14 * 24 * time.Hour}) {
		t.Errorf("job d: serve %+v, snapshotting %+v", d.Serve, d.Snapshotting)
	}
}

// hub has a listener that two passive jobs and an active one share, and all there is to set
// about connections.
const hub = `
global: {monitoring: [{type: prometheus, listen: "127.0.0.1:9811"}]}
listeners:
  - name: main
    serve:
      type: tls
      listen: ":8888"
      ca: /ca
      cert: /cert
      key: /key
      client_cns: [alice, bob, far]
      limits: {connections: 8, requests: 16, message_size: 512 KiB, pending_handshakes: 32}
jobs:
  - name: backups
    type: sink
    serve: {type: shared, listener: main, default: true, clients: [alice], verbs: [list, receive]}
    endpoint: {type: dir, root: /srv/backups}
  - name: offers
    type: source
    serve: {type: shared, listener: main, route: docs}
    endpoint: {type: dir, store: /store, directories: {x: /x}}
    filesystems: {x: true}
    snapshotting: {type: manual}
  - name: copy
    type: push
    serve: {type: shared, listener: main, clients: [far]}
    endpoint: {type: dir, store: /store, directories: {x: /x}}
    filesystems: {x: true}
    snapshotting: {type: manual}
  - name: fetch
    type: pull
    interval: 1h
    connect:
      type: tcp
      address: "other.example.org:8888"
      route: docs
      mux: true
      zstd: {level: 22}
      checksum: never
    endpoint: {type: dir, root: /srv/fetched}
  - name: far
    type: sink
    connect: {type: tls, address: "hub.example.org:8888", ca: /ca, cert: /cert, key: /key, server_cn: hub.example.org, mux: true, route: copy}
    endpoint: {type: dir, root: /srv/far}
  - name: near
    type: source
    connect: {type: local, listener_name: here, client_identity: near, server_identity: me, mux: true}
    endpoint: {type: dir, store: /store, directories: {x: /x}}
    filesystems: {x: true}
    snapshotting: {type: manual}
  - name: take
    type: pull
    interval: manual
    serve: {type: local, listener_name: here}
    endpoint: {type: dir, root: /srv/taken}
`

// TestHub: every key about connections arrives, and what is left out is there.
func TestHub(t *testing.T) {
	cfg := mustParse(t, hub)
	if want := []Monitoring{{MonitoringPrometheus, "127.0.0.1:9811"}}; !reflect.DeepEqual(cfg.Global.Monitoring, want) {
		t.Errorf("monitoring: got %v, want %v", cfg.Global.Monitoring, want)
	}
	listener := Listener{"main", &Serve{
		Type: TransportTLS, Listen: ":8888", CA: "/ca", Cert: "/cert", Key: "/key", ClientCNs: []string{"alice", "bob", "far"},
		Limits: Limits{Connections: 8, Requests: 16, MessageSize: 512 << 10, PendingHandshakes: 32},
	}}
	if !reflect.DeepEqual(cfg.Listeners, []Listener{listener}) {
		t.Errorf("listeners: got %+v", cfg.Listeners[0].Serve)
	}
	serves := map[string]Serve{
		"backups": {Type: ServeShared, Listener: "main", Route: "backups", Default: true, RouteClients: []string{"alice"}, Verbs: []string{"list", "receive"}},
		"offers":  {Type: ServeShared, Listener: "main", Route: "docs"},
		"copy":    {Type: ServeShared, Listener: "main", Route: "copy", RouteClients: []string{"far"}},
		"take":    {Type: TransportLocal, ListenerName: "here", Limits: DefaultLimits},
	}
	connects := map[string]Connect{
		"fetch": {
			Type: TransportTCP, Address: "other.example.org:8888", Route: "docs", Mux: true, Zstd: Zstd{22},
			Checksum: ChecksumNever, DialTimeout: DefaultDialTimeout,
		},
		"far": {
			Type: TransportTLS, Address: "hub.example.org:8888", CA: "/ca", Cert: "/cert", Key: "/key", ServerCN: "hub.example.org",
			ServerIdentity: "hub.example.org", Mux: true, Route: "copy", Checksum: ChecksumAuto, DialTimeout: DefaultDialTimeout,
		},
		"near": {Type: TransportLocal, ListenerName: "here", ClientIdentity: "near", ServerIdentity: "me", Mux: true},
	}
	peers := map[string]string{"copy": "far", "take": "near"}
	dialled := map[string]bool{"copy": true, "take": true, "far": true, "near": true}
	for _, job := range cfg.Jobs {
		if want, ok := serves[job.Name]; ok != (job.Serve != nil) || ok && !reflect.DeepEqual(*job.Serve, want) {
			t.Errorf("%s: got serve %+v", job.Name, job.Serve)
		}
		if want, ok := connects[job.Name]; ok != (job.Connect != nil) || ok && !reflect.DeepEqual(*job.Connect, want) {
			t.Errorf("%s: got connect %+v", job.Name, job.Connect)
		}
		if job.Peer != peers[job.Name] || job.Dialled() != dialled[job.Name] {
			t.Errorf("%s: got peer %q, dialled %v", job.Name, job.Peer, job.Dialled())
		}
	}
}

// TestLocalRoutes: within the daemon, too, several jobs may share a listener.
func TestLocalRoutes(t *testing.T) {
	mustParse(t, `
listeners: [{name: main, serve: {type: local, listener_name: here}}]
jobs:
  - {name: a, type: sink, endpoint: {type: dir, root: /a}, serve: {type: shared, listener: main, default: true, clients: [x]}}
  - {name: b, type: source, endpoint: {type: dir, store: /b, directories: {x: /x}}, filesystems: {"<": true}, snapshotting: {type: manual}, serve: {type: shared, listener: main}}
  - {name: c, type: push, endpoint: {type: dir, store: /c, directories: {x: /x}}, filesystems: {"<": true}, snapshotting: {type: manual}, connect: {type: local, listener_name: here, client_identity: x}}
  - {name: d, type: pull, interval: 1h, endpoint: {type: dir, root: /d}, connect: {type: local, listener_name: here, client_identity: y, route: b}}
`)
}

// TestNamesArriveAsWritten: neither case nor dots nor what looks like another
// type is touched, with and without quotes.
func TestNamesArriveAsWritten(t *testing.T) {
	cfg := mustParse(t, `
jobs:
  - name: Home.v2
    type: source
    serve:
      type: tcp
      listen: ":8888"
      clients:
        10.0.0.0/8: Office-*
        "fe80::1%eth0": Bob.B
        ::1: 007
        127.0.0.1: true
    endpoint:
      type: dir
      store: /Var/Lib.d
      directories: {Docs: /home/alice/Docs, Pool/A.b: /home/Alice/A.b, 2024: /home/2024, on: /home/on}
    filesystems:
      "Pool/A.b<": true
      Docs: true
      2024: false
    snapshotting: {type: manual, prefix: Dr.1_}
`)
	job := cfg.Jobs[0]
	clients := map[string]string{"10.0.0.0/8": "Office-*", "fe80::1%eth0": "Bob.B", "::1": "007", "127.0.0.1": "true"}
	if !reflect.DeepEqual(job.Serve.Clients, clients) {
		t.Errorf("clients: got %q, want %q", job.Serve.Clients, clients)
	}
	directories := map[string]string{"Docs": "/home/alice/Docs", "Pool/A.b": "/home/Alice/A.b", "2024": "/home/2024", "on": "/home/on"}
	if !reflect.DeepEqual(job.Endpoint.Directories, directories) {
		t.Errorf("directories: got %q, want %q", job.Endpoint.Directories, directories)
	}
	if want := (Filter{{"Pool/A.b<", true}, {"Docs", true}, {"2024", false}}); !reflect.DeepEqual(job.Filesystems, want) {
		t.Errorf("filesystems: got %v, want %v", job.Filesystems, want)
	}
	if job.Name != "Home.v2" || job.Endpoint.Store != "/Var/Lib.d" || job.Snapshotting.Prefix != "Dr.1_" {
		t.Errorf("got %+v", job)
	}
}

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dualrepl.yml")
	if _, err := Load(path); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("no file: got %v", err)
	}
	if err := os.WriteFile(path, []byte(twoJobs), 0o600); err != nil {
		t.Fatal(err)
	}
	if cfg, err := Load(path); err != nil || len(cfg.Jobs) != 2 {
		t.Errorf("got %v, %v", cfg, err)
	}
	if err := os.WriteFile(path, []byte(twoJobs+strings.Repeat("#\n", maxFileSize/2)), 0o600); err != nil {
		t.Fatal(err)
	}
	want := path + ": is larger than 256 KiB; this is not a configuration of dualrepl"
	if _, err := Load(path); err == nil || err.Error() != want {
		t.Errorf("large file: got %v, want %s", err, want)
	}
}

// TestLoadNoRegularFile: what would be waited for, or has no end, is not even opened.
func TestLoadNoFile(t *testing.T) {
	for _, path := range []string{"/dev/zero", t.TempDir()} {
		if _, err := Load(path); err == nil || !strings.Contains(err.Error(), path+" is neither a file nor a pipe") {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// TestLoadPipe: a shell's <(...) is one.
func TestLoadPipe(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := w.WriteString("jobs: []\n"); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if _, err := Load(fmt.Sprintf("/dev/fd/%d", r.Fd())); err == nil || !strings.Contains(err.Error(), "jobs") {
		t.Errorf("a configuration without jobs: %v", err)
	}
}

func TestLoadDefaultPath(t *testing.T) {
	if _, err := os.Stat(DefaultPath); err == nil {
		t.Skipf("%s exists on this machine", DefaultPath)
	}
	if _, err := Load(""); err == nil || !strings.Contains(err.Error(), DefaultPath) {
		t.Errorf("got %v, want an error about %s", err, DefaultPath)
	}
}

// TestExamples: the sample files of the documentation load.
func TestExamples(t *testing.T) {
	paths, err := filepath.Glob("../../docs/examples/*.yml")
	if err != nil || len(paths) == 0 {
		t.Fatalf("found %v, %v", paths, err)
	}
	for _, path := range paths {
		if _, err := Load(path); err != nil {
			t.Error(err)
		}
	}
}
