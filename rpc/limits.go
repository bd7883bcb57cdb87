package rpc

import "time"

// What both ends of the control channel agree on. The times are the base
// protocol's: another implementation ends a connection that breaks them.
const (
	// keepaliveIdle is how long a control connection is silent before a ping,
	// also while no call runs.
	keepaliveIdle = 5 * time.Second
	// keepaliveTimeout is how long an answer to that ping may take.
	keepaliveTimeout = 10 * time.Second
	// keepaliveMinInterval is how often the peer may ping without being sent away.
	keepaliveMinInterval = 2500 * time.Millisecond
	// controlSilence is how long a client reads nothing before it gives the
	// control connection up: the server's ping is due, and then its grace over.
	// gRPC's own client would ping only every 10 s, whatever it is told.
	controlSilence = keepaliveIdle + keepaliveTimeout
)

const (
	// DefaultCallTimeout bounds a control call whose ClientOptions don't.
	DefaultCallTimeout = 60 * time.Second
	// connectTimeout bounds one attempt to connect: transport, version handshake
	// and label.
	connectTimeout = 20 * time.Second
	// preambleTimeout bounds how long a labelled control connection may take to
	// become HTTP/2.
	preambleTimeout = 10 * time.Second
	// reconnectFirst and reconnectMax space the attempts to connect anew after a
	// failed one; calls in between fail at once with what failed last.
	reconnectFirst = 500 * time.Millisecond
	reconnectMax   = 10 * time.Second
	// clockSlack is how much earlier than ours a server's clock may end a call.
	clockSlack = time.Second
	// pingInterval spaces the pings of WaitForConnectivity.
	pingInterval = 500 * time.Millisecond
)

const (
	// maxMessage bounds what a client receives in one control message, in bytes, and
	// what a server sends. A version takes about 100: from a peer that does not page
	// its lists, half a million of them fit. (gRPC's default of 4 MiB ends at less
	// than 50,000 with long names.)
	maxMessage = 64 << 20
	// maxRequest bounds what a client sends in one: 50,000 snapshots with long names to
	// destroy, by far the largest request there is.
	maxRequest = 16 << 20
	// maxHeaderList bounds the headers of a call (custom metadata), in bytes.
	maxHeaderList = 64 << 10
	// maxStreams bounds the calls that run at once on one control connection; a client
	// queues what is beyond. With maxRequest it bounds the memory that requests take. It
	// is above the 100 that HTTP/2 recommends: with 32, many calls at once took twice as
	// long as over a connection without a bound.
	maxStreams = 128
)

// What a client may have of a server whose Limits don't say.
const (
	// DefaultConnections is far above what one replication opens: one for control, and one
	// for each of its steps.
	DefaultConnections = 1024
	// DefaultRequests is as many, for requests that share connections.
	DefaultRequests = 1024
	// DefaultMessageSize, in bytes, is what clients send at most.
	DefaultMessageSize = maxRequest
)

const (
	// maxRefusing is how many connections over a client's limit are kept open, for
	// refusalTime, to answer their requests; what is beyond is closed without an answer.
	maxRefusing = 16
	refusalTime = 10 * time.Second
	// maxRefused is how many clients with nothing in use a server remembers because
	// they were refused something.
	maxRefused = 1024
)

// Version lists go in pages, so that the length of a list is bounded by memory and
// not by what fits a message.
const (
	// maxPageVersions is how many versions a client asks for in one page, and the most
	// that a server puts into one, whoever asks.
	maxPageVersions = 50_000
	// maxPage bounds a page of more than one version, in bytes. It stays below the 4 MiB
	// that any gRPC client receives without being told to.
	maxPage = 3 << 20
	// maxPageToken bounds a page's token, in bytes. A server's own hold a name and three
	// numbers.
	maxPageToken = 1024
	// maxPages, maxVersions and maxList (in bytes, as encoded) bound what a client takes
	// of one list: a peer could go on for ever.
	maxPages    = 1000
	maxVersions = 2_000_000
	maxList     = 256 << 20
	// keepList is how long a server keeps what is left of a list for the client that may
	// ask for its next page: clients do so at once.
	keepList = 10 * time.Second
)
