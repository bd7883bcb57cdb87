package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/dualrepl/dualrepl/bench/internal/contender"
	"github.com/dualrepl/dualrepl/bench/internal/ends"
	"github.com/dualrepl/dualrepl/bench/internal/process"
)

// streamEnd is one end of a transfer.
type streamEnd struct {
	transfer
	Contender    string
	Certificates string    // directory
	Kind         ends.Kind // of the source or the sink
	Address      string    // of the server
	Profile      string    // file; "" for none
}

// streamEnds are the two ends of a transfer, which the benchmark starts.
func streamEnds() []*cobra.Command {
	return []*cobra.Command{endCommand("stream-serve", serveStreams), endCommand("stream-dial", dialStreams)}
}

func (e streamEnd) find() (contender.Contender, error) {
	found, err := contender.Named([]string{e.Contender}, e.Certificates)
	if err != nil {
		return contender.Contender{}, err
	}
	return found[0], nil
}

// maxWarmUp is the size of the stream that comes before the measured ones, in bytes: it
// opens TCP's windows and touches the buffers' memory. No more is moved than is measured.
const maxWarmUp = 256 << 20

func (t transfer) warmUp() int64 { return min(maxWarmUp, t.Size*int64(t.Streams)) }

// served is what a server opens for its streams. The first one warms up; it measures
// from the second on.
type served struct {
	end streamEnd

	mu          sync.Mutex
	opened      int
	before      process.Usage
	stopProfile func() error
}

func (s *served) begin() (size int64, kind ends.Kind, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opened++
	if s.opened == 1 {
		return s.end.warmUp(), ends.Generated, nil
	}
	if s.opened == 2 {
		err = s.beginMeasuring()
	}
	return s.end.Size, s.end.Kind, err
}

func (s *served) beginMeasuring() (err error) {
	if s.stopProfile, err = startProfile(s.end.Profile); err != nil {
		return err
	}
	s.before, err = process.Now()
	return err
}

// say tells what all streams but the first took.
func (s *served) say() error {
	now, err := process.Now()
	if err != nil {
		return err
	}
	if s.stopProfile != nil {
		err = s.stopProfile()
	}
	return errors.Join(err, process.Say(now.Since(s.before)))
}

// Source implements contender.Ends.
func (s *served) Source() (io.ReadCloser, error) {
	size, kind, err := s.begin()
	if err != nil {
		return nil, err
	}
	return kind.Source(size)
}

// Sink implements contender.Ends.
func (s *served) Sink() (io.WriteCloser, error) {
	size, kind, err := s.begin()
	if err != nil {
		return nil, err
	}
	return openSink(kind, size)
}

// countedSink fails if it was not given what it should be.
type countedSink struct {
	io.WriteCloser
	n, want int64
}

func openSink(kind ends.Kind, want int64) (*countedSink, error) {
	sink, err := kind.Sink()
	return &countedSink{WriteCloser: sink, want: want}, err
}

// Write implements io.Writer.
func (c *countedSink) Write(p []byte) (int, error) {
	n, err := c.WriteCloser.Write(p)
	c.n += int64(n)
	return n, err
}

// Close implements io.Closer.
func (c *countedSink) Close() error {
	err := c.WriteCloser.Close()
	if err == nil && c.n != c.want {
		err = fmt.Errorf("%d bytes came, not %d", c.n, c.want)
	}
	return err
}

func serveStreams(ctx context.Context, e streamEnd) error {
	c, err := e.find()
	if err != nil {
		return err
	}
	s := &served{end: e}
	if err := c.Serve(process.Stopped(ctx), s, func(a net.Addr) { _ = process.Say(a.String()) }); err != nil {
		return err
	}
	return s.say()
}

func dialStreams(ctx context.Context, e streamEnd) error {
	c, err := e.find()
	if err != nil {
		return err
	}
	client, err := c.Dial(ctx, e.Address)
	if err != nil {
		return err
	}
	defer client.Close() // the server has answered
	if err := e.move(ctx, client, e.warmUp(), ends.Generated, nil); err != nil {
		return fmt.Errorf("warming up: %w", err)
	}
	stopProfile, err := startProfile(e.Profile)
	if err != nil {
		return err
	}
	result, err := measured(func() error { return e.moveAll(ctx, client) })
	if err := errors.Join(err, stopProfile()); err != nil {
		return err
	}
	return process.Say(result)
}

// moveAll moves the streams, several at once.
func (e streamEnd) moveAll(ctx context.Context, client contender.Client) error {
	g, ctx := errgroup.WithContext(ctx)
	var middle *gate
	if e.Together {
		middle = newGate(ctx, e.Streams)
	}
	var begun atomic.Int64
	for range e.AtOnce {
		g.Go(func() error {
			for begun.Add(1) <= int64(e.Streams) {
				if err := e.move(ctx, client, e.Size, e.Kind, middle); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// move moves one stream. Where there is a gate, it waits at its half.
func (e streamEnd) move(ctx context.Context, client contender.Client, size int64, kind ends.Kind, middle *gate) error {
	if err := middle.enter(); err != nil {
		return err
	}
	if e.Direction == directionSend {
		src, err := kind.Source(size)
		if err != nil {
			return err
		}
		defer src.Close() // it was only read
		return client.Send(ctx, middle.reader(src, size/2))
	}
	dst, err := openSink(kind, size)
	if err != nil {
		return err
	}
	return errors.Join(client.Receive(ctx, middle.writer(dst, size/2)), dst.Close())
}
