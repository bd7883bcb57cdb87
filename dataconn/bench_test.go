package dataconn

import (
	"context"
	"io"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/dualrepl/dualrepl/pdu"
)

// The benchmarks move benchSize bytes an iteration over TCP on loopback, with both
// ends in this process. Compare them in one run, several times in turn: the machine's
// other work shows in all of them.

const benchSize = 1 << 30

// measure runs f b.N times, and reports what the process needed of the processors.
func measure(b *testing.B, f func()) {
	b.SetBytes(benchSize)
	b.ReportAllocs()
	before := cpuTime(b)
	for b.Loop() {
		f()
	}
	b.ReportMetric(float64((cpuTime(b)-before).Milliseconds())/float64(b.N), "cpu-ms/op")
}

// cpuTime is what this process has used, in user and kernel mode.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// zeros reads benchSize bytes that cost nothing.
func zeros(*testing.B) io.ReadCloser {
	return io.NopCloser(io.LimitReader(readerFunc(func(p []byte) (int, error) { return len(p), nil }), benchSize))
}

// piped reads benchSize bytes from a pipe, as from a program: at most 64 KiB at once.
func piped(b *testing.B) io.ReadCloser {
	r, w, err := os.Pipe()
	if err != nil {
		b.Fatal(err)
	}
	go func() {
		defer w.Close()
		chunk := make([]byte, 128<<10)
		for range benchSize / len(chunk) {
			if _, err := w.Write(chunk); err != nil {
				b.Error(err)
				return
			}
		}
	}()
	return r
}

// sink counts what it is given, and hides that io.Discard would read by itself.
type sink struct{ n int64 }

func (s *sink) Write(p []byte) (int, error) {
	s.n += int64(len(p))
	return len(p), nil
}

// drain reads r to its end: with its WriteTo, if it has one.
func drain(b *testing.B, r io.Reader) error {
	var s sink
	_, err := io.CopyBuffer(&s, r, make([]byte, frameSize))
	if s.n != benchSize || err != nil {
		b.Errorf("%d bytes, %v", s.n, err)
	}
	return err
}

// BenchmarkRawTCP is what the others are compared with.
func BenchmarkRawTCP(b *testing.B)     { benchRawTCP(b, zeros) }
func BenchmarkRawTCPPipe(b *testing.B) { benchRawTCP(b, piped) }

func benchRawTCP(b *testing.B, source func(*testing.B) io.ReadCloser) {
	measure(b, func() {
		from, to := tcpPair(b)
		go func() {
			defer from.Close()
			src := source(b)
			defer src.Close()
			_, _ = io.CopyBuffer(struct{ io.Writer }{from}, struct{ io.Reader }{src}, make([]byte, frameSize))
		}()
		_ = drain(b, struct{ io.Reader }{to})
	})
}

func BenchmarkReceive(b *testing.B)     { benchReceive(b, zeros) }
func BenchmarkReceivePipe(b *testing.B) { benchReceive(b, piped) }

func benchReceive(b *testing.B, source func(*testing.B) io.ReadCloser) {
	cl := connectTCP(b, receiving(func(_ context.Context, r io.Reader) error { return drain(b, r) }))
	measure(b, func() {
		src := source(b)
		defer src.Close()
		if _, err := cl.Receive(b.Context(), recvReq, src); err != nil {
			b.Fatal(err)
		}
	})
}

func BenchmarkSend(b *testing.B)     { benchSend(b, zeros, func(r io.Reader) io.Reader { return r }) }
func BenchmarkSendPipe(b *testing.B) { benchSend(b, piped, func(r io.Reader) io.Reader { return r }) }

// BenchmarkSendRead is BenchmarkSend for a consumer that knows only Read.
func BenchmarkSendRead(b *testing.B) {
	benchSend(b, zeros, func(r io.Reader) io.Reader { return struct{ io.Reader }{r} })
}

func benchSend(b *testing.B, source func(*testing.B) io.ReadCloser, consumer func(io.Reader) io.Reader) {
	cl := connectTCP(b, handler{send: func(context.Context, *pdu.SendReq) (*pdu.SendRes, io.ReadCloser, error) {
		return sendRes, source(b), nil
	}})
	measure(b, func() {
		_, r, err := cl.Send(b.Context(), sendReq)
		if err != nil {
			b.Fatal(err)
		}
		defer r.Close()
		_ = drain(b, consumer(r))
	})
}

func BenchmarkPing(b *testing.B) {
	cl := connectTCP(b, handlePing(nil))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := cl.Ping(b.Context(), pingReq); err != nil {
			b.Fatal(err)
		}
	}
}
