package transportmux

import (
	"context"
	"net"
	"strconv"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

type testAddr string

func (testAddr) Network() string  { return "test" }
func (a testAddr) String() string { return string(a) }

// TestVictims adds connections of hosts to a set of four, and tells which are left.
func TestVictims(t *testing.T) {
	for _, test := range []struct{ name, add, left string }{
		{"room", "abca", "0123"},
		{"the oldest, if all hosts are alike", "abcde", "1234"},
		{"the oldest of the host that has the most", "abbcd", "0234"},
		{"a flood pushes itself out", "abbbbbbb", "0567"},
		{"a flood after many hosts", "abcffff", "0126"},
		{"newcomers push a flood out", "ffffabc", "3456"},
	} {
		s := pendingSet{max: 4, count: new(PendingCount)}
		contexts := make([]context.Context, len(test.add))
		entries := make([]*pendingEntry, len(test.add))
		for i, host := range test.add {
			addr := net.JoinHostPort(string(host), strconv.Itoa(i)) // the port does not count
			contexts[i], entries[i] = s.add(t.Context(), testAddr(addr))
		}
		left := ""
		for i, ctx := range contexts {
			alive := ctx.Err() == nil
			if cause := context.Cause(ctx); !alive && status.Code(cause) != codes.ResourceExhausted {
				t.Errorf("%s: cause is %v", test.name, cause)
			}
			if s.remove(entries[i]) != alive {
				t.Errorf("%s: entry %d: alive %t, which remove denies", test.name, i, alive)
			}
			if alive {
				left += strconv.Itoa(i)
			}
		}
		if now, crowded := s.count.Now(), s.count.Crowded(); now != 0 || int(crowded) != len(test.add)-len(test.left) {
			t.Errorf("%s: %d pending, %d gave way", test.name, now, crowded)
		}
		if left != test.left {
			t.Errorf("%s: %s leaves %s, want %s", test.name, test.add, left, test.left)
		}
	}
}

func TestHostOf(t *testing.T) {
	for addr, want := range map[string]string{
		"192.0.2.1:80": "192.0.2.1", "[2001:db8::1]:80": "2001:db8::1", "local:alice": "local", "@": "@",
	} {
		if got := hostOf(testAddr(addr)); got != want {
			t.Errorf("host of %q is %q, want %q", addr, got, want)
		}
	}
}
