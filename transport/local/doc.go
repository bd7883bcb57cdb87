// Package local is the transport within one process: for a push or pull job and
// its counterpart in the same daemon, and for tests. Its wires are made of memory
// and channels only, so they run in virtual time too (testing/synctest).
package local
