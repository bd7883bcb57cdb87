package faults

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/endpoint/synth"
	"github.com/dualrepl/dualrepl/pdu"
	"github.com/dualrepl/dualrepl/rpc/service"
	"github.com/dualrepl/dualrepl/transport"
)

// oracle is a sender and a receiver whose every answer follows from the request, so
// that one that was cut off, or meant for another request, shows.
type oracle struct {
	t    *testing.T
	gate *gate

	mu       sync.Mutex
	seen     map[uint64]bool // GUIDs of the calls that have come
	received map[uint64]bool // GUIDs of the steps that came in whole
}

func newOracle(t *testing.T, g *gate) *oracle {
	return &oracle{t: t, gate: g, seen: map[uint64]bool{}, received: map[uint64]bool{}}
}

// see is what every handler does first. The caller has to be alice on every channel.
func (o *oracle) see(ctx context.Context, guid uint64) {
	if client, _ := transport.ClientIdentityFromContext(ctx); client != alice {
		o.t.Errorf("a handler was called by %q", client)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.seen[guid] = true
}

func (o *oracle) hasSeen(guid uint64) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.seen[guid]
}

var (
	_ endpoint.Sender   = (*oracle)(nil)
	_ endpoint.Receiver = (*oracle)(nil)
)

// sizeOf is how much content a version has, in bytes: never as much as the one before.
func sizeOf(guid uint64) int64 { return 1<<18 + int64(guid*40_009%(1<<18)) }

// filesystemOf is a filesystem's name, from which guidOf gets back the GUID of the call.
func filesystemOf(guid uint64) string { return fmt.Sprint(guid) }

func guidOf(name string) uint64 {
	guid, _ := strconv.ParseUint(name, 10, 64) // 0 is no call's
	return guid
}

// versionsOf is what the filesystem of a GUID has.
func versionsOf(guid uint64) []*pdu.FilesystemVersion {
	versions := make([]*pdu.FilesystemVersion, 10+guid%100)
	for i := range versions {
		versions[i] = &pdu.FilesystemVersion{Name: fmt.Sprintf("%d_%d", guid, i), Guid: guid + uint64(i), CreateTXG: uint64(i + 1)}
	}
	return versions
}

// ListFilesystems is not called.
func (o *oracle) ListFilesystems(context.Context, *pdu.ListFilesystemReq) (*pdu.ListFilesystemRes, error) {
	return nil, endpoint.ErrUnimplemented
}

// SendCompleted is not called.
func (o *oracle) SendCompleted(context.Context, *pdu.SendCompletedReq) (*pdu.SendCompletedRes, error) {
	return nil, endpoint.ErrUnimplemented
}

// ReplicationCursor is not called.
func (o *oracle) ReplicationCursor(context.Context, *pdu.ReplicationCursorReq) (*pdu.ReplicationCursorRes, error) {
	return nil, endpoint.ErrUnimplemented
}

func (o *oracle) ListFilesystemVersions(ctx context.Context, req *pdu.ListFilesystemVersionsReq) (*pdu.ListFilesystemVersionsRes, error) {
	guid := guidOf(req.GetFilesystem())
	o.see(ctx, guid)
	return &pdu.ListFilesystemVersionsRes{Versions: versionsOf(guid)}, nil
}

func (o *oracle) DestroySnapshots(ctx context.Context, req *pdu.DestroySnapshotsReq) (*pdu.DestroySnapshotsRes, error) {
	o.see(ctx, guidOf(req.GetFilesystem()))
	res := &pdu.DestroySnapshotsRes{}
	for _, v := range req.GetSnapshots() {
		res.Results = append(res.Results, &pdu.DestroySnapshotRes{Snapshot: v, Error: v.GetName()})
	}
	return res, nil
}

// SendDry is the call that takes long.
func (o *oracle) SendDry(ctx context.Context, req *pdu.SendReq) (*pdu.SendRes, error) {
	o.see(ctx, req.GetTo().GetGuid())
	if err := o.gate.pass(ctx); err != nil {
		return nil, err
	}
	return &pdu.SendRes{ExpectedSize: uint64(sizeOf(req.GetTo().GetGuid()))}, nil
}

func (o *oracle) Send(ctx context.Context, req *pdu.SendReq) (*pdu.SendRes, io.ReadCloser, error) {
	guid := req.GetTo().GetGuid()
	o.see(ctx, guid)
	return &pdu.SendRes{ExpectedSize: uint64(sizeOf(guid))}, io.NopCloser(o.gate.content(ctx, guid)), nil
}

// Receive takes a stream that ends with io.EOF for whole, as every receiver does.
func (o *oracle) Receive(ctx context.Context, req *pdu.ReceiveReq, stream io.Reader) (*pdu.ReceiveRes, error) {
	guid := req.GetTo().GetGuid()
	o.see(ctx, guid)
	if err := readContent(guid, stream); errors.Is(err, errWrong) {
		o.t.Errorf("a receiver was given other content than was sent: %v", err)
		return nil, err
	} else if err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.received[guid] = true
	return &pdu.ReceiveRes{}, nil
}

func (o *oracle) hasReceived(guid uint64) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.received[guid]
}

// serviceName is the custom service's.
const serviceName = "faults.Oracle"

// service answers bytes with themselves, and each message of a talk before the next.
func (o *oracle) service() *service.Service {
	s := service.New(serviceName)
	service.UnaryBytes(s, "Echo", func(ctx context.Context, req []byte) ([]byte, error) {
		o.see(ctx, guidOf(string(req)))
		return req, nil
	})
	service.BidiStream(s, "Talk", func(stream grpc.BidiStreamingServer[wrapperspb.UInt64Value, wrapperspb.UInt64Value]) error {
		for {
			said, err := stream.Recv()
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
			o.see(stream.Context(), said.GetValue())
			if err := stream.Send(said); err != nil {
				return err
			}
		}
	})
	return s
}

// errWrong: an answer is not what it has to be. No broken network excuses it.
var errWrong = errors.New("wrong answer")

// readContent reads a version's content, every byte of it.
func readContent(guid uint64, stream io.Reader) error {
	checker := &checker{expected: content(guid, 0, sizeOf(guid))}
	_, err := io.Copy(checker, stream)
	if err == nil && checker.offset != sizeOf(guid) {
		return fmt.Errorf("%w: content of %d ends at %d of %d", errWrong, guid, checker.offset, sizeOf(guid))
	}
	return err
}

// checker compares what is written to it.
type checker struct {
	expected io.Reader
	offset   int64
}

func (c *checker) Write(p []byte) (int, error) {
	want := make([]byte, len(p))
	if _, err := io.ReadFull(c.expected, want); err != nil || !bytes.Equal(p, want) {
		return 0, fmt.Errorf("%w: other content between %d and %d", errWrong, c.offset, c.offset+int64(len(p)))
	}
	c.offset += int64(len(p))
	return len(p), nil
}

// content is a part of a version's content. Of every second version, it can be
// compressed.
func content(guid uint64, from, to int64) io.Reader {
	stream := synth.NewStream(synth.Spec{Seed: guid, Offset: from, Size: to})
	if guid%2 == 0 {
		return textReader{stream}
	}
	return onlyReader{stream}
}

// textReader makes each byte one of sixteen letters.
type textReader struct{ io.Reader }

func (r textReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	for i := range p[:n] {
		p[i] = 'a' + p[i]&15
	}
	return n, err
}

// onlyReader hides io.WriterTo: content goes through the gate by Read.
type onlyReader struct{ io.Reader }

// gate holds calls up in their midst until it is opened: a test that breaks the network
// knows what it breaks.
type gate struct {
	arrived chan struct{} // gets one for each that waits
	open    chan struct{} // closed: nobody waits any more
}

func newGate() *gate { return &gate{arrived: make(chan struct{}, 64), open: make(chan struct{})} }

func (g *gate) pass(ctx context.Context) error {
	select {
	case <-g.open:
		return nil
	default:
	}
	g.arrived <- struct{}{}
	select {
	case <-g.open:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// content is a version's content, with the gate in its middle.
func (g *gate) content(ctx context.Context, guid uint64) io.Reader {
	size := sizeOf(guid)
	return io.MultiReader(content(guid, 0, size/2), gateReader{ctx, g}, content(guid, size/2, size))
}

// gateReader is empty, but for the wait.
type gateReader struct {
	ctx  context.Context
	gate *gate
}

func (r gateReader) Read([]byte) (int, error) {
	if err := r.gate.pass(r.ctx); err != nil {
		return 0, err
	}
	return 0, io.EOF
}
