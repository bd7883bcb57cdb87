package dataconn

import "time"

// Sizes, in bytes.
const (
	// maxPayload bounds what one frame header may announce.
	maxPayload = 16 << 20
	// frameSize is the largest payload that is sent: what base peers send and expect,
	// less the header, since the kernel copies whole pages faster.
	frameSize = 512<<10 - headerSize
	// minFrameSize is how much of a stream is gathered before it goes out as a frame,
	// in bytes: what a full pipe gives at once. Waiting for more would leave the wire
	// idle while the program behind the pipe works: with four times as much, a stream
	// from pipe to pipe is a fifth slower.
	minFrameSize = 64 << 10

	// maxContent bounds what a compressed frame of a stream may hold, and also its
	// payload: it was not worth compressing otherwise.
	maxContent = 512 << 10

	// The largest messages, by frame type. Base peers block on larger ones.
	maxRequestHeader  = 32 << 10
	maxRequest        = 4 << 20
	maxResponseHeader = 32 << 10
	maxResponse       = 8 << 20

	// maxTrailer bounds the error text after a stream. Base peers set no limit and
	// put the whole error output of a program into it.
	maxTrailer = 1 << 20
	// maxErrorText is what we send of an error, so that it fits a response header, and
	// all that a status may be.
	maxErrorText = maxResponseHeader - len(headerError)
	// statusOverhead is what code and lengths add to the message of a status at most.
	statusOverhead = 16

	// replayLimit is how much of a stream is remembered, so that a request that was not
	// begun can be sent anew: a small step, whole.
	replayLimit = 64 << 10
)

// maxEmptyReads is how many Reads in a row may return neither a byte nor an error
// before a source is taken for broken, as bufio does.
const maxEmptyReads = 100

// maxTries is on how many connections a request is tried that the peer did not begin: one
// that was idle, and two that were made for it.
const maxTries = 3

// What a client keeps unless its options say otherwise.
const (
	// DefaultMaxIdle is how many idle connections are kept: as many as requests are likely
	// to run at once.
	DefaultMaxIdle = 128
	// DefaultIdleTimeout is how long one is kept: longer than what lies between two steps
	// of one replication, far shorter than what lies between two replications.
	DefaultIdleTimeout = time.Minute
)

const (
	// heartbeatInterval is the silence after which a side sends a heartbeat.
	heartbeatInterval = 5 * time.Second
	// peerTimeout is the silence after which the peer is taken for gone.
	peerTimeout = 10 * time.Second
	// requestTimeout bounds how long a request, without its stream, may take to
	// arrive: heartbeats alone must not hold a connection.
	requestTimeout = 30 * time.Second
	// serverIdleTimeout is how long a server keeps a connection without a request: far
	// longer than clients keep theirs.
	serverIdleTimeout = 10 * time.Minute
	// idleSilence is the silence after which an idle connection is not taken for a
	// request: a heartbeat is overdue.
	idleSilence = 7 * time.Second
	// shutdownTimeout bounds an orderly end: the peer has had everything that matters.
	shutdownTimeout = 10 * time.Second
	// tick is how exactly the times above are kept, and half of how long what has been
	// gathered of a stream waits for more. Reads and writes only set flags, which are
	// looked at once a tick, so that no timer is reset on the way of the data.
	tick = 500 * time.Millisecond
	// resetTimeout bounds the end of a frame, and the reset frame, of a connection that
	// ends before its time: a courtesy that goes out at once or not at all.
	resetTimeout = 100 * time.Millisecond
	// readerGrace is how long a failed Receive waits for a Read of its stream that is
	// still running, before it returns without it.
	readerGrace = time.Second
)
