package replication

import (
	"context"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/endpoint/synth"
	"github.com/dualrepl/dualrepl/pdu"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// call is one call of an endpoint's method, as a fault sees it.
type call struct {
	ctx        context.Context
	filesystem string // "" for ListFilesystems
	n          int    // the n-th call of this method, from 1
}

// fault fails calls; nil lets them pass.
type fault func(call) error

// faults are the faults of one endpoint, by method.
type faults struct {
	before map[string]fault // in place of the call
	after  map[string]fault // the call was made, its answer is lost

	mu    sync.Mutex
	calls map[string]int
	log   []string // "Method filesystem", in order
}

func (f *faults) enter(ctx context.Context, method, filesystem string) (call, error) {
	f.mu.Lock()
	if f.calls == nil {
		f.calls = map[string]int{}
	}
	f.calls[method]++
	f.log = append(f.log, strings.TrimSpace(method+" "+filesystem))
	c := call{ctx, filesystem, f.calls[method]}
	f.mu.Unlock()
	return c, apply(f.before[method], c)
}

func apply(f fault, c call) error {
	if f == nil {
		return nil
	}
	return f(c)
}

// count tells how often a method was called.
func (f *faults) count(method string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[method]
}

// on makes a fault that fails the given calls (from 1) with err.
func on(err error, calls ...int) fault {
	return func(c call) error {
		if slices.Contains(calls, c.n) {
			return err
		}
		return nil
	}
}

// always makes a fault that fails every call for one filesystem; "": for any.
func always(err error, filesystem string) fault {
	return func(c call) error {
		if filesystem == "" || c.filesystem == filesystem {
			return err
		}
		return nil
	}
}

// hang makes a fault that answers nothing until the call's context ends.
func hang(c call) error {
	<-c.ctx.Done()
	return context.Cause(c.ctx)
}

// through makes a call with the faults around it.
func through[Res any](ctx context.Context, f *faults, method, filesystem string, do func() (Res, error)) (Res, error) {
	var zero Res
	c, err := f.enter(ctx, method, filesystem)
	if err != nil {
		return zero, err
	}
	res, err := do()
	if err != nil {
		return zero, err
	}
	if err := apply(f.after[method], c); err != nil {
		return zero, err
	}
	return res, nil
}

// fakeSender is a Source with faults.
type fakeSender struct {
	*synth.Source
	faults
	extra []*pdu.FilesystemVersion // is appended to every list of versions
	list  []*pdu.Filesystem        // is appended to the list of filesystems
}

func newFakeSender() *fakeSender {
	return &fakeSender{Source: &synth.Source{}, faults: faults{before: map[string]fault{}, after: map[string]fault{}}}
}

func (s *fakeSender) ListFilesystems(ctx context.Context, req *pdu.ListFilesystemReq) (*pdu.ListFilesystemRes, error) {
	res, err := through(ctx, &s.faults, "ListFilesystems", "", func() (*pdu.ListFilesystemRes, error) { return s.Source.ListFilesystems(ctx, req) })
	if err == nil {
		res.Filesystems = append(res.Filesystems, s.list...)
	}
	return res, err
}

func (s *fakeSender) ListFilesystemVersions(ctx context.Context, req *pdu.ListFilesystemVersionsReq) (*pdu.ListFilesystemVersionsRes, error) {
	res, err := through(ctx, &s.faults, "ListFilesystemVersions", req.Filesystem, func() (*pdu.ListFilesystemVersionsRes, error) {
		return s.Source.ListFilesystemVersions(ctx, req)
	})
	if err == nil {
		res.Versions = append(res.Versions, s.extra...)
	}
	return res, err
}

func (s *fakeSender) SendDry(ctx context.Context, req *pdu.SendReq) (*pdu.SendRes, error) {
	return through(ctx, &s.faults, "SendDry", req.Filesystem, func() (*pdu.SendRes, error) { return s.Source.SendDry(ctx, req) })
}

func (s *fakeSender) Send(ctx context.Context, req *pdu.SendReq) (*pdu.SendRes, io.ReadCloser, error) {
	var stream io.ReadCloser
	res, err := through(ctx, &s.faults, "Send", req.Filesystem, func() (res *pdu.SendRes, err error) {
		res, stream, err = s.Source.Send(ctx, req)
		return res, err
	})
	return res, stream, err
}

func (s *fakeSender) SendCompleted(ctx context.Context, req *pdu.SendCompletedReq) (*pdu.SendCompletedRes, error) {
	return through(ctx, &s.faults, "SendCompleted", req.OriginalReq.Filesystem, func() (*pdu.SendCompletedRes, error) {
		return s.Source.SendCompleted(ctx, req)
	})
}

// fakeReceiver is a Sink with faults.
type fakeReceiver struct {
	*synth.Sink
	faults
	wrap     func(io.Reader) io.Reader // around each stream; nil: none
	received []*pdu.ReceiveReq
}

func newFakeReceiver() *fakeReceiver {
	return &fakeReceiver{Sink: &synth.Sink{}, faults: faults{before: map[string]fault{}, after: map[string]fault{}}}
}

func (r *fakeReceiver) ListFilesystems(ctx context.Context, req *pdu.ListFilesystemReq) (*pdu.ListFilesystemRes, error) {
	return through(ctx, &r.faults, "ListFilesystems", "", func() (*pdu.ListFilesystemRes, error) { return r.Sink.ListFilesystems(ctx, req) })
}

func (r *fakeReceiver) ListFilesystemVersions(ctx context.Context, req *pdu.ListFilesystemVersionsReq) (*pdu.ListFilesystemVersionsRes, error) {
	return through(ctx, &r.faults, "ListFilesystemVersions", req.Filesystem, func() (*pdu.ListFilesystemVersionsRes, error) {
		return r.Sink.ListFilesystemVersions(ctx, req)
	})
}

func (r *fakeReceiver) Receive(ctx context.Context, req *pdu.ReceiveReq, stream io.Reader) (*pdu.ReceiveRes, error) {
	r.mu.Lock()
	r.received = append(r.received, req)
	r.mu.Unlock()
	if r.wrap != nil {
		stream = r.wrap(stream)
	}
	return through(ctx, &r.faults, "Receive", req.Filesystem, func() (*pdu.ReceiveRes, error) { return r.Sink.Receive(ctx, req, stream) })
}

// names lists the snapshots of an endpoint's filesystem; "none" if it has no such filesystem.
func names(t *testing.T, e endpoint.Endpoint, filesystem string) string {
	t.Helper()
	res, err := e.ListFilesystemVersions(context.WithoutCancel(t.Context()), &pdu.ListFilesystemVersionsReq{Filesystem: filesystem})
	if err != nil {
		return "none"
	}
	var names []string
	for _, v := range snapshotsOf(res.Versions) {
		names = append(names, v.Name)
	}
	return strings.Join(names, " ")
}

// steps writes a report's completed steps as "from>to", with "+" where one was resumed.
func steps(f FilesystemReport) string {
	var words []string
	for _, s := range f.Steps {
		word := s.From + ">" + s.To
		if s.Resumed {
			word += "+"
		}
		words = append(words, word)
	}
	return strings.Join(words, " ")
}
