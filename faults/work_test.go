package faults

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/dualrepl/dualrepl/pdu"
	"github.com/dualrepl/dualrepl/rpc"
	"github.com/dualrepl/dualrepl/rpc/service"
)

// hangs is when a call counts as one that hangs. The stack gives a silent peer up
// within 15 s, and the connection with it within 10 more.
const hangs = 50 * time.Second

// A job is one call of a client, with a GUID of its own. It returns errWrong if the
// answer is not right.
type job func(ctx context.Context, w *world, guid uint64) error

// jobs are the kinds of calls; those that are gated wait at the gate.
var jobs = map[string]struct {
	do    job
	gated bool
}{
	"list":    {list, false},
	"destroy": {destroy, false},
	"echo":    {echo, false},
	"dry":     {sendDry, true},
	"talk":    {talk, true},
	"send":    {send, true},
	"receive": {receive, true},
}

func list(ctx context.Context, w *world, guid uint64) error {
	res, err := w.client.ListFilesystemVersions(ctx, &pdu.ListFilesystemVersionsReq{Filesystem: filesystemOf(guid)})
	if err != nil {
		return err
	}
	return same(res, &pdu.ListFilesystemVersionsRes{Versions: versionsOf(guid)})
}

func destroy(ctx context.Context, w *world, guid uint64) error {
	v := version(guid)
	res, err := w.client.DestroySnapshots(ctx, &pdu.DestroySnapshotsReq{Filesystem: filesystemOf(guid), Snapshots: []*pdu.FilesystemVersion{v}})
	if err != nil {
		return err
	}
	return same(res, &pdu.DestroySnapshotsRes{Results: []*pdu.DestroySnapshotRes{{Snapshot: v, Error: v.Name}}})
}

func echo(ctx context.Context, w *world, guid uint64) error {
	said := []byte(filesystemOf(guid))
	res, err := service.CallBytes(ctx, w.client.Conn(), "/"+serviceName+"/Echo", said)
	if err != nil {
		return err
	}
	return same(wrapperspb.Bytes(res), wrapperspb.Bytes(said))
}

func talk(ctx context.Context, w *world, guid uint64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := service.OpenBidiStream[wrapperspb.UInt64Value, wrapperspb.UInt64Value](ctx, w.client.Conn(), "/"+serviceName+"/Talk")
	if err != nil {
		return err
	}
	for i := range 3 {
		said := wrapperspb.UInt64(guid)
		if err := stream.Send(said); err != nil && err != io.EOF { // Recv will say why
			return err
		}
		res, err := stream.Recv()
		if err == io.EOF {
			return fmt.Errorf("%w: the talk has ended", errWrong)
		}
		if err != nil {
			return err
		}
		if err := same(res, said); err != nil {
			return err
		}
		if i == 0 {
			_ = w.gate.pass(ctx) // it waits for the gate only
		}
	}
	return nil
}

func sendDry(ctx context.Context, w *world, guid uint64) error {
	res, err := w.client.SendDry(ctx, sendReq(guid))
	if err != nil {
		return err
	}
	return same(res, &pdu.SendRes{ExpectedSize: uint64(sizeOf(guid))})
}

func send(ctx context.Context, w *world, guid uint64) error {
	res, stream, err := w.client.Send(ctx, sendReq(guid))
	if err != nil {
		return err
	}
	defer stream.Close()
	if err := same(res, &pdu.SendRes{ExpectedSize: uint64(sizeOf(guid))}); err != nil {
		return err
	}
	return readContent(guid, stream)
}

func receive(ctx context.Context, w *world, guid uint64) error {
	_, err := w.client.Receive(ctx, &pdu.ReceiveReq{Filesystem: "a", To: version(guid), ReplicationConfig: protection()}, w.gate.content(ctx, guid))
	if err == nil && !w.oracle.hasReceived(guid) {
		return fmt.Errorf("%w: receiving %d succeeded, but not at the receiver", errWrong, guid)
	}
	return err
}

func sendReq(guid uint64) *pdu.SendReq {
	return &pdu.SendReq{Filesystem: "a", To: version(guid), ReplicationConfig: protection()}
}

func version(guid uint64) *pdu.FilesystemVersion {
	return &pdu.FilesystemVersion{Name: fmt.Sprint("v", guid), Guid: guid, CreateTXG: guid}
}

func protection() *pdu.ReplicationConfig {
	return &pdu.ReplicationConfig{Protection: &pdu.ReplicationConfigProtection{
		Initial: pdu.ReplicationGuaranteeKind_GuaranteeNothing, Incremental: pdu.ReplicationGuaranteeKind_GuaranteeNothing,
	}}
}

func same(got, want proto.Message) error {
	if !proto.Equal(got, want) {
		return fmt.Errorf("%w: %.100q, not %.100q", errWrong, fmt.Sprint(got), fmt.Sprint(want))
	}
	return nil
}

// guids are never used twice.
var guids atomic.Uint64

// round is some calls of each kind, at once.
type round struct {
	t     *testing.T
	name  string
	gated int // how many of them wait at the gate
	ended chan struct{}
	early chan error // what calls failed of, for startGated

	mu      sync.Mutex
	failed  error    // of some call
	notSent []uint64 // GUIDs of calls that no handler may see
}

// start starts n calls of each kind. No context ends them.
func (w *world) start(name string, n int) *round {
	r := &round{t: w.t, name: name, ended: make(chan struct{}), early: make(chan error, n*len(jobs))}
	w.rounds = append(w.rounds, r)
	var calls sync.WaitGroup
	for kind, j := range jobs {
		for range n {
			if j.gated {
				r.gated++
			}
			calls.Go(func() {
				guid := guids.Add(1)
				r.end(kind, guid, j.do(context.Background(), w, guid))
			})
		}
	}
	go func() {
		defer close(r.ended)
		calls.Wait()
	}()
	return r
}

func (r *round) end(kind string, guid uint64, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.failed = fmt.Errorf("%s: %w", kind, err)
		r.early <- r.failed
	}
	if rpc.OutcomeOf(err) == rpc.NotSent {
		r.notSent = append(r.notSent, guid)
	}
	if errors.Is(err, errWrong) {
		r.t.Errorf("%s: %v", r.name, r.failed)
	}
}

// wait returns the error of some call once all have ended; the test fails if one hangs.
func (r *round) wait() error {
	r.t.Helper()
	ends(r.t, r.name, func() error { <-r.ended; return nil })
	return r.failed
}

// ends fails the test at once if do fails, or takes longer than anything may.
func ends(t *testing.T, name string, do func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- do() }()
	timer := time.NewTimer(hangs)
	defer timer.Stop()
	select {
	case err := <-done:
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	case <-timer.C:
		dumpOnce()
		t.Fatalf("%s hangs", name)
	}
}

// dumpOnce writes what all goroutines do, the first time.
var dumpOnce = sync.OnceFunc(func() {
	stacks := make([]byte, 4<<20)
	fmt.Fprintf(os.Stderr, "the first call hangs:\n%s\n", stacks[:runtime.Stack(stacks, true)])
})
