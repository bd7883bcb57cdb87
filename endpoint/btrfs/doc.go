// Package btrfs is the endpoint whose filesystems are btrfs subvolumes and whose
// versions are their read-only snapshots.
//
// Facts come from the kernel (the ioctls that need no privilege), and so do snapshots and
// their ends; streams are those of the btrfs program, `btrfs send` and `btrfs receive`.
//
//	<root>/<filesystem>                          a sender's: a writable subvolume
//	<root>/.dualrepl/<filesystem>/@<version>     a sender's snapshots; .dualrepl is a subvolume,
//	                                             so that no snapshot of the root contains it
//	<root>[/<client>]/<filesystem>/@<version>    a receiver's snapshots
//
// and beside the snapshots of either, in a directory .dualrepl:
//
//	state.json    marks: cursors and holds; when received versions were created
//	state.lock    flock for changes of it, and for destroying
//	receive.lock  flock of the one receive
//	receiving     subvolume in which a receive works, until it commits
//
// On a receiver, a directory without .dualrepl above one that has it is a placeholder.
// A Sender whose root is that of a receiver offers what was received there, to send it on.
//
// GUIDs: that of a version is its received UUID, or its own where it has none, folded
// to 64 bits. btrfs keeps the received UUID when a snapshot is sent on, so a version has
// one GUID on all hosts. Which version a stream is of, and which one it starts from, is
// compared by the whole UUID.
//
// Who keeps a version: there are no bookmarks on btrfs, so a replication cursor holds the
// snapshot that it points to. Marks are the job's or, where clients pull from it, each
// client's.
//
// What a broken receive leaves: nothing that lasts. btrfs cannot resume, so there are no
// resume tokens; what came is destroyed at once or, after a crash, with the next receive of
// the filesystem and by NewReceiver. A version appears by one ioctl that also writes it
// to disk, so it is complete or absent.
//
// Trust: names and streams come from peers. `btrfs receive` does what a stream says, with
// the caller's privileges: it follows symbolic links, opens devices, and takes data
// from any subvolume of the file system that a stream names. So every command of a stream
// is checked on its way to it (see stream), and it runs confined (chroot) to a subvolume
// that is empty but for a snapshot of what the step starts from. What a peer calls
// a subvolume is never used as a path. Nothing is opened through symbolic links below the
// root, which belongs to its user.
package btrfs
