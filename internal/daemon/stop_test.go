package daemon

import (
	"context"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/endpoint/dir"
	"github.com/dualrepl/dualrepl/pdu"
	"github.com/dualrepl/dualrepl/rpc"
	"github.com/dualrepl/dualrepl/transport/tcp"
)

// heldReceiver is a receiver that holds each step until it is released.
type heldReceiver struct {
	endpoint.Receiver
	begun   chan struct{}
	release chan struct{}
}

func (r *heldReceiver) Receive(ctx context.Context, req *pdu.ReceiveReq, stream io.Reader) (*pdu.ReceiveRes, error) {
	r.begun <- struct{}{}
	select {
	case <-r.release:
		return r.Receiver.Receive(ctx, req, stream)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func newHeldReceiver(t *testing.T, p *place) *heldReceiver {
	t.Helper()
	receiver, err := dir.NewReceiver(dir.ReceiverOptions{Root: p.path("received"), Job: "backups"})
	if err != nil {
		t.Fatal(err)
	}
	return &heldReceiver{Receiver: receiver, begun: make(chan struct{}, 1), release: make(chan struct{})}
}

// serveHeld serves a heldReceiver that keeps its data in the place.
func serveHeld(t *testing.T, p *place) (r *heldReceiver, address string) {
	t.Helper()
	clients, err := tcp.ParseClientMap(map[string]string{"127.0.0.1": "alice"})
	if err != nil {
		t.Fatal(err)
	}
	l, err := tcp.Listen(t.Context(), "127.0.0.1:0", clients)
	if err != nil {
		t.Fatal(err)
	}
	r = newHeldReceiver(t, p)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- rpc.NewServer(r, rpc.ServerOptions{}).Serve(ctx, l) }()
	t.Cleanup(func() { cancel(); <-served })
	return r, l.Addr().String()
}

// connectHeld is a heldReceiver that connects, in place of one that is connected to.
func connectHeld(t *testing.T, p *place) (r *heldReceiver, address string) {
	t.Helper()
	r, address = newHeldReceiver(t, p), freeAddress(t)
	client, err := rpc.NewClient(tcp.NewConnecter(address), rpc.ClientOptions{Mux: true, PeerIdentity: "hub"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- rpc.NewServer(r, rpc.ServerOptions{}).ServeOver(ctx, client) }()
	t.Cleanup(func() { cancel(); <-served; client.Close() })
	return r, address
}

// TestStopFinishesTheRunningStep and begins no other, whoever connected to whom.
func TestStopFinishesTheRunningStep(t *testing.T) {
	t.Run("to a passive side that is connected to", func(t *testing.T) {
		p := newPlace(t)
		receiver, address := serveHeld(t, p)
		testStop(t, p, receiver, `connect: {type: tcp, address: "`+address+`"}`)
	})
	t.Run("to a passive side that connects", func(t *testing.T) {
		p := newPlace(t)
		receiver, address := connectHeld(t, p)
		testStop(t, p, receiver, `serve: {type: tcp, listen: "`+address+`", clients: {"127.0.0.1": far}}`)
	})
}

func testStop(t *testing.T, p *place, receiver *heldReceiver, way string) {
	t.Helper()
	cfg := p.config(`
jobs:
  - name: docs
    type: push
    ` + way + `
    endpoint: {type: dir, store: DIR/store, directories: {docs: DIR/source}}
    filesystems: {"<": true}
    snapshotting: {type: periodic, prefix: dr_, interval: 1h}
    conflict_resolution: {initial_replication: all}
`)
	job, err := Open(cfg, "docs", p.logger())
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := job.Snapshot(t.Context(), false, nil); err != nil {
			t.Fatal(err)
		}
	}
	stop := p.start(cfg)
	<-receiver.begun
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	p.logs.await(t, "daemon stopping", 1)
	close(receiver.release)
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if versions, _ := filepath.Glob(p.path("received/docs/@*")); len(versions) != 1 {
		t.Errorf("received %q, want one version", versions)
	}
	if !strings.Contains(p.logs.String(), "the next one goes on from there") || strings.Contains(p.logs.String(), "level=ERROR") {
		t.Errorf("logs:\n%s", p.logs)
	}
}
