package dir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"

	"github.com/dualrepl/dualrepl/endpoint"
	"golang.org/x/sys/unix"
)

// RestoreOptions are options of Restore.
type RestoreOptions struct {
	// Progress, if set, is called after each entry with the bytes of all files restored
	// so far. Calls do not overlap.
	Progress func(bytes int64)
}

// RestoreReport says what a restore has done.
type RestoreReport struct {
	Filesystem string
	Version    string
	Entries    int64 // restored
	Files      int64 // of the entries
	Bytes      int64 // the sum of their sizes
	// Damaged are files whose content in the store is not what the manifest says, and
	// entries that are not there at all.
	Damaged []Mismatch
	// NotApplied is what this process may not do, or the target cannot keep: owners and
	// devices without root, set-id bits without the owner that they stand for, links,
	// extended attributes.
	NotApplied []Mismatch
	// Inconsistent are files that changed while the snapshot read them.
	Inconsistent []string
}

// sort puts what workers found into the order of the manifest.
func (r *RestoreReport) sort() {
	for _, m := range [][]Mismatch{r.Damaged, r.NotApplied} {
		slices.SortStableFunc(m, func(a, b Mismatch) int { return ComparePaths(a.Path, b.Path) })
	}
	slices.SortFunc(r.Inconsistent, ComparePaths)
}

// Mismatch is what is wrong with one entry.
type Mismatch struct {
	Path    string // bytes, not text; "" is the filesystem's directory itself
	Problem string
}

// Restore makes target what the directory was when the version was taken: content
// and holes, modes, owners, times, extended attributes, hard links, devices, FIFOs
// and symbolic links. All of it is on disk when Restore returns. store is a sender's
// store, or a receiver's root (with ReceiverOptions.PerClient, that of one client);
// version "" is the newest.
//
// The target must be absent, or an empty directory: else the error is
// endpoint.ErrFailedPrecondition. What is damaged in the store is left out or
// restored as it is, whatever can be told; the report has it, and the error then
// says so after all else is restored. What could not be applied is no error.
func Restore(ctx context.Context, store, filesystem, version, target string, opts RestoreOptions) (*RestoreReport, error) {
	v, err := openVersion(store, filesystem, version)
	if err != nil {
		return nil, err
	}
	defer v.Close()
	top, err := openTarget(target)
	if err != nil {
		return nil, err
	}
	defer top.Close()
	r := &restorer{
		version: v, opts: opts, io: newFileIO(top.root), target: top, groups: map[uint64]string{},
		report: &RestoreReport{Filesystem: filesystem, Version: v.manifest.Name},
	}
	err = r.run(ctx)
	r.report.sort()
	if err != nil {
		return r.report, fmt.Errorf("restore %s@%s to %s: %w", filesystem, v.manifest.Name, target, noSpace(err))
	}
	if n := len(r.report.Damaged); n > 0 {
		return r.report, fmt.Errorf("restore %s@%s: damaged in the store: %d of its entries, the first is %q: %s",
			filesystem, v.manifest.Name, n, r.report.Damaged[0].Path, r.report.Damaged[0].Problem)
	}
	return r.report, nil
}

// openedVersion is one version, opened for reading.
type openedVersion struct {
	manifest *Manifest
	tree     *treeCursor
}

func (v *openedVersion) Close() error { return v.tree.Close() }

// openVersion opens a version by name; "" is the newest. It is not destroyed before
// it is closed.
func openVersion(store, filesystem, version string) (*openedVersion, error) {
	f, err := openFilesystem(store, filesystem, false)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.snapshotByName(version)
	if err != nil {
		return nil, err
	}
	tree, err := f.share(info)
	if err != nil {
		return nil, err
	}
	m, err := f.readManifest(info)
	if err != nil {
		return nil, errors.Join(err, tree.Close())
	}
	return &openedVersion{manifest: m, tree: newTreeCursor(tree)}, nil
}

// openTarget opens an empty directory, which it makes if need be.
func openTarget(path string) (*treeDir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("restore: %w", err)
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("restore: %w", err)
	}
	top, err := newTreeDir(root)
	if err != nil {
		return nil, err
	}
	names, err := top.names()
	if err == nil && len(names) > 0 {
		err = fmt.Errorf("%w: %s is not empty; restore into a new directory", endpoint.ErrFailedPrecondition, path)
	}
	if err != nil {
		return nil, errors.Join(err, top.Close())
	}
	return top, nil
}

// restorer does one Restore.
type restorer struct {
	version *openedVersion
	opts    RestoreOptions
	io      *fileIO
	target  *treeDir

	groups map[uint64]string // path of the first name of each link group
	mu     sync.Mutex        // guards report while workers run
	report *RestoreReport
}

// restoreWorker has a way of its own through both trees.
type restoreWorker struct {
	*restorer
	from, to *treeCursor
}

func (r *restorer) newWorker() (*restoreWorker, error) {
	from, err := r.version.tree.top.cursor()
	if err != nil {
		return nil, err
	}
	to, err := r.target.cursor()
	if err != nil {
		return nil, errors.Join(err, from.Close())
	}
	return &restoreWorker{restorer: r, from: from, to: to}, nil
}

// Close ends the worker.
func (w *restoreWorker) Close() error { return errors.Join(w.from.Close(), w.to.Close()) }

func (r *restorer) run(ctx context.Context) error {
	entries := r.version.manifest.Entries
	r.dropACLs(&entries[0])
	w, err := r.newWorker()
	if err != nil {
		return err
	}
	err = w.each(ctx, func(e *Entry) bool { return e.Type == TypeDir })
	if err == nil {
		err = inParallel(ctx, entries, r.newWorker)
	}
	if err == nil {
		err = w.each(ctx, func(e *Entry) bool { return e.LinkGroup != 0 })
	}
	if err == nil {
		err = w.directories()
	}
	if err := errors.Join(err, w.Close()); err != nil {
		return err
	}
	return syncTree(r.target)
}

// each restores the entries that are chosen, in their order.
func (w *restoreWorker) each(ctx context.Context, chosen func(*Entry) bool) error {
	entries := w.version.manifest.Entries
	for i := range entries {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if e := &entries[i]; chosen(e) {
			if err := w.add(ctx, e); err != nil {
				return err
			}
		}
	}
	return nil
}

// entry restores an entry that neither others lie in nor has further names.
func (w *restoreWorker) entry(ctx context.Context, i int) error {
	e := &w.version.manifest.Entries[i]
	if e.Type == TypeDir || e.LinkGroup != 0 {
		return nil
	}
	return w.add(ctx, e)
}

// directories completes the directories, the innermost first: what is put into one
// changes its time, and its mode may forbid that.
func (w *restoreWorker) directories() error {
	entries := w.version.manifest.Entries
	for i := len(entries) - 1; i >= 0; i-- {
		if e := &entries[i]; e.Type == TypeDir {
			dir, name, err := w.to.parent(e.Path)
			if err != nil {
				return err
			}
			w.metadata(dir, name, e)
		}
	}
	return nil
}

// dropACLs takes the ACLs off the target, before anything in it is made: those that it
// has from its parent directory, and would give to all of its content.
func (r *restorer) dropACLs(root *Entry) {
	for _, name := range []string{"system.posix_acl_default", "system.posix_acl_access"} {
		err := unix.Fremovexattr(int(r.target.fd.Fd()), name)
		if err != nil && !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.EOPNOTSUPP) {
			r.lacks(root, "removal of "+name, err)
		}
	}
}

// syncTree writes all of the file system that a tree is on to disk. The directory was
// opened before anything was written, so that it learns of every error.
func syncTree(top *treeDir) error {
	return os.NewSyscallError("syncfs", unix.Syncfs(int(top.fd.Fd())))
}

func (w *restoreWorker) add(ctx context.Context, e *Entry) error {
	dir, name, err := w.to.parent(e.Path)
	made := false
	if err == nil {
		made, err = w.restore(ctx, dir, name, e)
	}
	if err != nil {
		return fmt.Errorf("%q: %w", e.Path, err)
	}
	if made {
		w.count(e)
	}
	return nil
}

// restore makes the entry; a directory gets its metadata when all else is there. made is
// false if it had to be left out.
func (w *restoreWorker) restore(ctx context.Context, dir *treeDir, name string, e *Entry) (made bool, err error) {
	if first, ok := w.groups[e.LinkGroup]; ok {
		err := w.link(dir, name, first)
		if !notPossible(err) && !errors.Is(err, unix.EMLINK) {
			return err == nil, err // its metadata came with the first name
		}
		w.lacks(e, "hard link", err)
	}
	err = w.node(ctx, dir, name, e)
	switch {
	case errors.Is(err, errLeftOut):
		return false, nil
	case notPossible(err) && e.Type != TypeFile && e.Type != TypeDir:
		w.lacks(e, e.Type.String(), err)
		return false, nil
	case err != nil:
		return false, err
	}
	if e.LinkGroup != 0 {
		w.groups[e.LinkGroup] = e.Path
	}
	if e.Type != TypeDir {
		w.metadata(dir, name, e)
	}
	return true, nil
}

// notPossible says whether an error means that this process, or the target's file
// system, cannot do what was asked.
func notPossible(err error) bool {
	return errors.Is(err, unix.EPERM) || errors.Is(err, unix.EOPNOTSUPP)
}

func (r *restorer) count(e *Entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report.Entries++
	if e.Type == TypeFile {
		r.report.Files++
		r.report.Bytes += e.Size
	}
	if e.Inconsistent {
		r.report.Inconsistent = append(r.report.Inconsistent, e.Path)
	}
	if r.opts.Progress != nil {
		r.opts.Progress(r.report.Bytes)
	}
}

// node makes the entry without its metadata.
func (w *restoreWorker) node(ctx context.Context, dir *treeDir, name string, e *Entry) error {
	switch e.Type {
	case TypeDir:
		return makeDir(dir, name, e)
	case TypeFile:
		return w.file(ctx, dir, name, e)
	case TypeSymlink:
		return dir.root.Symlink(e.Target, name)
	default:
		return dir.mknod(name, nodeMode(e), e.Rdev)
	}
}

// nodeMode is the mode for mknod: accessible by the owner only, at first.
func nodeMode(e *Entry) uint32 {
	switch e.Type {
	case TypeCharDevice:
		return unix.S_IFCHR | 0o600
	case TypeBlockDevice:
		return unix.S_IFBLK | 0o600
	default:
		return unix.S_IFIFO | 0o600
	}
}

func (w *restoreWorker) link(dir *treeDir, name, first string) error {
	// A cursor for each name serves: hard links are few.
	cursor, err := w.to.top.cursor()
	if err != nil {
		return err
	}
	defer cursor.Close()
	from, old, err := cursor.parent(first)
	if err != nil {
		return err
	}
	return dir.link(from, old, name)
}

// errLeftOut: the store does not have the file; the report has that.
var errLeftOut = errors.New("not in the store")

// file restores content and holes.
func (w *restoreWorker) file(ctx context.Context, dir *treeDir, name string, e *Entry) error {
	src, err := w.source(e)
	if err != nil {
		w.damaged(e, err)
		return errLeftOut
	}
	defer src.Close()
	dst, err := dir.create(name)
	if err != nil {
		return err
	}
	return errors.Join(w.content(ctx, src, dst, e), dst.Close())
}

func (w *restoreWorker) content(ctx context.Context, src, dst *os.File, e *Entry) error {
	var err error
	if w.io.clone(src, dst) {
		if err = copyChecked(ctx, dst, nil, e); err == nil {
			w.punch(dst, e)
		}
	} else {
		err = copyChecked(ctx, src, dst, e)
	}
	if errors.Is(err, unix.EIO) || errors.Is(err, errContent) {
		w.damaged(e, err)
		return nil
	}
	return err
}

func (w *restoreWorker) source(e *Entry) (*os.File, error) {
	dir, name, err := w.from.parent(e.Path)
	if err != nil {
		return nil, err
	}
	return dir.openRegular(name)
}

// punch makes the entry's holes, which the clone of another file with the same content
// may lack.
func (r *restorer) punch(dst *os.File, e *Entry) {
	for _, h := range e.Holes {
		err := unix.Fallocate(int(dst.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, h.Off, h.Len)
		if err != nil {
			r.lacks(e, "holes", err)
			return
		}
	}
}

// metadata applies owner, extended attributes, mode and times, in this order: a
// change of owner clears capabilities and set-id bits, a read-only mode forbids
// attributes. A set-id bit without its owner would lend somebody else's rights.
func (r *restorer) metadata(dir *treeDir, name string, e *Entry) {
	mode := e.Mode
	if err := r.owner(dir, name, e); err != nil {
		r.lacks(e, fmt.Sprintf("owner %d:%d", e.UID, e.GID), err)
		mode &^= unix.S_ISUID | unix.S_ISGID
		if mode != e.Mode {
			r.lacks(e, fmt.Sprintf("set-id bits of mode %04o", e.Mode), err)
		}
	}
	for _, x := range e.Xattrs {
		if err := dir.setXattr(name, x); err != nil {
			r.lacks(e, "attribute "+x.Name, err)
		}
	}
	if e.Type != TypeSymlink {
		if err := dir.root.Chmod(name, fileMode(mode)); err != nil {
			r.lacks(e, "mode", err)
		}
	}
	if err := dir.chtimes(name, e.MtimeSec, int64(e.MtimeNsec)); err != nil {
		r.lacks(e, "time", err)
	}
}

func (r *restorer) owner(dir *treeDir, name string, e *Entry) error {
	st, err := dir.stat(name)
	if err == nil && st.Uid == e.UID && st.Gid == e.GID {
		return nil
	}
	return dir.chown(name, e.UID, e.GID)
}

// fileMode translates the twelve bits of Unix.
func fileMode(mode uint32) fs.FileMode {
	m := fs.FileMode(mode & 0o777)
	for bit, set := range map[uint32]fs.FileMode{unix.S_ISUID: fs.ModeSetuid, unix.S_ISGID: fs.ModeSetgid, unix.S_ISVTX: fs.ModeSticky} {
		if mode&bit != 0 {
			m |= set
		}
	}
	return m
}

func (r *restorer) damaged(e *Entry, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report.Damaged = append(r.report.Damaged, Mismatch{Path: e.Path, Problem: err.Error()})
}

func (r *restorer) lacks(e *Entry, what string, err error) {
	if cause := (unix.Errno)(0); errors.As(err, &cause) {
		err = cause
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report.NotApplied = append(r.report.NotApplied, Mismatch{Path: e.Path, Problem: what + ": " + err.Error()})
}
