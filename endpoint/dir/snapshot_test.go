package dir

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
	"golang.org/x/sys/unix"
)

// take makes a snapshot and returns its report and manifest.
func (r *rig) take(name string, opts SnapshotOptions) (*SnapshotReport, *Manifest) {
	r.Helper()
	report, err := r.sender.Snapshot(r.Context(), testFS, name, opts)
	r.must(err)
	return report, r.manifest(name)
}

// openVersion finds a snapshot in a store or root. The filesystem is closed when the test
// ends.
func (r *rig) openVersion(store, name string) (*filesystem, versionInfo) {
	r.Helper()
	f, err := openFilesystem(store, testFS, false)
	r.must(err)
	r.Cleanup(func() { f.Close() })
	v, err := f.snapshotByName(name)
	r.must(err)
	return f, v
}

func (r *rig) manifest(name string) *Manifest {
	r.Helper()
	f, v := r.openVersion(r.store, name)
	m, err := f.readManifest(v)
	r.must(err)
	return m
}

// stored is the path of a file in a snapshot's tree.
func (r *rig) stored(version, name string) string {
	return filepath.Join(r.store, testFS, "@"+version, treeName, name)
}

// settle makes the source's last changes old enough not to be racy, by making what
// the last snapshot noted as racy be forgotten.
func (r *rig) settle(version string) {
	r.Helper()
	f, v := r.openVersion(r.store, version)
	p, err := f.loadPrevious(v)
	r.must(err)
	for i := range p.records {
		p.records[i].Racy = false
	}
	r.must(f.root.WriteFile("@"+version+"/"+scanName, encodeScan(p.manifest.Digest, p.records), 0o600))
}

func entryOf(t *testing.T, m *Manifest, path string) *Entry {
	t.Helper()
	i, ok := m.lookup(path)
	if !ok {
		t.Fatalf("%q is not in version %s", path, m.Name)
	}
	return &m.Entries[i]
}

func TestSnapshotReport(t *testing.T) {
	r := newRig(t)
	r.write("a", []byte("12345"))
	r.write("d/b", nil)
	socket, err := net.Listen("unix", r.path("socket"))
	r.must(err)
	defer socket.Close()
	report, m := r.take("one", SnapshotOptions{})
	want := &SnapshotReport{
		Filesystem: testFS, Name: "one", GUID: m.GUID, CreateTXG: 1,
		Files: 2, Bytes: 5, Changed: 2, Sockets: 1, Notes: report.Notes,
	}
	expect(t, "report", *report, *want)
	if _, ok := m.lookup("socket"); ok || m.GUID == 0 || m.Inconsistent || time.Since(time.Unix(0, m.Creation)) > time.Hour {
		t.Errorf("manifest %+v", m)
	}
	_, err = r.sender.Snapshot(t.Context(), testFS, "one", SnapshotOptions{})
	if !errors.Is(err, endpoint.ErrFailedPrecondition) {
		t.Errorf("the same name again: %v", err)
	}
}

// A name is taken whatever state its version is in, and no file is read to find out.
func TestSnapshotNameOfDamagedVersion(t *testing.T) {
	r := newRig(t)
	r.write("f", []byte("x"))
	r.snapshot("one")
	r.must(os.Truncate(filepath.Join(r.store, testFS, "@one", manifestName), 3))
	_, err := r.sender.Snapshot(t.Context(), testFS, "one", SnapshotOptions{Progress: func(int, int64) { t.Error("a file was read") }})
	if !errors.Is(err, endpoint.ErrFailedPrecondition) {
		t.Errorf("error %v", err)
	}
}

func TestSnapshotRefused(t *testing.T) {
	r := newRig(t)
	for _, tt := range []struct {
		fs, name string
		want     error
	}{{"none", "a", endpoint.ErrNotFound}, {"../x", "a", endpoint.ErrInvalid}, {testFS, "a/b", endpoint.ErrInvalid}, {testFS, "", endpoint.ErrInvalid}} {
		if _, err := r.sender.Snapshot(t.Context(), tt.fs, tt.name, SnapshotOptions{}); !errors.Is(err, tt.want) {
			t.Errorf("%s@%s: %v", tt.fs, tt.name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.sender.Snapshot(ctx, testFS, "a", SnapshotOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
	r.must(os.RemoveAll(r.source))
	if _, err := r.sender.Snapshot(t.Context(), testFS, "a", SnapshotOptions{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a source: %v", err)
	}
	f, err := openFilesystem(r.store, testFS, false)
	r.must(err)
	defer f.Close()
	if _, err := f.root.Lstat(snapshottingDir); !errors.Is(err, fs.ErrNotExist) || listing(t, f) != nil {
		t.Errorf("failed snapshots left something: %v", err)
	}
}

// What the manifest says about one of everything; that the content is right is for
// the replication tests.
func TestSnapshotManifest(t *testing.T) {
	r := newRig(t)
	r.zoo()
	_, m := r.take("one", SnapshotOptions{})
	if !slices.IsSortedFunc(m.Entries, func(a, b Entry) int { return ComparePaths(a.Path, b.Path) }) {
		t.Error("entries are not in order")
	}
	e := entryOf(t, m, "empty")
	expect(t, "time before 1970", fmt.Sprint(e.MtimeSec, e.MtimeNsec), "-1000000000 123456789")
	expect(t, "set-id", entryOf(t, m, "small").Mode, uint32(0o4751))
	expect(t, "sticky", entryOf(t, m, "deep").Mode, uint32(0o1777))
	expect(t, "target", entryOf(t, m, "link").Target, "/no/where \xff")
	expect(t, "type", entryOf(t, m, "fifo").Type, TypeFIFO)
	expect(t, "not text", entryOf(t, m, "\xff\xfe not text \x01").Size, int64(5))
	small, again := entryOf(t, m, "small"), entryOf(t, m, "deep/small again")
	if small.LinkGroup == 0 || !small.sameNode(again) {
		t.Errorf("link group of %+v and %+v", small, again)
	}
	if g := entryOf(t, m, "link").LinkGroup; g == 0 || g == small.LinkGroup || g != entryOf(t, m, "link again").LinkGroup {
		t.Errorf("link group %d of symbolic links", g)
	}
	if holes := entryOf(t, m, "all hole").Holes; len(holes) > 0 {
		expect(t, "holes", holes, []Hole{{0, 3 << 20}})
	}
	if n := len(entryOf(t, m, "large").Chunks); n < 6 {
		t.Errorf("3 MiB have %d chunks", n)
	}
	_, second := r.take("two", SnapshotOptions{})
	expect(t, "entries of an unchanged source", second.Entries, m.Entries)
	if second.CreateTXG != 2 || second.GUID == m.GUID {
		t.Errorf("second version has CreateTXG %d, GUID %#x", second.CreateTXG, second.GUID)
	}
}

// Each change of a source between two snapshots, and how many files are read for it.
func TestSnapshotChanges(t *testing.T) {
	data := random(7, 2<<20)
	edit := bytes.Clone(data)
	edit[1<<20]++
	tests := []struct {
		name   string
		change func(*rig)
		full   bool
		read   int64
		shared bool   // with the file of the version before
		data   []byte // after the change
	}{
		{name: "nothing", change: func(*rig) {}, shared: true, data: data},
		{name: "full", change: func(*rig) {}, full: true, read: 2, shared: true, data: data},
		{name: "touched", change: func(r *rig) { r.chtimes("f", 5, 6) }, read: 1, data: data},
		{name: "chmod", change: func(r *rig) { r.must(os.Chmod(r.path("f"), 0o600)) }, read: 1, shared: true, data: data},
		{name: "same size, mtime put back", read: 1, data: edit, change: func(r *rig) {
			st, err := os.Stat(r.path("f"))
			r.must(err)
			r.must(os.WriteFile(r.path("f"), edit, 0o644))
			r.must(os.Chtimes(r.path("f"), st.ModTime(), st.ModTime()))
		}},
		{name: "appended", change: func(r *rig) { r.write("f", append(bytes.Clone(data), 1)) }, read: 1, data: append(bytes.Clone(data), 1)},
		{name: "renamed and back", read: 1, shared: true, data: data, change: func(r *rig) {
			r.must(os.Rename(r.path("f"), r.path("g")))
			r.must(os.Rename(r.path("g"), r.path("f")))
		}},
		{name: "replaced by a copy", read: 1, data: data, change: func(r *rig) {
			r.write("new", data)
			r.must(os.Rename(r.path("new"), r.path("f")))
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			r.write("f", data)
			r.write("other", []byte("unchanged"))
			_, one := r.take("one", SnapshotOptions{})
			r.settle("one")
			tt.change(r)
			report, two := r.take("two", SnapshotOptions{Full: tt.full})
			expect(t, "files read", report.Changed, tt.read)
			got, err := os.ReadFile(r.stored("two", "f"))
			if err != nil || !bytes.Equal(got, tt.data) {
				t.Errorf("the tree has other content: %v", err)
			}
			if same := entryOf(t, two, "f").Hash == entryOf(t, one, "f").Hash; same != bytes.Equal(tt.data, data) {
				t.Errorf("same digest as before: %v", same)
			}
			if !clones(t, r.store) {
				expect(t, "one file in both versions", sameFile(t, r.stored("one", "f"), r.stored("two", "f")), tt.shared)
			}
		})
	}
}

func sameFile(t *testing.T, a, b string) bool {
	t.Helper()
	x, errA := os.Stat(a)
	y, errB := os.Stat(b)
	if err := errors.Join(errA, errB); err != nil {
		t.Fatal(err)
	}
	return os.SameFile(x, y)
}

// tick returns when a change of a file gets a later time than name's last one has.
func (r *rig) tick(name string) {
	r.Helper()
	probe := filepath.Join(filepath.Dir(r.source), "probe")
	r.must(os.WriteFile(probe, nil, 0o600))
	for {
		var last, now unix.Stat_t
		r.must(unix.Stat(r.path(name), &last))
		r.must(os.Chmod(probe, 0o600))
		r.must(unix.Stat(probe, &now))
		if time.Unix(now.Ctim.Unix()).After(time.Unix(last.Ctim.Unix())) {
			return
		}
	}
}

// walked begins a first snapshot: it has listed the source, and read no file.
func (r *rig) walked(f *filesystem) *snapshotter {
	r.Helper()
	b := &snapshotter{report: &SnapshotReport{}}
	r.must(b.open(f, r.source, nil))
	r.Cleanup(func() { b.close() })
	r.must(r.sender.walk(r.Context(), b, testFS))
	return b
}

// mapped maps a file of the source into memory.
func (r *rig) mapped(name string, size int) []byte {
	r.Helper()
	f, err := os.OpenFile(r.path(name), os.O_RDWR, 0)
	r.must(err)
	defer f.Close()
	data, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	r.must(err)
	r.Cleanup(func() { unix.Munmap(data) })
	return data
}

// A write through a memory mapping sets no time if the page that it changes was not
// written to disk since the write before.
func TestSnapshotNoticesMappedWrites(t *testing.T) {
	r := newRig(t)
	var fs unix.Statfs_t
	r.must(unix.Statfs(r.source, &fs))
	if fs.Type == unix.TMPFS_MAGIC {
		t.Skip("SKIPPED: tmpfs never tells of such writes")
	}
	r.write("f", make([]byte, 8192))
	mapped := r.mapped("f", 8192)
	mapped[100] = 1
	f, err := openFilesystem(r.store, testFS, true)
	r.must(err)
	defer f.Close()
	b := r.walked(f)
	r.must(b.build(t.Context()))
	r.tick("f")
	mapped[100] = 2
	r.must(b.commit(f, &Manifest{Name: "one", GUID: 1, CreateTXG: 1}))
	r.settle("one")
	r.take("two", SnapshotOptions{})
	for name, want := range map[string]byte{"one": 1, "two": 2} {
		got, err := os.ReadFile(r.stored(name, "f"))
		r.must(err)
		expect(t, "byte in version "+name, got[100], want)
	}
}

// What cannot be flushed may change unnoticed, and says so.
func TestFlushPages(t *testing.T) {
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	defer in.Close()
	if err := flushPages(out); err == nil {
		t.Error("a pipe was flushed")
	}
	f, err := os.Open(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := flushPages(f); err != nil {
		t.Error(err)
	}
}

// More files than are flushed one after another.
func TestSnapshotOfManyFiles(t *testing.T) {
	r := newRig(t)
	for i := range flushMany {
		r.write(fmt.Sprint(i), fmt.Append(nil, i))
	}
	var files int
	var bytes int64
	report, _ := r.take("one", SnapshotOptions{Progress: func(f int, b int64) {
		if f < files || f > files+1 || b < bytes {
			t.Errorf("progress from %d files, %d bytes to %d, %d", files, bytes, f, b)
		}
		files, bytes = f, b
	}})
	expect(t, "files of the last progress", int64(files), report.Files)
	expect(t, "bytes of the last progress", bytes, report.Bytes)
}

// Progress is told while a file is read, each byte once, however often it is read.
func TestSnapshotProgressWithinFile(t *testing.T) {
	r := newRig(t)
	r.write("large", random(1, 4<<20))
	r.write("linked", random(2, 2<<20))
	r.must(os.Link(r.path("linked"), r.path("linked too")))
	r.write("small", []byte("x"))
	for _, name := range []string{"one", "two"} {
		within, done := 0, 0
		var last int64
		report, _ := r.take(name, SnapshotOptions{Full: true, Progress: func(files int, bytes int64) {
			if bytes < last {
				t.Errorf("%s: %d bytes after %d", name, bytes, last)
			}
			if files == done && bytes > last {
				within++
			}
			done, last = files, bytes
		}})
		if within < 12 {
			t.Errorf("%s: told %d times within a file", name, within)
		}
		expect(t, name+": bytes of the last progress", last, int64(6<<20+1))
		expect(t, name+": files read", report.Changed, int64(3))
	}
}

// A full snapshot does not take over what is damaged in the store.
func TestSnapshotFullFindsDamage(t *testing.T) {
	damage := func(data []byte) []byte { return append(bytes.Repeat([]byte{'?'}, 5), data[5:]...) }
	for name, spoil := range map[string]func(string) error{
		"changed": func(p string) error {
			data, err := os.ReadFile(p)
			return errors.Join(err, os.Chmod(p, 0o600), os.WriteFile(p, damage(data), 0o600))
		},
		"missing": os.Remove,
	} {
		r := newRig(t)
		r.write("good", []byte("good content"))
		r.write("small", []byte("small content"))
		r.write("large", random(1, 2<<20))
		r.take("one", SnapshotOptions{})
		r.must(errors.Join(spoil(r.stored("one", "small")), spoil(r.stored("one", "large"))))
		report, _ := r.take("two", SnapshotOptions{Full: true})
		expect(t, name+": damaged", report.Damaged, []string{"large", "small"})
		if !slices.ContainsFunc(report.Notes, func(n string) bool { return strings.Contains(n, "one is damaged") }) {
			t.Errorf("%s: notes %q", name, report.Notes)
		}
		verified, err := Verify(t.Context(), r.store, testFS, "two", VerifyOptions{})
		if err != nil || len(verified.Mismatches) > 0 {
			t.Errorf("%s: the new version: %+v, %v", name, verified, err)
		}
		report, _ = r.take("three", SnapshotOptions{Full: true})
		expect(t, name+": damaged once it is repaired", report.Damaged, []string(nil))
	}
}

// A file in a renamed directory has its old ctime: it need not be read to be found.
func TestSnapshotRenamedDirectory(t *testing.T) {
	r := newRig(t)
	r.write("old/f", random(1, 10_000))
	r.take("one", SnapshotOptions{})
	r.settle("one")
	r.must(os.Rename(r.path("old"), r.path("new")))
	report, m := r.take("two", SnapshotOptions{})
	expect(t, "files read", report.Changed, int64(0))
	expect(t, "size", entryOf(t, m, "new/f").Size, int64(10_000))
}

// Where inode numbers are given out anew, another file may have one's number, size
// and times by accident: only the same path is trusted.
func TestSnapshotUnstableInodes(t *testing.T) {
	m := &Manifest{Entries: []Entry{
		{Type: TypeDir}, {Path: "b", Type: TypeFile, Size: 4}, {Path: "c", Type: TypeFile, Size: 4}, {Path: "d", Type: TypeDir},
	}}
	record := func(dev, ino uint64) scanRecord { return scanRecord{inode: inode{dev, ino}, CtimeSec: 1_700_000_000} }
	p := &previous{
		manifest: m, records: []scanRecord{record(0, 1), record(0, 2), record(7, 3), record(0, 4)},
		byInode: map[inode]int{{0, 2}: 1, {7, 3}: 2},
	}
	for _, tt := range []struct {
		name   string
		stable bool
		path   string
		record scanRecord
		want   int
	}{
		{"stable, same path", true, "b", record(0, 2), 1},
		{"stable, renamed", true, "new", record(0, 2), 1},
		{"stable, below a mount, same path", true, "c", record(7, 3), 2},
		{"stable, below a mount, renamed", true, "new", record(7, 3), -1},
		{"unstable, same path", false, "b", record(0, 2), 1},
		{"unstable, other path", false, "new", record(0, 2), -1},
		{"unstable, the file before it is gone", false, "c", record(0, 2), -1},
		{"unstable, was a directory", false, "d", record(0, 4), -1},
	} {
		p.stable = tt.stable
		if got := p.unchanged(&Entry{Path: tt.path, Type: TypeFile, Size: 4}, tt.record); got != tt.want {
			t.Errorf("%s: entry %d, want %d", tt.name, got, tt.want)
		}
	}
}

func TestStableInodes(t *testing.T) {
	for dir, want := range map[string]bool{"/dev/shm": true, "/proc": false} {
		f, err := os.Open(dir)
		if err != nil {
			t.Skipf("SKIPPED: %v", err)
		}
		defer f.Close()
		expect(t, "inode numbers are stable in "+dir, stableInodes(f), want)
	}
}

// A file that may have been written to in the same tick of the clock is read again.
func TestSnapshotReadsRacyFilesAgain(t *testing.T) {
	r := newRig(t)
	r.write("f", []byte("x"))
	for age, racy := range map[time.Duration]bool{-time.Hour: true, 0: true, racyWindow / 2: true, time.Hour: false} {
		var sys unix.Stat_t
		r.must(unix.Stat(r.path("f"), &sys))
		if sys.Ctim.Nsec == 0 {
			sys.Ctim.Nsec = 1
		}
		if got := isRacy(&sys, time.Unix(sys.Ctim.Unix()).Add(age)); got != racy {
			t.Errorf("seen %v after the change: racy is %v", age, got)
		}
		sys.Ctim.Nsec = 0
		if !isRacy(&sys, time.Unix(sys.Ctim.Unix()).Add(time.Second)) {
			t.Error("a time of whole seconds is trusted too early")
		}
	}
	r.take("one", SnapshotOptions{})
	f, v := r.openVersion(r.store, "one")
	p, err := f.loadPrevious(v)
	r.must(err)
	i, _ := p.manifest.lookup("f")
	e, record := &p.manifest.Entries[i], p.records[i]
	p.records[i].Racy = false
	record.Racy = false
	expect(t, "entry of an unchanged file", p.unchanged(e, record), i)
	p.records[i].Racy = true
	expect(t, "entry of a racy file", p.unchanged(e, record), -1)
}

// growing keeps appending to a file until it is stopped.
func (r *rig) growing(name string) (stop func()) {
	f, err := os.OpenFile(r.path(name), os.O_WRONLY|os.O_APPEND, 0)
	r.must(err)
	r.Cleanup(func() { f.Close() })
	return r.background(func(int) {
		if _, err := f.Write([]byte{1}); err != nil {
			r.Error(err)
		}
	})
}

// background calls do again and again until it is stopped.
func (r *rig) background(do func(i int)) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			default:
				do(i)
			}
		}
	}()
	stop = sync.OnceFunc(func() {
		close(done)
		<-ended
	})
	r.Cleanup(stop)
	return stop
}

func TestSnapshotFileKeepsChanging(t *testing.T) {
	r := newRig(t)
	r.write("f", random(1, 4<<20))
	r.write("calm", nil)
	stop := r.growing("f")
	report, m := r.take("one", SnapshotOptions{})
	// A busy file system may keep the writer, and so the file, still for a while.
	for i := 0; i < 100 && len(report.Inconsistent) == 0; i++ {
		report, m = r.take(fmt.Sprint("again-", i), SnapshotOptions{Full: true})
	}
	stop()
	if len(report.Inconsistent) != 1 || !strings.Contains(report.Inconsistent[0], `"f"`) {
		t.Errorf("inconsistent: %v", report.Inconsistent)
	}
	if !m.Inconsistent || !entryOf(t, m, "f").Inconsistent || entryOf(t, m, "calm").Inconsistent {
		t.Error("the manifest does not say so")
	}
	report, m = r.take("two", SnapshotOptions{})
	if len(report.Inconsistent) > 0 || m.Inconsistent {
		t.Errorf("after the changes ended: %v", report.Inconsistent)
	}
}

// A file that each time becomes too small for chunks while it is cut is left out.
func TestSnapshotFileKeepsShrinking(t *testing.T) {
	r := newRig(t)
	r.write("f", nil)
	r.write("calm", random(1, 2<<20))
	if clones(t, filepath.Dir(r.source)) {
		t.Skip("SKIPPED: here a clone is read, which cannot shrink")
	}
	stop := r.shrinking("f", random(2, 4<<20))
	report, m := r.take("one", SnapshotOptions{})
	if opened := stop(); opened != readAttempts {
		t.Errorf("it was tried %d times", opened)
	}
	if len(report.Inconsistent) != 1 || !strings.Contains(report.Inconsistent[0], `"f" is left out`) || !m.Inconsistent {
		t.Errorf("inconsistent: %v", report.Inconsistent)
	}
	if _, ok := m.lookup("f"); ok || report.Files != 1 {
		t.Errorf("%d files, that one among them: %v", report.Files, ok)
	}
	if report, _ := r.take("two", SnapshotOptions{}); len(report.Inconsistent) > 0 || report.Files != 2 {
		t.Errorf("afterwards: %+v", report)
	}
}

// shrinking makes a file have its content whenever it is opened, and ten bytes from when
// it is read on. The function that is returned ends that, and tells how often it was
// opened.
func (r *rig) shrinking(name string, content []byte) (stop func() int) {
	r.Helper()
	file, err := os.OpenFile(r.path(name), os.O_RDWR, 0)
	r.must(err)
	fd, err := unix.FanotifyInit(unix.FAN_CLASS_CONTENT|unix.FAN_CLOEXEC|unix.FAN_NONBLOCK, unix.O_RDONLY)
	if err == nil {
		err = unix.FanotifyMark(fd, unix.FAN_MARK_ADD, unix.FAN_OPEN_PERM|unix.FAN_ACCESS_PERM, unix.AT_FDCWD, r.path(name))
	}
	if err != nil {
		r.Skipf("SKIPPED: nobody asks here before a file is read: %v", err)
	}
	asked, opened := os.NewFile(uintptr(fd), "fanotify"), make(chan int, 1)
	go func() {
		opened <- answer(asked, func(event uint64) {
			if event&unix.FAN_OPEN_PERM != 0 {
				_, _ = file.WriteAt(content, 0)
			} else {
				_ = file.Truncate(10)
			}
		})
	}()
	return func() int {
		r.must(errors.Join(asked.Close(), file.Close()))
		return <-opened
	}
}

// answer permits what fanotify asks for, after it has done something, and tells how many
// times a file was opened.
func answer(asked *os.File, before func(event uint64)) (opened int) {
	for {
		var event unix.FanotifyEventMetadata
		if err := binary.Read(asked, binary.NativeEndian, &event); err != nil {
			return opened
		}
		if event.Mask&unix.FAN_OPEN_PERM != 0 {
			opened++
		}
		before(event.Mask)
		_ = binary.Write(asked, binary.NativeEndian, unix.FanotifyResponse{Fd: event.Fd, Response: unix.FAN_ALLOW})
		_ = unix.Close(int(event.Fd))
	}
}

// Files that are gone when they are to be read, or no files any more.
func TestSnapshotFilesThatVanish(t *testing.T) {
	r := newRig(t)
	r.write("gone", []byte("x"))
	r.write("linked", []byte("y"))
	r.must(os.Link(r.path("linked"), r.path("linked too")))
	r.write("now a fifo", []byte("z"))
	r.write("dir/gone too", []byte("x"))
	f, err := openFilesystem(r.store, testFS, true)
	r.must(err)
	defer f.Close()
	b := r.walked(f)
	for _, name := range []string{"gone", "linked", "now a fifo", "dir"} {
		r.must(os.RemoveAll(r.path(name)))
	}
	r.must(unix.Mkfifo(r.path("now a fifo"), 0o600))
	r.must(b.build(t.Context()))
	r.must(b.commit(f, &Manifest{Name: "one", GUID: 1, CreateTXG: 1}))
	var paths []string
	for _, e := range r.manifest("one").Entries {
		paths = append(paths, e.Path)
	}
	expect(t, "entries", paths, []string{"", "dir", "linked too"})
}

// What was read of a file before it was found to be missing is in no version.
func TestSnapshotDiscardsDroppedFiles(t *testing.T) {
	r := newRig(t)
	r.write("f", []byte("x"))
	f, err := openFilesystem(r.store, testFS, true)
	r.must(err)
	defer f.Close()
	b := r.walked(f)
	w, err := b.newWorker()
	r.must(err)
	defer w.Close()
	r.must(b.tree.root.WriteFile("f", []byte("begun"), 0o600))
	r.must(os.Remove(r.path("f")))
	r.must(w.readOrDrop(t.Context(), 1))
	if _, err := b.tree.root.Lstat("f"); !b.dropped[1] || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("dropped: %v, in the tree: %v", b.dropped[1], err)
	}
}

// A source that is removed meanwhile is no empty version.
func TestSnapshotSourceRemoved(t *testing.T) {
	r := newRig(t)
	r.write("f", []byte("x"))
	f, err := openFilesystem(r.store, testFS, true)
	r.must(err)
	defer f.Close()
	b := r.walked(f)
	r.must(os.RemoveAll(r.source))
	w := walk{ctx: t.Context()}
	if err := w.run(b.src); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before it was listed: error %v", err)
	}
	if err := b.build(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before its files were read: error %v", err)
	}
}

// An inode number may be another file's within one walk.
func TestSnapshotReusedInode(t *testing.T) {
	r := newRig(t)
	r.write("a", []byte("a's"))
	r.must(os.Link(r.path("a"), r.path("a too")))
	r.write("b", []byte("b's content"))
	r.must(os.Link(r.path("b"), r.path("b too")))
	f, err := openFilesystem(r.store, testFS, true)
	r.must(err)
	defer f.Close()
	b := r.walked(f)
	for i := range b.entries[1:] { // as if b had got a's number after a was listed
		b.entries[1+i].LinkGroup, b.records[1+i].inode = 1, b.records[1].inode
	}
	r.must(b.build(t.Context()))
	r.must(b.commit(f, &Manifest{Name: "one", GUID: 1, CreateTXG: 1}))
	for name, want := range map[string]string{"a": "a's", "a too": "a's", "b": "b's content", "b too": "b's content"} {
		got, err := os.ReadFile(r.stored("one", name))
		r.must(err)
		expect(t, "content of "+name, string(got), want)
	}
	m := r.manifest("one")
	if !entryOf(t, m, "a").sameNode(entryOf(t, m, "a too")) {
		t.Error("two names of one file are two files")
	}
}

// TestSnapshotLinksGrow: further names outside of the directory change a file's ctime
// while its names are looked at, as copies with hard links do.
func TestSnapshotLinksGrow(t *testing.T) {
	r := newRig(t)
	r.write("0", []byte("one file"))
	for i := range 5 {
		r.must(os.Link(r.path("0"), r.path(fmt.Sprint(i+1))))
	}
	outside, count := t.TempDir(), 0
	report, m := r.take("one", SnapshotOptions{Progress: func(int, int64) {
		count++
		r.must(os.Link(r.path("0"), filepath.Join(outside, fmt.Sprint(count))))
	}})
	expect(t, "files read", report.Changed, int64(1))
	for i := range 5 {
		if !entryOf(t, m, "0").sameNode(entryOf(t, m, fmt.Sprint(i+1))) {
			t.Errorf("name %d is a file of its own", i+1)
		}
	}
	if count == 0 {
		t.Error("there was no other name meanwhile")
	}
}

// leased takes a write lease on a file, as a Samba server does. It calls wanted when
// the kernel tells that somebody wants to open the file.
func (r *rig) leased(name string, wanted func(f *os.File)) {
	r.Helper()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGIO)
	r.Cleanup(func() { signal.Stop(signals) })
	f, err := os.OpenFile(r.path(name), os.O_RDWR, 0)
	r.must(err)
	r.Cleanup(func() { f.Close() })
	if _, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_WRLCK); err != nil {
		r.Skipf("SKIPPED: no leases here: %v", err)
	}
	var wg sync.WaitGroup
	r.Cleanup(wg.Wait)
	wg.Go(func() {
		select {
		case <-signals:
			wanted(f)
		case <-r.Context().Done():
		}
	})
}

// A file that somebody holds a lease on is read when the lease is given back.
func TestSnapshotLeasedFile(t *testing.T) {
	r := newRig(t)
	r.write("leased", []byte("precious"))
	r.leased("leased", func(f *os.File) {
		if _, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_UNLCK); err != nil {
			t.Error(err)
		}
	})
	report, m := r.take("one", SnapshotOptions{})
	entryOf(t, m, "leased")
	expect(t, "inconsistent", report.Inconsistent, []string(nil))
}

// One that is not given back does not keep a snapshot from being ended.
func TestSnapshotEndsWhileFileIsLeased(t *testing.T) {
	r := newRig(t)
	r.write("leased", []byte("precious"))
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	r.leased("leased", func(*os.File) { cancel(errCut) })
	if _, err := r.sender.Snapshot(ctx, testFS, "one", SnapshotOptions{}); !errors.Is(err, errCut) {
		t.Errorf("error %v", err)
	}
}

func TestSnapshotUnreadable(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root reads everything")
	}
	r := newRig(t)
	r.write("secret", []byte("x"))
	r.write("closed/inside", []byte("x"))
	r.write("open", []byte("x"))
	r.write("listed/inside", []byte("x"))
	r.must(os.Chmod(r.path("secret"), 0))
	for dir, mode := range map[string]os.FileMode{"closed": 0, "listed": 0o400} {
		r.must(os.Chmod(r.path(dir), mode))
		defer os.Chmod(r.path(dir), 0o700)
	}
	report, m := r.take("one", SnapshotOptions{})
	var paths []string
	for _, e := range m.Entries {
		paths = append(paths, e.Path)
	}
	expect(t, "entries", paths, []string{"", "closed", "listed", "open"})
	if len(report.Inconsistent) != 3 || !m.Inconsistent {
		t.Errorf("inconsistent: %v", report.Inconsistent)
	}
}

// brokenFile finds a directory with a file that the kernel does not let anyone read:
// that is a device's setting which most devices do not have.
func brokenFile(t *testing.T) (dir, name string) {
	t.Helper()
	const setting = "autosuspend_delay_ms"
	dirs, err := filepath.Glob("/sys/devices/*/power")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		if _, err := os.ReadFile(filepath.Join(dir, setting)); errors.Is(err, unix.EIO) {
			return dir, setting
		}
	}
	t.Skip("SKIPPED: no file here fails to be read")
	return "", ""
}

// One bad block of a source does not prevent versions for ever.
func TestSnapshotUnreadableFile(t *testing.T) {
	r := newRig(t)
	dir, broken := brokenFile(t)
	s, err := NewSender(SenderOptions{Store: r.store, Directories: map[string]string{testFS: dir}, Job: "push"})
	r.must(err)
	for _, full := range []bool{false, true} {
		name := fmt.Sprint("full ", full)
		report, err := s.Snapshot(t.Context(), testFS, name, SnapshotOptions{Full: full})
		r.must(err)
		m := r.manifest(name)
		if !m.Inconsistent || !strings.Contains(fmt.Sprint(report.Inconsistent), broken) {
			t.Errorf("%s: inconsistent are %v", name, report.Inconsistent)
		}
		if _, ok := m.lookup(broken); ok || report.Files == 0 {
			t.Errorf("%s: %d files, the broken one among them: %v", name, report.Files, ok)
		}
		verified, err := Verify(t.Context(), r.store, testFS, name, VerifyOptions{})
		if err != nil || len(verified.Mismatches) > 0 {
			t.Errorf("%s: %+v, %v", name, verified, err)
		}
	}
}

func TestSourceErrors(t *testing.T) {
	failed := func(op string, err error) error {
		return fmt.Errorf("read f: %w", &fs.PathError{Op: op, Path: "f", Err: err})
	}
	canceled := context.Canceled
	tests := []struct{ err, want error }{
		{nil, nil},
		{failed("read", unix.EIO), errUnreadable},
		{failed("seek", unix.EUCLEAN), errUnreadable},
		{failed("read", unix.ENOENT), errVanished},
		{failed("read", unix.EMFILE), unix.EMFILE},
		{fmt.Errorf("read f: %w", errShrank), errUnreadable},
		{failed("write", unix.EIO), unix.EIO},
		{failed("truncate", unix.ENOSPC), unix.ENOSPC},
		{canceled, canceled},
	}
	for _, tt := range tests {
		got := contentError(tt.err)
		if !errors.Is(got, tt.want) || errors.Is(got, errUnreadable) != (tt.want == errUnreadable) {
			t.Errorf("%v: %v, want %v", tt.err, got, tt.want)
		}
	}
}

func TestWalkMissed(t *testing.T) {
	for _, tt := range []struct {
		path            string
		err             error
		fails, problems bool
	}{
		{"f", unix.ENOENT, false, false},
		{"f", unix.EACCES, false, true},
		{"f", unix.EIO, false, true},
		{"f", unix.ENFILE, true, false},
		{"", unix.EIO, true, false},
		{"", unix.ENOENT, true, false},
	} {
		var w walk
		err := w.missed(tt.path, "is left out", tt.err)
		if (err != nil) != tt.fails || (len(w.problems) > 0) != tt.problems {
			t.Errorf("%q, %v: error %v, problems %q", tt.path, tt.err, err, w.problems)
		}
	}
}

// A store below the directory that it has snapshots of must not have itself.
func TestSnapshotStoreInsideSource(t *testing.T) {
	r := newRig(t)
	r.write("f", []byte("x"))
	s, err := NewSender(SenderOptions{Store: r.path("deep/store"), Directories: map[string]string{testFS: r.source}, Job: "push"})
	r.must(err)
	for i := range 3 {
		report, err := s.Snapshot(t.Context(), testFS, fmt.Sprint("v", i), SnapshotOptions{})
		r.must(err)
		expect(t, "files", report.Files, int64(1))
	}
}

func TestSnapshotLeavesMountsToTheirFilesystem(t *testing.T) {
	r := newRig(t)
	r.write("child/f", []byte("x"))
	top, err := openFilesystem(r.store, testFS, true)
	r.must(err)
	defer top.Close()
	id, err := statID(r.path("child"))
	r.must(err)
	root, err := os.OpenRoot(r.source)
	r.must(err)
	src, err := newTreeDir(root)
	r.must(err)
	defer src.Close()
	w := walk{ctx: t.Context(), mounts: map[fileID]bool{id: true}}
	r.must(w.run(src))
	expect(t, "entries where it is no mount", len(w.entries), 3)
	st, err := src.stat("child")
	r.must(err)
	w = walk{ctx: t.Context(), mounts: map[fileID]bool{id: true}, links: map[inode]int{}}
	r.must(w.child(src, "child", "child", st.Dev+1))
	expect(t, "entries where it is", len(w.entries), 1)
}

// A damaged or missing scan costs time, not correctness.
func TestSnapshotWithoutScan(t *testing.T) {
	r := newRig(t)
	r.write("f", []byte("content"))
	_, one := r.take("one", SnapshotOptions{})
	scan := filepath.Join(r.store, testFS, "@one", scanName)
	r.must(os.WriteFile(scan, []byte("damaged"), 0o600))
	report, two := r.take("two", SnapshotOptions{})
	if len(report.Notes) == 0 || report.Changed != 1 {
		t.Errorf("with a damaged scan: %+v", report)
	}
	expect(t, "entries", two.Entries, one.Entries)
	r.must(os.Remove(filepath.Join(r.store, testFS, "@two", scanName)))
	report, _ = r.take("three", SnapshotOptions{})
	expect(t, "files read without a scan", report.Changed, int64(1))
}

// A tree that lost a file is repaired from the source.
func TestSnapshotOfDamagedPrevious(t *testing.T) {
	r := newRig(t)
	r.write("f", []byte("content"))
	r.take("one", SnapshotOptions{})
	r.settle("one")
	r.must(os.Remove(r.stored("one", "f")))
	report, _ := r.take("two", SnapshotOptions{})
	got, err := os.ReadFile(r.stored("two", "f"))
	if err != nil || string(got) != "content" || report.Changed != 1 {
		t.Errorf("%q, %v, %d files read", got, err, report.Changed)
	}
	r.must(os.RemoveAll(r.stored("two", "")))
	report, _ = r.take("three", SnapshotOptions{})
	if len(report.Notes) == 0 || report.Changed != 1 {
		t.Errorf("without any tree: %+v", report)
	}
}

func TestScanEncoding(t *testing.T) {
	m := testManifest()
	m.Encode()
	records := make([]scanRecord, len(m.Entries))
	for i := range records {
		records[i] = scanRecord{inode{uint64(i), 1 << 60}, int64(-i), uint32(i), i%2 == 0}
	}
	data := encodeScan(m.Digest, records)
	got, err := decodeScan(data, m)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "records", got, records)
	for i := range data {
		data[i] ^= 1
		if _, err := decodeScan(data, m); err == nil {
			t.Errorf("byte %d is damaged, and no error", i)
		}
		data[i] ^= 1
	}
	m.Digest[0]++
	if _, err := decodeScan(data, m); err == nil {
		t.Error("the scan of another version is accepted")
	}
}

func TestSnapshotBusy(t *testing.T) {
	r := newRig(t)
	f, err := openFilesystem(r.store, testFS, true)
	r.must(err)
	defer f.Close()
	lock, err := f.lock(t.Context())
	r.must(err)
	defer lock.unlock()
	if _, err := r.sender.Snapshot(t.Context(), testFS, "one", SnapshotOptions{}); !errors.Is(err, endpoint.ErrBusy) {
		t.Errorf("error %v", err)
	}
}

// Whatever happens to a source meanwhile, a snapshot is a whole version of it.
func TestSnapshotOfBusySource(t *testing.T) {
	r := newRig(t)
	r.write("calm", []byte("x"))
	stop := r.background(r.disturb)
	for i := range 20 {
		_, m := r.take(fmt.Sprint("v", i), SnapshotOptions{})
		entryOf(t, m, "calm")
	}
	stop()
	r.take("last", SnapshotOptions{})
	list, err := r.sender.ListFilesystemVersions(t.Context(), &pdu.ListFilesystemVersionsReq{Filesystem: testFS})
	r.must(err)
	var last *pdu.FilesystemVersion
	for _, v := range list.Versions {
		r.step(last, v)
		r.checkVerify(v.Name)
		last = v
	}
	r.check("last")
}

// disturb changes something at a place that may or may not be there.
func (r *rig) disturb(i int) {
	dir := r.path(fmt.Sprint("d", i%3))
	file := filepath.Join(dir, "sub", fmt.Sprint("f", i%5))
	switch i % 11 {
	case 0:
		os.RemoveAll(dir)
	case 1:
		os.Rename(dir, r.path(fmt.Sprint("d", (i+1)%3)))
	case 2:
		os.Remove(file)
		os.Symlink("target", file)
	case 3:
		os.Remove(file)
		unix.Mkfifo(file, 0o600)
	case 4:
		os.Link(file, r.path(fmt.Sprint("link", i%7)))
	case 5:
		os.Remove(r.path(fmt.Sprint("link", i%7)))
	default:
		os.MkdirAll(filepath.Dir(file), 0o755)
		os.Remove(file)
		os.WriteFile(file, random(uint64(i), i%5000), 0o644)
	}
}

// TestSnapshotLeavesOutWhatIsTooLarge: no file prevents all versions.
func TestSnapshotLeavesOutWhatIsTooLarge(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "dir")
	if err != nil {
		t.Skipf("SKIPPED: no tmpfs here: %v", err)
	}
	defer os.RemoveAll(dir)
	r := newRigAt(t, dir)
	r.write("f", []byte("f"))
	r.write("huge", nil)
	r.must(os.Truncate(r.path("huge"), MaxFileBytes+1))
	report, err := r.sender.Snapshot(t.Context(), testFS, "one", SnapshotOptions{})
	r.must(err)
	if report.Files != 1 || len(report.Inconsistent) != 1 {
		t.Errorf("%d files, left out: %v", report.Files, report.Inconsistent)
	}
}
