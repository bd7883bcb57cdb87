package dir

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A treeDir is one open directory of a tree. Every method takes a single path
// component, so that nothing can lead out of the directory, and none follows a
// symbolic link.
type treeDir struct {
	root *os.Root
	fd   *os.File // the same directory, for the calls that os.Root does not have

	version *os.File // of a tree that filesystem.share opened: what it has locked
}

func newTreeDir(root *os.Root) (*treeDir, error) {
	fd, err := root.Open(".")
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return &treeDir{root: root, fd: fd}, nil
}

// openTreeDir opens the directory at name below root as a tree.
func openTreeDir(root *os.Root, name string) (*treeDir, error) {
	sub, err := root.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	return newTreeDir(sub)
}

// Close closes the directory, and lets go of its version.
func (d *treeDir) Close() error {
	err := errors.Join(d.root.Close(), d.fd.Close())
	if d.version != nil {
		err = errors.Join(err, d.version.Close())
	}
	return err
}

// sub opens the directory name.
func (d *treeDir) sub(name string) (*treeDir, error) {
	st, err := d.root.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !st.IsDir() {
		return nil, &os.PathError{Op: "open", Path: name, Err: unix.ENOTDIR}
	}
	return openTreeDir(d.root, name)
}

// openRegular opens the regular file name for reading. It never waits, as opening
// a FIFO would.
func (d *treeDir) openRegular(name string) (*os.File, error) {
	before, err := d.stat(name)
	if err != nil {
		return nil, err
	}
	if t := typeOf(&before); t != TypeFile {
		return nil, fmt.Errorf("%q is not a file but a %s", name, t)
	}
	f, err := d.open(name, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	after, err := fstat(f)
	if err == nil && (before.Dev != after.Dev || before.Ino != after.Ino) {
		err = fmt.Errorf("%q was replaced while it was opened", name)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// create makes the new file name, accessible by its owner only.
func (d *treeDir) create(name string) (*os.File, error) {
	return d.open(name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL)
}

// open opens name, and waits for nothing. os.Root's own way takes several system calls
// more: noticeable where files are small.
func (d *treeDir) open(name string, flags int) (*os.File, error) {
	for {
		fd, err := unix.Openat(int(d.fd.Fd()), name, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o600)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err == nil {
			err = unix.SetNonblock(fd, false) // else each use of the descriptor would see to that
		}
		if err != nil {
			return nil, pathError("openat", name, err)
		}
		return os.NewFile(uintptr(fd), name), nil
	}
}

func fstat(f *os.File) (unix.Stat_t, error) {
	var st unix.Stat_t
	err := unix.Fstat(int(f.Fd()), &st)
	return st, os.NewSyscallError("fstat", err)
}

// remove removes name, whatever it is. It is no error if there is nothing.
func (d *treeDir) remove(name string) error {
	err := d.root.Remove(name)
	if err == nil || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return d.root.RemoveAll(name)
}

// link makes newName in d another name of the file oldName in from.
func (d *treeDir) link(from *treeDir, oldName, newName string) error {
	err := unix.Linkat(int(from.fd.Fd()), oldName, int(d.fd.Fd()), newName, 0)
	if err != nil {
		return &os.LinkError{Op: "linkat", Old: oldName, New: newName, Err: err}
	}
	return nil
}

func (d *treeDir) mknod(name string, mode uint32, rdev uint64) error {
	return pathError("mknodat", name, unix.Mknodat(int(d.fd.Fd()), name, mode, int(rdev)))
}

// chtimes sets the modification time, of a symbolic link too, to the nanosecond
// and also before 1970.
func (d *treeDir) chtimes(name string, sec, nsec int64) error {
	ts := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: sec, Nsec: nsec}}
	return pathError("utimensat", name, unix.UtimesNanoAt(int(d.fd.Fd()), name, ts, unix.AT_SYMLINK_NOFOLLOW))
}

func (d *treeDir) chown(name string, uid, gid uint32) error {
	return pathError("fchownat", name, unix.Fchownat(int(d.fd.Fd()), name, int(uid), int(gid), unix.AT_SYMLINK_NOFOLLOW))
}

// stat does not follow a symbolic link.
func (d *treeDir) stat(name string) (unix.Stat_t, error) {
	var st unix.Stat_t
	err := unix.Fstatat(int(d.fd.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	return st, pathError("fstatat", name, err)
}

// setXattr sets one extended attribute, of a symbolic link too.
func (d *treeDir) setXattr(name string, x Xattr) error {
	return pathError("setxattr "+x.Name, name, unix.Lsetxattr(procPath(d.fd, name), x.Name, x.Value, 0))
}

func pathError(op, name string, err error) error {
	if err != nil {
		return &os.PathError{Op: op, Path: name, Err: err}
	}
	return nil
}

// typeOf is 0 for a socket.
func typeOf(st *unix.Stat_t) EntryType {
	var e Entry
	e.setStat(st)
	return e.Type
}

// String is the type in words.
func (t EntryType) String() string {
	switch t {
	case TypeFile:
		return "file"
	case TypeDir:
		return "directory"
	case TypeSymlink:
		return "symbolic link"
	case TypeFIFO:
		return "FIFO"
	case TypeCharDevice:
		return "character device"
	case TypeBlockDevice:
		return "block device"
	}
	return "socket"
}

// A treeCursor opens the directories of one tree as they are needed, and keeps one
// open beside the top: a manifest goes through a tree directory by directory, and
// depth costs no descriptors.
type treeCursor struct {
	top  *treeDir
	path string // of cur, relative to top
	cur  *treeDir
}

func newTreeCursor(top *treeDir) *treeCursor { return &treeCursor{top: top, cur: top} }

// cursor returns a cursor of the tree below d, to be closed by itself.
func (d *treeDir) cursor() (*treeCursor, error) {
	top, err := openTreeDir(d.root, ".")
	if err != nil {
		return nil, err
	}
	return newTreeCursor(top), nil
}

// Close closes what the cursor opened, and the top.
func (c *treeCursor) Close() error { return errors.Join(c.leave(), c.top.Close()) }

func (c *treeCursor) leave() error {
	old := c.cur
	c.cur, c.path = c.top, ""
	if old == c.top {
		return nil
	}
	return old.Close()
}

// parent opens the directory of path, which is valid until the next call, and
// returns path's last component. The top itself is ".".
func (c *treeCursor) parent(path string) (*treeDir, string, error) {
	dir, name := splitPath(path)
	if name == "" {
		name = "."
	}
	d, err := c.dir(dir)
	return d, name, err
}

// dir opens the directory at path, component by component.
func (c *treeCursor) dir(path string) (*treeDir, error) {
	if path == c.path {
		return c.cur, nil
	}
	rest, below := strings.CutPrefix(path, c.path+"/")
	if !below || c.path == "" {
		if err := c.leave(); err != nil {
			return nil, err
		}
		rest = path
	}
	for rest != "" {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		if err := c.enter(name); err != nil {
			return nil, err
		}
	}
	return c.cur, nil
}

func (c *treeCursor) enter(name string) error {
	next, err := c.cur.sub(name)
	if err != nil {
		return err
	}
	path := joinPath(c.path, name)
	if err := c.leave(); err != nil {
		return errors.Join(err, next.Close())
	}
	c.cur, c.path = next, path
	return nil
}

func splitPath(path string) (dir, name string) {
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		return path[:i], path[i+1:]
	}
	return "", path
}

func joinPath(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// reuse makes dstName in dst hold what srcName in src holds, whose content is e's: as a
// hard link if it may be the same file or cannot be cloned, else by cloning, else (the
// link count is exhausted) as a copy. linked says that the two are one file now, whose
// metadata must stay as it is.
func (f *fileIO) reuse(ctx context.Context, src *treeDir, srcName string, dst *treeDir, dstName string, e *Entry, same bool) (linked bool, err error) {
	if same || !f.clones {
		err := dst.link(src, srcName, dstName)
		if err == nil || !errors.Is(err, unix.EMLINK) && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EXDEV) {
			return err == nil, err
		}
	}
	file, err := src.openRegular(srcName)
	if err != nil {
		return false, err
	}
	defer file.Close()
	return false, f.put(ctx, file, dst, dstName, e)
}

// put clones src, or copies it and checks what it copied.
func (f *fileIO) put(ctx context.Context, src *os.File, dir *treeDir, name string, e *Entry) error {
	dst, err := dir.create(name)
	if err != nil {
		return err
	}
	if !f.clone(src, dst) {
		err = copyChecked(ctx, src, dst, e)
	}
	return errors.Join(err, dst.Close())
}

// maxXattrList is what the names of one file's extended attributes may take, in bytes
// (Linux: XATTR_LIST_MAX).
const maxXattrList = 64 << 10

// xfsACLPrefix begins the names under which XFS shows root a second time, in its own
// format, what system.posix_acl_access and system.posix_acl_default hold.
var xfsACLPrefix = []byte("trusted.SGI_ACL_")

// readXattrs reads f's extended attributes, ACLs among them, sorted by name. A
// file system that has none yields none.
func readXattrs(f *os.File) ([]Xattr, error) {
	fd := int(f.Fd())
	return collectXattrs(f.Name(),
		func(p []byte) (int, error) { return unix.Flistxattr(fd, p) },
		func(name string, p []byte) (int, error) { return unix.Fgetxattr(fd, name, p) })
}

// readLinkXattrs is readXattrs for the entry name of dir, which may be anything
// that cannot be opened: a symbolic link, a FIFO, a device.
func readLinkXattrs(dir *os.File, name string) ([]Xattr, error) {
	path := procPath(dir, name)
	return collectXattrs(name,
		func(p []byte) (int, error) { return unix.Llistxattr(path, p) },
		func(attr string, p []byte) (int, error) { return unix.Lgetxattr(path, attr, p) })
}

// procPath names an entry of an open directory for the calls that know only paths.
func procPath(dir *os.File, name string) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), name)
}

func collectXattrs(path string, list func([]byte) (int, error), get func(string, []byte) (int, error)) ([]Xattr, error) {
	size, err := list(nil)
	if errors.Is(err, unix.EOPNOTSUPP) || err == nil && size == 0 {
		return nil, nil
	}
	s := scratchPool.Get().(*scratch)
	defer scratchPool.Put(s)
	names := s.buf[:maxXattrList]
	if err == nil {
		size, err = list(names)
	}
	if err != nil {
		return nil, &os.PathError{Op: "listxattr", Path: path, Err: err}
	}
	var xattrs []Xattr
	for name := range bytes.SplitSeq(bytes.TrimSuffix(names[:size], []byte{0}), []byte{0}) {
		if bytes.HasPrefix(name, xfsACLPrefix) {
			continue
		}
		n, err := get(string(name), s.buf[maxXattrList:][:MaxXattrBytes])
		if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EOPNOTSUPP) {
			continue // gone meanwhile, or listed by a file system that does not give it out
		}
		if err != nil {
			return nil, &os.PathError{Op: "getxattr " + string(name), Path: path, Err: err}
		}
		xattrs = append(xattrs, Xattr{Name: string(name), Value: slices.Clone(s.buf[maxXattrList:][:n])})
	}
	slices.SortFunc(xattrs, func(a, b Xattr) int { return strings.Compare(a.Name, b.Name) })
	return xattrs, nil
}

// names lists a directory, in no order.
func (d *treeDir) names() ([]string, error) {
	if _, err := d.fd.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	return d.fd.Readdirnames(-1)
}
