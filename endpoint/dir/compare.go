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

// Difference is one way in which two directories differ.
type Difference struct {
	Path string // relative to both; bytes, not text
	What string // what differs: "content", "mode", "is missing", ...
	A, B string // what it is on either side, for people
}

// Compare compares two live directories file by file and attribute by attribute:
// type, content, mode, modification time, extended attributes, targets of symbolic
// links, device numbers, which names are hard links of one file, and owners if the
// process is root. Where holes lie makes no difference. Sockets are passed over, as
// snapshots leave them out. Neither may change meanwhile.
func Compare(ctx context.Context, a, b string) ([]Difference, error) {
	c := &comparer{ctx: ctx, root: isRoot}
	for i, path := range []string{a, b} {
		root, err := os.OpenRoot(path)
		if err != nil {
			return nil, fmt.Errorf("compare: %w", err)
		}
		top, err := newTreeDir(root)
		if err != nil {
			return nil, fmt.Errorf("compare: %w", err)
		}
		c.side[i] = side{cursor: newTreeCursor(top), first: map[inode]string{}}
		defer c.side[i].cursor.Close()
	}
	if err := c.run(); err != nil {
		return nil, fmt.Errorf("compare %s with %s: %w", a, b, err)
	}
	return c.differences, nil
}

// comparer does one Compare.
type comparer struct {
	ctx         context.Context
	root        bool // owners count
	side        [2]side
	open        []string // directories still to compare
	differences []Difference
}

// side is one of the two directories.
type side struct {
	cursor *treeCursor
	first  map[inode]string // path of the first name seen of each hard-linked file
}

// node is one entry on one side.
type node struct {
	dir  *treeDir
	name string
	st   unix.Stat_t
}

func (s *side) node(path string) (node, error) {
	dir, name, err := s.cursor.parent(path)
	if err != nil {
		return node{}, err
	}
	st, err := dir.stat(name)
	return node{dir: dir, name: name, st: st}, err
}

// link returns the first name of the file that path names.
func (s *side) link(path string, st unix.Stat_t) string {
	if st.Mode&unix.S_IFMT == unix.S_IFDIR || st.Nlink < 2 {
		return path
	}
	key := inode{Dev: st.Dev, Ino: st.Ino}
	if _, ok := s.first[key]; !ok {
		s.first[key] = path
	}
	return s.first[key]
}

func (c *comparer) run() error {
	if err := c.entry(""); err != nil {
		return err
	}
	for len(c.open) > 0 {
		path := c.open[len(c.open)-1]
		c.open = c.open[:len(c.open)-1]
		if err := c.children(path); err != nil {
			return err
		}
	}
	slices.SortStableFunc(c.differences, func(x, y Difference) int { return ComparePaths(x.Path, y.Path) })
	return nil
}

// children compares what is in the directory at path on both sides.
func (c *comparer) children(path string) error {
	var names [2][]string
	for i := range c.side {
		dir, err := c.side[i].cursor.dir(path)
		if err != nil {
			return err
		}
		if names[i], err = dir.entries(); err != nil {
			return err
		}
	}
	all := slices.Concat(names[0], names[1])
	slices.Sort(all)
	for _, name := range slices.Compact(all) {
		_, inA := slices.BinarySearch(names[0], name)
		_, inB := slices.BinarySearch(names[1], name)
		if child := joinPath(path, name); inA && inB {
			if err := c.entry(child); err != nil {
				return fmt.Errorf("%q: %w", child, err)
			}
		} else {
			c.differ(child, "is missing", presence(inA), presence(inB))
		}
	}
	return nil
}

// entries lists a directory without its sockets, sorted.
func (d *treeDir) entries() ([]string, error) {
	names, err := d.names()
	slices.Sort(names)
	return slices.DeleteFunc(names, func(name string) bool {
		st, err := d.stat(name)
		return err == nil && st.Mode&unix.S_IFMT == unix.S_IFSOCK
	}), err
}

func presence(there bool) string {
	if there {
		return "present"
	}
	return "missing"
}

func (c *comparer) differ(path, what string, a, b any) {
	if a != b {
		c.differences = append(c.differences, Difference{Path: path, What: what, A: fmt.Sprint(a), B: fmt.Sprint(b)})
	}
}

// entry compares what both sides have at path.
func (c *comparer) entry(path string) error {
	if c.ctx.Err() != nil {
		return context.Cause(c.ctx)
	}
	a, err := c.side[0].node(path)
	if err != nil {
		return err
	}
	b, err := c.side[1].node(path)
	if err != nil {
		return err
	}
	if ta, tb := typeOf(&a.st), typeOf(&b.st); ta != tb {
		c.differ(path, "type", ta, tb)
		return nil
	}
	c.stat(path, a.st, b.st)
	if err := c.xattrs(path, a, b); err != nil {
		return err
	}
	return c.content(path, a, b)
}

func (c *comparer) stat(path string, a, b unix.Stat_t) {
	if typeOf(&a) != TypeSymlink {
		c.differ(path, "mode", fmt.Sprintf("%04o", a.Mode&0o7777), fmt.Sprintf("%04o", b.Mode&0o7777))
	}
	c.differ(path, "mtime", fmt.Sprintf("%d.%09d", a.Mtim.Sec, a.Mtim.Nsec), fmt.Sprintf("%d.%09d", b.Mtim.Sec, b.Mtim.Nsec))
	c.differ(path, "device", a.Rdev, b.Rdev)
	c.differ(path, "hard link", c.side[0].link(path, a), c.side[1].link(path, b))
	if c.root {
		c.differ(path, "owner", fmt.Sprintf("%d:%d", a.Uid, a.Gid), fmt.Sprintf("%d:%d", b.Uid, b.Gid))
	}
}

func (c *comparer) xattrs(path string, a, b node) error {
	xa, err := readLinkXattrs(a.dir.fd, a.name)
	if err != nil {
		return err
	}
	xb, err := readLinkXattrs(b.dir.fd, b.name)
	if err != nil {
		return err
	}
	c.differ(path, "extended attributes", describeXattrs(xa), describeXattrs(xb))
	return nil
}

func describeXattrs(xattrs []Xattr) string {
	var s []string
	for _, x := range xattrs {
		s = append(s, fmt.Sprintf("%s=%q", x.Name, x.Value))
	}
	return strings.Join(s, " ")
}

// content compares what the mode does not say; a directory's later.
func (c *comparer) content(path string, a, b node) error {
	switch typeOf(&a.st) {
	case TypeDir:
		c.open = append(c.open, path)
	case TypeSymlink:
		return c.symlink(path, a, b)
	case TypeFile:
		return c.file(path, a, b)
	}
	return nil
}

func (c *comparer) symlink(path string, a, b node) error {
	ta, errA := a.dir.root.Readlink(a.name)
	tb, errB := b.dir.root.Readlink(b.name)
	c.differ(path, "target", ta, tb)
	return errors.Join(errA, errB)
}

func (c *comparer) file(path string, a, b node) error {
	if a.st.Size != b.st.Size {
		c.differ(path, "size", a.st.Size, b.st.Size)
		return nil
	}
	fa, err := a.dir.openRegular(a.name)
	if err != nil {
		return err
	}
	defer fa.Close()
	fb, err := b.dir.openRegular(b.name)
	if err != nil {
		return err
	}
	defer fb.Close()
	at, err := firstDifference(c.ctx, fa, fb)
	if err == nil && at >= 0 {
		c.differ(path, "content", fmt.Sprintf("differs from byte %d", at), "")
	}
	return err
}

// firstDifference returns the offset of the piece where two streams first differ, or -1.
func firstDifference(ctx context.Context, a, b io.Reader) (int64, error) {
	sa, sb := scratchPool.Get().(*scratch), scratchPool.Get().(*scratch)
	defer scratchPool.Put(sa)
	defer scratchPool.Put(sb)
	for at := int64(0); ; {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		pa, errA := readPiece(a, sa.buf)
		pb, errB := readPiece(b, sb.buf)
		if !bytes.Equal(pa, pb) {
			return at + commonPrefix(pa, pb), nil
		}
		if errA != nil || errB != nil {
			return -1, notEOF(errA, errB)
		}
		at += int64(len(pa))
	}
}

func commonPrefix(a, b []byte) int64 {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return int64(i)
		}
	}
	return int64(n)
}

// notEOF joins errors that are not the end of a stream.
func notEOF(errs ...error) error {
	return errors.Join(slices.DeleteFunc(errs, func(err error) bool { return err == io.EOF })...)
}
