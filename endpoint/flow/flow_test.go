package flow_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/endpoint/endpointtest"
	"github.com/dualrepl/dualrepl/endpoint/flow"
	"github.com/dualrepl/dualrepl/endpoint/synth"
	"github.com/dualrepl/dualrepl/pdu"
)

const (
	kib = 1 << 10
	mib = 1 << 20
)

// variants are the ways to wrap an endpoint.
func variants() map[string]flow.Options {
	return map[string]flow.Options{
		"buffer":           {Buffer: mib},
		"limit":            {Limit: flow.NewLimit(1<<40, 0)},
		"buffer and limit": {Buffer: 1, Limit: flow.NewLimit(1<<40, 1000)},
	}
}

func TestConformance(t *testing.T) {
	for name, opts := range variants() {
		t.Run(name, func(t *testing.T) {
			newSender := func(*testing.T) endpointtest.Sender {
				source := &synth.Source{}
				source.AddFilesystem("data")
				return endpointtest.Sender{
					Sender: flow.Sender(source, opts), Filesystem: "data",
					Snapshot: func(_ *testing.T, name string) { source.Snapshot("data", name, 300_000) },
				}
			}
			endpointtest.TestSender(t, newSender)
			endpointtest.TestReceiver(t, func(t *testing.T) (endpointtest.Sender, endpointtest.Receiver) {
				return newSender(t), endpointtest.Receiver{Receiver: flow.Receiver(&synth.Sink{}, opts)}
			})
		})
	}
}

func TestWrapping(t *testing.T) {
	source, sink := &synth.Source{}, &synth.Sink{}
	for _, none := range []flow.Options{{}, {Limit: flow.NewLimit(0, 0)}, {Limit: flow.NewLimit(-1, kib)}} {
		if flow.Sender(source, none) != endpoint.Sender(source) || flow.Receiver(sink, none) != endpoint.Receiver(sink) {
			t.Error("with nothing to do, the endpoint itself is expected")
		}
	}
	for name, opts := range variants() {
		for kind, wrapped := range map[string]struct {
			e    any
			want bool
		}{
			"sender that reads tokens":   {flow.Sender(source, opts), true},
			"receiver that reads tokens": {flow.Receiver(sink, opts), true},
			"sender that does not":       {flow.Sender(sender{}, opts), false},
			"receiver that does not":     {flow.Receiver(receiver{}, opts), false},
		} {
			if _, is := wrapped.e.(endpoint.TokenReader); is != wrapped.want {
				t.Errorf("%s, %s: TokenReader is %t", name, kind, is)
			}
		}
	}
}

// sender sends one stream.
type sender struct {
	endpoint.Sender
	open func(context.Context) (io.ReadCloser, error)
}

func (s sender) Send(ctx context.Context, _ *pdu.SendReq) (*pdu.SendRes, io.ReadCloser, error) {
	stream, err := s.open(ctx)
	return &pdu.SendRes{}, stream, err
}

// send returns what is sent of a program that is open with the context.
func send(t *testing.T, opts flow.Options, open func(context.Context) io.ReadCloser) io.ReadCloser {
	t.Helper()
	s := flow.Sender(sender{open: func(ctx context.Context) (io.ReadCloser, error) { return open(ctx), nil }}, opts)
	_, stream, err := s.Send(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

// receiver has a function receive.
type receiver struct {
	endpoint.Receiver
	program func(context.Context, io.Reader) error
}

func (r receiver) Receive(ctx context.Context, _ *pdu.ReceiveReq, stream io.Reader) (*pdu.ReceiveRes, error) {
	return &pdu.ReceiveRes{}, r.program(ctx, stream)
}

func receive(t *testing.T, opts flow.Options, stream io.Reader, program func(context.Context, io.Reader) error) error {
	t.Helper()
	_, err := flow.Receiver(receiver{program: program}, opts).Receive(t.Context(), nil, stream)
	return err
}

var errInjected = errors.New("injected")

// Every byte comes, in order, and then the error, whichever way it is read.
func TestStreams(t *testing.T) {
	const block = 256 * kib
	for name, opts := range variants() {
		for _, spec := range []synth.Spec{
			{}, {Size: 1}, {Size: block - 1}, {Size: block}, {Size: 9*block + 7},
			{Size: 10, Fail: errInjected}, {Size: 5 * block, FailAt: 4 * block, Fail: errInjected}, {Size: 7, FailAt: 7, Fail: errInjected},
		} {
			for shape, source := range map[string]func(io.Reader) io.Reader{
				"whole":    func(r io.Reader) io.Reader { return r },
				"halves":   iotest.HalfReader,
				"with EOF": iotest.DataErrReader,
			} {
				t.Run(fmt.Sprintf("%s/%d of %d/%s", name, spec.FailAt, spec.Size, shape), func(t *testing.T) {
					stream := send(t, opts, func(context.Context) io.ReadCloser { return io.NopCloser(source(synth.NewStream(spec))) })
					checkStream(t, spec, stream)
					if err := stream.Close(); err != nil {
						t.Errorf("Close: %v", err)
					}
					for way, reader := range map[string]io.Reader{
						"Read": struct{ io.Reader }{source(synth.NewStream(spec))}, "WriteTo": synth.NewStream(spec),
					} {
						t.Run(way, func(t *testing.T) {
							_ = receive(t, opts, reader, func(_ context.Context, stream io.Reader) error {
								checkStream(t, spec, stream)
								return nil
							})
						})
					}
				})
			}
		}
	}
}

// checkStream reads the beginning with Read and the rest by the stream's own way.
func checkStream(t *testing.T, spec synth.Spec, stream io.Reader) {
	t.Helper()
	check := synth.NewChecker(spec.Seed, 0)
	begun, err := io.CopyN(check, struct{ io.Reader }{stream}, 1000)
	n := int64(0)
	switch err {
	case nil:
		n, err = io.Copy(check, stream)
	case io.EOF:
		err = nil
	}
	want := spec.Size
	if spec.Fail != nil {
		want = spec.FailAt
	}
	if begun+n != want || !errors.Is(err, spec.Fail) {
		t.Errorf("%d bytes and %v, want %d and %v", begun+n, err, want, spec.Fail)
	}
}

// The shorter way stays where it was, and comes with a buffer.
func TestWriterTo(t *testing.T) {
	for name, opts := range variants() {
		for _, was := range []bool{true, false} {
			stream := send(t, opts, func(context.Context) io.ReadCloser {
				program := synth.NewStream(synth.Spec{Size: 1})
				if was {
					return program
				}
				return io.NopCloser(struct{ io.Reader }{program})
			})
			if _, is := stream.(io.WriterTo); is != (was || opts.Buffer > 0) {
				t.Errorf("%s: the program is an io.WriterTo: %t, the stream is one: %t", name, was, is)
			}
			stream.Close()
		}
	}
}

func TestSendFails(t *testing.T) {
	for name, opts := range variants() {
		var ended context.Context
		s := flow.Sender(sender{open: func(ctx context.Context) (io.ReadCloser, error) {
			ended = ctx
			return nil, errInjected
		}}, opts)
		_, stream, err := s.Send(t.Context(), nil)
		if stream != nil || !errors.Is(err, errInjected) {
			t.Errorf("%s: Send returned %v and %v", name, stream, err)
		}
		if ended.Err() == nil {
			t.Errorf("%s: the context goes on", name)
		}
	}
}

// closer is a program with a Close.
type closer struct {
	io.Reader
	close func()
}

func (c closer) Close() error {
	c.close()
	return errInjected
}

// stuck is a program that says nothing until its context ends.
type stuck struct{ ctx context.Context }

func (s stuck) Read([]byte) (int, error) {
	<-s.ctx.Done()
	return 0, context.Cause(s.ctx)
}

// endless is a program without an end.
type endless struct{ read *atomic.Int64 }

func (e endless) Read(p []byte) (int, error) {
	e.read.Add(int64(len(p)))
	return len(p), nil
}

// A Close ends what waits, wherever that is.
func TestCloseEndsRead(t *testing.T) {
	for name, test := range map[string]struct {
		opts    flow.Options
		program func(context.Context) io.Reader
	}{
		"program waits":      {flow.Options{Buffer: mib}, func(ctx context.Context) io.Reader { return stuck{ctx} }},
		"limit":              {flow.Options{Limit: flow.NewLimit(1, 0)}, func(context.Context) io.Reader { return endless{new(atomic.Int64)} }},
		"limit, buffer":      {flow.Options{Buffer: mib, Limit: flow.NewLimit(1, 0)}, func(context.Context) io.Reader { return endless{new(atomic.Int64)} }},
		"limit, io.WriterTo": {flow.Options{Limit: flow.NewLimit(1, 0)}, func(context.Context) io.Reader { return synth.NewStream(synth.Spec{Size: mib}) }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				closed := 0
				stream := send(t, test.opts, func(ctx context.Context) io.ReadCloser {
					program := closer{test.program(ctx), func() { closed++ }}
					if w, ok := program.Reader.(io.WriterTo); ok {
						return struct {
							closer
							io.WriterTo
						}{program, w}
					}
					return program
				})
				failed := make(chan error)
				go func() {
					_, err := io.Copy(io.Discard, stream)
					failed <- err
				}()
				synctest.Wait()
				if err := stream.Close(); !errors.Is(err, errInjected) || closed != 1 {
					t.Errorf("Close returned %v; the program was closed %d times", err, closed)
				}
				if err := <-failed; !errors.Is(err, net.ErrClosed) {
					t.Errorf("the stream ended with %v", err)
				}
				if n, err := stream.Read(make([]byte, 1)); n != 0 || !errors.Is(err, net.ErrClosed) {
					t.Errorf("Read after Close: %d, %v", n, err)
				}
			})
		})
	}
}

// A program that is done must not be told that its step was broken off.
func TestCloseAfterTheEnd(t *testing.T) {
	for name, opts := range variants() {
		t.Run(name, func(t *testing.T) {
			var ctx context.Context
			stream := send(t, opts, func(c context.Context) io.ReadCloser {
				ctx = c
				return closer{synth.NewStream(synth.Spec{Size: mib}), func() {
					if c.Err() != nil {
						t.Errorf("closed after the context: %v", context.Cause(c))
					}
				}}
			})
			if _, err := io.Copy(io.Discard, stream); err != nil {
				t.Fatal(err)
			}
			stream.Close()
			if ctx.Err() == nil {
				t.Error("the context goes on")
			}
		})
	}
}

func TestCloseWithoutRead(t *testing.T) {
	for name, opts := range variants() {
		closed := false
		send(t, opts, func(ctx context.Context) io.ReadCloser { return closer{stuck{ctx}, func() { closed = true }} }).Close()
		if !closed {
			t.Errorf("%s: the program was not closed", name)
		}
	}
}

func TestContextEnds(t *testing.T) {
	for name, opts := range variants() {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			s := flow.Sender(sender{open: func(ctx context.Context) (io.ReadCloser, error) { return io.NopCloser(stuck{ctx}), nil }}, opts)
			_, stream, err := s.Send(ctx, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer stream.Close()
			_, err = flow.Receiver(receiver{program: func(_ context.Context, stream io.Reader) error {
				cancel(errInjected)
				_, err := io.Copy(io.Discard, stream)
				return err
			}}, opts).Receive(ctx, nil, stream)
			if !errors.Is(err, errInjected) {
				t.Errorf("Receive returned %v", err)
			}
		})
	}
}

// watched is a stream that knows whether it may be read.
type watched struct {
	io.Reader
	t     *testing.T
	reads atomic.Int64
	over  atomic.Bool
}

func (w *watched) Read(p []byte) (int, error) {
	w.reads.Add(1)
	n, err := w.Reader.Read(p)
	if w.over.Load() {
		w.t.Error("the stream was read after Receive had returned")
	}
	return n, err
}

func TestReceiveFails(t *testing.T) {
	for name, opts := range variants() {
		for _, size := range []int64{0, 1, 3 * mib} {
			t.Run(fmt.Sprintf("%s after %d", name, size), func(t *testing.T) {
				stream := &watched{Reader: endless{new(atomic.Int64)}, t: t}
				err := receive(t, opts, stream, func(_ context.Context, stream io.Reader) error {
					if _, err := io.CopyN(io.Discard, stream, size); err != nil {
						t.Error(err)
					}
					return errInjected
				})
				stream.over.Store(true)
				if !errors.Is(err, errInjected) {
					t.Errorf("Receive returned %v", err)
				}
				if n := stream.reads.Load(); size == 0 && n > 0 {
					t.Errorf("what is refused unseen was read %d times", n)
				}
			})
		}
	}
}

// full is a writer with room for so many bytes.
type full struct {
	room int
	err  error // of the Write that goes beyond it; nil: it is short
}

func (f *full) Write(p []byte) (int, error) {
	if len(p) <= f.room {
		f.room -= len(p)
		return len(p), nil
	}
	return f.room, f.err
}

func TestWriteFails(t *testing.T) {
	for name, opts := range variants() {
		for _, test := range []struct{ fails, want error }{{errInjected, errInjected}, {nil, io.ErrShortWrite}} {
			err := receive(t, opts, synth.NewStream(synth.Spec{Size: mib}), func(_ context.Context, stream io.Reader) error {
				n, err := io.Copy(&full{300_000, test.fails}, stream)
				if n != 300_000 {
					t.Errorf("%s: %d bytes were written", name, n)
				}
				return err
			})
			if !errors.Is(err, test.want) {
				t.Errorf("%s: error is %v, want %v", name, err, test.want)
			}
		}
	}
}

// A stream that is neither data nor an end must not keep a processor busy for ever.
func TestNoProgress(t *testing.T) {
	stream := send(t, flow.Options{Buffer: mib}, func(context.Context) io.ReadCloser { return io.NopCloser(empty{}) })
	defer stream.Close()
	if _, err := io.Copy(io.Discard, stream); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("error is %v", err)
	}
}

type empty struct{}

func (empty) Read([]byte) (int, error) { return 0, nil }
