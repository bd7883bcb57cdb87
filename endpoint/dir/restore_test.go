package dir

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/zeebo/blake3"
	"golang.org/x/sys/unix"
)

// stored makes a receiver's store with one version of everything.
func stored(t *testing.T) *rig {
	r := newRig(t)
	r.zoo()
	r.xattrs()
	r.step(nil, r.snapshot("one"))
	return r
}

// tree is a path in the receiver's tree of the version "one".
func (r *rig) tree(name string) string {
	return filepath.Join(r.root, testFS, "@one", treeName, name)
}

func (r *rig) restore(target string) (*RestoreReport, error) {
	return Restore(r.Context(), r.root, testFS, "one", target, RestoreOptions{})
}

func TestRestoreFromSendersStore(t *testing.T) {
	r := newRig(t)
	r.zoo()
	r.xattrs()
	r.snapshot("one")
	target := filepath.Join(t.TempDir(), "a", "b")
	var progress []int64
	report, err := Restore(t.Context(), r.store, testFS, "", target, RestoreOptions{Progress: func(n int64) { progress = append(progress, n) }})
	r.must(err)
	if report.Version != "one" || report.Files == 0 || int(report.Entries) != len(progress) ||
		!slices.IsSorted(progress) || progress[len(progress)-1] != report.Bytes {
		t.Errorf("report %+v, %d calls of Progress", report, len(progress))
	}
	if d, err := Compare(t.Context(), r.source, target); err != nil || len(d) > 0 {
		t.Errorf("restored: %v, error %v", d, err)
	}
}

// TestRestoreKeepsHoles: what was sparse takes no more blocks than it did.
func TestRestoreKeepsHoles(t *testing.T) {
	r := stored(t)
	target := filepath.Join(t.TempDir(), "restored")
	_, err := r.restore(target)
	r.must(err)
	for _, name := range []string{"holes", "all hole"} {
		var before, after unix.Stat_t
		r.must(unix.Stat(r.path(name), &before))
		r.must(unix.Stat(filepath.Join(target, name), &after))
		if after.Blocks > before.Blocks+16 {
			t.Errorf("%q takes %d blocks, not %d", name, after.Blocks, before.Blocks)
		}
	}
}

// TestRestorePunchesHoles: two files of one content share the tree's file, and only
// one of them has the hole.
func TestRestorePunchesHoles(t *testing.T) {
	r := newRig(t)
	r.write("a written", make([]byte, 1<<20))
	r.sparse("b sparse", 1<<20)
	r.step(nil, r.snapshot("one"))
	r.must(os.Remove(r.tree("b sparse")))
	r.must(os.Link(r.tree("a written"), r.tree("b sparse")))
	target := filepath.Join(t.TempDir(), "restored")
	_, err := r.restore(target)
	r.must(err)
	var st unix.Stat_t
	r.must(unix.Stat(filepath.Join(target, "b sparse"), &st))
	if st.Blocks > 0 {
		t.Errorf("the hole takes %d blocks", st.Blocks)
	}
}

func TestRestoreRefuses(t *testing.T) {
	r := stored(t)
	full := t.TempDir()
	r.must(os.WriteFile(filepath.Join(full, "mine"), nil, 0o600))
	file := filepath.Join(full, "mine")
	tests := []struct {
		name, filesystem, version, target string
		want                              error
	}{
		{"a directory with content", testFS, "one", full, endpoint.ErrFailedPrecondition},
		{"a file", testFS, "one", file, unix.ENOTDIR},
		{"an unknown version", testFS, "two", t.TempDir(), endpoint.ErrNotFound},
		{"an unknown filesystem", "other", "one", t.TempDir(), endpoint.ErrNotFound},
		{"a placeholder", "home", "", t.TempDir(), endpoint.ErrNotFound},
		{"a hostile filesystem", "../x", "one", t.TempDir(), endpoint.ErrInvalid},
	}
	for _, tt := range tests {
		if _, err := Restore(t.Context(), r.root, tt.filesystem, tt.version, tt.target, RestoreOptions{}); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	if entries, err := os.ReadDir(full); err != nil || len(entries) != 1 {
		t.Errorf("the refused target has %v now", entries)
	}
}

func TestRestoreIntoEmptyDirectory(t *testing.T) {
	r := stored(t)
	if _, err := r.restore(t.TempDir()); err != nil {
		t.Error(err)
	}
}

// TestRestoreDamagedStore: everything that is whole is restored, the rest is named.
func TestRestoreDamagedStore(t *testing.T) {
	r := stored(t)
	r.must(os.Remove(r.tree("empty")))
	damage(t, r.tree("large"), func(f *os.File) error { _, err := f.WriteAt([]byte("!"), 1<<20); return err })
	target := filepath.Join(t.TempDir(), "restored")
	report, err := r.restore(target)
	if err == nil || !strings.Contains(err.Error(), "damaged in the store: 2 of its entries") {
		t.Errorf("error %v", err)
	}
	damaged := map[string]bool{}
	for _, m := range report.Damaged {
		damaged[m.Path] = true
	}
	if len(damaged) != 2 || !damaged["empty"] || !damaged["large"] {
		t.Errorf("damaged: %v", report.Damaged)
	}
	if data, err := os.ReadFile(filepath.Join(target, "deep/er/and/deeper")); err != nil || !bytes.Equal(data, random(2, 40_000)) {
		t.Errorf("a whole file beside them: %v", err)
	}
}

// TestReportsAreSorted: what several workers find is in the order of the manifest.
func TestReportsAreSorted(t *testing.T) {
	r := newRig(t)
	var want []string
	for i := range 400 {
		r.write(fmt.Sprintf("d%d/%03d", i/100, i), random(uint64(i), 50_000))
	}
	r.step(nil, r.snapshot("one"))
	for i := 0; i < 400; i += 7 {
		want = append(want, fmt.Sprintf("d%d/%03d", i/100, i))
		damage(t, r.tree(want[len(want)-1]), flip(int64(i)))
	}
	var progress []int64 // a race if calls overlap
	verified, err := Verify(t.Context(), r.root, testFS, "one", VerifyOptions{Progress: func(n int64) { progress = append(progress, n) }})
	r.must(err)
	if len(progress) != 400 || !slices.IsSorted(progress) {
		t.Errorf("progress %v", progress)
	}
	restored, err := r.restore(filepath.Join(t.TempDir(), "restored"))
	if err == nil || restored.Files != 400 {
		t.Errorf("restored %d files, error %v", restored.Files, err)
	}
	for what, mismatches := range map[string][]Mismatch{"verified": verified.Mismatches, "restored": restored.Damaged} {
		var got []string
		for _, m := range mismatches {
			got = append(got, m.Path)
		}
		expect(t, what, got, want)
	}
}

// TestRestoreReadOnlyDirectories: a directory that forbids it is filled all the same.
func TestRestoreReadOnlyDirectories(t *testing.T) {
	r := newRig(t)
	r.write("a/b/file", []byte("x"))
	r.write("a/b/other", random(1, 2<<20))
	r.must(os.Mkdir(r.path("c"), 0o755))
	r.must(os.Link(r.path("a/b/file"), r.path("c/file again")))
	r.must(os.Symlink("b", r.path("a/link")))
	target := filepath.Join(t.TempDir(), "restored")
	for _, dir := range []string{"a/b", "a", "c"} {
		r.must(os.Chmod(r.path(dir), 0o555))
		defer os.Chmod(r.path(dir), 0o755)
		defer os.Chmod(filepath.Join(target, dir), 0o755)
	}
	r.step(nil, r.snapshot("one"))
	_, err := r.restore(target)
	r.must(err)
	if d, err := Compare(t.Context(), r.source, target); err != nil || len(d) > 0 {
		t.Errorf("restored: %v, error %v", d, err)
	}
}

// damage changes a file of a tree.
func damage(t *testing.T, path string, change func(*os.File) error) {
	t.Helper()
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(change(f), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestRestoreReportsWhatIsNotPermitted: without root, owners and devices stay out.
func TestRestoreReportsWhatIsNotPermitted(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("SKIPPED: root may do everything; TestWithoutRoot runs this")
	}
	f, err := openFilesystem(t.TempDir(), testFS, true)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m := &Manifest{Name: "one", GUID: 1, CreateTXG: 1, Entries: []Entry{
		{Type: TypeDir, Mode: 0o755, UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())},
		{Path: "device", Type: TypeCharDevice, Rdev: unix.Mkdev(1, 3)},
		{Path: "foreign", Type: TypeSymlink, Target: "x", UID: 1, GID: 1},
		{Path: "set-id", Type: TypeFile, Mode: 0o6755, UID: 1, GID: 1, LinkGroup: 1, Hash: blake3.Sum256(nil)},
		{Path: "set-id again", Type: TypeFile, Mode: 0o6755, UID: 1, GID: 1, LinkGroup: 1, Hash: blake3.Sum256(nil)},
	}}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(f.root.MkdirAll("@one/tree", 0o700))
	must(f.root.WriteFile("@one/tree/set-id", nil, 0o600))
	must(f.root.WriteFile("@one/manifest", m.Encode(), 0o600))
	target := filepath.Join(t.TempDir(), "x")
	report, err := Restore(t.Context(), filepath.Dir(filepath.Dir(f.root.Name())), testFS, "one", target, RestoreOptions{})
	must(err)
	var got []string
	for _, m := range report.NotApplied {
		got = append(got, m.Path+": "+m.Problem)
	}
	expect(t, "not applied", got, []string{
		"device: character device: operation not permitted",
		"foreign: owner 1:1: operation not permitted",
		"set-id: owner 1:1: operation not permitted",
		"set-id: set-id bits of mode 6755: operation not permitted",
	})
	st, err := os.Stat(filepath.Join(target, "set-id again"))
	must(err)
	if st.Mode() != 0o755 {
		t.Errorf("a set-id file of another owner has mode %v", st.Mode())
	}
}

// TestRestoreDropsInheritedACLs: what the target's parent gives to its content is not
// what the version has.
func TestRestoreDropsInheritedACLs(t *testing.T) {
	r := newRig(t)
	r.write("dir/file", []byte("x"))
	r.step(nil, r.snapshot("one"))
	parent := t.TempDir()
	// user::rwx user:1:rwx group::r-x mask::rwx other::---
	acl := []byte("\x02\x00\x00\x00" +
		"\x01\x00\x07\x00\xff\xff\xff\xff" + "\x02\x00\x07\x00\x01\x00\x00\x00" + "\x04\x00\x05\x00\xff\xff\xff\xff" +
		"\x10\x00\x07\x00\xff\xff\xff\xff" + "\x20\x00\x00\x00\xff\xff\xff\xff")
	if err := unix.Setxattr(parent, "system.posix_acl_default", acl, 0); err != nil {
		t.Skipf("SKIPPED: no ACLs here: %v", err)
	}
	target := filepath.Join(parent, "restored")
	_, err := r.restore(target)
	r.must(err)
	if d, err := Compare(t.Context(), r.source, target); err != nil || len(d) > 0 {
		t.Errorf("restored: %v, error %v", d, err)
	}
}

func TestRestoreEndsWithItsContext(t *testing.T) {
	r := stored(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errCut)
	if _, err := Restore(ctx, r.root, testFS, "one", filepath.Join(t.TempDir(), "x"), RestoreOptions{}); !errors.Is(err, errCut) {
		t.Errorf("error %v", err)
	}
	if _, err := Verify(ctx, r.root, testFS, "one", VerifyOptions{}); !errors.Is(err, errCut) {
		t.Errorf("Verify: error %v", err)
	}
	if _, err := Compare(ctx, r.source, r.source); !errors.Is(err, errCut) {
		t.Errorf("Compare: error %v", err)
	}
}

// TestReadersEndWhileTheyRun: the context ends after the first entry.
func TestReadersEndWhileTheyRun(t *testing.T) {
	r := stored(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := func(int64) { cancel(errCut) }
	if _, err := Verify(ctx, r.root, testFS, "one", VerifyOptions{Progress: stop}); !errors.Is(err, errCut) {
		t.Errorf("Verify: error %v", err)
	}
	ctx, cancel = context.WithCancelCause(t.Context())
	calls := 0
	opts := RestoreOptions{Progress: func(bytes int64) {
		if calls++; bytes > 0 { // the first file: workers run
			cancel(errCut)
		}
	}}
	report, err := Restore(ctx, r.root, testFS, "one", filepath.Join(t.TempDir(), "x"), opts)
	if !errors.Is(err, errCut) || int(report.Entries) != calls {
		t.Errorf("Restore: %d entries, error %v", report.Entries, err)
	}
}

func TestVerifyFindsDamage(t *testing.T) {
	tests := []struct {
		name   string
		damage func(r *rig)
		path   string
		want   string
	}{
		{"flipped byte", func(r *rig) {
			damage(r.T, r.tree("large"), func(f *os.File) error { _, err := f.WriteAt([]byte("!"), 1<<20); return err })
		}, "large", "content does not match"},
		{"truncated", func(r *rig) {
			damage(r.T, r.tree("large"), func(f *os.File) error { return f.Truncate(5) })
		}, "large", "has 5 bytes"},
		{"missing file", func(r *rig) { r.must(os.Remove(r.tree("empty"))) }, "empty", "is missing"},
		{"missing directory", func(r *rig) { r.must(os.RemoveAll(r.tree("nothing/inside"))) }, "nothing/inside", "is missing"},
		{"extra file", func(r *rig) { r.must(os.WriteFile(r.tree("deep/extra"), nil, 0o600)) }, "deep/extra", "not in the manifest"},
		{"file instead of a directory", func(r *rig) {
			r.must(os.RemoveAll(r.tree("nothing/inside")))
			r.must(os.WriteFile(r.tree("nothing/inside"), nil, 0o600))
		}, "nothing/inside", "is a file, not a directory"},
		{"link instead of a file", func(r *rig) {
			r.must(os.Remove(r.tree("empty")))
			r.must(os.Symlink("small", r.tree("empty")))
		}, "empty", "is a symbolic link, not a file"},
		{"FIFO instead of a file", func(r *rig) {
			r.must(os.Remove(r.tree("empty")))
			r.must(unix.Mkfifo(r.tree("empty"), 0o600))
		}, "empty", "is a FIFO, not a file"},
		{"another target", func(r *rig) {
			r.must(os.Remove(r.tree("deep/up")))
			r.must(os.Symlink("elsewhere", r.tree("deep/up")))
		}, "deep/up", "points to \"elsewhere\""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := stored(t)
			tt.damage(r)
			report, err := Verify(t.Context(), r.root, testFS, "one", VerifyOptions{})
			r.must(err)
			if len(report.Mismatches) != 1 || report.Mismatches[0].Path != tt.path || !strings.Contains(report.Mismatches[0].Problem, tt.want) {
				t.Errorf("mismatches %v", report.Mismatches)
			}
		})
	}
}

// What is verified or restored is not destroyed meanwhile: it would look damaged.
func TestReadersKeepVersions(t *testing.T) {
	readers := map[string]func(r *rig, progress func(int64)) error{
		"verify": func(r *rig, progress func(int64)) error {
			report, err := Verify(r.Context(), r.store, testFS, "one", VerifyOptions{Progress: progress})
			if err == nil && len(report.Mismatches) > 0 {
				err = fmt.Errorf("mismatches %v", report.Mismatches)
			}
			return err
		},
		"restore": func(r *rig, progress func(int64)) error {
			_, err := Restore(r.Context(), r.store, testFS, "one", r.TempDir(), RestoreOptions{Progress: progress})
			return err
		},
	}
	for name, read := range readers {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.zoo()
			one := r.snapshot("one")
			r.must(os.Remove(filepath.Join(r.store, testFS, stateLockName)))
			r.must(read(r, func(int64) {}))
			if _, err := os.Lstat(filepath.Join(r.store, testFS, stateLockName)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("a reader writes to the store: %v", err)
			}
			r.must(read(r, func(int64) {
				if r.destroyed(one) {
					t.Error("destroyed while it is read")
				}
			}))
			if !r.destroyed(one) {
				t.Error("not destroyed afterwards")
			}
		})
	}
}

// A version that is destroyed between its listing and its opening is not a damaged one.
func TestShareDestroyed(t *testing.T) {
	f := testFilesystem(t)
	makeVersion(t, f, "v", 1, 1)
	v, err := f.snapshotByName("v")
	if err != nil {
		t.Fatal(err)
	}
	f.destroy(t, v.pdu())
	if _, err := f.share(v); !errors.Is(err, endpoint.ErrNotFound) {
		t.Errorf("destroyed: %v", err)
	}
	if _, err := f.readManifest(v); !errors.Is(err, endpoint.ErrNotFound) {
		t.Errorf("its manifest: %v", err)
	}
	makeVersion(t, f, "v", 2, 2)
	if _, err := f.share(v); !errors.Is(err, endpoint.ErrNotFound) {
		t.Errorf("replaced: %v", err)
	}
	if err := f.root.RemoveAll("@v/" + treeName); err != nil {
		t.Fatal(err)
	}
	v.GUID = 2
	if _, err := f.share(v); !errors.Is(err, endpoint.ErrFailedPrecondition) {
		t.Errorf("damaged: %v", err)
	}
}

// A bookmark has a manifest, and that can be damaged as any.
func TestVerifyBookmark(t *testing.T) {
	f := testFilesystem(t)
	store := strings.TrimSuffix(f.root.Name(), "/"+testFS)
	makeVersion(t, f, "v", 1, 1)
	v, err := f.snapshotByName("v")
	if err := errors.Join(err, f.moveCursor("j", v)); err != nil {
		t.Fatal(err)
	}
	f.destroy(t, v.pdu())
	name := cursorName(1, "j")
	if report, err := Verify(t.Context(), store, testFS, name, VerifyOptions{}); err != nil || report.Version != name {
		t.Errorf("%+v, error %v", report, err)
	}
	if _, err := Restore(t.Context(), store, testFS, name, t.TempDir(), RestoreOptions{}); !errors.Is(err, endpoint.ErrNotFound) {
		t.Errorf("restoring a bookmark: %v", err)
	}
	damage(t, filepath.Join(f.root.Name(), bookmarkFile(1, "j")), func(f *os.File) error { return f.Truncate(40) })
	if _, err := Verify(t.Context(), store, testFS, name, VerifyOptions{}); err == nil || errors.Is(err, endpoint.ErrNotFound) {
		t.Errorf("damaged: %v", err)
	}
}

func TestVerifyReport(t *testing.T) {
	r := stored(t)
	var last int64
	report, err := Verify(t.Context(), r.root, testFS, "", VerifyOptions{Progress: func(n int64) { last = n }})
	r.must(err)
	if report.Version != "one" || report.Files == 0 || report.Bytes != last || len(report.Mismatches) > 0 {
		t.Errorf("report %+v, progress %d", report, last)
	}
}

func TestVerifyDamagedManifest(t *testing.T) {
	r := stored(t)
	name := filepath.Join(r.root, testFS, "@one", manifestName)
	damage(t, name, func(f *os.File) error { _, err := f.WriteAt([]byte{0xff}, 300); return err })
	if _, err := Verify(t.Context(), r.root, testFS, "one", VerifyOptions{}); err == nil {
		t.Error("a damaged manifest goes unnoticed")
	}
}

func TestCompareFindsDifferences(t *testing.T) {
	tests := []struct {
		name   string
		change func(r *rig)
		path   string
		what   string
	}{
		{"same", func(*rig) {}, "", ""},
		{"content", func(r *rig) {
			damage(r.T, r.path("large"), func(f *os.File) error { _, err := f.WriteAt([]byte("!"), 3<<20-1); return err })
			r.must(os.Chmod(r.path("large"), 0o644))
			r.chtimes("large", 9, 9)
		}, "large", "content"},
		{"size", func(r *rig) {
			r.must(os.Truncate(r.path("large"), 7))
			r.chtimes("large", 9, 9)
		}, "large", "size"},
		{"mode", func(r *rig) { r.must(os.Chmod(r.path("large"), 0o600)) }, "large", "mode"},
		{"set-id", func(r *rig) { r.must(os.Chmod(r.path("large"), 0o644|fs.ModeSetgid)) }, "large", "mode"},
		{"mtime", func(r *rig) { r.chtimes("large", 9, 10) }, "large", "mtime"},
		{"time of a link", func(r *rig) { r.chtimes("up", 9, 10) }, "up", "mtime"},
		{"target", func(r *rig) {
			r.must(os.Remove(r.path("up")))
			r.must(os.Symlink("other", r.path("up")))
			r.chtimes("up", 9, 9)
		}, "up", "target"},
		{"type", func(r *rig) {
			r.must(os.Remove(r.path("up")))
			r.must(unix.Mkfifo(r.path("up"), 0o600))
		}, "up", "type"},
		{"hard link", func(r *rig) {
			r.must(os.Remove(r.path("twin")))
			r.write("twin", []byte("hello"))
			r.chtimes("twin", 9, 9)
		}, "twin", "hard link"},
		{"missing", func(r *rig) { r.must(os.Remove(r.path("up"))) }, "up", "is missing"},
		{"extra", func(r *rig) { r.write("extra", nil) }, "extra", "is missing"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, b := newRig(t), newRig(t)
			for _, r := range []*rig{a, b} {
				r.write("large", random(1, 3<<20))
				r.write("small", []byte("hello"))
				r.must(os.Link(r.path("small"), r.path("twin")))
				r.must(os.Symlink("target", r.path("up")))
				for _, name := range []string{"large", "small", "up"} {
					r.chtimes(name, 9, 9)
				}
			}
			tt.change(b)
			for _, r := range []*rig{a, b} {
				r.chtimes("", 9, 9)
			}
			differences, err := Compare(t.Context(), a.source, b.source)
			a.must(err)
			if tt.what == "" && len(differences) > 0 || tt.what != "" && (len(differences) != 1 || differences[0].Path != tt.path || differences[0].What != tt.what) {
				t.Errorf("differences %v", differences)
			}
		})
	}
}

func TestCompareMissingDirectory(t *testing.T) {
	dir := t.TempDir()
	if _, err := Compare(t.Context(), dir, filepath.Join(dir, "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}
