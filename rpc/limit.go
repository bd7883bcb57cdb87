package rpc

import (
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/transportmux"
)

// Limits bound what one client may have of a Server, over all its listeners and routes.
// 0 is the default. What is over a limit is never queued: it is answered with
// codes.ResourceExhausted at once.
type Limits struct {
	// Connections bounds the labelled connections of a client identity: control, data
	// and mux ones, and each stream of a mux one. The requests of one too many are
	// answered with ErrLimit. Default: DefaultConnections.
	Connections int
	// Requests bounds the requests of a client identity that run at once, on both
	// channels together, calls of custom services included. A Send runs until its stream
	// was sent. One too many is answered with ErrLimit. Default: DefaultRequests.
	Requests int
	// MessageSize bounds a message that is received on the control channel, in bytes;
	// a larger one is answered with ErrTooLarge. (A message of the data channel has at
	// most 4 MiB in any case.) Default: DefaultMessageSize.
	MessageSize int
	// PendingHandshakes bounds the connections of one listener whose peer or label is
	// not known yet; a newer one takes the place of one too many, which is closed.
	// Default: transportmux.DefaultMaxPending.
	PendingHandshakes int
}

// withDefaults leaves no limit open.
func (l Limits) withDefaults() Limits {
	for _, d := range []struct {
		limit *int
		value int
	}{
		{&l.Connections, DefaultConnections},
		{&l.Requests, DefaultRequests},
		{&l.MessageSize, DefaultMessageSize},
		{&l.PendingHandshakes, transportmux.DefaultMaxPending},
	} {
		if *d.limit <= 0 {
			*d.limit = d.value
		}
	}
	return l
}

// ErrLimit: the client has all that a limit of the server's gives it. Trying again
// helps once it has less in use.
var ErrLimit = endpoint.ErrLimit

// limitNames are the limits' in errors, in Usage and in the configuration.
var limitNames = [limits]string{"connections", "requests", "message_size", "connections over the limit"}

// A limit is one of those that a client has.
type limit int

const (
	limitConnections limit = iota
	limitRequests
	limitMessages // only refusals are counted
	limitRefusals // connections over the limit that get an answer
	limits
)

// Usage is what a client has of one limit.
type Usage struct {
	Client  string // identity; empty for pending_handshakes, whose client is not known
	Limit   string // connections, requests, message_size or pending_handshakes
	InUse   int    // now; 0 for message_size
	Max     int    // pending_handshakes: of all listeners together
	Refused uint64 // what was over the limit so far
}

// Usage returns what clients have of each limit, for metrics: of those that are
// connected, and of up to 1024 others that were refused something.
func (s *Server) Usage() []Usage { return s.usage.list() }

// usage is what the clients of a Server have in use.
type usage struct {
	max     [limits]int
	pending transportmux.PendingCount

	mu      sync.Mutex
	clients map[string]*clientUsage
}

// clientUsage is one client's.
type clientUsage struct {
	inUse   [limits]int
	refused [limits]uint64
}

func newUsage(l Limits) *usage {
	return &usage{
		max:     [limits]int{limitConnections: l.Connections, limitRequests: l.Requests, limitMessages: l.MessageSize, limitRefusals: maxRefusing},
		clients: map[string]*clientUsage{},
	}
}

// of returns the client's, which is new if there was none; mu is held.
func (u *usage) of(client string) *clientUsage {
	c := u.clients[client]
	if c == nil {
		c = new(clientUsage)
		u.clients[client] = c
	}
	return c
}

// acquire takes one of l until release, which is called once, unless the client has all
// that it may.
func (u *usage) acquire(client string, l limit) (release func(), err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	c := u.of(client)
	if c.inUse[l] >= u.max[l] {
		c.refused[l]++
		return nil, fmt.Errorf("%w: client %q may have %d %s at once", ErrLimit, client, u.max[l], limitNames[l])
	}
	c.inUse[l]++
	return func() { u.release(client, l) }, nil
}

// release forgets a client with nothing in use, unless there are refusals to tell of.
func (u *usage) release(client string, l limit) {
	u.mu.Lock()
	defer u.mu.Unlock()
	c := u.clients[client]
	c.inUse[l]--
	idle := c.inUse == [limits]int{}
	refused := c.refused != [limits]uint64{}
	if idle && (!refused || len(u.clients) > maxRefused) {
		delete(u.clients, client)
	}
}

// refuse counts one that somebody else has refused, of a client that has a connection.
func (u *usage) refuse(client string, l limit) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.of(client).refused[l]++
}

// list is in the order of clients and limits.
func (u *usage) list() []Usage {
	u.mu.Lock()
	defer u.mu.Unlock()
	all := []Usage{{Limit: "pending_handshakes", InUse: u.pending.Now(), Max: u.pending.Max(), Refused: u.pending.Crowded()}}
	for _, client := range slices.Sorted(maps.Keys(u.clients)) {
		c := u.clients[client]
		for l := range limitRefusals {
			all = append(all, Usage{Client: client, Limit: limitNames[l], InUse: c.inUse[l], Max: u.max[l], Refused: c.refused[l]})
		}
	}
	return all
}
