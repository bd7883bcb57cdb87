package transportmux_test

import (
	"context"
	"io"
	"net"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dualrepl/dualrepl/transport"
	"github.com/dualrepl/dualrepl/transport/tcp"
	"github.com/dualrepl/dualrepl/transportmux"
)

// drain reads all there is.
func drain(_ context.Context, conn *transportmux.Conn) {
	defer conn.Close()
	_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{conn.Wire}, make([]byte, 512<<10))
}

// echoOrDrain answers the label "echo" with echo and others with drain.
func echoOrDrain(label string) (transportmux.Handler, bool) {
	if label == "echo" {
		return echo, true
	}
	return drain, true
}

// BenchmarkStream writes 512 KiB at a time to one connection: of its own, and of a session.
func BenchmarkStream(b *testing.B) {
	for name, newPair := range benchTransports {
		b.Run(name+"/plain", func(b *testing.B) {
			l, c, _ := newPair(b)
			plain(b, l)
			benchmarkWrites(b, transportmux.NewDialer(c, nil))
		})
		b.Run(name+"/session", func(b *testing.B) {
			l, c, _ := newPair(b)
			dialled, _ := sessions(b, l, c, nil, echoOrDrain)
			benchmarkWrites(b, dialled)
		})
	}
}

// plain serves a connection for each channel.
func plain(b *testing.B, l transport.Listener) {
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() {
		served <- transportmux.Serve(ctx, l, map[string]transportmux.Handler{"drain": drain, "echo": echo}, transportmux.ServeOptions{})
	}()
	b.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			b.Error(err)
		}
	})
}

func benchmarkWrites(b *testing.B, d transportmux.Dialer) {
	conn := mustDial(b, d, "drain")
	defer conn.Close()
	chunk := make([]byte, 512<<10)
	b.SetBytes(int64(len(chunk)))
	for b.Loop() {
		if _, err := conn.Wire.Write(chunk); err != nil {
			b.Fatal(err)
		}
	}
}

func mustDial(t testing.TB, d transportmux.Dialer, label string) *transportmux.Conn {
	t.Helper()
	conn, err := d.Dial(t.Context(), label)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// BenchmarkEcho has a small message answered while other streams are saturated.
func BenchmarkEcho(b *testing.B) {
	for name, newPair := range benchTransports {
		for _, saturated := range []struct {
			name    string
			streams int
		}{{"alone", 0}, {"beside 1 stream", 1}, {"beside 16 streams", 16}} {
			b.Run(name+"/plain/"+saturated.name, func(b *testing.B) {
				l, c, _ := newPair(b)
				plain(b, l)
				benchmarkEcho(b, transportmux.NewDialer(c, nil), saturated.streams)
			})
			b.Run(name+"/session/"+saturated.name, func(b *testing.B) {
				l, c, _ := newPair(b)
				dialled, _ := sessions(b, l, c, nil, echoOrDrain)
				benchmarkEcho(b, dialled, saturated.streams)
			})
		}
	}
}

func benchmarkEcho(b *testing.B, d transportmux.Dialer, saturated int) {
	for range saturated {
		conn := mustDial(b, d, "drain")
		defer conn.Close()
		go func() {
			chunk := make([]byte, 512<<10)
			for {
				if _, err := conn.Wire.Write(chunk); err != nil {
					return
				}
			}
		}()
	}
	conn := mustDial(b, d, "echo")
	defer conn.Close()
	message := make([]byte, 512)
	var took []time.Duration
	for b.Loop() {
		start := time.Now()
		if _, err := conn.Write(message); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(conn, message); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-us")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-us")
}

var benchTransports = map[string]newTransport{"tcp": newTCP, "tls": newTLS}

// BenchmarkEchoOnASlowLine is BenchmarkEcho over 50 MB/s, which fill every buffer before
// them.
func BenchmarkEchoOnASlowLine(b *testing.B) {
	l, _, _ := newTCP(b)
	dialled, _ := sessions(b, l, tcp.NewConnecter(slowLine(b, l.Addr().String())), nil, echoOrDrain)
	benchmarkEcho(b, dialled, 1)
}

// slowLine is a proxy that takes 50 MB/s and holds little.
func slowLine(b *testing.B, to string) (address string) {
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) {
			_ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 64<<10)
		})
	}}
	l, err := config.Listen(b.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		near, err := l.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", to)
		if err != nil {
			near.Close()
			return
		}
		running.Go(func() { slowCopy(far.(*net.TCPConn), near) })
		slowCopy(near.(*net.TCPConn), far)
	})
	b.Cleanup(func() {
		l.Close()
		running.Wait()
	})
	return l.Addr().String()
}

func slowCopy(to *net.TCPConn, from net.Conn) {
	defer to.CloseWrite()
	buf := make([]byte, 16<<10)
	start, copied := time.Now(), 0
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		copied += n
		time.Sleep(time.Duration(copied)*time.Second/50e6 - time.Since(start))
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}
