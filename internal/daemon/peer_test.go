package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/internal/config"
	"github.com/dualrepl/dualrepl/pdu"
	"github.com/dualrepl/dualrepl/rpc"
	"github.com/dualrepl/dualrepl/transport/tcp"
)

// farSink is a sink that connects to ADDRESS.
const farSink = `
jobs:
  - name: far
    type: sink
    connect: {type: tcp, address: "ADDRESS", mux: true, server_identity: hub}
    endpoint: {type: dir, root: DIR/received}
`

// waitingPush is a push job that it connects to.
const waitingPush = `
jobs:
  - name: docs
    type: push
    serve: {type: tcp, listen: "ADDRESS", clients: {"127.0.0.1": far}}
    endpoint: {type: dir, store: DIR/store, directories: {docs: DIR/source}}
    filesystems: {"<": true}
    snapshotting: {type: manual}
`

// at is the configuration for an address.
func (p *place) at(address, jobs string) *config.Config {
	p.t.Helper()
	return p.config(strings.ReplaceAll(jobs, "ADDRESS", address))
}

func (p *place) snapshot(cfg *config.Config, job string) {
	p.t.Helper()
	j, err := Open(cfg, job, p.logger())
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := j.Snapshot(p.t.Context(), false, nil); err != nil {
		p.t.Fatal(err)
	}
}

// TestPassiveSideConnects: whichever side is there first, and however often the active one
// goes, the job is replicated as soon as both are there. The logs tell what is missing.
func TestPassiveSideConnects(t *testing.T) {
	p := newPlace(t)
	address := freeAddress(t)
	push := p.at(address, waitingPush)
	p.snapshot(push, "docs")

	sink := p.start(p.at(address, farSink))
	p.logs.await(t, "disconnected", 1)
	stop := p.start(push)
	p.logs.await(t, "connected: the active side can call", 1)
	p.logs.await(t, "replication done", 1)
	if got := p.received("received/hub/docs"); got["one"] != "first content" {
		t.Errorf("received %q", got)
	}

	if err := stop(); err != nil {
		t.Error(err)
	}
	p.logs.await(t, "level=WARN msg=disconnected", 2)
	p.write("two", "second content")
	p.snapshot(push, "docs")
	stop = p.start(push)
	p.logs.await(t, "replication done", 2)
	if got := p.received("received/hub/docs"); got["two"] != "second content" {
		t.Errorf("received %q", got)
	}

	if err := errors.Join(sink(), stop()); err != nil {
		t.Error(err)
	}
	for _, want := range []string{"connection refused; is the peer's daemon", "waiting for the passive side to connect", "the passive side has connected"} {
		if !strings.Contains(p.logs.String(), want) {
			t.Errorf("%q was not logged:\n%s", want, p.logs)
		}
	}
	if strings.Contains(p.logs.String(), "level=ERROR") {
		t.Errorf("logs:\n%s", p.logs)
	}
}

// TestEachSnapshotGoesToThePassiveSide that is connected already.
func TestEachSnapshotGoesToThePassiveSide(t *testing.T) {
	p := newPlace(t)
	p.start(p.config(`
jobs:
  - name: far
    type: sink
    connect: {type: local, listener_name: here, client_identity: far, mux: true, server_identity: hub}
    endpoint: {type: dir, root: DIR/received}
  - name: docs
    type: push
    serve: {type: local, listener_name: here}
    endpoint: {type: dir, store: DIR/store, directories: {docs: DIR/source}}
    filesystems: {"<": true}
    snapshotting: {type: periodic, prefix: dr_, interval: 1s}
`))
	p.logs.await(t, "the passive side has connected", 1)
	p.logs.await(t, "replication done", 1)
	p.write("two", "second content")
	p.logs.await(t, "replication done", 3)
	if got := p.received("received/hub/docs"); got["two"] != "second content" {
		t.Errorf("received %q", got)
	}
}

// TestPullFromPassiveSideThatConnects, on a listener that two pull jobs share.
func TestPullFromPassiveSideThatConnects(t *testing.T) {
	p := newPlace(t)
	address := freeAddress(t)
	source := p.at(address, `
jobs:
  - name: offers
    type: source
    connect: {type: tcp, address: "ADDRESS", route: second, mux: true, server_identity: hub}
    endpoint: {type: dir, store: DIR/store, directories: {docs: DIR/source}}
    filesystems: {"<": true}
    snapshotting: {type: manual}
`)
	p.snapshot(source, "offers")
	p.start(p.at(address, `
listeners: [{name: main, serve: {type: tcp, listen: "ADDRESS", clients: {"127.0.0.1": far}}}]
jobs:
  - name: first
    type: pull
    serve: {type: shared, listener: main, clients: [far]}
    endpoint: {type: dir, root: DIR/first}
    interval: manual
  - name: second
    type: pull
    serve: {type: shared, listener: main, clients: [far]}
    endpoint: {type: dir, root: DIR/second}
    interval: 1h
`))
	p.logs.await(t, "waiting for the passive side to connect", 2)
	stop := p.start(source)
	p.logs.await(t, "replication done", 1)
	if got := p.received("second/docs"); got["one"] != "first content" {
		t.Errorf("received %q", got)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	p.logs.await(t, `job=second client=far disconnected=`, 1)
}

// waitingJob is one that awaits its passive side at address, with something to replicate.
func (p *place) waitingJob(t *testing.T, address string) *Job {
	t.Helper()
	push := p.at(address, waitingPush)
	p.snapshot(push, "docs")
	job, err := Open(push, "docs", p.logger())
	if err != nil {
		t.Fatal(err)
	}
	return job
}

// TestReplicateAwaitsThePassiveSide: a replication in the foreground listens itself.
func TestReplicateAwaitsThePassiveSide(t *testing.T) {
	p := newPlace(t)
	address := freeAddress(t)
	job := p.waitingJob(t, address)
	p.start(p.at(address, farSink))
	for range 2 { // it gives the port back
		result, err := job.Replicate(t.Context(), nil)
		if err != nil || len(result.Filesystems) != 1 {
			t.Fatalf("%+v, %v", result, err)
		}
	}
	if got := p.received("received/hub/docs"); got["one"] != "first content" {
		t.Errorf("received %q", got)
	}
}

// TestReplicateBesideTheDaemon: what the daemon has the port for, it does itself.
func TestReplicateBesideTheDaemon(t *testing.T) {
	p := newPlace(t)
	push := p.at(freeAddress(t), waitingPush)
	p.start(push)
	p.logs.await(t, "serving", 1)
	job, err := Open(push, "docs", p.logger())
	if err != nil {
		t.Fatal(err)
	}
	_, err = job.Replicate(t.Context(), nil)
	if err == nil || !strings.Contains(err.Error(), "is in use: if the daemon has it, it replicates this job itself") {
		t.Errorf("error is %v", err)
	}
}

// TestPassiveSidePermits no more than its verbs to the active one that it has connected to.
func TestPassiveSidePermits(t *testing.T) {
	p := newPlace(t)
	address := freeAddress(t)
	job := p.waitingJob(t, address)
	p.start(p.at(address, strings.Replace(farSink, "mux: true", "mux: true, verbs: [list, receive]", 1)))
	if _, err := job.Replicate(t.Context(), nil); err != nil {
		t.Error(err)
	}
	s, err := job.connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	_, err = s.client.DestroySnapshots(t.Context(), &pdu.DestroySnapshotsReq{Filesystem: "docs"})
	if !errors.Is(err, endpoint.ErrPermission) {
		t.Errorf("destroy: %v", err)
	}
}

// TestReplicateGivesUpWaiting after PeerWait, and at once when it is interrupted.
func TestReplicateGivesUpWaiting(t *testing.T) {
	job := &Job{conf: config.Job{Type: config.TypePush, Peer: "far", Serve: &config.Serve{Listen: ":1"}}, logger: newPlace(t).logger()}
	client := func() *rpc.Client {
		c, err := rpc.NewServer(nil, rpc.ServerOptions{}).Peer("", "far", rpc.ClientOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	synctest.Test(t, func(t *testing.T) {
		c := client()
		defer c.Close()
		start := time.Now()
		err := job.waitReady(t.Context(), c)
		if !errors.Is(err, rpc.ErrDisconnected) || !strings.Contains(err.Error(), "client far has not connected to :1 within 1m30s") {
			t.Errorf("error is %v", err)
		}
		if waited := time.Since(start); waited != PeerWait {
			t.Errorf("waited %v", waited)
		}
		interrupted := errors.New("interrupted")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(interrupted)
		if err := job.waitReady(ctx, c); !errors.Is(err, interrupted) {
			t.Errorf("error is %v", err)
		}
	})
}

// TestPassiveSideIsRefused: one whose route there is none of says so itself.
func TestPassiveSideIsRefused(t *testing.T) {
	p := newPlace(t)
	address := freeAddress(t)
	p.start(p.at(address, waitingPush))
	p.logs.await(t, "serving", 1)
	p.start(p.at(address, strings.Replace(farSink, "mux: true", "mux: true, route: elsewhere", 1)))
	p.logs.await(t, "the peer refuses this client", 1)
	p.logs.await(t, `route \"elsewhere\"`, 1)
}

// TestActiveSideWithoutMux: a passive side that connects to one that cannot call back says
// so, and what to do.
func TestActiveSideWithoutMux(t *testing.T) {
	p := newPlace(t)
	clients, err := tcp.ParseClientMap(map[string]string{"127.0.0.1": "far"})
	if err != nil {
		t.Fatal(err)
	}
	l, err := tcp.Listen(t.Context(), "127.0.0.1:0", clients)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- rpc.NewServer(nil, rpc.ServerOptions{BaseProtocol: true}).Serve(ctx, l) }()
	t.Cleanup(func() { cancel(); <-served })
	p.start(p.at(l.Addr().String(), farSink))
	p.logs.await(t, "it cannot share one connection; update dualrepl there", 1)
}

// TestToldOnce: why there is no connection is the same although the port of this side is not.
func TestToldOnce(t *testing.T) {
	const format = "tls: handshake failed: read tcp 192.0.2.1:%d->192.0.2.2:8888: read: connection reset by peer"
	one, two := fmt.Errorf(format, 40001), fmt.Errorf(format, 40002)
	if lasting(one) != lasting(two) || !strings.Contains(lasting(one), "192.0.2.2:8888: read: connection reset") {
		t.Errorf("%q, %q", lasting(one), lasting(two))
	}
}

// TestExplainPeer: errors of jobs whose passive side connects name it.
func TestExplainPeer(t *testing.T) {
	p := newPlace(t)
	job, err := Open(p.at("127.0.0.1:1", waitingPush), "docs", p.logger())
	if err != nil {
		t.Fatal(err)
	}
	gone := errors.Join(fmt.Errorf("list: %w: %w", rpc.ErrDisconnected, net.ErrClosed)) // as replication.Run joins
	for peer, want := range map[*rpc.Client]string{
		nil: "job docs: client far is not connected; run it again to go on where it stopped",
		{}:  "job docs: client far is not connected; the replication goes on as soon as it is", // in a daemon
	} {
		job.peer = peer
		if err := job.explain(t.Context(), gone); err == nil || err.Error() != want || !errors.Is(err, net.ErrClosed) {
			t.Errorf("error is %v, want %s", err, want)
		}
	}
}
