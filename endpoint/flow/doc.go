// Package flow puts read-ahead and bandwidth limits around an endpoint's streams, so
// that a program which stalls for seconds does not stall the network, and a job
// leaves some of the network to others.
//
// A sender's bytes go from its program to the buffer, through the limit, to the wire;
// a receiver's from the wire, through the limit, to the buffer, to its program. So
// the wire never carries more than the limit allows, and the program goes on at its
// own pace for as long as the buffer has room.
//
// A buffer is one stream's. Its memory is allocated as it fills, in blocks that are
// used again while they are still in the processor's cache; one that stays empty costs
// a block or two. A byte is copied once more than without it where the reader brings
// its own memory, and not at all where it takes the stream as an io.WriterTo, which
// every buffered stream is.
//
// One goroutine fills a buffer. It belongs to the stream: it begins with the first
// Read, at a receiver after the start of the stream was taken, and has ended when a sender's stream is closed, or Receive returns. An error
// of the stream comes after all bytes that were read before it.
package flow
