// Package synth generates data: streams of a chosen length that cost next to
// nothing to make and that a receiver can verify byte by byte, and a sender
// (Source) and a receiver (Sink) that replicate such streams in memory. It is
// what tests and benchmarks put at the two ends of the stack.
//
// The content is one block of random bytes, made once per process and repeated;
// a seed says where in the block a stream begins. Its length is prime, so that a
// lost, doubled or shifted buffer of any usual size shows. The content is
// therefore no test of compression or deduplication.
package synth
