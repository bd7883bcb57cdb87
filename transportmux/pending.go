package transportmux

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
)

// errCrowded ends a connection that was on its way to a handler.
var errCrowded = errors.New("gave way to a newer connection: too many are pending")

// A pendingSet holds the connections that are on their way to a handler.
type pendingSet struct {
	max int

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
		s.entries[i].cancel(errCrowded)
		s.entries = slices.Delete(s.entries, i, i+1)
	}
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
	entry.cancel(nil)
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.Index(s.entries, entry)
	if i < 0 {
		return false
	}
	s.entries = slices.Delete(s.entries, i, i+1)
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
