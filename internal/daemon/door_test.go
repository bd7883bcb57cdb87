package daemon

import (
	"errors"
	"strings"
	"testing"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
	"github.com/dualrepl/dualrepl/rpc"
)

// hub has three jobs behind one port: alice is who connects from this machine.
const hub = `
listeners:
  - name: main
    serve: {type: tcp, listen: "ADDRESS", clients: {"127.0.0.1": alice, "127.0.0.2": bob}}
jobs:
  - name: backups
    type: sink
    serve: {type: shared, listener: main, default: true, clients: [alice], verbs: [list, receive]}
    endpoint: {type: dir, root: DIR/received}
  - name: offers
    type: source
    serve: {type: shared, listener: main, route: docs}
    endpoint: {type: dir, store: DIR/offered, directories: {docs: DIR/source}}
    filesystems: {"<": true}
    snapshotting: {type: periodic, interval: 1h}
  - name: private
    type: sink
    serve: {type: shared, listener: main, clients: [bob]}
    endpoint: {type: dir, root: DIR/private}
`

// pushTo is a push job that connects to the hub, with what SETTINGS adds.
const pushTo = `
jobs:
  - name: docs
    type: push
    connect: {type: tcp, address: "ADDRESS"SETTINGS}
    endpoint: {type: dir, store: DIR/store, directories: {docs: DIR/source}}
    filesystems: {"<": true}
    snapshotting: {type: manual}
`

// push opens the push job.
func (p *place) push(address, settings string) *Job {
	p.t.Helper()
	job, err := Open(p.at(address, strings.Replace(pushTo, "SETTINGS", settings, 1)), "docs", p.logger())
	if err != nil {
		p.t.Fatal(err)
	}
	return job
}

// TestSharedListener: several jobs behind one port, by their routes and for their clients.
func TestSharedListener(t *testing.T) {
	p := newPlace(t)
	address := freeAddress(t)
	p.start(p.at(address, hub))
	p.logs.await(t, "snapshot taken", 1)
	p.start(p.at(address, `
jobs:
  - name: fetch
    type: pull
    connect: {type: tcp, address: "ADDRESS", route: docs, mux: true, zstd: {level: 3}, checksum: always}
    endpoint: {type: dir, root: DIR/fetched}
    interval: 1h
`))
	p.logs.await(t, "replication done", 1)
	if got := p.received("fetched/docs"); got["one"] != "first content" {
		t.Errorf("fetched %q", got)
	}
	job := p.push(address, "")
	if _, err := job.Snapshot(t.Context(), false, nil); err != nil {
		t.Fatal(err)
	}
	for _, settings := range []string{"", ", route: backups", ", route: backups, mux: true"} {
		if _, err := p.push(address, settings).Replicate(t.Context(), nil); err != nil {
			t.Errorf("push%s: %v", settings, err)
		}
	}
	if got := p.received("received/alice/docs"); got["one"] != "first content" {
		t.Errorf("received %q", got)
	}
}

// TestRefused: an error says whether it is the route, the client or the verb, and what to do.
func TestRefused(t *testing.T) {
	p := newPlace(t)
	address := freeAddress(t)
	p.start(p.at(address, hub))
	p.logs.await(t, "snapshot taken", 1)
	if _, err := p.push(address, "").Snapshot(t.Context(), false, nil); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		settings string
		is       error
		want     []string
	}{
		{", route: elsewhere", endpoint.ErrNotFound, []string{`route "elsewhere"`, "correct `connect.route`"}},
		{", route: private", endpoint.ErrPermission, []string{`client "alice" may not use route "private"`, "`clients` and `verbs`"}},
	} {
		_, err := p.push(address, tc.settings).Replicate(t.Context(), nil)
		if !errors.Is(err, tc.is) {
			t.Errorf("push%s: %v", tc.settings, err)
			continue
		}
		for _, want := range tc.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("push%s: %v, want %q in it", tc.settings, err, want)
			}
		}
	}
	s, err := p.push(address, "").connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	_, err = s.client.DestroySnapshots(t.Context(), &pdu.DestroySnapshotsReq{
		Filesystem: "docs", Snapshots: []*pdu.FilesystemVersion{{Type: pdu.FilesystemVersion_Snapshot, Name: "dr_1", Guid: 1}},
	})
	if !errors.Is(err, endpoint.ErrPermission) || !strings.Contains(err.Error(), "destroy") {
		t.Errorf("destroy: %v", err)
	}
}

// TestNoDefault: a client that names no route learns that it has to.
func TestNoDefault(t *testing.T) {
	p := newPlace(t)
	address := freeAddress(t)
	p.start(p.at(address, strings.Replace(hub, "default: true, ", "", 1)))
	p.logs.await(t, "serving", 1)
	_, err := p.push(address, "").Replicate(t.Context(), nil)
	if !errors.Is(err, endpoint.ErrNotFound) || !strings.Contains(err.Error(), "name one in `connect.route`") {
		t.Errorf("error is %v", err)
	}
}

// TestLimitReached: one client cannot have more than its listener's limit, and is told so.
func TestLimitReached(t *testing.T) {
	p := newPlace(t)
	address := freeAddress(t)
	p.start(p.at(address, strings.Replace(hub, `"127.0.0.2": bob}`, `"127.0.0.2": bob}, limits: {connections: 1}`, 1)))
	p.logs.await(t, "serving", 1)
	first, err := p.push(address, "").connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer first.close()
	if _, err := first.client.ListFilesystems(t.Context(), &pdu.ListFilesystemReq{}); err != nil {
		t.Fatal(err)
	}
	job := p.push(address, "")
	second, err := job.connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer second.close()
	_, err = second.client.ListFilesystems(t.Context(), &pdu.ListFilesystemReq{})
	err = job.explain(t.Context(), errors.Join(err)) // a replication would try again first
	if !errors.Is(err, rpc.ErrLimit) || !strings.Contains(err.Error(), "raise `limits`") {
		t.Errorf("error is %v", err)
	}
}
