package rpc

import (
	"context"
	"io"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/endpoint/synth"
	"github.com/dualrepl/dualrepl/pdu"
	"github.com/dualrepl/dualrepl/transport"
	"github.com/dualrepl/dualrepl/transport/local"
	"github.com/dualrepl/dualrepl/transport/tcp"
	"github.com/dualrepl/dualrepl/transport/tls"
	"github.com/dualrepl/dualrepl/transport/transporttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// alice is the client identity on every transport.
const alice = "alice"

// pair makes the two sides of a transport.
type pair func(t *testing.T) (transport.Listener, transport.Connecter)

// transports are what every promise about the wire is tested with.
var transports = map[string]pair{"local": localPair, "tcp": tcpPair, "tls": tlsPair}

func localPair(*testing.T) (transport.Listener, transport.Connecter) {
	tr := local.New(alice)
	return tr.Listener(), tr.Connecter()
}

func tcpPair(t *testing.T) (transport.Listener, transport.Connecter) {
	t.Helper()
	clients, err := tcp.ParseClientMap(map[string]string{"127.0.0.1": alice})
	check(t, err)
	l, err := tcp.Listen(t.Context(), "127.0.0.1:0", clients)
	check(t, err)
	return l, tcp.NewConnecter(l.Addr().String())
}

func tlsPair(t *testing.T) (transport.Listener, transport.Connecter) {
	t.Helper()
	authority := transporttest.NewAuthority(t)
	files := func(name string) (f tls.Files) {
		f.CA, f.Cert, f.Key = authority.Issue(t, t.TempDir(), name)
		return f
	}
	l, err := tls.Listen(t.Context(), "127.0.0.1:0", files("passive"), []string{alice})
	check(t, err)
	c, err := tls.NewConnecter(l.Addr().String(), "passive", files(alice))
	check(t, err)
	return l, c
}

// serving is a Server that runs; the test's end stops it, and fails if it failed.
type serving struct {
	stop context.CancelFunc
	done chan struct{} // Serve has returned
	err  error         // after done
}

func serve(t *testing.T, l transport.Listener, h endpoint.Endpoint, opts ServerOptions) *serving {
	ctx, cancel := context.WithCancel(context.Background())
	s := &serving{stop: cancel, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		s.err = NewServer(h, opts).Serve(ctx, l)
	}()
	t.Cleanup(func() {
		cancel()
		<-s.done
		check(t, s.err)
	})
	return s
}

func newClient(t *testing.T, c transport.Connecter, opts ClientOptions) *Client {
	t.Helper()
	client, err := NewClient(c, opts)
	check(t, err)
	t.Cleanup(func() { check(t, client.Close()) })
	return client
}

// connect serves h and returns a client of it.
func connect(t *testing.T, p pair, h endpoint.Endpoint) *Client {
	t.Helper()
	l, c := p(t)
	serve(t, l, h, ServerOptions{})
	return newClient(t, c, ClientOptions{})
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// fake is a sender and a receiver that answers every request with what is in it.
type fake struct {
	// hook sees each request first; its error is the answer. nil: none.
	hook     func(ctx context.Context, method string, req proto.Message) error
	versions []*pdu.FilesystemVersion
	stream   io.ReadCloser // nil: content of To's GUID
	size     int64         // of the content
}

var (
	_ endpoint.Sender   = (*fake)(nil)
	_ endpoint.Receiver = (*fake)(nil)
)

func (f *fake) seen(ctx context.Context, method string, req proto.Message) error {
	if f.hook == nil {
		return nil
	}
	return f.hook(ctx, method, req)
}

func (f *fake) ListFilesystems(ctx context.Context, req *pdu.ListFilesystemReq) (*pdu.ListFilesystemRes, error) {
	return &pdu.ListFilesystemRes{Filesystems: []*pdu.Filesystem{{Path: "a/b", ResumeToken: "token"}}}, f.seen(ctx, "ListFilesystems", req)
}

func (f *fake) ListFilesystemVersions(ctx context.Context, req *pdu.ListFilesystemVersionsReq) (*pdu.ListFilesystemVersionsRes, error) {
	return &pdu.ListFilesystemVersionsRes{Versions: f.versions}, f.seen(ctx, "ListFilesystemVersions", req)
}

func (f *fake) DestroySnapshots(ctx context.Context, req *pdu.DestroySnapshotsReq) (*pdu.DestroySnapshotsRes, error) {
	res := &pdu.DestroySnapshotsRes{}
	for _, v := range req.Snapshots {
		res.Results = append(res.Results, &pdu.DestroySnapshotRes{Snapshot: v, Error: "held"})
	}
	return res, f.seen(ctx, "DestroySnapshots", req)
}

func (f *fake) SendCompleted(ctx context.Context, req *pdu.SendCompletedReq) (*pdu.SendCompletedRes, error) {
	return &pdu.SendCompletedRes{}, f.seen(ctx, "SendCompleted", req)
}

func (f *fake) ReplicationCursor(ctx context.Context, req *pdu.ReplicationCursorReq) (*pdu.ReplicationCursorRes, error) {
	return &pdu.ReplicationCursorRes{Result: &pdu.ReplicationCursorRes_Guid{Guid: 7}}, f.seen(ctx, "ReplicationCursor", req)
}

func (f *fake) SendDry(ctx context.Context, req *pdu.SendReq) (*pdu.SendRes, error) {
	return &pdu.SendRes{ExpectedSize: uint64(f.size)}, f.seen(ctx, "SendDry", req)
}

func (f *fake) Send(ctx context.Context, req *pdu.SendReq) (*pdu.SendRes, io.ReadCloser, error) {
	stream := f.stream
	if stream == nil {
		stream = synth.NewStream(synth.Spec{Seed: req.To.Guid, Size: f.size})
	}
	return &pdu.SendRes{ExpectedSize: uint64(f.size)}, stream, f.seen(ctx, "Send", req)
}

func (f *fake) Receive(ctx context.Context, req *pdu.ReceiveReq, stream io.Reader) (*pdu.ReceiveRes, error) {
	if err := f.seen(ctx, "Receive", req); err != nil {
		return nil, err
	}
	_, err := io.Copy(synth.NewChecker(req.To.Guid, 0), stream)
	return &pdu.ReceiveRes{}, err
}

// What requests are made of; each call makes its own copy.

func version() *pdu.FilesystemVersion {
	return &pdu.FilesystemVersion{Name: "s_2", Guid: 2, CreateTXG: 20, Creation: "2026-01-02T03:04:05Z"}
}

func bookmark() *pdu.FilesystemVersion {
	return &pdu.FilesystemVersion{Type: pdu.FilesystemVersion_Bookmark, Name: "CURSOR_G_1", Guid: 1, CreateTXG: 10}
}

func protection() *pdu.ReplicationConfig {
	return &pdu.ReplicationConfig{Protection: &pdu.ReplicationConfigProtection{
		Initial:     pdu.ReplicationGuaranteeKind_GuaranteeResumability,
		Incremental: pdu.ReplicationGuaranteeKind_GuaranteeNothing,
	}}
}

func sendReq() *pdu.SendReq {
	return &pdu.SendReq{Filesystem: "a/b", From: bookmark(), To: version(), ReplicationConfig: protection()}
}

func receiveReq() *pdu.ReceiveReq {
	return &pdu.ReceiveReq{Filesystem: "a/b", To: version(), ReplicationConfig: protection()}
}

// request is any request of the endpoint's protocol, with its method.
type request struct {
	method string
	req    proto.Message
}

// requests holds one good request for each method.
func requests() []request {
	return []request{
		{"ListFilesystems", &pdu.ListFilesystemReq{}},
		{"ListFilesystemVersions", &pdu.ListFilesystemVersionsReq{Filesystem: "a/b"}},
		{"DestroySnapshots", &pdu.DestroySnapshotsReq{Filesystem: "a/b", Snapshots: []*pdu.FilesystemVersion{version()}}},
		{"SendCompleted", &pdu.SendCompletedReq{OriginalReq: sendReq()}},
		{"ReplicationCursor", &pdu.ReplicationCursorReq{Filesystem: "a/b"}},
		{"SendDry", sendReq()},
		{"Send", sendReq()},
		{"Receive", receiveReq()},
	}
}

func (r request) onData() bool { return r.method == "Send" || r.method == "Receive" }

// do makes the call and reads or writes the stream, if it has one.
func (r request) do(ctx context.Context, c *Client, stream io.Reader) (proto.Message, error) {
	switch req := r.req.(type) {
	case *pdu.ListFilesystemReq:
		return c.ListFilesystems(ctx, req)
	case *pdu.ListFilesystemVersionsReq:
		return c.ListFilesystemVersions(ctx, req)
	case *pdu.DestroySnapshotsReq:
		return c.DestroySnapshots(ctx, req)
	case *pdu.SendCompletedReq:
		return c.SendCompleted(ctx, req)
	case *pdu.ReplicationCursorReq:
		return c.ReplicationCursor(ctx, req)
	case *pdu.ReceiveReq:
		return c.Receive(ctx, req, stream)
	}
	req := r.req.(*pdu.SendReq)
	if r.method == "SendDry" {
		return c.SendDry(ctx, req)
	}
	return send(ctx, c, req)
}

// send reads the whole stream and checks its content.
func send(ctx context.Context, c *Client, req *pdu.SendReq) (proto.Message, error) {
	res, stream, err := c.Send(ctx, req)
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	_, err = io.Copy(synth.NewChecker(req.GetTo().GetGuid(), 0), stream)
	return res, err
}
