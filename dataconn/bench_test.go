package dataconn

import (
	"context"
	"io"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/dualrepl/dualrepl/pdu"
	"github.com/dualrepl/dualrepl/transport"
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

func BenchmarkReceive(b *testing.B)        { benchReceive(b, Features{}, zeros) }
func BenchmarkReceiveSum(b *testing.B)     { benchReceive(b, Features{Sum: true}, zeros) }
func BenchmarkReceivePipe(b *testing.B)    { benchReceive(b, Features{}, piped) }
func BenchmarkReceivePipeSum(b *testing.B) { benchReceive(b, Features{Sum: true}, piped) }

func benchReceive(b *testing.B, f Features, source func(*testing.B) io.ReadCloser) {
	cl := connectTCPWith(b, receiving(func(_ context.Context, r io.Reader) error { return drain(b, r) }), f, asItIs)
	measure(b, func() {
		src := source(b)
		defer src.Close()
		if _, err := cl.Receive(b.Context(), recvReq, src); err != nil {
			b.Fatal(err)
		}
	})
}

func BenchmarkSend(b *testing.B)        { benchSend(b, Features{}, zeros, whole) }
func BenchmarkSendSum(b *testing.B)     { benchSend(b, Features{Sum: true}, zeros, whole) }
func BenchmarkSendPipe(b *testing.B)    { benchSend(b, Features{}, piped, whole) }
func BenchmarkSendPipeSum(b *testing.B) { benchSend(b, Features{Sum: true}, piped, whole) }

// BenchmarkSendRead is BenchmarkSend for a consumer that knows only Read.
func BenchmarkSendRead(b *testing.B)    { benchSend(b, Features{}, zeros, readOnly) }
func BenchmarkSendReadSum(b *testing.B) { benchSend(b, Features{Sum: true}, zeros, readOnly) }

// What a consumer sees of a stream.
func whole(r io.Reader) io.Reader    { return r }
func readOnly(r io.Reader) io.Reader { return struct{ io.Reader }{r} }

func benchSend(b *testing.B, f Features, source func(*testing.B) io.ReadCloser, consumer func(io.Reader) io.Reader) {
	benchSendOver(b, f, source, consumer, asItIs)
}

func benchSendOver(
	b *testing.B, f Features, source func(*testing.B) io.ReadCloser, consumer func(io.Reader) io.Reader, over func(transport.Wire) transport.Wire,
) {
	cl := connectTCPWith(b, handler{send: func(context.Context, *pdu.SendReq) (*pdu.SendRes, io.ReadCloser, error) {
		return sendRes, source(b), nil
	}}, f, over)
	measure(b, func() {
		_, r, err := cl.Send(b.Context(), sendReq)
		if err != nil {
			b.Fatal(err)
		}
		defer r.Close()
		_ = drain(b, consumer(r))
	})
}

// The benchmarks of compression send benchSize bytes of one kind over and over: noise as
// it is and with a level, which may cost nothing; and the program's own code, also over
// a link of 1 Gbit/s, where its shrinking shows.

func BenchmarkSendNoise(b *testing.B)      { benchZstd(b, 0, random(frameSize), asItIs) }
func BenchmarkSendNoiseZstd1(b *testing.B) { benchZstd(b, 1, random(frameSize), asItIs) }
func BenchmarkSendNoiseZstd3(b *testing.B) { benchZstd(b, 3, random(frameSize), asItIs) }
func BenchmarkSendNoiseZstd9(b *testing.B) { benchZstd(b, 9, random(frameSize), asItIs) }

func BenchmarkSendCode(b *testing.B)          { benchZstd(b, 0, code(b), asItIs) }
func BenchmarkSendCodeZstd1(b *testing.B)     { benchZstd(b, 1, code(b), asItIs) }
func BenchmarkSendCodeZstd3(b *testing.B)     { benchZstd(b, 3, code(b), asItIs) }
func BenchmarkSendCodeSlow(b *testing.B)      { benchZstd(b, 0, code(b), gigabit) }
func BenchmarkSendCodeSlowZstd1(b *testing.B) { benchZstd(b, 1, code(b), gigabit) }
func BenchmarkSendCodeSlowZstd3(b *testing.B) { benchZstd(b, 3, code(b), gigabit) }

func benchZstd(b *testing.B, level int, data []byte, over func(transport.Wire) transport.Wire) {
	source := func(*testing.B) io.ReadCloser {
		at := 0
		return io.NopCloser(io.LimitReader(readerFunc(func(p []byte) (int, error) {
			n := copy(p, data[at:])
			at = (at + n) % len(data)
			return n, nil
		}), benchSize))
	}
	benchSendOver(b, Features{Zstd: true, Level: level}, source, whole, over)
}

// code is what this program is made of.
func code(b *testing.B) []byte {
	data, err := os.ReadFile(os.Args[0])
	if err != nil {
		b.Fatal(err)
	}
	return data
}

// gigabit is a wire whose reader gets no more than a link of 1 Gbit/s brings.
func gigabit(w transport.Wire) transport.Wire { return &slowWire{Wire: w} }

type slowWire struct {
	transport.Wire
	busy time.Time // until when the link brings what was read
}

func (w *slowWire) Read(p []byte) (int, error) {
	n, err := w.Wire.Read(p)
	const buffered = 16 * time.Millisecond // of what came while nobody read: 2 MB
	if earliest := time.Now().Add(-buffered); w.busy.Before(earliest) {
		w.busy = earliest
	}
	w.busy = w.busy.Add(time.Duration(n) * 8) // a nanosecond a bit
	time.Sleep(time.Until(w.busy))
	return n, err
}

func BenchmarkPing(b *testing.B)      { benchPing(b, Features{}) }
func BenchmarkPingReuse(b *testing.B) { benchPing(b, Features{Reuse: true}) }

func benchPing(b *testing.B, f Features) {
	cl := connectTCPWith(b, handlePing(nil), f, asItIs)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := cl.Ping(b.Context(), pingReq); err != nil {
			b.Fatal(err)
		}
	}
}
