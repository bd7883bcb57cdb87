// Package transportmux tells connections of one listener apart by a label, and carries
// many labelled connections in one.
//
// After the version handshake the client sends 64 bytes: an ASCII label padded
// with zero bytes. The server hands the connection to the label's handler, or
// closes it if there is none.
//
// Serve authenticates each connection, does its version handshake and reads its
// label off the accept loop, each with a deadline of its own and a bound on how
// many connections are that far: silent, slow and hostile clients delay nobody.
//
// # One connection for all
//
// A Dialer opens labelled connections. NewDialer's are connections of their own. A
// Session is one connection (label LabelMux, dualrepl.mux in both banners) whose streams
// are opened from either end, each with a label. A stream is a transport.Wire like any
// other: its directions close independently, it has deadlines, and it ends with io.EOF
// only if the peer has ended it. If the connection breaks, each stream fails with the
// session's error.
//
// A Link is at most one Session at a time with one peer. It dials, or awaits the peer that
// dials, and tells its State. Nothing that was begun on one session reaches another one,
// and the handlers of the one before have returned when the next one is Ready.
//
// The frames are those of yamux, by github.com/hashicorp/yamux. Between it and the
// connection lies the carrier, which sees each frame pass:
//
//	stream, with its Write in pieces of 64 KiB
//	  yamux: streams, windows of 16 MiB
//	    carrier: limits on streams and memory, pings and time-outs, one write for each frame
//	      transport.Wire, with little unsent in the kernel
//
// A session holds up to DefaultMaxStreams streams and 512 MiB for its peer, in buffers
// that may have grown to twice of it: one over the first limit is refused, one over the
// second is reset. A peer that is silent for 15 s, that takes more than 30 s for 64 KiB, or
// that does not follow the protocol, ends its session.
package transportmux
