// Package dataconn is the data channel: requests that carry a stream of any
// length, framed on a wire of their own.
//
// # On the wire
//
// Everything is frames: an 8-byte header (type and payload length, big-endian)
// and the payload. A message, and a stream, is frames of one type and then an empty
// end frame. A reader's io.EOF becomes the end frame and so the other side's
// io.EOF; any other error of the reader becomes an error trailer and so an error of
// the other side's Read. One connection carries one request at a time:
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
// With Features.Sum each header has 8 bytes more: the CRC-64 of all that was sent before,
// and of itself. It is checked before a header is believed, and so before a reader's
// io.EOF; a stream's bytes before that are only what has come in so far.
//
// With Features.Zstd a stream may have frames of type 6, each a whole zstd frame. A
// side with a Level makes them of what shrinks by a tenth. It looks at a sample
// first, and no more often than every 16 MiB when that is in vain, so that streams
// that cannot be compressed cost next to nothing. Those that can are as fast as one
// processor compresses, 100 to 200 MB/s: a gain where the network is slower.
//
// # Many requests on one connection
//
// With Features.Reuse, a connection on which a request came to its end in both
// directions may carry another. The Client keeps it for that in a pool. A server that
// ends a connection sends an unbegun frame (1<<29) before its reset, unless a request
// has begun: whatever request was on its way has not run, and the client sends it
// anew. So neither a server that stops in order nor an idle time-out fails a request.
//
// What remains: a request on a connection that dies at the very moment, without a
// word, may have run; and a Receive that was not begun cannot be repeated here once
// more than 64 KiB of its stream have been read. The errors tell them apart: see Client.
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
// A known limit: a Receive handler that does not read its stream learns late that its
// client vanished without a word (a power cut, a cut cable). What it has not read
// hides the silence, so it notices only when the system gives up the heartbeats that
// it cannot deliver, on Linux after some 15 minutes; a client that closed is noticed
// with the second heartbeat. TCP_USER_TIMEOUT would be no remedy: it also ends the
// connection of a live peer that does not read for as long.
//
// # Sources
//
// A sender gathers what the Reads of its source return until it has 64 KiB for a
// frame, as much as a pipe holds, or 512 KiB for one to be compressed: with frames of 4 KiB, sending and receiving take
// twice the processors' time. A source that fills larger buffers, up to the frame's
// limit of 512 KiB, saves a third of it. If the source pauses, what has been gathered
// goes out within a second, and then heartbeats do. While a frame is sent, nobody reads
// the source: a program's pipe of 64 KiB stops the program meanwhile; a larger one
// (F_SETPIPE_SZ) helps.
//
// # Goroutines
//
// A stream is read by its consumer's goroutine, from the wire straight into the
// consumer's buffer. A connection has at most three goroutines of its own: keep
// (time and the connection's end), watch (what comes in when nobody reads a message or
// a stream), and now and then one that sends a heartbeat or what lies unsent while a
// source pauses. The reader is a baton: watch has it until the first frame of a message
// comes in, and hands it over to who waits for that, who gives it back after the last
// frame that the peer may send for now. They end with the connection's context;
// ServeConn and Client.Close wait for them. A Receive has a goroutine too, which reads
// the caller's stream: it ends with the connection's context and the Read that runs then.
//
// # Errors
//
// What the peer's handler, or the reader at its end, said is a [RemoteError]; with
// Features.Status it has a code and details. A connection that broke, or on which bytes
// changed on their way ([ErrCorrupt]), is a [ConnError], also a net.Error; a peer that
// breaks the rules above is [ErrProtocol]. A Receive's own stream that failed is a
// [StreamError]. The end of a caller's context is that context's cause. [ErrNotSent] is in
// the chain of an error after which the request has surely not run.
package dataconn
