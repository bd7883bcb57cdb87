// Package dir is the endpoint whose filesystems are directories: the embedded
// default, which needs nothing of the file system below it but hard links, and makes
// use of clones where it has them.
//
// A Sender takes snapshots of directories into a store and offers them. A Receiver
// makes the same snapshots in a store of its own. A snapshot, once there, never
// changes: a tree of plain files to browse, and beside it a manifest, which is the
// truth about it. Versions share what is alike. Restore brings a snapshot back,
// Verify compares it with its manifest.
//
//	<store>/<filesystem>/@<version>/tree/      the files
//	                               /manifest   Manifest, encoded
//	                               /scan       a sender's: inodes and ctimes, to find changes
//	<store>/<filesystem>/.dualrepl/lock        flock of the one writer: snapshot, receive or destroy
//	                              /state.json  the next CreateTXG, holds; state.lock is its flock
//	                              /bookmarks/  manifests that replication cursors point to
//	                              /receiving/  a receive that runs or broke
//	                              /trees/      trees that several versions have
//
// A directory without .dualrepl above one that has it is a placeholder. Versions
// that are alike share a tree: it lies in trees, and theirs are symbolic links to it.
//
// What a version has: files with their holes, directories, symbolic links, names of
// one file, FIFOs and devices, each with mode, owner, mtime and extended attributes.
// Sockets are left out. In the tree, files cannot be written to, set-id bits are off,
// owners are set only by root; FIFOs and devices are only in the manifest. Several
// versions may have a file in common, whose mode and mtime are then those of the
// oldest.
//
// How changes are found: a file is read if its inode, size, mtime or ctime is not as it
// was. Data that is not on disk yet is written there before it is read, since only then
// a later write through a memory mapping sets these times. On tmpfs such a write
// never does; SnapshotOptions.Full reads everything. At another path a file is known by
// its inode only on file systems where numbers stay: ext4, XFS, btrfs, ZFS, F2FS, tmpfs,
// overlays, NFS. Others, as vfat, exfat and sshfs, may number files anew with each mount,
// and have no ctime of their own: there only Full notices an edit of the same size whose
// mtime was put back.
//
// What is missing: a file that someone holds a lease on, as Samba does, is waited for.
// What cannot be read, for a lack of permission or a bad block, is left out, and the
// version is marked and its report says so: no file prevents all versions.
//
// Who keeps a version: holds, in state.json, those of a step that may be resumed and of
// what a receiver got last; and a shared flock on its directory, while it is sent, verified or
// restored. Holds change under .dualrepl/state.lock; a destroy looks for them under it, and
// keeps that flock until the version is out of sight. Cursors and holds of a sender
// are the job's or, where clients pull from it, each client's (job, space, identity).
//
// What a crash leaves: a version appears in one rename, after everything in it was
// synced to disk, so it is complete or absent. An interrupted snapshot is gone, an
// interrupted receive goes on where it broke.
//
// The stream of a step depends on its two versions alone. Both sides compute from the
// two manifests which ranges of which files it has to carry (NewPlan), so that
// it has no framing, and can continue at any byte. A receiver checks all that comes, and
// trusts what it has: what a step takes from the version before is not read again to
// check it, Verify is for that. The formats are in docs/protocol.md, section 6.
//
// Trust: names, manifests and streams come from peers. They are checked before they
// are used, nothing is allocated because a peer says so, and every path of a peer is
// opened below an os.Root, one component after another. Directories that a Sender
// takes snapshots of belong to its user, and so do stores.
package dir
