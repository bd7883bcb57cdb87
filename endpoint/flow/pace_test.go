package flow_test

import (
	"context"
	"fmt"
	"io"
	"maps"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dualrepl/dualrepl/endpoint/flow"
	"github.com/dualrepl/dualrepl/endpoint/synth"
)

// counter is a sink.
type counter struct{ n atomic.Int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return len(p), nil
}

// near wants got within a share of want.
func near(t *testing.T, what string, got int64, want, share float64) {
	t.Helper()
	if math.Abs(float64(got)-want) > want*share {
		t.Errorf("%s: %d, want %.0f within %g %%", what, got, want, share*100)
	}
}

// All streams of a job, whichever way they are read and whatever their buffers are,
// have the limit together, and each an equal part of it.
func TestLimitIsShared(t *testing.T) {
	const seconds = 10
	for _, test := range []struct {
		max, burst       int64
		sends, receives  int
		buffer, readSize int64
	}{
		{max: 1000, sends: 1, readSize: 4 * kib},
		{max: 100 * kib, sends: 1, readSize: mib},
		{max: mib, sends: 1, receives: 1, readSize: 512 * kib},
		{max: mib, burst: 1000, sends: 2, readSize: 512 * kib},
		{max: 20 * mib, burst: 4 * mib, sends: 3, receives: 2, buffer: 4 * mib, readSize: 512 * kib},
		{max: 20 * mib, receives: 3, buffer: mib, readSize: 64 * kib},
	} {
		t.Run(fmt.Sprintf("%+v", test), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opts := flow.Options{Buffer: test.buffer, Limit: flow.NewLimit(test.max, test.burst)}
				counters := make([]counter, test.sends+test.receives)
				var streams sync.WaitGroup
				stop := make(chan struct{})
				for i := range counters {
					streams.Go(func() {
						if i < test.sends {
							sendUntil(t, stop, opts, test.readSize, &counters[i])
						} else {
							receiveUntil(t, stop, opts, test.readSize, &counters[i])
						}
					})
				}
				time.Sleep(seconds * time.Second)
				synctest.Wait()
				all := float64(test.max * seconds)
				total := int64(0)
				for i := range counters {
					n := counters[i].n.Load()
					total += n
					near(t, fmt.Sprint("stream ", i), n, all/float64(len(counters)), 0.05)
				}
				near(t, "all", total, all, 0.02)
				close(stop)
				streams.Wait()
			})
		})
	}
}

// sendUntil counts what goes onto the wire.
func sendUntil(t *testing.T, stop <-chan struct{}, opts flow.Options, readSize int64, c *counter) {
	stream := send(t, opts, func(context.Context) io.ReadCloser { return synth.NewStream(synth.Spec{Size: 1 << 40}) })
	go func() {
		<-stop
		stream.Close()
	}()
	if readSize > 4*kib {
		_, _ = io.CopyBuffer(c, struct{ io.Reader }{stream}, make([]byte, readSize)) // ends with stop
	} else {
		_, _ = io.Copy(c, stream)
	}
}

// receiveUntil counts what comes from the wire.
func receiveUntil(t *testing.T, stop <-chan struct{}, opts flow.Options, readSize int64, c *counter) {
	wire := io.TeeReader(synth.NewStream(synth.Spec{Size: 1 << 40}), c)
	_ = receive(t, opts, wire, func(_ context.Context, stream io.Reader) error {
		buf := make([]byte, readSize)
		for {
			select {
			case <-stop:
				return nil
			default:
			}
			if _, err := stream.Read(buf); err != nil {
				return err
			}
		}
	})
}

// After a pause, what the bucket holds flows at once, and no more.
func TestBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stream := send(t, flow.Options{Limit: flow.NewLimit(mib, 512*kib)}, func(context.Context) io.ReadCloser {
			return synth.NewStream(synth.Spec{Size: 1 << 40})
		})
		defer stream.Close()
		start := time.Now()
		if _, err := io.CopyN(io.Discard, stream, mib); err != nil {
			t.Fatal(err)
		}
		near(t, "nanoseconds at first", int64(time.Since(start)), float64(time.Second), 0.15)
		time.Sleep(time.Hour)
		start = time.Now()
		for _, step := range []struct {
			bytes int64
			after time.Duration
		}{{512 * kib, 0}, {mib, time.Second}, {mib, 2 * time.Second}} {
			if _, err := io.CopyN(io.Discard, stream, step.bytes); err != nil {
				t.Fatal(err)
			}
			near(t, "nanoseconds", int64(time.Since(start)), float64(step.after), 0.15)
		}
	})
}

// Of a fast limit nothing may be lost because a goroutine is late.
func TestLateGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stream := send(t, flow.Options{Limit: flow.NewLimit(1000*mib, 0)}, func(context.Context) io.ReadCloser {
			return synth.NewStream(synth.Spec{Size: 1 << 40})
		})
		defer stream.Close()
		start := time.Now()
		for n := int64(0); n < 100*mib; {
			m, err := io.CopyN(io.Discard, stream, 4*mib)
			if err != nil {
				t.Fatal(err)
			}
			n += m
			time.Sleep(time.Millisecond)
		}
		near(t, "milliseconds", time.Since(start).Milliseconds(), 100, 0.05)
	})
}

// paced takes or gives bytes at a rate, and stalls before some.
type paced struct {
	rate   int64           // bytes a second
	stalls map[int64]int64 // seconds, by the bytes before them
	size   int64
	n      int64
}

func (p *paced) pass(n int64) {
	if stall, ok := p.stalls[p.n]; ok {
		delete(p.stalls, p.n)
		time.Sleep(time.Duration(stall) * time.Second)
	}
	time.Sleep(time.Duration(n * int64(time.Second) / p.rate))
	p.n += n
}

func (p *paced) Read(b []byte) (int, error) {
	if p.n == p.size {
		return 0, io.EOF
	}
	n := min(int64(len(b)), 64*kib)
	p.pass(n)
	return int(n), nil
}

func (p *paced) Write(b []byte) (int, error) {
	for range len(b) / (64 * kib) {
		p.pass(64 * kib)
	}
	return len(b), nil
}

func (*paced) Close() error { return nil }

// A program that stalls leaves the line busy for as long as the buffer has bytes, or
// room. The line carries 1 MiB a second, the programs 4.
func TestStalls(t *testing.T) {
	sourceStalls := map[int64]int64{8 * mib: 5}
	sinkStalls := map[int64]int64{2 * mib: 5}
	for _, test := range []struct {
		name         string
		source, sink map[int64]int64
		buffer       int64
		seconds      int64 // that 16 MiB take
	}{
		{"neither", nil, nil, 8 * mib, 16},
		{"source", sourceStalls, nil, 8 * mib, 16},
		{"source, with little buffer", sourceStalls, nil, 2 * mib, 16 + 5 - 2},
		{"sink", nil, sinkStalls, 8 * mib, 16},
		{"sink, with little buffer", nil, sinkStalls, 2 * mib, 16 + 5 - 2},
		{"both", sourceStalls, sinkStalls, 8 * mib, 16},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				replicate(t, flow.Options{Buffer: test.buffer},
					&paced{rate: 4 * mib, stalls: maps.Clone(test.source), size: 16 * mib}, &paced{rate: 4 * mib, stalls: maps.Clone(test.sink)})
				near(t, "milliseconds", time.Since(start).Milliseconds(), float64(test.seconds*1000), 0.08)
			})
		})
	}
}

// replicate moves a stream over a line of 1 MiB a second, which holds 64 KiB.
func replicate(t *testing.T, opts flow.Options, source, sink *paced) {
	sent := send(t, opts, func(context.Context) io.ReadCloser { return source })
	defer sent.Close()
	line := &paced{rate: mib}
	err := receive(t, opts, readerFunc(func(p []byte) (int, error) {
		n, err := sent.Read(p[:min(len(p), 64*kib)])
		line.pass(int64(n))
		return n, err
	}), func(_ context.Context, stream io.Reader) error {
		n, err := io.CopyBuffer(sink, struct{ io.Reader }{stream}, make([]byte, 64*kib))
		if n != source.size {
			t.Errorf("%d bytes came", n)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// A program without an end is read no further than the buffer goes.
func TestBufferIsBounded(t *testing.T) {
	for _, test := range []struct{ buffer, want int64 }{
		{1, 512 * kib}, {512*kib + 1, 768 * kib}, {4 * mib, 4 * mib},
	} {
		t.Run(fmt.Sprint(test.buffer), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				program := endless{new(atomic.Int64)}
				stream := send(t, flow.Options{Buffer: test.buffer}, func(context.Context) io.ReadCloser { return io.NopCloser(program) })
				defer stream.Close()
				for taken := range int64(3) {
					if _, err := stream.Read(make([]byte, 256*kib)); err != nil {
						t.Fatal(err)
					}
					synctest.Wait()
					if got, want := program.read.Load(), test.want+(taken+1)*256*kib; got != want {
						t.Errorf("after %d blocks, %d bytes were read, want %d", taken+1, got, want)
					}
				}
			})
		})
	}
}
