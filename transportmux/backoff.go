package transportmux

import (
	"math/rand/v2"
	"time"
)

// What passes between two attempts to connect: at random up to a bound that doubles
// from the first to the last, so that clients of a server that was gone do not all come
// back at once.
const (
	minBackoff = 250 * time.Millisecond
	maxBackoff = 30 * time.Second
)

// A backoff counts attempts; its zero value has seen none.
type backoff struct{ bound time.Duration }

// next is what to wait now.
func (b *backoff) next() time.Duration {
	b.bound = min(max(2*b.bound, minBackoff), maxBackoff)
	return rand.N(b.bound)
}

// reset is for a connection that has lasted.
func (b *backoff) reset() { b.bound = 0 }
