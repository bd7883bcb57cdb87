package dir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
	"golang.org/x/sys/unix"
)

// assembler makes the tree of a version from the tree of the one before and the
// literals of a stream. It goes through the entries in the manifest's order, so
// that the number of bytes received says what is done.
type assembler struct {
	ctx      context.Context
	io       *fileIO
	from, to *Manifest
	plan     *Plan
	part     *partial
	body     *readAhead

	fromInfo versionInfo
	fromTree *treeCursor // nil: a full step
	tree     *treeCursor
	again    *treeCursor // also the new tree: files that are reused in it

	at     int64             // place in the body of the entry at hand
	groups map[uint64]string // path of the first name of each link group
}

// manifest receives the manifest of the new version, and writes it to where it will
// be. One that is wrong is received again from its start.
func (a *assembler) manifest(h streamHeader, to *pdu.FilesystemVersion) error {
	delta, err := a.part.readDelta(a.ctx, a.body, h.BodyLength)
	if err != nil {
		return err
	}
	encoded, err := a.decode(h, to, delta)
	if err != nil {
		return errors.Join(fmt.Errorf("manifest: %w", err), a.part.rewind(0))
	}
	a.at = deltaPrefixLen + int64(len(delta))
	return a.part.root.WriteFile(buildName+"/"+manifestName, encoded, 0o600)
}

func (a *assembler) decode(h streamHeader, to *pdu.FilesystemVersion, delta []byte) (encoded []byte, err error) {
	if a.to, encoded, err = applyDelta(a.from, delta, h.ToDigest); err != nil {
		return nil, err
	}
	if a.to.GUID != h.ToGUID || a.to.Name != to.GetName() {
		return nil, fmt.Errorf("%w: the stream is of version %q with GUID %#x", endpoint.ErrInvalid, a.to.Name, a.to.GUID)
	}
	a.plan = NewPlan(a.from, a.to)
	if want := deltaPrefixLen + int64(len(delta)) + a.plan.Literal; h.BodyLength != want {
		return nil, fmt.Errorf("%w: the stream's body has %d bytes, the step %d", endpoint.ErrInvalid, h.BodyLength, want)
	}
	return encoded, nil
}

// build makes the tree in the partial's directory: that of the version before, if
// nothing changed since.
func (a *assembler) build() error {
	if a.nothingChanged() && a.part.fs.shareTree(receivingDir+"/"+buildName, a.fromInfo, a.from) {
		return nil
	}
	if err := a.part.ownTree(); err != nil {
		return err
	}
	for _, c := range []**treeCursor{&a.tree, &a.again} {
		top, err := openTreeDir(a.part.root, buildName+"/"+treeName)
		if err != nil {
			return err
		}
		*c = newTreeCursor(top)
		defer (*c).Close()
	}
	a.io = newFileIO(a.tree.top.root)
	return a.run()
}

func (a *assembler) nothingChanged() bool {
	if a.from == nil {
		return false
	}
	removed, changed := diff(a.from.Entries, a.to.Entries)
	return len(removed) == 0 && len(changed) == 0
}

// run builds all of the tree, or what a broken receive left to build.
func (a *assembler) run() error {
	first := a.resumeAt()
	files := a.plan.Files
	for i := range a.to.Entries {
		e := &a.to.Entries[i]
		var file FilePlan
		if len(files) > 0 && files[0].Entry == i {
			file, files = files[0], files[1:]
		} else {
			file = FilePlan{FromFile: -1, ToFile: -1}
		}
		start, do := a.at, a.entry
		if i < first {
			do = a.skip
		}
		if err := do(e, file); err != nil {
			return a.broken(e, start, err)
		}
		a.at = start + file.Literal
		if _, ok := a.groups[e.LinkGroup]; !ok && e.LinkGroup != 0 {
			a.groups[e.LinkGroup] = e.Path
		}
	}
	return a.dirTimes()
}

// broken names the entry. A file with wrong content is received again from its
// start, lest a resumed step meets the same bytes for ever. Where it was begun before
// the step broke, it may not be the only one that is wrong.
func (a *assembler) broken(e *Entry, start int64, err error) error {
	err = fmt.Errorf("%q: %w", e.Path, err)
	if !errors.Is(err, errContent) || errors.Is(err, errLost) {
		return err
	}
	pos := min(start, a.part.pos)
	if start < a.part.had {
		pos = min(pos, a.part.sure)
	}
	return errors.Join(err, a.part.rewind(pos))
}

// resumeAt finds the first entry that may be incomplete: the file that has the last
// byte received, for its digest may not have been checked yet. All before it are done.
func (a *assembler) resumeAt() int {
	end := a.at
	if a.part.pos <= end {
		return 0
	}
	for _, f := range a.plan.Files {
		if end += f.Literal; f.Literal > 0 && end >= a.part.pos {
			return f.Entry
		}
	}
	return len(a.to.Entries)
}

// skip passes over an entry that was made before the step broke. A file is read again
// if something was written to it that is not surely on disk.
func (a *assembler) skip(e *Entry, file FilePlan) error {
	if a.ctx.Err() != nil {
		return context.Cause(a.ctx)
	}
	if !e.inTree() {
		return nil
	}
	dir, name, err := a.tree.parent(e.Path)
	if err == nil {
		err = dir.expect(name, e)
	}
	if err == nil && len(file.Extents) > 0 && a.at+file.Literal >= a.part.sure {
		err = checkContent(a.ctx, dir, name, e)
	}
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, errContent) {
		return fmt.Errorf("%w: %w", errLost, err)
	}
	return err
}

// errLost is in the chain if something that was received before the step broke is not
// there as it was: then nothing of it can be trusted but what is surely on disk.
var errLost = fmt.Errorf("%w: what was received before is damaged", endpoint.ErrStaleToken)

// expect checks that a node is there; its content is what Verify is for.
func (d *treeDir) expect(name string, e *Entry) error {
	st, err := d.stat(name)
	if err != nil {
		return err
	}
	if t := typeOf(&st); t != e.Type || t == TypeFile && st.Size != e.Size {
		return fmt.Errorf("%w: there is a %s of %d bytes", errLost, t, st.Size)
	}
	return nil
}

func (a *assembler) entry(e *Entry, file FilePlan) error {
	if a.ctx.Err() != nil {
		return context.Cause(a.ctx)
	}
	dir, name, err := a.tree.parent(e.Path)
	if err != nil {
		return err
	}
	switch {
	case e.Type == TypeDir:
		return a.dir(dir, name, e)
	case !e.inTree():
		return nil
	}
	if a.part.had > 0 && a.part.pos <= a.at {
		if err := dir.remove(name); err != nil {
			return err
		}
	}
	linked, err := a.node(dir, name, e, file)
	if err != nil || linked {
		return err
	}
	return dir.dress(name, e)
}

// inTree says whether trees have this entry.
func (e *Entry) inTree() bool {
	return e.Type == TypeFile || e.Type == TypeDir || e.Type == TypeSymlink
}

func (a *assembler) dir(dir *treeDir, name string, e *Entry) error {
	if e.Path != "" {
		err := dir.root.Mkdir(name, 0o700)
		if a.part.had > 0 && errors.Is(err, os.ErrExist) {
			err = dir.expect(name, e)
		}
		if err != nil {
			return err
		}
	}
	return dir.dress(name, e) // its time again in dirTimes
}

// node makes a file or a symbolic link; a tree has no FIFOs and devices, these are in
// the manifest only. linked says that it is an older file's further name, whose
// metadata stays as it is.
func (a *assembler) node(dir *treeDir, name string, e *Entry, file FilePlan) (linked bool, err error) {
	if first, ok := a.groups[e.LinkGroup]; ok {
		return true, a.linkName(dir, name, first)
	}
	if e.Type == TypeSymlink {
		return false, dir.root.Symlink(e.Target, name)
	}
	return a.file(dir, name, e, file)
}

// linkName makes a further name of the file at first.
func (a *assembler) linkName(dir *treeDir, name, first string) error {
	src, srcName, err := a.again.parent(first)
	if err != nil {
		return err
	}
	return dir.link(src, srcName, name)
}

func (a *assembler) file(dir *treeDir, name string, e *Entry, file FilePlan) (linked bool, err error) {
	switch {
	case file.FromFile >= 0:
		return a.reuse(a.fromTree, &a.from.Entries[file.FromFile], dir, name, e)
	case file.ToFile >= 0:
		return a.reuse(a.again, &a.to.Entries[file.ToFile], dir, name, e)
	default:
		return false, a.write(dir, name, e, file)
	}
}

// reuse takes the content of another file of this version or of the one before. It
// is not read again; that is what Verify is for.
func (a *assembler) reuse(tree *treeCursor, same *Entry, dir *treeDir, name string, e *Entry) (linked bool, err error) {
	src, srcName, err := tree.parent(same.Path)
	var st unix.Stat_t
	if err == nil {
		st, err = src.stat(srcName)
	}
	if err == nil && (typeOf(&st) != TypeFile || st.Size != e.Size) {
		err = fmt.Errorf("%w: there is a %s of %d bytes", errContent, typeOf(&st), st.Size)
	}
	if err == nil {
		linked, err = a.io.reuse(a.ctx, src, srcName, dir, name, e, e.dressedAs(same))
		if !errors.Is(err, errContent) {
			return linked, err // what fails else is to write
		}
	}
	if tree == a.fromTree {
		return false, a.fromDamaged(same.Path, err)
	}
	return false, fmt.Errorf("%q: %w", same.Path, err)
}

// fromDamaged is the error of a file of the version before that is not as it was.
func (a *assembler) fromDamaged(path string, err error) error {
	if a.ctx.Err() != nil {
		return context.Cause(a.ctx)
	}
	return a.part.fs.damaged(a.fromInfo, fmt.Errorf("%q: %w", path, err))
}

// dirTimes sets the times of directories, which were changed by what was put into
// them; the innermost first.
func (a *assembler) dirTimes() error {
	for i := len(a.to.Entries) - 1; i >= 0; i-- {
		e := &a.to.Entries[i]
		if e.Type != TypeDir {
			continue
		}
		dir, name, err := a.tree.parent(e.Path)
		if err != nil {
			return err
		}
		if err := dir.chtimes(name, e.MtimeSec, int64(e.MtimeNsec)); err != nil {
			return err
		}
	}
	return nil
}

// write makes a file from its extents and checks its digest.
func (a *assembler) write(dir *treeDir, name string, e *Entry, file FilePlan) error {
	dst, err := a.open(dir, name)
	if err != nil {
		return err
	}
	return errors.Join(a.fill(dst, e, file), dst.Close())
}

func (a *assembler) fill(dst *os.File, e *Entry, file FilePlan) error {
	s := scratchPool.Get().(*scratch)
	defer scratchPool.Put(s)
	w := &fileWriter{assembler: a, scratch: s, entry: e, dst: dst, check: newContentCheck(e, s.hash)}
	defer w.close()
	// A small file without holes ends where its data does, unless it was begun before.
	if e.Size >= MinChunkedSize || len(e.Holes) > 0 || a.part.had > 0 {
		if err := dst.Truncate(e.Size); err != nil {
			return err
		}
	}
	return w.extents(file.Extents)
}

// open opens the file to write: a new one, or the one that has literals already.
func (a *assembler) open(dir *treeDir, name string) (*os.File, error) {
	if a.part.pos <= a.at || a.part.had == 0 {
		return dir.create(name)
	}
	st, err := dir.root.Lstat(name)
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("the file to continue is a %s", st.Mode().Type())
	}
	if err == nil { // the mode of a finished file forbids writing
		err = dir.root.Chmod(name, 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errContent, err)
	}
	return dir.root.OpenFile(name, os.O_RDWR, 0)
}

// fileWriter puts one file together.
type fileWriter struct {
	*assembler
	*scratch
	entry *Entry
	check *contentCheck
	dst   *os.File
	old   *os.File // the same path in the version before; opened for the first copy
	off   int64    // what lies before is done
}

func (w *fileWriter) close() {
	if w.old != nil {
		w.old.Close()
	}
}

func (w *fileWriter) extents(extents []Extent) error {
	for _, x := range extents {
		w.check.hole(x.Off - w.off)
		w.off = x.Off
		write := w.copy
		if x.Literal {
			write = w.literal
		}
		if err := write(x); err != nil {
			return err
		}
	}
	w.check.hole(w.entry.Size - w.off)
	if !w.check.end() {
		return errContent
	}
	return nil
}

// literal takes an extent from the body: what was received before the step broke from
// the file, the rest from the stream.
func (w *fileWriter) literal(x Extent) error {
	for end := x.Off + x.Len; w.off < end; {
		if w.ctx.Err() != nil {
			return context.Cause(w.ctx)
		}
		n, err := w.next(end)
		if err != nil {
			return err
		}
		w.off += int64(n)
		w.at += int64(n)
	}
	return nil
}

// next takes what comes next of the file, up to end, and returns how much it is.
func (w *fileWriter) next(end int64) (int, error) {
	if have := w.part.pos - w.at; have > 0 {
		p := w.piece(min(end, w.off+have))
		if err := readAt(w.dst, p, w.off); err != nil {
			return 0, err
		}
		return len(p), w.right(w.check.data(p))
	}
	p, err := w.part.receive(w.body, end-w.off)
	if err != nil {
		return 0, err
	}
	if len(p) < minParallel {
		err = w.part.write(w.dst, p, w.off)
		return len(p), errors.Join(err, w.right(w.check.data(p)))
	}
	right := make(chan bool, 1)
	go func() { right <- w.check.data(p) }() // takes as long as the write
	err = w.part.write(w.dst, p, w.off)
	return len(p), errors.Join(err, w.right(<-right))
}

// minParallel is how many bytes are worth to be checked while they are written.
const minParallel = 64 << 10

func (w *fileWriter) right(right bool) error {
	if !right {
		return errContent
	}
	return nil
}

// piece is the buffer for what is to be done next, up to end.
func (w *fileWriter) piece(end int64) []byte {
	return w.buf[:min(end-w.off, copyPiece)]
}

// copy takes an extent from the version before. It is not checked, as a whole file that
// is taken from there is not.
func (w *fileWriter) copy(x Extent) error {
	if w.old == nil {
		dir, name, err := w.fromTree.parent(w.entry.Path)
		if err == nil {
			w.old, err = dir.openRegular(name)
		}
		if err != nil {
			return w.fromDamaged(w.entry.Path, err)
		}
	}
	for n := int64(0); n < x.Len; {
		n += w.check.skip()
	}
	end, delta := x.Off+x.Len, x.FromOff-x.Off
	from, shared := w.io.cloneRange(w.old, w.dst, x.FromOff, x.Off, x.Len)
	if err := w.copyTo(from, delta); err != nil {
		return err
	}
	w.off = shared
	return w.copyTo(end, delta)
}

// copyTo writes what the old file has delta bytes further on, up to end of the new one.
func (w *fileWriter) copyTo(end, delta int64) error {
	for w.off < end {
		if w.ctx.Err() != nil {
			return context.Cause(w.ctx)
		}
		p := w.piece(end)
		if err := readAt(w.old, p, w.off+delta); err != nil {
			return w.fromDamaged(w.entry.Path, err)
		}
		if _, err := w.dst.WriteAt(p, w.off); err != nil {
			return err
		}
		w.off += int64(len(p))
	}
	return nil
}

// readAt fills p. A file that ends too early has the wrong content.
func readAt(f *os.File, p []byte, off int64) error {
	_, err := f.ReadAt(p, off)
	if err == io.EOF {
		return fmt.Errorf("%w: %s ends at %d", errContent, f.Name(), off)
	}
	return err
}
