package dir

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// SnapshotOptions are options of Sender.Snapshot.
type SnapshotOptions struct {
	// Full reads every file again, also those that look unchanged. What the version
	// before has of them is read, too: a file that is damaged there is copied anew.
	Full bool
	// Progress, if set, is called after each file, and while one is read, with how many
	// files and how many bytes are done, unchanged ones included. Calls do not overlap.
	Progress func(files int, bytes int64)
}

// SnapshotReport says what a snapshot has taken.
type SnapshotReport struct {
	Filesystem string
	Name       string
	GUID       uint64
	CreateTXG  uint64
	Files      int64 // in the version
	Bytes      int64 // the sum of their sizes
	Changed    int64 // files that were read
	Sockets    int   // left out
	// Inconsistent names what the version does not have as it was at one moment: files
	// that kept changing while they were read, and what could not be read at all.
	Inconsistent []string
	// Damaged names files that were found damaged in the store, in the version before
	// (SnapshotOptions.Full): that one stays as it is, this one has them anew.
	Damaged []string
	Notes   []string // what else a user should know
}

// readAttempts is how often a file that changes while it is read is read.
const readAttempts = 4

// Snapshot makes a new version of a filesystem from what its directory holds now.
// The directory is not frozen meanwhile: files are consistent each for itself, and
// the report names those that are not, and what cannot be read. The name must be new:
// ErrFailedPrecondition.
func (s *Sender) Snapshot(ctx context.Context, filesystem, name string, opts SnapshotOptions) (*SnapshotReport, error) {
	source, err := s.directory(filesystem)
	if err != nil {
		return nil, err
	}
	if err := ValidateVersion(name); err != nil {
		return nil, err
	}
	f, err := s.openStored(filesystem, true)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	lock, err := f.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer lock.unlock()
	report, err := s.snapshot(ctx, f, source, name, opts)
	err = errors.Join(err, f.root.RemoveAll(snapshottingDir)) // after a commit it is gone
	if err != nil {
		return nil, fmt.Errorf("snapshot %s@%s: %w", filesystem, name, noSpace(err))
	}
	return report, nil
}

// snapshot builds and commits the version. The caller has the lock.
func (s *Sender) snapshot(ctx context.Context, f *filesystem, source, name string, opts SnapshotOptions) (*SnapshotReport, error) {
	report := &SnapshotReport{Filesystem: f.name, Name: name}
	versions, err := f.versions()
	if err != nil {
		return nil, err
	}
	if err := f.checkName(name); err != nil {
		return nil, err
	}
	m := &Manifest{Name: name, GUID: randomGUID(), Creation: time.Now().UnixNano()}
	if m.CreateTXG, err = f.nextTXG(versions); err != nil {
		return nil, err
	}
	b := &snapshotter{opts: opts, report: report}
	if err := b.open(f, source, versions); err != nil {
		return nil, errors.Join(err, b.close())
	}
	err = s.walk(ctx, b, f.name)
	if err == nil && !b.shared(f) {
		err = b.build(ctx)
	}
	if err := errors.Join(err, b.close()); err != nil {
		return nil, err
	}
	return report, b.commit(f, m)
}

// walk lists the source into b.
func (s *Sender) walk(ctx context.Context, b *snapshotter, filesystem string) error {
	store, err := statID(s.opts.Store)
	if err != nil {
		return err
	}
	w := walk{ctx: ctx, store: store, mounts: map[fileID]bool{}}
	for name, dir := range s.opts.Directories {
		if id, err := statID(dir); err == nil && name != filesystem {
			w.mounts[id] = true
		}
	}
	if err := w.run(b.src); err != nil {
		return err
	}
	b.entries, b.records, b.dropped = w.entries, w.records, make([]bool, len(w.entries))
	b.report.Sockets, b.report.Inconsistent = w.sockets, w.problems
	return nil
}

func randomGUID() uint64 {
	for {
		var b [8]byte
		rand.Read(b[:])
		if guid := binary.BigEndian.Uint64(b[:]); guid != 0 {
			return guid
		}
	}
}

// A snapshotter makes the tree of one snapshot from a source that was walked.
type snapshotter struct {
	opts   SnapshotOptions
	report *SnapshotReport
	clones bool // files of the tree can share blocks
	src    *treeDir
	tree   *treeDir
	prev   *previous // nil: none
	old    *treeDir  // of prev

	// One of each for every entry. Each is only touched by the worker that has it.
	entries []Entry
	records []scanRecord
	dropped []bool // vanished, or could not be read

	mu      sync.Mutex // guards report and what follows while workers run
	done    int        // files
	bytes   int64      // of these, and of those being read
	changed atomic.Int64
}

func (b *snapshotter) open(f *filesystem, source string, versions []versionInfo) (err error) {
	src, err := os.OpenRoot(source)
	if err != nil {
		return err
	}
	if b.src, err = newTreeDir(src); err != nil {
		return err
	}
	if err := f.root.MkdirAll(path.Join(snapshottingDir, treeName), 0o700); err != nil {
		return err
	}
	if b.tree, err = openTreeDir(f.root, path.Join(snapshottingDir, treeName)); err != nil {
		return err
	}
	b.clones = probeClone(b.tree.root)
	newest, err := newestSnapshot(versions)
	if err != nil {
		return nil // the first one
	}
	if b.old, err = f.openTree(newest); err == nil {
		b.prev, err = f.loadPrevious(newest)
	}
	if b.prev != nil {
		b.prev.stable = stableInodes(b.src.fd)
	}
	if err != nil {
		b.note("version %s could not be compared with, everything was read: %v", newest.Name, err)
	}
	return nil
}

func (b *snapshotter) close() error {
	var errs []error
	for _, d := range []*treeDir{b.src, b.tree, b.old} {
		if d != nil {
			errs = append(errs, d.Close())
		}
	}
	return errors.Join(errs...)
}

func (b *snapshotter) note(format string, args ...any) {
	b.report.Notes = append(b.report.Notes, fmt.Sprintf(format, args...))
}

func (b *snapshotter) inconsistent(i int, why string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.report.Inconsistent = append(b.report.Inconsistent, fmt.Sprintf("%q %s", b.entries[i].Path, why))
}

func (b *snapshotter) damaged(path string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.report.Damaged = append(b.report.Damaged, path)
}

// progress tells that more is done.
func (b *snapshotter) progress(files int, bytes int64) {
	if b.opts.Progress == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.done, b.bytes = b.done+files, b.bytes+bytes
	b.opts.Progress(b.done, b.bytes)
}

// unchanged returns the entry of the version before that need not be read again to
// be entry i; -1: there is none.
func (b *snapshotter) unchanged(i int) int {
	if b.opts.Full {
		return -1
	}
	return b.prev.unchanged(&b.entries[i], b.records[i])
}

// shared makes the tree that of the version before, if nothing changed since. Where that
// is not possible, false, it is to be built.
func (b *snapshotter) shared(f *filesystem) bool {
	if !b.nothingChanged() || !f.shareTree(snapshottingDir, b.prev.version, b.prev.manifest) {
		return false
	}
	b.entries = b.prev.manifest.Entries
	b.progress(int(b.prev.manifest.Files), b.prev.manifest.Bytes)
	return true
}

func (b *snapshotter) nothingChanged() bool {
	if b.prev == nil || b.prev.manifest.Inconsistent || len(b.entries) != len(b.prev.manifest.Entries) {
		return false
	}
	for i, old := range b.prev.manifest.Entries {
		e := b.entries[i]
		if e.Type == TypeFile {
			p := b.unchanged(i) // maybe another name of the file
			if p < 0 {
				return false
			}
			e.takeRead(&b.prev.manifest.Entries[p])
		}
		if e.Path != old.Path || !e.sameNode(&old) {
			return false
		}
	}
	return len(b.report.Inconsistent) == 0
}

// flushMany is how many files to read make flushing all of the source's file system
// faster than each by itself (flushPages): 20,000 small ones, just written, take 0.2 s
// that way, on a disk that seeks the difference is larger.
const flushMany = 1000

// flushSource makes each file's own flush find nothing to do if they are many. That
// one tells if anything went wrong.
func (b *snapshotter) flushSource() {
	n := 0
	for i := range b.entries {
		if b.entries[i].Type == TypeFile && b.unchanged(i) < 0 {
			n++
		}
	}
	if n >= flushMany {
		_ = unix.Syncfs(int(b.src.fd.Fd()))
	}
}

// build fills the tree: directories, then what is in them, then further names of
// files, and the directories' metadata at last, which the filling changes.
func (b *snapshotter) build(ctx context.Context) error {
	b.flushSource()
	w, err := b.newWorker()
	if err != nil {
		return err
	}
	err = b.directories(w, makeDir)
	if err == nil {
		err = inParallel(ctx, b.entries, b.newWorker)
	}
	if err == nil {
		err = b.links(ctx, w)
	}
	if err == nil {
		err = b.directories(w, (*treeDir).dress)
	}
	if err == nil { // a source that was removed meanwhile looked like an empty one
		_, err = b.src.names()
	}
	return errors.Join(err, w.Close())
}

// directories calls do for every directory, parents first; the root is ".".
func (b *snapshotter) directories(w *snapshotWorker, do func(*treeDir, string, *Entry) error) error {
	for i := range b.entries {
		if b.entries[i].Type != TypeDir {
			continue
		}
		d, name, err := w.tree.parent(b.entries[i].Path)
		if err != nil {
			return err
		}
		if err := do(d, name, &b.entries[i]); err != nil {
			return err
		}
	}
	return nil
}

func makeDir(d *treeDir, name string, e *Entry) error {
	if e.Path == "" {
		return nil
	}
	return d.root.Mkdir(name, 0o700)
}

// links makes the files that have several names: the first that is still there as
// any file, the others as links to it, in the entry too.
func (b *snapshotter) links(ctx context.Context, w *snapshotWorker) error {
	first := map[uint64]int{}
	for i := range b.entries {
		e := &b.entries[i]
		if e.LinkGroup == 0 {
			continue
		}
		j, ok := first[e.LinkGroup]
		if ok && w.sameFile(i, j) {
			if err := b.link(j, i); err != nil {
				return err
			}
			continue
		}
		if ok {
			e.LinkGroup = 0
		}
		if e.Type == TypeFile {
			if err := w.file(ctx, i); err != nil {
				return err
			}
		}
		if !b.dropped[i] && e.LinkGroup != 0 { // it has none if it was replaced meanwhile
			first[e.LinkGroup] = i
		}
	}
	return nil
}

// link makes entry i another name of entry j.
func (b *snapshotter) link(j, i int) error {
	name := b.entries[i].Path
	b.entries[i], b.records[i] = b.entries[j], b.records[j]
	b.entries[i].Path = name
	if b.entries[i].Type != TypeFile {
		return nil // its tree shows it already, if at all
	}
	return b.tree.root.Link(b.entries[j].Path, name)
}

// commit completes the manifest and makes the version visible.
func (b *snapshotter) commit(f *filesystem, m *Manifest) error {
	var records []scanRecord
	for i, e := range b.entries {
		if !b.dropped[i] {
			m.Entries, records = append(m.Entries, e), append(records, b.records[i])
		}
	}
	m.Inconsistent = len(b.report.Inconsistent) > 0
	slices.Sort(b.report.Inconsistent)
	if err := m.validate(); err != nil {
		return err
	}
	data, err := m.encodeLimited()
	if err != nil {
		return err
	}
	if err := f.root.WriteFile(path.Join(snapshottingDir, manifestName), data, 0o600); err != nil {
		return err
	}
	if err := f.root.WriteFile(path.Join(snapshottingDir, scanName), encodeScan(m.Digest, records), 0o600); err != nil {
		return err
	}
	b.noteManifestOnly(m)
	b.noteDamaged()
	r := b.report
	r.GUID, r.CreateTXG, r.Files, r.Bytes, r.Changed = m.GUID, m.CreateTXG, m.Files, m.Bytes, b.changed.Load()
	return f.commit(snapshottingDir, m)
}

// noteDamaged says what was wrong with the version before.
func (b *snapshotter) noteDamaged() {
	if d := b.report.Damaged; len(d) > 0 {
		slices.Sort(d)
		b.note("version %s is damaged in the store, in %d files (first %q): this one has them from the source",
			b.prev.version.Name, len(d), d[0])
	}
}

// noteManifestOnly says what the tree does not show.
func (b *snapshotter) noteManifestOnly(m *Manifest) {
	uid := os.Geteuid()
	if uid == 0 {
		return
	}
	if slices.ContainsFunc(m.Entries, func(e Entry) bool {
		return e.UID != uint32(uid) || e.Type == TypeCharDevice || e.Type == TypeBlockDevice
	}) {
		b.note("owners and devices are kept in the manifest only: not root")
	}
}
