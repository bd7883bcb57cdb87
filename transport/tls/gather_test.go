package tls

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"
)

// below takes the place of the connection below a gatherer, which has no part in what
// write does.
type below struct {
	net.Conn
	write func(p []byte) (int, error)
}

func (b below) Write(p []byte) (int, error) { return b.write(p) }

// interpose has write called instead of the connection below the wire.
func (w *wire) interpose(write func(c net.Conn, p []byte) (int, error)) {
	c := w.gather.Conn
	w.gather.Conn = below{c, func(p []byte) (int, error) { return write(c, p) }}
}

func pairOfWires(t testing.TB) (client, server *wire) {
	t.Helper()
	s := newSetup(t)
	r := s.connect(t, s.connecter)
	if err := errors.Join(r.connectErr, r.acceptErr); err != nil {
		t.Fatal(err)
	}
	return r.client.(*wire), r.server.(*wire)
}

// pattern is size bytes that tell their position.
func pattern(size int) []byte {
	p := make([]byte, size)
	for i := range p {
		p[i] = byte(i ^ i>>8 ^ i>>16)
	}
	return p
}

func TestWriteGathers(t *testing.T) {
	const overhead = fullRecord - maxPlaintext
	for _, test := range []struct {
		size  int
		below []int // the sizes that the connection below is given
	}{
		{0, nil},
		{1, []int{1 + overhead}},
		{maxPlaintext, []int{fullRecord}},
		{maxPlaintext + 1, []int{fullRecord + 1 + overhead}},
		{2 * maxPlaintext, []int{2 * fullRecord}},
		{16 * maxPlaintext, []int{gatherSize}},
		{16*maxPlaintext + 1, []int{gatherSize, 1 + overhead}},
		{512 << 10, []int{gatherSize, gatherSize}},
		{512<<10 + 1, []int{gatherSize, gatherSize, 1 + overhead}},
	} {
		client, server := pairOfWires(t)
		var got []int
		client.interpose(func(c net.Conn, p []byte) (int, error) {
			got = append(got, len(p))
			return c.Write(p)
		})
		data := pattern(test.size)
		received := readAll(server)
		if n, err := client.Write(data); n != test.size || err != nil {
			t.Errorf("Write of %d bytes: %d, %v", test.size, n, err)
		}
		if !slices.Equal(got, test.below) {
			t.Errorf("%d bytes go out as %v, want %v", test.size, got, test.below)
		}
		client.wantNothingKept(t)
		if err := client.CloseWrite(); err != nil {
			t.Error(err)
		}
		if r := <-received; !bytes.Equal(r.data, data) || r.err != nil {
			t.Errorf("%d bytes of %d arrive, %v", len(r.data), test.size, r.err)
		}
	}
}

func (w *wire) wantNothingKept(t *testing.T) {
	t.Helper()
	if w.gather.buf != nil || w.gather.n != 0 {
		t.Errorf("%d bytes are kept", w.gather.n)
	}
}

type read struct {
	data []byte
	err  error
}

// readAll reads in the background.
func readAll(r io.Reader) <-chan read {
	result := make(chan read, 1)
	go func() {
		data, err := io.ReadAll(r)
		result <- read{data, err}
	}()
	return result
}

// TestGathererKeepsOrder has records that are no part of the Write come in between.
func TestGathererKeepsOrder(t *testing.T) {
	full, short := bytes.Repeat([]byte{'f'}, fullRecord), []byte("alert")
	var got [][]byte
	g := &gatherer{Conn: below{write: func(p []byte) (int, error) {
		got = append(got, bytes.Clone(p))
		return len(p), nil
	}}}
	g.expect(4 * maxPlaintext)
	for _, record := range [][]byte{short, full, full, short, full, full, short} {
		if n, err := g.Write(record); n != len(record) || err != nil {
			t.Errorf("Write: %d, %v", n, err)
		}
	}
	want := [][]byte{short, slices.Concat(full, full, short), slices.Concat(full, full), short}
	if !slices.EqualFunc(got, want, bytes.Equal) {
		t.Errorf("%d writes, want %d, or their content differs", len(got), len(want))
	}
}

// TestAlertFollowsData has an alert come up while a Write is under way.
func TestAlertFollowsData(t *testing.T) {
	client, server := pairOfWires(t)
	data := pattern(blocking)
	written := client.writeBlocked(data)
	if _, err := server.tcp.Write(make([]byte, 100)); err != nil { // no record
		t.Fatal(err)
	}
	alerted := readAll(client)
	received := <-readAll(server)
	if r := <-alerted; r.err == nil {
		t.Error("the client reads what is no record")
	}
	if err := <-written; err != nil {
		t.Errorf("Write: %v", err)
	}
	if !bytes.Equal(received.data, data) {
		t.Errorf("%d bytes of %d arrive before the alert", len(received.data), len(data))
	}
	var alert *net.OpError
	if !errors.As(received.err, &alert) || alert.Op != "remote error" {
		t.Errorf("after the data comes %v, want an alert", received.err)
	}
}

// blocking is more than the buffers of a connection hold.
const blocking = 16 << 20

// writeBlocked writes in the background. It returns once bytes have gone out.
func (w *wire) writeBlocked(data []byte) <-chan error {
	begun := make(chan struct{})
	var once sync.Once
	w.interpose(func(c net.Conn, p []byte) (int, error) {
		n, err := c.Write(p)
		once.Do(func() { close(begun) })
		return n, err
	})
	result := make(chan error, 1)
	go func() {
		n, err := w.Write(data)
		if err != nil && n != 0 {
			err = fmt.Errorf("%d bytes are written, although: %w", n, err)
		}
		result <- err
	}()
	<-begun
	return result
}

func TestCloseEndsBlockedWrite(t *testing.T) {
	client, _ := pairOfWires(t)
	written := client.writeBlocked(make([]byte, blocking))
	if err := client.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if err := <-written; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Write: %v, want net.ErrClosed", err)
	}
	client.wantNothingKept(t)
}

func TestCloseWriteWaitsForWrite(t *testing.T) {
	client, server := pairOfWires(t)
	data := pattern(blocking)
	written := client.writeBlocked(data)
	closed := make(chan error, 1)
	go func() { closed <- client.CloseWrite() }()
	if r := <-readAll(server); !bytes.Equal(r.data, data) || r.err != nil {
		t.Errorf("%d bytes of %d arrive, %v", len(r.data), len(data), r.err)
	}
	if err := errors.Join(<-written, <-closed); err != nil {
		t.Error(err)
	}
}

func TestWriteDeadlineInFlush(t *testing.T) {
	client, server := pairOfWires(t)
	written := client.writeBlocked(make([]byte, blocking))
	if err := client.SetWriteDeadline(time.Now()); err != nil {
		t.Fatal(err)
	}
	wantFailed(t, <-written, os.ErrDeadlineExceeded)
	client.wantNothingKept(t)

	if err := client.SetWriteDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	_, err := client.Write([]byte{1}) // a part of a record has gone out
	wantFailed(t, err, os.ErrDeadlineExceeded)
	if _, err := server.Write([]byte("x")); err != nil { // the other direction works
		t.Error(err)
	}
	if _, err := client.Read(make([]byte, 1)); err != nil {
		t.Error(err)
	}
}

func wantFailed(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("error is %v, want %v", err, want)
	}
}

// TestHalfAFlush fails in each of the two that a Write of 512 KiB makes.
func TestHalfAFlush(t *testing.T) {
	for fails := range 2 {
		client, server := pairOfWires(t)
		flushes := 0
		client.interpose(func(c net.Conn, p []byte) (int, error) {
			if flushes++; flushes <= fails {
				return c.Write(p)
			}
			n, _ := c.Write(p[:len(p)/2-1])
			return n, syscall.EPIPE
		})
		data := pattern(512 << 10)
		received := readAll(server)
		for range 2 { // the error stays, and nothing is sent after it
			n, err := client.Write(data)
			wantFailed(t, err, syscall.EPIPE)
			if n != 0 || flushes != fails+1 {
				t.Errorf("Write returns %d, after %d flushes", n, flushes)
			}
		}
		client.wantNothingKept(t)
		if err := client.tcp.CloseWrite(); err != nil {
			t.Error(err)
		}
		r := <-received
		wantFailed(t, r.err, io.ErrUnexpectedEOF)
		if want := (16*fails + 7) * maxPlaintext; !bytes.Equal(r.data, data[:want]) {
			t.Errorf("%d bytes arrive, want the whole records, %d", len(r.data), want)
		}
	}
}

func TestConcurrentWrites(t *testing.T) {
	const writes, size = 32, 8 * maxPlaintext
	client, server := pairOfWires(t)
	received := readAll(server)
	var writers sync.WaitGroup
	for _, c := range []byte("ab") {
		writers.Go(func() {
			for range writes {
				if _, err := client.Write(bytes.Repeat([]byte{c}, size)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	if err := client.CloseWrite(); err != nil {
		t.Error(err)
	}
	r := <-received
	if len(r.data) != 2*writes*size || r.err != nil {
		t.Errorf("%d bytes arrive, %v", len(r.data), r.err)
	}
	for w := range slices.Chunk(r.data, size) {
		if !bytes.Equal(w, bytes.Repeat(w[:1], len(w))) {
			t.Fatal("two Writes are mixed")
		}
	}
}

// TestNoWayAround: io.Copy and others look for these.
func TestNoWayAround(t *testing.T) {
	for _, v := range []any{&wire{}, &gatherer{}} {
		switch v.(type) {
		case io.ReaderFrom, io.WriterTo, syscall.Conn:
			t.Errorf("%T offers more than Read and Write", v)
		}
	}
}

func TestWriteDoesNotAllocate(t *testing.T) {
	build, _ := debug.ReadBuildInfo()
	if slices.Contains(build.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		t.Skip("the race detector empties each sync.Pool at random")
	}
	client, server := pairOfWires(t)
	drained := drain(server.tcp) // as crypto/tls allocates when it reads
	data := make([]byte, 512<<10)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := client.Write(data); err != nil {
			t.Error(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations a Write of %d bytes", n, len(data))
	}
	if err := errors.Join(client.CloseWrite(), <-drained); err != nil {
		t.Error(err)
	}
}

// drain reads in the background, to the end, as a stream's consumer does.
func drain(r io.Reader) <-chan error {
	result := make(chan error, 1)
	go func() {
		_, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, r, make([]byte, 512<<10))
		result <- err
	}()
	return result
}

// The benchmarks move 256 MiB an iteration over loopback, in Writes of the size that
// package dataconn makes, with both ends in this process. Compare them in one run,
// several times in turn: the machine's other work shows in both.

func BenchmarkWire(b *testing.B) {
	benchmarkWrites(b, func(w *wire) io.Writer { return w })
}

// BenchmarkCryptoTLS is what BenchmarkWire is compared with: no records are gathered.
func BenchmarkCryptoTLS(b *testing.B) {
	benchmarkWrites(b, func(w *wire) io.Writer { return w.Conn })
}

func benchmarkWrites(b *testing.B, writer func(*wire) io.Writer) {
	const writes, size = 512, 512 << 10
	client, server := pairOfWires(b)
	drained := drain(server)
	w, data := writer(client), make([]byte, size)
	b.SetBytes(writes * size)
	b.ReportAllocs()
	before := cpuTime(b)
	for b.Loop() {
		for range writes {
			if _, err := w.Write(data); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64((cpuTime(b)-before).Milliseconds())/float64(b.N), "cpu-ms/op")
	if err := errors.Join(client.CloseWrite(), <-drained); err != nil {
		b.Error(err)
	}
}

// cpuTime is what this process has used, in user and kernel mode.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
