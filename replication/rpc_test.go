package replication

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/endpoint/synth"
	"github.com/dualrepl/dualrepl/pdu"
	"github.com/dualrepl/dualrepl/rpc"
	"github.com/dualrepl/dualrepl/transport/local"
)

// overRPC serves an endpoint, and calls use with the client of a peer of its own.
func overRPC(t *testing.T, served endpoint.Endpoint, use func(*rpc.Client)) {
	t.Helper()
	wire := local.New("peer")
	ctx, stop := context.WithCancel(t.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- rpc.NewServer(served, rpc.ServerOptions{}).Serve(ctx, wire.Listener()) }()
	client, err := rpc.NewClient(wire.Connecter(), rpc.ClientOptions{})
	if err != nil {
		t.Fatal(err)
	}
	use(client)
	client.Close()
	stop()
	if err := <-stopped; err != nil {
		t.Errorf("Serve: %v", err)
	}
}

// prepared is a source with two versions whose first stream breaks as a lost connection does.
func prepared() *synth.Source {
	s := &synth.Source{}
	s.Snapshot("data/docs", "one", 3_000_000)
	s.Snapshot("data/docs", "two", 1_000_000)
	s.FailAt("data/docs", 2_000_000, io.ErrUnexpectedEOF)
	return s
}

func checkResumed(t *testing.T, rep *Report) {
	t.Helper()
	f := rep.Filesystems[0]
	if steps(f) != ">@one+ @one>@two" || f.Bytes > 4_001_000 {
		t.Errorf("report is %+v", f)
	}
}

func TestPushOverRPC(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, r := prepared(), &synth.Sink{}
		overRPC(t, r, func(c *rpc.Client) {
			checkResumed(t, mustRun(t, s, c, Options{InitialPolicy: InitialAll, Tokens: s}))
		})
		if got := names(t, r, "data/docs"); got != "one two" {
			t.Errorf("the receiver has %q", got)
		}
	})
}

// TestPullOverRPC: the sender's error arrives as text, which may pass: the step resumes.
func TestPullOverRPC(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, r := prepared(), &synth.Sink{}
		overRPC(t, s, func(c *rpc.Client) {
			checkResumed(t, mustRun(t, c, r, Options{InitialPolicy: InitialAll, Tokens: r}))
		})
		if got := names(t, r, "data/docs"); got != "one two" {
			t.Errorf("the receiver has %q", got)
		}
	})
}

// otherKind is a receiver of streams that no sender here has.
type otherKind struct{ *synth.Sink }

func (r otherKind) ListFilesystems(ctx context.Context, req *pdu.ListFilesystemReq) (*pdu.ListFilesystemRes, error) {
	res, err := r.Sink.ListFilesystems(ctx, req)
	res.StreamKinds = []string{string(endpoint.StreamZFS)}
	return res, err
}

func (otherKind) Receive(context.Context, *pdu.ReceiveReq, io.Reader) (*pdu.ReceiveRes, error) {
	return nil, errors.New("a stream came")
}

// TestStreamKindsDiffer: whichever side is remote, the sender refuses to begin.
func TestStreamKindsDiffer(t *testing.T) {
	check := func(err error) {
		t.Helper()
		if !errors.Is(err, endpoint.ErrInvalid) || !strings.Contains(err.Error(), "the receiver takes zfs streams; this sender has synth streams") {
			t.Errorf("error is %v", err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		s, r := &synth.Source{}, otherKind{&synth.Sink{}}
		s.Snapshot("data", "one", 1000)
		overRPC(t, r, func(c *rpc.Client) {
			_, err := Run(t.Context(), s, c, Options{})
			check(err)
		})
		overRPC(t, s, func(c *rpc.Client) {
			_, err := Run(t.Context(), c, r, Options{})
			check(err)
		})
	})
}
