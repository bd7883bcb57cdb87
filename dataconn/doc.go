// Package dataconn is the data channel: requests that carry a stream of any
// length, framed on a wire of their own.
//
// # On the wire
//
// Everything is frames: an 8-byte header (type and payload length, big-endian)
// and the payload. A message, and a stream, is frames of one type and then an empty
// end frame. A reader's io.EOF becomes the end frame and so the other side's
// io.EOF; any other error of the reader becomes an error trailer and so an error of
// the other side's Read. One connection carries one request:
//
//	client                                   server
//	  | 1 request header "/v1/recv", end        |
//	  | 2 request message, end                  |
//	  | 5 stream ... stream, end                |   /v1/recv only
//	  |---------------------------------------->|
//	  |        3 "HANDLER OK\n", end            |   or "HANDLER ERROR:\n" and the text
//	  |        4 response message, end          |
//	  |        5 stream ... stream, end         |   /v1/send only
//	  |<----------------------------------------|
//	  | reset, close write                      |
//	  |        reset, close write               |
//
// Heartbeats may come between any two frames, in both directions.
//
// # Liveness
//
// A side that has sent nothing for 5 seconds sends a heartbeat. A side that waits
// for bytes and gets none for 10 seconds, or that writes without progress and
// receives nothing for 10 seconds, gives the connection up with a timeout. Who
// sends a stream therefore reads the other direction meanwhile, which also shows
// it an early answer. Who receives one may take its time: it need not read for its
// heartbeats to go out, and the sender waits as long as they come in.
//
// # Goroutines
//
// A stream is read by its consumer's goroutine, from the wire straight into the
// consumer's buffer. A connection has at most four goroutines of its own: keep
// (time and the connection's end), watch (what comes in when nobody reads a message or a stream),
// a client's upload, and now and then a heartbeat. They end with the connection's
// context; ServeConn and Client.Close wait for them.
//
// # Errors
//
// What the peer's handler, or the reader at its end, said is a [RemoteError]. A
// connection that broke is a [ConnError], also a net.Error; a peer that breaks the
// rules above is [ErrProtocol]. The end of a caller's context is that context's
// cause.
package dataconn
