package main

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/dualrepl/dualrepl/bench/internal/ends"
	"github.com/dualrepl/dualrepl/bench/internal/process"
	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/endpoint/flow"
	"github.com/dualrepl/dualrepl/pdu"
	"github.com/dualrepl/dualrepl/rpc"
	"github.com/dualrepl/dualrepl/transport/tcp"
)

// burstyEnd is one end of a stream between programs that stall.
type burstyEnd struct {
	Size    int64 // of the stream, in bytes
	Buffer  int64 // of this end, in bytes
	First   int64 // bytes before this end's program stalls for the first time; 0: never
	Burst   int64 // bytes before it stalls again
	Stall   time.Duration
	Address string // of the line to the server
}

// burstyEnds are the two ends, which the benchmark starts.
func burstyEnds() []*cobra.Command {
	return []*cobra.Command{endCommand("bursty-serve", serveBursty), endCommand("bursty-dial", dialBursty)}
}

func serveBursty(ctx context.Context, e burstyEnd) error {
	return serveEndpoint(ctx, flow.Receiver(burstyReceiver{end: e}, flow.Options{Buffer: e.Buffer}))
}

func dialBursty(ctx context.Context, e burstyEnd) error {
	client, err := rpc.NewClient(tcp.NewConnecter(e.Address), rpc.ClientOptions{})
	if err != nil {
		return err
	}
	defer client.Close() // all was answered
	if err := client.WaitForConnectivity(ctx); err != nil {
		return err
	}
	result, err := measured(func() error { return e.replicate(ctx, client) })
	if err != nil {
		return err
	}
	return process.Say(result)
}

// replicate does what a driver does with a step.
func (e burstyEnd) replicate(ctx context.Context, client *rpc.Client) error {
	to := &pdu.FilesystemVersion{Name: "v", Guid: 1, CreateTXG: 1, Creation: "2026-01-01T00:00:00Z"}
	protection := &pdu.ReplicationConfig{Protection: &pdu.ReplicationConfigProtection{
		Initial:     pdu.ReplicationGuaranteeKind_GuaranteeNothing,
		Incremental: pdu.ReplicationGuaranteeKind_GuaranteeNothing,
	}}
	sender := flow.Sender(burstySender{end: e}, flow.Options{Buffer: e.Buffer})
	_, stream, err := sender.Send(ctx, &pdu.SendReq{Filesystem: "bench", To: to, ReplicationConfig: protection})
	if err != nil {
		return err
	}
	_, err = client.Receive(ctx, &pdu.ReceiveReq{Filesystem: "bench", To: to, ReplicationConfig: protection}, stream)
	return errors.Join(err, stream.Close())
}

// stalls has a program sleep now and then.
type stalls struct {
	end  burstyEnd
	left int64 // bytes before the next one
}

// next returns how many of n bytes come before the next stall, which it sits out if
// there are none.
func (s *stalls) next(n int) int {
	if s.end.First == 0 {
		return n
	}
	if s.left == 0 {
		time.Sleep(s.end.Stall)
		s.left = s.end.Burst
	}
	return int(min(int64(n), s.left))
}

// burstySender sends generated content; the benchmark needs nothing else of it.
type burstySender struct {
	endpoint.Sender // nil: what the benchmark never calls
	end             burstyEnd
}

// Send implements endpoint.Sender.
func (s burstySender) Send(context.Context, *pdu.SendReq) (*pdu.SendRes, io.ReadCloser, error) {
	source, err := ends.Generated.Source(s.end.Size)
	return &pdu.SendRes{}, &burstySource{source, stalls{s.end, s.end.First}}, err
}

type burstySource struct {
	io.ReadCloser
	stalls stalls
}

// Read implements io.Reader.
func (s *burstySource) Read(p []byte) (int, error) {
	n, err := s.ReadCloser.Read(p[:s.stalls.next(len(p))])
	s.stalls.left -= int64(n)
	return n, err
}

// burstyReceiver takes any content of the right size.
type burstyReceiver struct {
	endpoint.Receiver // nil: what the benchmark never calls
	end               burstyEnd
}

// Receive implements endpoint.Receiver.
func (r burstyReceiver) Receive(_ context.Context, _ *pdu.ReceiveReq, stream io.Reader) (*pdu.ReceiveRes, error) {
	counted, err := openSink(ends.Generated, r.end.Size)
	if err != nil {
		return nil, err
	}
	_, err = io.Copy(&burstySink{counted, stalls{r.end, r.end.First}}, stream)
	return &pdu.ReceiveRes{}, errors.Join(err, counted.Close())
}

type burstySink struct {
	io.Writer
	stalls stalls
}

// Write implements io.Writer.
func (s *burstySink) Write(p []byte) (written int, err error) {
	for written < len(p) && err == nil {
		var n int
		n, err = s.Writer.Write(p[written:][:s.stalls.next(len(p)-written)])
		s.stalls.left -= int64(n)
		written += n
	}
	return written, err
}
