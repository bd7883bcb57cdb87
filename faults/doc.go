// Package faults holds no code: its tests put a toxiproxy, as a process of its own,
// between an rpc.Client and an rpc.Server, and let every kind of call run while the
// network is slow, cut, half-open or reset. It is a module of its own, so that nobody
// who imports the library gets toxiproxy.
//
// What they hold every call to: it ends, by the stack's own bounds; what it answers is
// right to the last byte, or an error; no handler takes a broken stream for a whole one;
// and when the network is well again, so is the client. When all have ended, no
// goroutine is left.
package faults
