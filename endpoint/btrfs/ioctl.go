package btrfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path"
	"time"
	"unsafe"

	"github.com/dualrepl/dualrepl/endpoint"
	"golang.org/x/sys/unix"
)

// Directions of ioctls, which differ between architectures: those of some that every one
// has.
const (
	ioNone      = unix.BLKRRPART & 0xe0000000
	ioRead      = unix.FS_IOC_GETFLAGS & 0xe0000000
	ioWrite     = unix.FS_IOC_SETFLAGS & 0xe0000000
	ioctlsBtrfs = 0x94 << 8 // BTRFS_IOCTL_MAGIC
)

// The ioctls of include/uapi/linux/btrfs.h that are used, with the sizes of their
// arguments there.
const (
	iocSync          = ioNone | ioctlsBtrfs | 8
	iocSubvolCreate  = ioWrite | 4096<<16 | ioctlsBtrfs | 14
	iocSnapDestroy   = ioWrite | 4096<<16 | ioctlsBtrfs | 15
	iocSnapCreateV2  = ioWrite | 4096<<16 | ioctlsBtrfs | 23
	iocSetReceived   = ioRead | ioWrite | 200<<16 | ioctlsBtrfs | 37
	iocSubvolInfo    = ioRead | 504<<16 | ioctlsBtrfs | 60
	iocSubvolRootref = ioRead | ioWrite | 4096<<16 | ioctlsBtrfs | 61
	iocInoLookupUser = ioRead | ioWrite | 4096<<16 | ioctlsBtrfs | 62
)

const (
	subvolReadOnly = 1 << 1 // BTRFS_SUBVOL_RDONLY, of iocSnapCreateV2
	rootReadOnly   = 1 << 0 // BTRFS_ROOT_SUBVOL_RDONLY, of iocSubvolInfo
	subvolInode    = 256    // BTRFS_FIRST_FREE_OBJECTID: of the root directory of any subvolume
	maxNameBytes   = 255    // BTRFS_VOL_NAME_MAX
)

// uuid is that of a subvolume; zero: none.
type uuid [16]byte

// guid folds a UUID into a GUID, which is never 0.
func (u uuid) guid() uint64 {
	return max(1, binary.BigEndian.Uint64(u[:8])^binary.BigEndian.Uint64(u[8:]))
}

// String returns the form that the btrfs program prints.
func (u uuid) String() string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

// volArgs is struct btrfs_ioctl_vol_args.
type volArgs struct {
	_    int64
	name [4088]byte
}

// volArgsV2 is struct btrfs_ioctl_vol_args_v2.
type volArgsV2 struct {
	fd    int64
	_     uint64
	flags uint64
	_     [4]uint64
	name  [4040]byte
}

// timespec is struct btrfs_ioctl_timespec.
type timespec struct {
	sec  uint64
	nsec uint32
	_    uint32
}

// receivedArgs is struct btrfs_ioctl_received_subvol_args; what the kernel ignores or
// answers is left out.
type receivedArgs struct {
	uuid uuid
	_    [23]uint64
}

// subvolInfo is struct btrfs_ioctl_get_subvol_info_args; what is not used has no name.
type subvolInfo struct {
	_        uint64                 // treeid
	_        [maxNameBytes + 1]byte // name
	_        [3]uint64              // parent_id, dirid, generation
	flags    uint64
	uuid     uuid
	_        uuid // parent_uuid
	received uuid
	_        uint64    // ctransid
	otransid uint64    // the generation that it was created in
	_        [2]uint64 // stransid, rtransid
	_        timespec  // ctime
	otime    timespec  // when it was created
	_        [2]timespec
	_        [8]uint64
}

// rootrefs is struct btrfs_ioctl_get_subvol_rootref_args.
type rootrefs struct {
	_    uint64 // the kernel keeps in it where to go on
	refs [255]struct{ treeid, dirid uint64 }
	n    uint8
	_    [7]byte
}

// inoLookup is struct btrfs_ioctl_ino_lookup_user_args.
type inoLookup struct {
	dirid  uint64
	treeid uint64
	name   [maxNameBytes + 1]byte
	path   [4080 - maxNameBytes - 1]byte // of the directory, with a slash at its end
}

// ioctl calls the kernel, again if a signal came.
func ioctl[T any](f *os.File, request uintptr, args *T) error {
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(unsafe.Pointer(args)))
		if errno == 0 {
			return nil
		}
		if errno != unix.EINTR {
			return errno
		}
	}
}

// kernelError marks the errors of ioctls, and of other system calls, that callers
// decide by.
func kernelError(err error) error {
	for _, mark := range []struct {
		errno unix.Errno
		as    error
	}{
		{unix.ENOSPC, endpoint.ErrNoSpace},
		{unix.EDQUOT, endpoint.ErrNoSpace},
		{unix.EPERM, endpoint.ErrPermission},
		{unix.EACCES, endpoint.ErrPermission},
		{unix.EEXIST, endpoint.ErrFailedPrecondition},
	} {
		if errors.Is(err, mark.errno) {
			return fmt.Errorf("%w: %w", mark.as, err)
		}
	}
	return err
}

// errNoSubvolume: the directory is not the root of a subvolume.
var errNoSubvolume = fmt.Errorf("%w: this is no btrfs subvolume", endpoint.ErrFailedPrecondition)

// subvolume is what the kernel knows of a subvolume.
type subvolume struct {
	readOnly bool
	own      uuid
	received uuid // zero: it was not received
	txg      uint64
	created  time.Time
}

// identity is what a version is known by on all hosts.
func (v subvolume) identity() uuid {
	if v.received != (uuid{}) {
		return v.received
	}
	return v.own
}

// statSubvolume tells about the subvolume whose root directory is open; errNoSubvolume.
func statSubvolume(dir *os.File) (subvolume, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return subvolume{}, fmt.Errorf("stat %s: %w", clean(dir), err)
	}
	if st.Ino != subvolInode || checkBtrfs(dir) != nil {
		return subvolume{}, fmt.Errorf("%s: %w", clean(dir), errNoSubvolume)
	}
	var info subvolInfo
	if err := ioctl(dir, iocSubvolInfo, &info); err != nil {
		return subvolume{}, fmt.Errorf("subvolume %s: %w", clean(dir), kernelError(err))
	}
	return subvolume{
		readOnly: info.flags&rootReadOnly != 0, own: info.uuid, received: info.received,
		txg: info.otransid, created: time.Unix(int64(info.otime.sec), int64(info.otime.nsec)),
	}, nil
}

// checkBtrfs refuses a directory of another file system, as an unmounted disk leaves.
func checkBtrfs(dir *os.File) error {
	st, err := statfs(dir)
	if err == nil && st.Type != unix.BTRFS_SUPER_MAGIC {
		err = fmt.Errorf("%w: %s is not on btrfs", endpoint.ErrFailedPrecondition, clean(dir))
	}
	return err
}

func statfs(dir *os.File) (st unix.Statfs_t, err error) {
	if err = unix.Fstatfs(int(dir.Fd()), &st); err != nil {
		err = fmt.Errorf("statfs %s: %w", clean(dir), err)
	}
	return st, err
}

// childPaths lists the subvolumes that lie in the same subvolume as dir, below dir, by their
// paths from there. One whose path the caller may not look into is left out.
func childPaths(dir *os.File) ([]string, error) {
	var paths []string
	refs := &rootrefs{}
	for {
		err := ioctl(dir, iocSubvolRootref, refs)
		if err != nil && !errors.Is(err, unix.EOVERFLOW) { // that: there are more
			return nil, fmt.Errorf("list subvolumes of %s: %w", clean(dir), kernelError(err))
		}
		for _, ref := range refs.refs[:refs.n] {
			look := &inoLookup{dirid: ref.dirid, treeid: ref.treeid}
			if ioctl(dir, iocInoLookupUser, look) == nil {
				paths = append(paths, text(look.path[:])+text(look.name[:]))
			}
		}
		if err == nil {
			return paths, nil
		}
	}
}

// text is what a C string holds.
func text(b []byte) string {
	before, _, _ := bytes.Cut(b, []byte{0})
	return string(before)
}

// createSubvolume makes an empty subvolume in dir.
func createSubvolume(dir *os.File, name string) error {
	args := &volArgs{}
	copy(args.name[:maxNameBytes], name)
	return callError("create subvolume", dir, name, ioctl(dir, iocSubvolCreate, args))
}

// createSnapshot makes a snapshot of a subvolume in dir. A read-only one, and all in
// it, is on disk when this returns.
func createSnapshot(dir *os.File, name string, of *os.File, flags uint64) error {
	args := &volArgsV2{fd: int64(of.Fd()), flags: flags}
	copy(args.name[:maxNameBytes], name)
	return callError("create snapshot", dir, name, ioctl(dir, iocSnapCreateV2, args))
}

// destroySubvolume takes a subvolume, which contains no other one, out of dir. The kernel
// frees what it took afterwards.
func destroySubvolume(dir *os.File, name string) error {
	args := &volArgs{}
	copy(args.name[:maxNameBytes], name)
	return callError("destroy subvolume", dir, name, ioctl(dir, iocSnapDestroy, args))
}

func callError(what string, dir *os.File, name string, err error) error {
	if err != nil {
		return fmt.Errorf("%s %s/%s: %w", what, clean(dir), name, kernelError(err))
	}
	return nil
}

// freeDestroyed has the kernel begin now to free what destroyed subvolumes took, and not
// at its next opportunity, half a minute later. It does not wait for the end of it.
func freeDestroyed(dir *os.File) error {
	if err := ioctl(dir, iocSync, &struct{}{}); err != nil {
		return fmt.Errorf("sync %s: %w", clean(dir), kernelError(err))
	}
	return nil
}

// clean is a directory's path: that of one that was opened as "." below another ends so.
func clean(dir *os.File) string { return path.Clean(dir.Name()) }

// setReceived gives a writable subvolume a received UUID.
func setReceived(subvol *os.File, id uuid) error {
	if err := ioctl(subvol, iocSetReceived, &receivedArgs{uuid: id}); err != nil {
		return fmt.Errorf("mark subvolume %s as received: %w", clean(subvol), kernelError(err))
	}
	return nil
}
