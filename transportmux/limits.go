package transportmux

import "time"

// What a session holds for its peer. All of its streams together take at most
// maxUnread bytes, and what a growing buffer takes beside them: as much again.
const (
	// DefaultMaxStreams is how many streams a session may have before it refuses those
	// that the peer opens: more than calls run at once. Streams whose label has not
	// come yet count.
	DefaultMaxStreams = 256

	// maxWindow is how many bytes of a stream may be on their way or unread: 1 Gbit/s
	// over a path with a round trip of 134 ms, or 10 Gbit/s over one of 13 ms. It is
	// granted at once, as the stream is opened.
	maxWindow = 16 << 20

	// maxUnread is how many bytes of all streams may be unread: 32 streams whose readers
	// have stopped altogether. A stream that would make it more is reset.
	maxUnread = 32 * maxWindow

	// maxControl is how many frames of the session's own (answers to pings, resets) may
	// wait to be sent. A peer that asks for more without reading them is hostile.
	maxControl = 1024

	// maxOpening is how many streams may be on their way to being open at once.
	maxOpening = 64
)

// How a session moves bytes.
const (
	// maxPiece is how much of a stream goes into one frame, so that no other stream waits
	// for long: with the header four full records of TLS.
	maxPiece = 64<<10 - headerSize

	// readSize is the buffer between the connection and yamux.
	readSize = 64 << 10

	// maxUnsent is how many bytes the kernel takes beyond those that it has sent. More
	// would only wait there, where nothing overtakes them.
	maxUnsent = 128 << 10
)

// How a session keeps time.
const (
	// pingInterval is how long a session is silent at most. Each side sees to its own
	// silence, since on a slow line its answer to a ping may wait behind bulk data.
	pingInterval = 5 * time.Second

	// silenceTimeout is how long the peer may be silent: three pings.
	silenceTimeout = 15 * time.Second

	// writeTimeout bounds one write of up to 64 KiB, 2 KiB/s: a peer that is alive reads.
	writeTimeout = 30 * time.Second

	// lingerTimeout is how long a stream that this side has closed waits for the peer to
	// do the same.
	lingerTimeout = 30 * time.Second

	// endTimeout bounds the orderly end of a session.
	endTimeout = 5 * time.Second
)
