package faults

import (
	"errors"
	"runtime"
	"testing"

	toxiproxy "github.com/Shopify/toxiproxy/v2/client"
)

// toxic is something that a network does.
type toxic struct {
	kind       string // one of toxiproxy's, or down
	streams    []string
	attributes toxiproxy.Attributes
}

// down is the kind of a toxic that refuses and breaks all connections.
const down = "down"

// Directions.
var (
	up   = []string{"upstream"}
	back = []string{"downstream"}
	both = []string{"upstream", "downstream"}
)

// slow are networks on which every call succeeds.
var slow = map[string][]toxic{
	"latency":      {{"latency", both, toxiproxy.Attributes{"latency": 50, "jitter": 20}}},
	"bandwidth":    {{"bandwidth", both, toxiproxy.Attributes{"rate": 1024}}},
	"slow and far": {{"latency", both, toxiproxy.Attributes{"latency": 50}}, {"bandwidth", both, toxiproxy.Attributes{"rate": 2048}}},
	"slices":       {{"slicer", both, toxiproxy.Attributes{"average_size": 700, "size_variation": 600, "delay": 10}}},
}

// broken are networks on which no call that has begun succeeds.
var broken = map[string][]toxic{
	"reset":               {{"reset_peer", both, toxiproxy.Attributes{"timeout": 0}}},
	"reset later":         {{"reset_peer", back, toxiproxy.Attributes{"timeout": 300}}},
	"cut, sent":           {{"limit_data", up, toxiproxy.Attributes{"bytes": 20_000}}},
	"cut, received":       {{"limit_data", back, toxiproxy.Attributes{"bytes": 20_000}}},
	"cut at once":         {{"limit_data", both, toxiproxy.Attributes{"bytes": 0}}},
	"hung up":             {{"timeout", both, toxiproxy.Attributes{"timeout": 200}}},
	"down":                {{kind: down}},
	"half-open":           {{"timeout", both, toxiproxy.Attributes{"timeout": 0}}},
	"half-open, sent":     {{"timeout", up, toxiproxy.Attributes{"timeout": 0}}},
	"half-open, received": {{"timeout", back, toxiproxy.Attributes{"timeout": 0}}},
}

// TestFeatures: they are on, or else the other tests would prove little.
func TestFeatures(t *testing.T) {
	for name, f := range featureSets {
		for transport := range transports {
			t.Run(name+" over "+transport, func(t *testing.T) {
				w := newWorld(t, f, transport)
				w.connect() // again
				if n := w.listener.accepted.Load(); n != f.connections {
					t.Errorf("there are %d connections, not %d", n, f.connections)
				}
				w.close()
			})
		}
	}
}

// forEachWorld runs a test with all features over all transports, at once.
func forEachWorld(t *testing.T, test func(t *testing.T, f features, transport string)) {
	for name, f := range featureSets {
		for transport := range transports {
			t.Run(name+" over "+transport, func(t *testing.T) {
				t.Parallel()
				test(t, f, transport)
			})
		}
	}
}

// TestSlowNetworks turns a network slow while calls run, and makes more calls.
func TestSlowNetworks(t *testing.T) {
	// What has to succeed must not starve: a peer without a processor is a silent one.
	turns := make(chan struct{}, 8*runtime.GOMAXPROCS(0))
	for name, toxics := range slow {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			forEachWorld(t, func(t *testing.T, f features, transport string) {
				turns <- struct{}{}
				defer func() { <-turns }()
				w := newWorld(t, f, transport)
				running := w.startGated()
				w.poison(toxics)
				close(w.gate.open)
				begun := w.start("calls on the slow network", 1)
				check(t, errors.Join(running.wait(), begun.wait()))
				w.close()
			})
		})
	}
}

// TestBrokenNetworks breaks a network while calls run, makes more calls, and turns it
// well.
func TestBrokenNetworks(t *testing.T) {
	t.Parallel()
	for name, toxics := range broken {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			forEachWorld(t, func(t *testing.T, f features, transport string) {
				w := newWorld(t, f, transport)
				running := w.startGated()
				w.poison(toxics)
				close(w.gate.open)
				begun := w.start("calls on the broken network", 1)
				if running.wait() == nil {
					t.Error("the network was to break calls, but did not")
				}
				_ = begun.wait() // what is small may come through
				w.heal()
				w.recover()
				w.close()
			})
		})
	}
}

// TestCloseOnBadNetworks closes both sides while calls run on a network that has turned
// bad, and stays so.
func TestCloseOnBadNetworks(t *testing.T) {
	t.Parallel()
	for name, toxics := range map[string][]toxic{
		"slow and far": slow["slow and far"], "half-open": broken["half-open"],
		"half-open, sent": broken["half-open, sent"], "half-open, received": broken["half-open, received"],
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			forEachWorld(t, func(t *testing.T, f features, transport string) {
				w := newWorld(t, f, transport)
				w.startGated()
				w.poison(toxics)
				close(w.gate.open)
				w.close()
			})
		})
	}
}
