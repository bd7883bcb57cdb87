package dir

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
	"golang.org/x/sys/unix"
)

func TestNames(t *testing.T) {
	for _, name := range []string{"a", "a/b", "A.b", "..a", "a b", "docs:1"} {
		if err := ValidateFilesystem(name); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"", "/a", "a/", "a//b", "..", "a/../b", ".", ".dualrepl", "a/.dualrepl/b", "@a", "a/@v", "a@b", "a\x00", "é", strings.Repeat("x", 256)} {
		if err := ValidateFilesystem(name); !errors.Is(err, endpoint.ErrInvalid) {
			t.Errorf("filesystem %q: %v", name, err)
		}
	}
	for _, name := range []string{"", ".", "..", "a/b", "../a", "a@b", "a\n", strings.Repeat("x", 255)} {
		if err := ValidateVersion(name); !errors.Is(err, endpoint.ErrInvalid) {
			t.Errorf("version %q: %v", name, err)
		}
		if err := ValidateJob(name); !errors.Is(err, endpoint.ErrInvalid) {
			t.Errorf("job %q: %v", name, err)
		}
	}
}

func testFilesystem(t *testing.T) *filesystem {
	t.Helper()
	f, err := openFilesystem(filepath.Join(t.TempDir(), "store"), testFS, true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// makeVersion commits a version without any content.
func makeVersion(t *testing.T, f *filesystem, name string, guid, txg uint64) *Manifest {
	t.Helper()
	m := &Manifest{Name: name, GUID: guid, CreateTXG: txg, Creation: int64(txg) * 1e9, Entries: []Entry{{Type: TypeDir}}}
	lock, err := f.lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer lock.unlock()
	if err := f.root.MkdirAll(snapshottingDir+"/"+treeName, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := f.root.WriteFile(snapshottingDir+"/"+manifestName, m.Encode(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.commit(snapshottingDir, m); err != nil {
		t.Fatal(err)
	}
	return m
}

// listing is a short form of a list of versions.
func listing(t *testing.T, f *filesystem) (list []string) {
	t.Helper()
	versions, err := f.versions()
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range versions {
		list = append(list, fmt.Sprintf("%s %x %d", v.Name, v.GUID, v.CreateTXG))
	}
	return list
}

func expect(t *testing.T, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func TestOpenStore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "store")
	if _, err := openStore(path, false); !errors.Is(err, endpoint.ErrNotFound) {
		t.Errorf("a missing store: %v", err)
	}
	s, err := openStore(path, true)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("store is %v, %v", st, err)
	}
	if _, err := s.filesystem("a", false); !errors.Is(err, endpoint.ErrNotFound) {
		t.Errorf("a missing filesystem: %v", err)
	}
	if _, err := s.filesystem("../a", true); !errors.Is(err, endpoint.ErrInvalid) {
		t.Errorf("a filesystem outside: %v", err)
	}
}

func TestStoreList(t *testing.T) {
	path := t.TempDir()
	for _, name := range []string{"b", "a/b/c", "a/b.c"} {
		f, err := openFilesystem(path, name, true)
		if err != nil {
			t.Fatal(err)
		}
		makeVersion(t, f, "v", 1, 1)
		f.Close()
	}
	for _, ignored := range []string{"b/@v/tree/x/.dualrepl", "empty/child", "not@one/.dualrepl"} {
		if err := os.MkdirAll(filepath.Join(path, ignored), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	s, err := openStore(path, false)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	infos, err := s.list()
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "list", infos, []fsInfo{{"a", true}, {"a/b", true}, {"a/b/c", false}, {"a/b.c", false}, {"b", false}})
	stored, err := ListStore(path)
	if err != nil || len(stored) != 3 || stored[0].Name != "a/b/c" || len(stored[0].Versions) != 1 {
		t.Errorf("ListStore: %+v, %v", stored, err)
	}
	if _, err := ListStore(filepath.Join(path, "none")); !errors.Is(err, endpoint.ErrNotFound) {
		t.Errorf("ListStore of nothing: %v", err)
	}
}

func TestVersions(t *testing.T) {
	f := testFilesystem(t)
	expect(t, "no versions", listing(t, f), []string(nil))
	if _, err := f.snapshotByName(""); !errors.Is(err, endpoint.ErrNotFound) {
		t.Errorf("newest of none: %v", err)
	}
	makeVersion(t, f, "old", 0xb, 1)
	makeVersion(t, f, "new", 0xa, 2)
	expect(t, "versions", listing(t, f), []string{"old b 1", "new a 2"})
	if v, err := f.snapshotByName(""); err != nil || v.Name != "new" {
		t.Errorf("newest: %v, %v", v, err)
	}
	v, err := f.snapshotByName("old")
	if err != nil || v.GUID != 0xb {
		t.Errorf("by name: %v, %v", v, err)
	}
	expect(t, "as a message", v.pdu().String(), (&pdu.FilesystemVersion{Name: "old", Guid: 0xb, CreateTXG: 1, Creation: "1970-01-01T00:00:01Z"}).String())
	if _, err := f.snapshotByName("none"); !errors.Is(err, endpoint.ErrNotFound) {
		t.Errorf("by another name: %v", err)
	}
	if _, err := f.versionByGUID(1); !errors.Is(err, endpoint.ErrNotFound) {
		t.Errorf("by another GUID: %v", err)
	}
	if err := f.commit(snapshottingDir, &Manifest{Name: "old"}); !errors.Is(err, endpoint.ErrFailedPrecondition) {
		t.Errorf("a version of the same name: %v", err)
	}
}

func TestVersionsOfDamagedStore(t *testing.T) {
	f := testFilesystem(t)
	makeVersion(t, f, "a", 1, 1)
	if err := f.root.Rename("@a", "@b"); err != nil {
		t.Fatal(err)
	}
	makeVersion(t, f, "good", 2, 2)
	if err := f.root.Mkdir("@damaged", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.root.Mkdir("@empty", 0o700), f.root.Link("@good/"+manifestName, bookmarkFile(4, "j"))); err != nil {
		t.Fatal(err)
	}
	for _, garbage := range []string{"@damaged/" + manifestName, "@file", bookmarksDir + "/x", bookmarkFile(3, "j")} {
		if err := f.root.WriteFile(garbage, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var log bytes.Buffer
	f.log = &storeLog{Logger: slog.New(slog.NewTextHandler(&log, nil))}
	for range 3 {
		expect(t, "versions", listing(t, f), []string{"good 2 2"})
	}
	for _, name := range []string{"@b", "@damaged", "@file", "@empty", bookmarksDir + "/x", bookmarkFile(3, "j"), bookmarkFile(4, "j")} {
		if n := strings.Count(log.String(), "/"+name+" "); n != 1 {
			t.Errorf("the log tells of %s %d times: %s", name, n, &log)
		}
	}
	for _, name := range []string{"b", "damaged", "file", "empty"} {
		if _, err := f.snapshotByName(name); err == nil || errors.Is(err, endpoint.ErrNotFound) {
			t.Errorf("version %s: %v", name, err)
		}
	}
	list, err := ListStore(strings.TrimSuffix(f.root.Name(), "/"+testFS))
	if err != nil || len(list) != 1 || len(list[0].Versions) != 8 {
		t.Fatalf("ListStore: %+v, %v", list, err)
	}
	for i, v := range list[0].Versions {
		if (v.Damaged == "") != (i == 0) || v.Name == "" || v.Bookmark != (i > 4) {
			t.Errorf("version %+v", v)
		}
	}
}

// stick makes a directory with a directory in it that nobody can remove.
func (f *filesystem) stick(t *testing.T, dir string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	dir += "/dir"
	must(f.root.MkdirAll(dir+"/stuck", 0o700))
	d, err := f.root.Open(dir) // its name changes with its parent's
	must(err)
	t.Cleanup(func() { d.Close() })
	if os.Geteuid() != 0 {
		must(d.Chmod(0o500))
		t.Cleanup(func() { d.Chmod(0o700) })
		return
	}
	const immutable = 0x10 // FS_IMMUTABLE_FL of linux/fs.h
	if err := unix.IoctlSetPointerInt(int(d.Fd()), unix.FS_IOC_SETFLAGS, immutable); err != nil {
		t.Skipf("SKIPPED: nothing can be made immutable here: %v", err)
	}
	t.Cleanup(func() { unix.IoctlSetPointerInt(int(d.Fd()), unix.FS_IOC_SETFLAGS, 0) })
}

// What cannot be removed hinders neither the request that hid it nor later ones.
func TestLeftoversThatStay(t *testing.T) {
	f := testFilesystem(t)
	makeVersion(t, f, "one", 1, 1)
	f.stick(t, "@one/"+treeName)
	f.stick(t, snapshottingDir+"/"+treeName)
	expect(t, "results", f.destroy(t, &pdu.FilesystemVersion{Name: "one", Guid: 1}), []string{""})
	expect(t, "versions", listing(t, f), []string(nil))
	makeVersion(t, f, "one", 1, 2)
	expect(t, "results again", f.destroy(t, &pdu.FilesystemVersion{Name: "one", Guid: 1}), []string{""})
}

// A directory that cannot be looked into, such as a lost+found, is nobody's filesystem.
func TestStoreUnreadable(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("SKIPPED: root may do everything; TestWithoutRoot runs this")
	}
	f := testFilesystem(t)
	makeVersion(t, f, "one", 1, 1)
	path := strings.TrimSuffix(f.root.Name(), "/"+testFS)
	if err := os.Mkdir(filepath.Join(path, "lost.found"), 0); err != nil {
		t.Fatal(err)
	}
	if list, err := ListStore(path); err != nil || len(list) != 1 {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestCursor(t *testing.T) {
	f := testFilesystem(t)
	makeVersion(t, f, "one", 1, 1)
	makeVersion(t, f, "two", 2, 2)
	one, _ := f.versionByGUID(1)
	two, _ := f.versionByGUID(2)
	if _, err := f.cursor("j"); !errors.Is(err, endpoint.ErrNotFound) {
		t.Errorf("no cursor: %v", err)
	}
	for _, err := range []error{f.moveCursor("j", one), f.moveCursor("other_j", one), f.moveCursor("j", one), f.moveCursor("j", two)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if v, err := f.cursor("j"); err != nil || v.GUID != 2 || !v.Bookmark {
		t.Errorf("cursor: %v, %v", v, err)
	}
	if a, b := stat(t, f, two.manifest), stat(t, f, bookmarkFile(2, "j")); os.SameFile(a, b) {
		t.Error("one file is the snapshot's manifest and the bookmark's")
	}
	want := []string{"one 1 1", "CURSOR_G_0000000000000001_J_other_j 1 1", "two 2 2", "CURSOR_G_0000000000000002_J_j 2 2"}
	expect(t, "versions", listing(t, f), want)
	if m, err := f.readManifest(two); err != nil || m.Name != "two" {
		t.Errorf("manifest of a bookmark: %v, %v", m, err)
	}
}

func stat(t *testing.T, f *filesystem, name string) os.FileInfo {
	t.Helper()
	st, err := f.root.Lstat(name)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func (f *filesystem) destroy(t *testing.T, versions ...*pdu.FilesystemVersion) (errs []string) {
	t.Helper()
	res, err := f.destroySnapshots(t.Context(), versions)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range res.GetResults() {
		errs = append(errs, r.GetError())
	}
	return errs
}

func TestDestroySnapshots(t *testing.T) {
	f := testFilesystem(t)
	var versions []*pdu.FilesystemVersion
	for i, name := range []string{"a", "b", "c"} {
		makeVersion(t, f, name, uint64(i+1), uint64(i+1))
		v, _ := f.snapshotByName(name)
		versions = append(versions, v.pdu())
	}
	if err := f.setHolds(stepHoldTag("j"), 2); err != nil {
		t.Fatal(err)
	}
	other := &pdu.FilesystemVersion{Name: "a", Guid: 9}
	hostile := &pdu.FilesystemVersion{Name: "../../x", Guid: 1}
	errs := f.destroy(t, other, versions[1], hostile, versions[2])
	for i, want := range []string{"not found", "STEP_J_j", "invalid", ""} {
		if !strings.Contains(errs[i], want) || (want == "") != (errs[i] == "") {
			t.Errorf("result %d is %q, want %q", i, errs[i], want)
		}
	}
	expect(t, "versions", listing(t, f), []string{"a 1 1", "b 2 2"})
	if next, err := f.nextTXG(nil); err != nil || next != 4 {
		t.Errorf("the next CreateTXG is %d, %v: it went back", next, err)
	}
	if err := f.setHolds(stepHoldTag("j")); err != nil {
		t.Fatal(err)
	}
	expect(t, "results after the release", f.destroy(t, versions[0], versions[1]), []string{"", ""})
	expect(t, "versions", listing(t, f), []string(nil))
	if _, err := f.destroySnapshots(t.Context(), []*pdu.FilesystemVersion{{Type: pdu.FilesystemVersion_Bookmark}}); !errors.Is(err, endpoint.ErrInvalid) {
		t.Errorf("a bookmark: %v", err)
	}
}

// A damaged snapshot is kept by no hold, and known by its name if its header is damaged.
func TestDestroyDamaged(t *testing.T) {
	tests := []struct {
		name   string
		damage func(f *filesystem) error
		guid   uint64
		want   string
	}{
		{"nothing", func(*filesystem) error { return nil }, 7, "held by"},
		{"another GUID", func(*filesystem) error { return nil }, 8, "not found"},
		{"header", func(f *filesystem) error { return f.root.WriteFile("@v/manifest", []byte("x"), 0o600) }, 9, ""},
		{"digest", func(f *filesystem) error {
			file, err := f.root.OpenFile("@v/manifest", os.O_WRONLY|os.O_APPEND, 0)
			if err == nil {
				_, err = file.WriteString("x")
				err = errors.Join(err, file.Close())
			}
			return err
		}, 7, ""},
		{"manifest", func(f *filesystem) error { return f.root.Remove("@v/manifest") }, 9, ""},
		{"tree", func(f *filesystem) error { return f.root.RemoveAll("@v/tree") }, 7, "held by"},
		{"other name", func(f *filesystem) error { return f.root.Rename("@v", "@w") }, 7, "not found"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := testFilesystem(t)
			makeVersion(t, f, "v", 7, 1)
			if err := errors.Join(f.setHolds(lastReceivedHoldTag("j"), 7), tt.damage(f)); err != nil {
				t.Fatal(err)
			}
			got := f.destroy(t, &pdu.FilesystemVersion{Name: "v", Guid: tt.guid})[0]
			if !strings.Contains(got, tt.want) || (tt.want == "") != (got == "") {
				t.Errorf("result %q, want %q", got, tt.want)
			}
		})
	}
}

// Destroyed is what is out of sight: who waits for the rest to be removed may go, and
// it keeps nobody from the lock.
func TestDestroyEndsWithItsContext(t *testing.T) {
	f := testFilesystem(t)
	makeVersion(t, f, "v", 1, 1)
	if err := f.root.MkdirAll("@v/tree/a/b/c", 0o700); err != nil {
		t.Fatal(err)
	}
	left := func() (n int) {
		entries, err := readDir(f.root, metaDir)
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), destroyingName) {
				n++
			}
		}
		if err != nil {
			t.Error(err)
		}
		return n
	}
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := f.hideAll(ctx, []*pdu.FilesystemVersion{{Name: "v", Guid: 1}}); err != nil {
		t.Fatal(err)
	}
	cancel()
	f.removeLeftovers(ctx)
	expect(t, "versions", listing(t, f), []string(nil))
	expect(t, "left by a call that ended", left(), 1)
	lock, err := f.lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	lock.unlock()
	expect(t, "left by a lock", left(), 0)
}

// Of a destroy and a step that begin at once, one finds the other.
func TestDestroyAgainstProtect(t *testing.T) {
	f := testFilesystem(t)
	for i := range uint64(50) {
		makeVersion(t, f, "v", i+1, i+1)
		v, err := f.snapshotByName("v")
		if err != nil {
			t.Fatal(err)
		}
		results := make(chan []string)
		go func() { results <- f.destroy(t, v.pdu()) }()
		tree, err := f.protect(nil, v, stepHoldTag("j"), []uint64{v.GUID})
		destroyed := (<-results)[0] == ""
		switch {
		case err == nil && destroyed:
			t.Fatal("a snapshot was destroyed that a step has")
		case err == nil:
			tree.Close()
			if err := f.setHolds(stepHoldTag("j")); err != nil {
				t.Fatal(err)
			}
			f.destroy(t, v.pdu())
		case !destroyed || !errors.Is(err, endpoint.ErrNotFound):
			t.Fatalf("destroyed: %v, protect: %v", destroyed, err)
		}
		if tags, err := f.holds(v.GUID); len(tags) > 0 || err != nil {
			t.Fatalf("holds on what is gone: %v, %v", tags, err)
		}
	}
}

func TestOwnerName(t *testing.T) {
	long := strings.Repeat("x", 255)
	pairs := [][2]string{
		{"j", "alice"}, {"j", "alice smith"}, {"j", "alice 20smith"}, {"j", "fe80::1%eth0"}, {"j", "Zoë"}, {"j", "_"},
		{"j", long}, {"j", long[1:] + "y"}, {"j_a", "b"}, {"j", "a_b"}, {strings.Repeat("j", maxJobBytes), long},
	}
	seen := map[string]bool{"j": true}
	for _, p := range pairs {
		name := ownerName(p[0], p[1])
		if seen[name] {
			t.Errorf("%q is not the only %q", p, name)
		}
		seen[name] = true
		if err := endpoint.ValidateVersionName(cursorName(1<<63, name)); err != nil {
			t.Errorf("%q: %v", p, err)
		}
		guid, owner, err := parseBookmark(filepath.Base(bookmarkFile(7, name)))
		if guid != 7 || owner != name || err != nil || len(filepath.Base(bookmarkFile(7, name))) > MaxNameBytes {
			t.Errorf("bookmark of %q: %v, %q, %v", p, guid, owner, err)
		}
	}
	expect(t, "readable name", ownerName("source", "10.0.0.7"), "source 10.0.0.7")
	if err := ValidateJob("a b"); !errors.Is(err, endpoint.ErrInvalid) {
		t.Errorf("a job's name with a space: %v", err)
	}
}

// TestIsDamage: nothing that may pass counts as damage, for which versions are destroyed
// in spite of their holds and users told to remove them.
func TestIsDamage(t *testing.T) {
	wrapped := func(err error) error { return fmt.Errorf("read: %w", &fs.PathError{Op: "open", Path: "f", Err: err}) }
	for _, err := range []error{
		unix.ENOENT, unix.ENOTDIR, unix.EISDIR, unix.ELOOP, io.ErrUnexpectedEOF, errContent, errors.New("malformed"),
	} {
		if !isDamage(wrapped(err)) {
			t.Errorf("%v is no damage", err)
		}
	}
	for _, err := range []error{
		unix.EIO, unix.ESTALE, unix.ENOTCONN, unix.ETIMEDOUT, unix.EAGAIN, unix.EINTR, unix.ENODEV, unix.ENOSPC, unix.EACCES,
		unix.EPERM, unix.EMFILE, unix.ENOMEM, context.Canceled, context.DeadlineExceeded, fs.ErrClosed, endpoint.ErrNotFound,
	} {
		if isDamage(wrapped(err)) {
			t.Errorf("%v is damage", err)
		}
	}
	if isDamage(nil) {
		t.Error("nothing is damage")
	}
}

// TestLockSoon: what is about to end is no reason to refuse what comes next.
func TestLockSoon(t *testing.T) {
	f := testFilesystem(t)
	lock, err := f.lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(5*busyPoll, lock.unlock)
	if lock, err = f.lockSoon(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer lock.unlock()
	gone := errors.New("the client has gone")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 2*busyPoll, gone)
	defer cancel()
	if _, err := f.lockSoon(ctx); !errors.Is(err, gone) {
		t.Errorf("at the end of its context: %v", err)
	}
}

func TestLock(t *testing.T) {
	f := testFilesystem(t)
	lock, err := f.lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.lock(t.Context()); !errors.Is(err, endpoint.ErrBusy) || !strings.Contains(err.Error(), "another process") {
		t.Errorf("a second lock: %v", err)
	}
	if _, err := f.destroySnapshots(t.Context(), nil); !errors.Is(err, endpoint.ErrBusy) {
		t.Errorf("destroy under a lock: %v", err)
	}
	if err := f.setHolds("tag", 1); err != nil {
		t.Errorf("a hold under the writer's lock: %v", err)
	}
	lock.unlock()
	for _, dir := range []string{snapshottingDir, receivingDir, metaDir + "/" + destroyingName + "1"} {
		if err := f.root.MkdirAll(dir+"/x", 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if lock, err = f.lock(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer lock.unlock()
	entries, err := readDir(f.root, metaDir)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	expect(t, "what is left", names, []string{"bookmarks", "lock", "receiving", "state.json", "state.lock"})
	if err != nil {
		t.Error(err)
	}
}

func TestHolds(t *testing.T) {
	f := testFilesystem(t)
	for _, err := range []error{f.setHolds("a", 1, 2), f.setHolds("b", 1), f.setHolds("a", 2)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for guid, want := range map[uint64][]string{1: {"b"}, 2: {"a"}, 3: nil} {
		if tags, err := f.holds(guid); err != nil || !reflect.DeepEqual(tags, want) {
			t.Errorf("holds on %d: %v, %v", guid, tags, err)
		}
	}
	if err := f.root.WriteFile(stateName, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := f.holds(1); err == nil {
		t.Error("a damaged state is read as if nothing were held")
	}
	if err := f.setHolds("a"); err == nil {
		t.Error("a damaged state is overwritten")
	}
}
