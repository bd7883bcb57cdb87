// Package zfs replicates ZFS filesystems and volumes with the zfs program. It keeps
// its state on the pool under the names that zrepl uses, so that either may take the
// other's place on either side.
//
// A Sender offers the datasets that its filter selects. What it keeps on them:
//
//   - #zrepl_CURSOR_G_<GUID>_J_<job>, a bookmark: the replication cursor, the last
//     version known to be on the receiver;
//   - #zrepl_CURSORTENTATIVE__G_<GUID>_J_<job>: the same of a step that has begun;
//   - zrepl_STEP_J_<job>, a hold on the snapshots of a step that has begun.
//
// Which of them depends on the guarantee that the request asks for. A job's name and a
// filesystem are all that tells them apart: there is one sender a job, and it sends one
// step of a filesystem at a time.
//
// A Receiver keeps what it gets below one dataset. Ancestors that the sender does not
// have are placeholders, which the property zrepl:placeholder=on marks; the newest version
// has the hold zrepl_last_received_J_<job>.
//
// Names that come from a peer are checked before use and are arguments of their own, never
// words of a shell. What zfs writes to its standard error is in the error, and decides
// which of the endpoint's errors that one is.
package zfs
