package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"syscall"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/dualrepl/dualrepl/dataconn"
	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/endpoint/synth"
	"github.com/dualrepl/dualrepl/pdu"
	"github.com/dualrepl/dualrepl/transport"
)

// ways are the ways in which a client can speak to a server.
var ways = map[string]ClientOptions{
	"extended": {},
	"base":     {BaseProtocol: true},
	"mux":      {Mux: true},
}

// forEachWay runs a test over all transports, in all ways.
func forEachWay(t *testing.T, test func(t *testing.T, p pair, opts ClientOptions)) {
	for transport, p := range transports {
		for way, opts := range ways {
			t.Run(transport+"/"+way, func(t *testing.T) { test(t, p, opts) })
		}
	}
}

// An endpoint's errors are the same at the other end, on both channels; the base
// protocol has only text on the data channel.
func TestSentinelsCrossBothChannels(t *testing.T) {
	forEachWay(t, func(t *testing.T, p pair, opts ClientOptions) {
		var answer answer
		l, c := p(t)
		serve(t, l, &fake{hook: answer.hook}, ServerOptions{})
		client := newClient(t, c, opts)
		for _, s := range sentinelCodes {
			answer.set(fmt.Errorf("in short: %w", s.sentinel))
			for _, r := range requests() {
				_, err := r.do(t.Context(), client, strings.NewReader(""))
				if r.onData() && opts.BaseProtocol {
					checkRemote(t, err, "in short: "+s.sentinel.Error())
				} else if !errors.Is(err, s.sentinel) || status.Code(err) != s.code {
					t.Errorf("%s: error is %v, not %v", r.method, err, s.sentinel)
				}
				if got := OutcomeOf(err); got != Answered {
					t.Errorf("%s: %v is %v", r.method, err, got)
				}
			}
		}
	})
}

// An answer is what a fake's hook returns.
type answer struct {
	mu  sync.Mutex
	err error
}

func (a *answer) set(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.err = err
}

func (a *answer) hook(context.Context, string, proto.Message) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.err
}

// The error that ends a stream is the same at the other end, too, in both directions.
func TestSentinelsEndStreams(t *testing.T) {
	for way, opts := range ways {
		t.Run(way, func(t *testing.T) {
			broken := func() io.Reader {
				return synth.NewStream(synth.Spec{Seed: version().Guid, Size: megabyte, FailAt: 7, Fail: endpoint.ErrNoSpace})
			}
			l, c := tcpPair(t)
			received := make(chan error, 1)
			serve(t, l, &receiverOf{fake: fake{stream: io.NopCloser(broken())}, received: received}, ServerOptions{})
			client := newClient(t, c, opts)

			_, stream, err := client.Send(t.Context(), sendReq())
			check(t, err)
			_, sent := io.Copy(io.Discard, stream)
			check(t, stream.Close())
			_, err = client.Receive(t.Context(), receiveReq(), broken())
			if !errors.Is(err, endpoint.ErrNoSpace) {
				t.Errorf("the caller's own stream failed with %v", err)
			}
			for _, err := range []error{sent, <-received} {
				if errors.Is(err, endpoint.ErrNoSpace) != !opts.BaseProtocol {
					t.Errorf("the stream ended with %v", err)
				}
			}
		})
	}
}

// receiverOf tells what a received stream ended with.
type receiverOf struct {
	fake
	received chan error
}

func (r *receiverOf) Receive(_ context.Context, _ *pdu.ReceiveReq, stream io.Reader) (*pdu.ReceiveRes, error) {
	_, err := io.Copy(io.Discard, stream)
	r.received <- err
	return &pdu.ReceiveRes{}, err
}

// Nobody answers: no call was sent.
func TestOutcomeNotSent(t *testing.T) {
	for way, opts := range ways {
		t.Run(way, func(t *testing.T) {
			client := newClient(t, connecterFunc(func(context.Context) (transport.Wire, error) {
				return nil, syscall.ECONNREFUSED
			}), opts)
			for _, r := range requests() {
				_, err := r.do(t.Context(), client, strings.NewReader(""))
				if got := OutcomeOf(err); got != NotSent || !errors.Is(err, ErrDisconnected) || !errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("%s: %v is %v", r.method, err, got)
				}
				if status.Code(err) != codes.Unavailable {
					t.Errorf("%s: code is %v", r.method, status.Code(err))
				}
			}
		})
	}
}

// The connection breaks while the handler runs: the call may have run. The next one has a
// connection, and an answer, of its own, although the first one's handler answers as well.
func TestOutcomeMayHaveRunAndEpochs(t *testing.T) {
	for way, opts := range ways {
		for _, r := range requests() {
			t.Run(way+"/"+r.method, func(t *testing.T) {
				l, c := tcpPair(t)
				wires := &cutter{Connecter: c}
				var first sync.Once
				serve(t, l, &fake{hook: func(ctx context.Context, method string, _ proto.Message) error {
					first.Do(func() {
						wires.cut()
						if method != "Receive" { // which learns it from its stream
							<-ctx.Done()
						}
					})
					return nil
				}, size: 1000}, ServerOptions{})
				client := newClient(t, wires, opts)
				stream := func() io.Reader { return synth.NewStream(synth.Spec{Seed: version().Guid, Size: 1000}) }
				_, err := r.do(t.Context(), client, stream())
				if got := OutcomeOf(err); err == nil || got != MayHaveRun || errors.Is(err, ErrDisconnected) {
					t.Errorf("%v is %v", err, got)
				}
				_, err = r.do(WaitForReady(t.Context()), client, stream())
				check(t, err)
			})
		}
	}
}

// cutter is a Connecter that can reset all its connections.
type cutter struct {
	transport.Connecter
	mu    sync.Mutex
	wires []transport.Wire
}

func (c *cutter) Connect(ctx context.Context) (transport.Wire, error) {
	wire, err := c.Connecter.Connect(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		c.wires = append(c.wires, wire)
	}
	return wire, err
}

func (c *cutter) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, wire := range c.wires {
		_ = wire.Close()
	}
	c.wires = nil
}

// A peer's handler whose own call went wrong does not look like our connection.
func TestRemoteErrorsAreNotOurs(t *testing.T) {
	var answer answer
	l, c := tcpPair(t)
	serve(t, l, &fake{hook: answer.hook}, ServerOptions{})
	client := newClient(t, c, ClientOptions{})
	ours := []error{ErrDisconnected, context.DeadlineExceeded, context.Canceled, io.ErrUnexpectedEOF, syscall.ECONNREFUSED}
	for _, theirs := range append(ours, status.Error(codes.Unavailable, "theirs"), &dataconn.ConnError{Err: io.ErrUnexpectedEOF}) {
		answer.set(theirs)
		for _, r := range requests() {
			_, err := r.do(t.Context(), client, strings.NewReader(""))
			for _, sentinel := range ours {
				if err == nil || errors.Is(err, sentinel) {
					t.Errorf("%s: the handler's %v looks like our own: %v", r.method, theirs, err)
				}
			}
			if got := OutcomeOf(err); got != Answered {
				t.Errorf("%s: %v is %v", r.method, err, got)
			}
		}
	}
}

// What became of another call does not tell of this one, although its error is why this
// one ended: by the caller's context, or by the stream that was to be sent.
func TestOutcomeIsTheCallsOwn(t *testing.T) {
	others := map[string]error{"answered": nil, "not sent": nil}
	refused := connect(t, localPair, &fake{hook: func(context.Context, string, proto.Message) error { return endpoint.ErrBusy }})
	nobody := newClient(t, connecterFunc(func(context.Context) (transport.Wire, error) { return nil, syscall.ECONNREFUSED }), ClientOptions{})
	_, _, others["answered"] = refused.Send(t.Context(), sendReq())
	_, _, others["not sent"] = nobody.Send(t.Context(), sendReq())
	for name, other := range others {
		if got := OutcomeOf(other).String(); got != name {
			t.Fatalf("%v is %v", other, got)
		}
		for way, opts := range ways {
			t.Run(way+"/"+name, func(t *testing.T) {
				begun := make(chan struct{})
				l, c := tcpPair(t)
				serve(t, l, &fake{hook: func(ctx context.Context, method string, _ proto.Message) error {
					if method != "Receive" { // which learns it from its stream
						begun <- struct{}{}
						<-ctx.Done()
					}
					return nil
				}}, ServerOptions{})
				client := newClient(t, c, opts)
				for _, r := range requests() {
					ctx, cancel := context.WithCancelCause(t.Context())
					stream := io.Reader(synth.NewStream(synth.Spec{Seed: version().Guid, Size: megabyte, FailAt: 7, Fail: other}))
					if r.method != "Receive" {
						go func() { <-begun; cancel(other) }()
					}
					_, err := r.do(ctx, client, stream)
					if got := OutcomeOf(err); err == nil || got != MayHaveRun || !r.onData() && status.Code(err) != codes.Canceled {
						t.Errorf("%s: %v is %v", r.method, err, got)
					}
					cancel(nil)
				}
			})
		}
	}
}

// An answer that came is the call's error, also if its context has ended since.
func TestAnswerBeforeEndOfContext(t *testing.T) {
	client, rec := new(Client), new(record)
	rec.answered.Store(true)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	err := client.newCallError(ended, "SendDry", status.Error(codes.NotFound, "gone"), rec)
	if !errors.Is(err, endpoint.ErrNotFound) || errors.Is(err, context.Canceled) || OutcomeOf(err) != Answered {
		t.Errorf("error is %v (%v)", err, OutcomeOf(err))
	}
}
