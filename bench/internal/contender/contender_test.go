package contender

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/dualrepl/dualrepl/bench/internal/ends"
	"github.com/dualrepl/dualrepl/endpoint/synth"
)

// checkedEnds are a server's: content that is checked. They count what was moved.
type checkedEnds struct {
	size atomic.Int64 // of a source

	mu    sync.Mutex
	moved []int64 // into each sink that was closed
}

func (c *checkedEnds) Source() (io.ReadCloser, error) {
	return ends.Checked.Source(c.size.Load())
}

func (c *checkedEnds) Sink() (io.WriteCloser, error) {
	return &checkedSink{synth.NewChecker(0, 0), c}, nil
}

type checkedSink struct {
	*synth.Checker
	ends *checkedEnds
}

func (s *checkedSink) Close() error {
	s.ends.mu.Lock()
	defer s.ends.mu.Unlock()
	s.ends.moved = append(s.ends.moved, s.Offset())
	return nil
}

// sizes returns what came into the sinks.
func (c *checkedEnds) sizes() []int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.moved)
}

// start serves c and dials it; both end with the test.
func start(t *testing.T, c Contender, e Ends) Client {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	addresses, served := make(chan net.Addr, 1), make(chan error, 1)
	go func() { served <- c.Serve(ctx, e, func(a net.Addr) { addresses <- a }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	select {
	case address := <-addresses:
		client, err := c.Dial(t.Context(), address.String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = client.Close() })
		return client
	case err := <-served:
		served <- err
		t.Fatalf("Serve: %v", err)
		return nil
	}
}

func forEach(t *testing.T, do func(t *testing.T, c Contender)) {
	certificates := t.TempDir()
	if err := MakeCertificates(certificates); err != nil {
		t.Fatal(err)
	}
	for _, c := range All(certificates) {
		t.Run(c.Name, func(t *testing.T) { do(t, c) })
	}
}

// Sizes around those of messages and buffers.
var sizes = []int64{0, 1, 64 << 10, 1<<20 - 1, 1 << 20, 5<<20 + 3}

func TestSend(t *testing.T) {
	forEach(t, func(t *testing.T, c Contender) {
		var e checkedEnds
		client := start(t, c, &e)
		for _, size := range sizes {
			if err := client.Send(t.Context(), synth.NewStream(synth.Spec{Size: size})); err != nil {
				t.Fatalf("%d bytes: %v", size, err)
			}
		}
		if got := e.sizes(); !slices.Equal(got, sizes) {
			t.Errorf("the server got streams of %v bytes, want %v", got, sizes)
		}
	})
}

func TestReceive(t *testing.T) {
	forEach(t, func(t *testing.T, c Contender) {
		var e checkedEnds
		client := start(t, c, &e)
		for _, size := range sizes {
			e.size.Store(size)
			checker := synth.NewChecker(0, 0)
			if err := client.Receive(t.Context(), checker); err != nil {
				t.Fatalf("%d bytes: %v", size, err)
			}
			if checker.Offset() != size {
				t.Errorf("%d bytes came, want %d", checker.Offset(), size)
			}
		}
	})
}

func TestNamed(t *testing.T) {
	all, err := Named(nil, "")
	if err != nil || len(all) != len(Names()) {
		t.Fatalf("Named(nil) has %d contenders; %v", len(all), err)
	}
	two, err := Named([]string{"dualrepl", Reference}, "")
	if err != nil || len(two) != 2 || two[0].Name != Reference {
		t.Errorf("Named = %v, %v; want the reference first", two, err)
	}
	if _, err := Named([]string{"carrier pigeon"}, ""); err == nil || !strings.Contains(err.Error(), "drpc") {
		t.Errorf("error is %v, want one that lists the contenders", err)
	}
	for _, name := range append([]string{Reference}, OverTLS...) {
		if _, err := Named([]string{name}, ""); err != nil {
			t.Error(err)
		}
	}
}

func TestLegendHasEach(t *testing.T) {
	for _, c := range All("") {
		if c.About == "" || !strings.Contains(Legend(), c.About) {
			t.Errorf("the legend has nothing about %s", c.Name)
		}
	}
}

func TestControls(t *testing.T) {
	for _, c := range Controls {
		t.Run(c.Name, func(t *testing.T) {
			var e checkedEnds
			started := Contender{
				Name: c.Name,
				Serve: func(ctx context.Context, e Ends, ready func(net.Addr)) error {
					return c.Serve(ctx, e, func(addresses string) { ready(textAddr(addresses)) })
				},
				Dial: func(_ context.Context, addresses string) (Client, error) {
					caller, err := c.Dial(addresses)
					return callerClient{caller}, err
				},
			}
			caller := start(t, started, &e).(callerClient)
			if err := errors.Join(caller.Call(t.Context()), caller.Send(t.Context(), synth.NewStream(synth.Spec{Size: 100}))); err != nil {
				t.Fatal(err)
			}
			if got := e.sizes(); !slices.Equal(got, []int64{100}) {
				t.Errorf("%v bytes were moved, want 100", got)
			}
		})
	}
}

// callerClient is a Caller as a Client, for start.
type callerClient struct{ Caller }

func (callerClient) Receive(context.Context, io.Writer) error { return errors.ErrUnsupported }

type textAddr string

func (textAddr) Network() string  { return "tcp" }
func (a textAddr) String() string { return string(a) }
