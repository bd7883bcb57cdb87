// Package prune decides by keep rules which snapshots of a filesystem are destroyed, and
// has an endpoint destroy them.
//
// # Rules
//
// A rule names the snapshots that it keeps; a snapshot is destroyed if no rule keeps it.
// A regular expression limits what a rule can keep: what it does not match is left to the
// other rules, and destroyed if there are none. Without any rule, all are kept. The rules
// mean what they mean to zrepl:
//
//   - [NotReplicated] keeps what is newer than the sender's replication cursor.
//   - [LastN] keeps the newest snapshots.
//   - [Regex] keeps what it matches, or with Negate what it does not match.
//   - [Grid] keeps fewer snapshots, the older they get.
//
// A snapshot's age decides by its creation time; among those of the same time, the order
// of their creation does.
//
// Rules are applied to what there is. What they leave, they leave again, with one
// exception: a grid lies at the newest snapshot that it matches, and moves if that
// snapshot is destroyed. A first interval of keep=all keeps it in place.
//
// # What is never destroyed
//
// [Run] keeps some snapshots against all rules, since a replication goes on from them: on
// a sender the one at the replication cursor, on a receiver the newest that the sender
// has too, as a snapshot or a bookmark. It destroys nothing where it cannot tell: in a
// receiver's filesystem that the sender does not have, or has nothing in common with, and
// under [NotReplicated] where there is no cursor.
//
// Snapshots of the future stay, and count for no rule: a clock was wrong, when they were
// taken or now. A grid that lies at one of them, or a LastN that counts it, would destroy
// what is taken ever after.
//
// Nothing in an endpoint's answers is trusted: versions that break the protocol fail their
// filesystem, and a snapshot counts as destroyed only if its own result says so.
package prune
