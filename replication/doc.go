// Package replication brings a receiver's filesystems up to date with a sender's.
//
// The planner decides, for one filesystem, which steps to take. It is a pure
// function of the two sides' version lists, the initial policy and what the
// receiver's resume token says. A broken step is resumed first; from the most
// recent version that both sides have (by GUID; on the sender a bookmark will do),
// every newer snapshot of the sender follows, one incremental step each. A receiver
// whose newest snapshot the sender does not have has diverged: that is an error, and
// nothing is sent.
//
// The driver does the steps: those of one filesystem in order, several filesystems at
// once, parents before children where the receiver has neither. A transient error (a
// lost connection, a timeout, a busy peer) is retried after a pause, with a new plan
// from what the receiver has by then, so that nothing is repeated that is done and
// nothing is left out that is not. Any other error ends its filesystem, and the others
// go on. A resume token that does not fit is dropped, noted, and its step starts anew.
//
// Both sides are plain endpoints; one of them is usually an rpc.Client. Nothing is
// asked of a peer beyond the base protocol, and nothing in its answers is trusted:
// lists that break the protocol are ErrProtocol.
//
// Limits: lists of filesystems and versions are held in memory. Filesystems that only
// the receiver has are left alone. Versions are never destroyed here.
package replication
