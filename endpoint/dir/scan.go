package dir

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"time"

	"github.com/zeebo/blake3"
	"golang.org/x/sys/unix"
)

// racyWindow is how long after a change another one may get the same ctime: the
// kernel's clock for files ticks every 1 to 10 ms. A file system without fractions
// of seconds ticks every second or two.
const (
	racyWindow       = 20 * time.Millisecond
	racyWindowCoarse = 2 * time.Second
)

// inode identifies a file of the source. Dev is 0 on the file system of the
// filesystem's directory, whose number may be another one after a reboot.
type inode struct{ Dev, Ino uint64 }

// scanRecord is what a snapshot remembers of one entry, beside its manifest, to
// find out next time whether it changed.
type scanRecord struct {
	inode
	CtimeSec  int64
	CtimeNsec uint32
	Racy      bool // may have changed since without a new ctime
}

func isRacy(st *unix.Stat_t, seen time.Time) bool {
	window := racyWindow
	if st.Ctim.Nsec == 0 {
		window = racyWindowCoarse
	}
	return time.Unix(st.Ctim.Unix()).Add(window).After(seen)
}

// scanMagic opens an encoded scan; the manifest's digest, the records in the order
// of its entries, and the BLAKE3 of all that follow.
const scanMagic = "DRSCAN1\n"

const scanRecordBytes = 8 + 8 + 8 + 4 + 1

func encodeScan(manifest Digest, records []scanRecord) []byte {
	b := make([]byte, 0, len(scanMagic)+2*len(Digest{})+scanRecordBytes*len(records))
	b = append(b, scanMagic...)
	b = append(b, manifest[:]...)
	for _, r := range records {
		b = binary.BigEndian.AppendUint64(b, r.Dev)
		b = binary.BigEndian.AppendUint64(b, r.Ino)
		b = binary.BigEndian.AppendUint64(b, uint64(r.CtimeSec))
		b = binary.BigEndian.AppendUint32(b, r.CtimeNsec)
		b = append(b, byte(flags(r.Racy)))
	}
	sum := blake3.Sum256(b)
	return append(b, sum[:]...)
}

func decodeScan(b []byte, m *Manifest) ([]scanRecord, error) {
	body := len(scanMagic) + len(Digest{}) + scanRecordBytes*len(m.Entries)
	if len(b) != body+len(Digest{}) || string(b[:len(scanMagic)]) != scanMagic ||
		Digest(b[len(scanMagic):][:32]) != m.Digest || blake3.Sum256(b[:body]) != Digest(b[body:]) {
		return nil, errors.New("scan: it is damaged, or another version's")
	}
	records := make([]scanRecord, len(m.Entries))
	b = b[len(scanMagic)+len(Digest{}):]
	for i := range records {
		records[i] = scanRecord{
			inode:     inode{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])},
			CtimeSec:  int64(binary.BigEndian.Uint64(b[16:])),
			CtimeNsec: binary.BigEndian.Uint32(b[24:]),
			Racy:      b[28] != 0,
		}
		b = b[scanRecordBytes:]
	}
	return records, nil
}

// fileID identifies a directory across this machine, unlike inode.
type fileID struct{ dev, ino uint64 }

// A walk lists a source: every entry with what lstat says of it, contents unread.
type walk struct {
	ctx     context.Context
	rootDev uint64
	store   fileID          // is never part of a snapshot
	mounts  map[fileID]bool // directories of the job's other filesystems: left to these where mounted

	entries  []Entry // in the order of ComparePaths
	records  []scanRecord
	links    map[inode]int // names seen of each file that has several
	sockets  int
	problems []string // what the version lacks though it should not
}

// run walks the directory that is open as top.
func (w *walk) run(top *treeDir) error {
	st, err := top.stat(".")
	if err != nil {
		return err
	}
	w.rootDev = st.Dev
	w.links = map[inode]int{}
	w.add("", &st)
	if err := w.content(top, "", &st); err != nil {
		return err
	}
	w.nameLinkGroups()
	return nil
}

// content adds what is in a directory, which is the last entry so far.
func (w *walk) content(d *treeDir, dir string, st *unix.Stat_t) error {
	if w.ctx.Err() != nil {
		return context.Cause(w.ctx)
	}
	xattrs, err := readXattrs(d.fd)
	if err != nil {
		if err := w.missed(dir, "is not complete", err); err != nil {
			return err
		}
	}
	w.entries[len(w.entries)-1].Xattrs = xattrs
	names, err := d.names()
	if err != nil {
		if err := w.missed(dir, "is not complete", err); err != nil {
			return err
		}
	}
	slices.Sort(names)
	for _, name := range names {
		if err := w.child(d, joinPath(dir, name), name, st.Dev); err != nil {
			return err
		}
	}
	return nil
}

// child adds the entry name of the directory d, and what is below it.
func (w *walk) child(d *treeDir, path, name string, parentDev uint64) error {
	st, err := d.stat(name)
	if err != nil {
		return w.missed(path, "is left out", err)
	}
	if w.leaveOut(path, &st) {
		return nil
	}
	e := w.add(path, &st)
	if err := w.complete(d, name, e); err != nil {
		w.entries, w.records = w.entries[:len(w.entries)-1], w.records[:len(w.records)-1]
		return w.missed(path, "is left out", err)
	}
	if e.Type != TypeDir || st.Dev != parentDev && w.mounts[fileID{st.Dev, st.Ino}] {
		return nil
	}
	sub, err := d.sub(name)
	if err != nil {
		return w.missed(path, "is not complete", err)
	}
	return errors.Join(w.content(sub, path, &st), sub.Close())
}

// missed decides about an entry that cannot be read: it is a problem of the version,
// which is made nevertheless, since otherwise one bad file would prevent all versions
// for ever. The directory itself must be readable.
func (w *walk) missed(path, how string, err error) error {
	switch {
	case path == "", exhausted(err):
		return fmt.Errorf("read directory %q: %w", path, err)
	case vanished(err):
		return nil // as if it had been so when it was listed
	}
	w.problem(path, how, err)
	return nil
}

// vanished says whether an entry was removed, or replaced by one of another type,
// since it was listed.
func vanished(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENXIO)
}

// leaveOut says whether an entry can have no place in a version.
func (w *walk) leaveOut(path string, st *unix.Stat_t) bool {
	switch {
	case len(path) > MaxPathBytes:
		w.problem(path, "is left out", errors.New("its path is too long"))
	case st.Mode&unix.S_IFMT == unix.S_IFSOCK:
		w.sockets++
	default:
		return fileID{st.Dev, st.Ino} == w.store
	}
	return true
}

// complete adds what is not known of an entry that is neither directory nor file, and
// checks what is known of any.
func (w *walk) complete(d *treeDir, name string, e *Entry) (err error) {
	if e.Type == TypeSymlink {
		e.Target, err = d.root.Readlink(name)
		if errors.Is(err, unix.EINVAL) {
			return fs.ErrNotExist // it is no link any more
		}
	}
	if err == nil && e.Type != TypeDir && e.Type != TypeFile {
		e.Xattrs, err = readLinkXattrs(d.fd, name)
	}
	if err != nil {
		return err
	}
	return e.validateNode()
}

func (w *walk) problem(path, how string, err error) {
	w.problems = append(w.problems, fmt.Sprintf("%q %s: %v", path, how, err))
}

// add appends an entry with its record. LinkGroup counts names until nameLinkGroups.
func (w *walk) add(path string, st *unix.Stat_t) *Entry {
	record := scanRecord{inode: inode{st.Dev, st.Ino}, CtimeSec: st.Ctim.Sec, CtimeNsec: uint32(st.Ctim.Nsec)}
	if st.Dev == w.rootDev {
		record.Dev = 0
	}
	e := Entry{Path: path}
	e.setStat(st)
	if e.Type != TypeDir && st.Nlink > 1 {
		w.links[record.inode]++
	}
	w.entries = append(w.entries, e)
	w.records = append(w.records, record)
	return &w.entries[len(w.entries)-1]
}

// nameLinkGroups gives the entries that are names of one file a number in common,
// most often that of their inode, so that it is the same in the next version.
func (w *walk) nameLinkGroups() {
	groups, used := map[inode]uint64{}, map[uint64]bool{0: true}
	for i := range w.entries {
		id := w.records[i].inode
		if w.links[id] < 2 || w.entries[i].Type == TypeDir {
			continue
		}
		if groups[id] == 0 {
			n := id.Ino ^ id.Dev<<32
			for used[n] {
				n++
			}
			groups[id], used[n] = n, true
		}
		w.entries[i].LinkGroup = groups[id]
	}
}

// setStat sets the metadata that stat tells.
func (e *Entry) setStat(st *unix.Stat_t) {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		e.Type, e.Size = TypeFile, st.Size
	case unix.S_IFDIR:
		e.Type = TypeDir
	case unix.S_IFLNK:
		e.Type = TypeSymlink
	case unix.S_IFIFO:
		e.Type = TypeFIFO
	case unix.S_IFCHR:
		e.Type, e.Rdev = TypeCharDevice, st.Rdev
	case unix.S_IFBLK:
		e.Type, e.Rdev = TypeBlockDevice, st.Rdev
	}
	e.Mode, e.UID, e.GID = st.Mode&0o7777, st.Uid, st.Gid
	e.MtimeSec, e.MtimeNsec = st.Mtim.Sec, uint32(st.Mtim.Nsec)
}

// previous is the version before, to compare a source with.
type previous struct {
	version  versionInfo
	manifest *Manifest
	records  []scanRecord  // nil: no scan, so that everything is read
	byInode  map[inode]int // index of a file's entry
	stable   bool          // inode numbers are the files' own (stableInodes)
}

// stableInodes says whether a directory's file system keeps its files' inode numbers
// and changes their ctime whatever is done to them, so that a file can be recognized
// at another path. Others (vfat, exfat, most of FUSE) number files in the order in
// which they are looked up, anew after each mount, and show the mtime as ctime.
func stableInodes(dir *os.File) bool {
	var st unix.Statfs_t
	if unix.Fstatfs(int(dir.Fd()), &st) != nil {
		return false
	}
	switch st.Type {
	case unix.EXT4_SUPER_MAGIC, // and ext2, ext3
		unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.F2FS_SUPER_MAGIC, zfsSuperMagic,
		unix.TMPFS_MAGIC, unix.OVERLAYFS_SUPER_MAGIC, unix.NFS_SUPER_MAGIC:
		return true
	}
	return false
}

// zfsSuperMagic is ZFS_SUPER_MAGIC of OpenZFS, which is no part of Linux.
const zfsSuperMagic = 0x2fc12fc1

// loadPrevious reads what a snapshot compares with.
func (f *filesystem) loadPrevious(v versionInfo) (*previous, error) {
	m, err := f.readManifest(v)
	if err != nil {
		return nil, err
	}
	p := &previous{version: v, manifest: m, byInode: map[inode]int{}}
	data, err := f.root.ReadFile(path.Join(path.Dir(v.manifest), scanName))
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return nil, err
	}
	if p.records, err = decodeScan(data, m); err != nil {
		return nil, err
	}
	for i := range p.records {
		if m.Entries[i].Type == TypeFile {
			p.byInode[p.records[i].inode] = i
		}
	}
	return p, nil
}

// find returns the entry that a file was in the version before, wherever its inode
// tells that: in the directory's own file system, if numbers are stable there. Else it
// is the one at the same path. -1: there is none.
func (p *previous) find(e *Entry, r scanRecord) int {
	if p == nil {
		return -1
	}
	if i, ok := p.byInode[r.inode]; ok && p.stable && r.Dev == 0 {
		return i
	}
	if i, ok := p.manifest.lookup(e.Path); ok && p.manifest.Entries[i].Type == TypeFile {
		return i
	}
	return -1
}

// unchanged returns the entry of the version before whose content and metadata a
// file still has: the same inode with the same size, mtime and ctime, which was not
// racy. -1: there is none.
func (p *previous) unchanged(e *Entry, r scanRecord) int {
	i := p.find(e, r)
	if i < 0 || p.records == nil || p.records[i] != r ||
		p.manifest.Entries[i].Inconsistent || !sameSizeAndTime(&p.manifest.Entries[i], e) {
		return -1
	}
	return i
}

// likely returns the entry of the version before that may well have the content of
// a file, though something about it changed: reading it to find out saves a copy.
// Of a large file only the ctime may have changed, so that what did change is not
// read twice. -1: there is none.
func (p *previous) likely(e *Entry, r scanRecord) int {
	i := p.find(e, r)
	if i < 0 {
		return -1
	}
	old := &p.manifest.Entries[i]
	if old.Size != e.Size || e.Size >= MinChunkedSize && !sameSizeAndTime(old, e) {
		return -1
	}
	return i
}

func sameSizeAndTime(a, b *Entry) bool {
	return a.Size == b.Size && a.MtimeSec == b.MtimeSec && a.MtimeNsec == b.MtimeNsec
}

// statID tells a directory's identity.
func statID(path string) (fileID, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return fileID{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return fileID{st.Dev, st.Ino}, nil
}
