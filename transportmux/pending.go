package transportmux

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A crowdedError ends a connection that was on its way to a handler.
type crowdedError struct{ max int }

// Error names the limit.
func (e *crowdedError) Error() string {
	return fmt.Sprintf("gave way to a newer connection: %d are pending, as many as may be (limit pending_handshakes)", e.max)
}

// GRPCStatus is for status.Code.
func (e *crowdedError) GRPCStatus() *status.Status {
	return status.New(codes.ResourceExhausted, e.Error())
}

// A PendingCount counts, over all Serves that are given it, connections that are on
// their way to a handler.
type PendingCount struct{ now, limit, crowded atomic.Int64 }

// Now is how many there are.
func (c *PendingCount) Now() int { return int(c.now.Load()) }

// Max is how many there may be: the MaxPending of all Serves that run.
func (c *PendingCount) Max() int { return int(c.limit.Load()) }

// Crowded is how many had to give way to others so far.
func (c *PendingCount) Crowded() uint64 { return uint64(c.crowded.Load()) }

// A pendingSet holds the connections that are on their way to a handler.
type pendingSet struct {
	max   int
	count *PendingCount

	mu      sync.Mutex
	entries []*pendingEntry // oldest first, at most max
}

type pendingEntry struct {
	host   string
	cancel context.CancelCauseFunc
}

// add makes room if there is none and returns the entry with its context, which
// ends when the entry leaves the set.
func (s *pendingSet) add(ctx context.Context, client net.Addr) (context.Context, *pendingEntry) {
	ctx, cancel := context.WithCancelCause(ctx)
	entry := &pendingEntry{hostOf(client), cancel}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.entries) == s.max {
		i := s.victim(entry.host)
		s.entries[i].cancel(&crowdedError{s.max})
		s.entries = slices.Delete(s.entries, i, i+1)
		s.count.now.Add(-1)
		s.count.crowded.Add(1)
	}
	s.count.now.Add(1)
	s.entries = append(s.entries, entry)
	return ctx, entry
}

// victim is the oldest entry of the host that has the most of them, the newcomer
// counted in.
func (s *pendingSet) victim(newcomer string) int {
	count := map[string]int{newcomer: 1}
	for _, e := range s.entries {
		count[e.host]++
	}
	victim := 0
	for i, e := range s.entries {
		if count[e.host] > count[s.entries[victim].host] {
			victim = i
		}
	}
	return victim
}

// remove returns false if the entry has already made room for another.
func (s *pendingSet) remove(entry *pendingEntry) bool {
	defer entry.cancel(nil) // after any other cause
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.Index(s.entries, entry)
	if i < 0 {
		return false
	}
	s.entries = slices.Delete(s.entries, i, i+1)
	s.count.now.Add(-1)
	return true
}

// hostOf leaves the port out; addresses without one stay as they are.
func hostOf(addr net.Addr) string {
	host, _, err := net.SplitHostPort(addr.String())
	if err != nil {
		return addr.String()
	}
	return host
}
