package dir

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/iotest"

	"github.com/dualrepl/dualrepl/pdu"
)

// treeOf is where a version of a store has its tree.
func treeOf(store, version string) string {
	return filepath.Join(store, testFS, "@"+version, treeName)
}

// isShared says whether a version's tree is a link.
func (r *rig) isShared(store, version string) bool {
	r.Helper()
	st, err := os.Lstat(treeOf(store, version))
	r.must(err)
	return st.Mode()&fs.ModeSymlink != 0
}

// settled takes and replicates a version after which the source counts as unchanged.
func (r *rig) settled() *pdu.FilesystemVersion {
	r.Helper()
	v := r.snapshot("one")
	r.settle("one")
	r.step(nil, v)
	return v
}

// unchanged takes and replicates versions in which nothing changed.
func (r *rig) unchanged(from *pdu.FilesystemVersion, names ...string) (versions []*pdu.FilesystemVersion) {
	r.Helper()
	for _, name := range names {
		to := r.snapshot(name)
		r.step(from, to)
		for _, store := range []string{r.store, r.root} {
			if !r.isShared(store, name) {
				r.Errorf("%s in %s has a tree of its own", name, store)
			}
		}
		versions, from = append(versions, to), to
	}
	return versions
}

func TestUnchangedVersionsShareTheirTree(t *testing.T) {
	r := newRig(t)
	r.zoo()
	one := r.settled()
	same := r.unchanged(one, "two", "three", "four")
	for _, v := range same {
		r.check(v.Name)
	}
	r.destroy(one)
	r.destroy(same[1])
	r.must(os.RemoveAll(filepath.Join(r.root, testFS, "@two"))) // by hand, as some make room
	r.check("four")
	r.write("new", []byte("new"))
	five := r.snapshot("five")
	r.step(same[2], five)
	r.check("five")
	if r.isShared(r.store, "five") || r.isShared(r.root, "five") {
		t.Error("a version with a change shares its tree")
	}
	r.destroy(same[2])
	if trees, err := os.ReadDir(filepath.Join(r.root, testFS, treesDir)); err != nil || len(trees) > 0 {
		t.Errorf("trees that no version has: %v, error %v", trees, err)
	}
}

// TestWhatIsNotShared: whatever a version differs in, it has a tree of its own.
func TestWhatIsNotShared(t *testing.T) {
	r := newRig(t)
	r.write("d/f", []byte("f"))
	r.write("d/g", []byte("g"))
	changes := map[string]func() error{
		"mode of a directory": func() error { return os.Chmod(r.path("d"), 0o700) },
		"mode of a file":      func() error { return os.Chmod(r.path("d/f"), 0o600) },
		"content":             func() error { return os.WriteFile(r.path("d/f"), []byte("h"), 0o600) },
		"a name":              func() error { return os.Rename(r.path("d/g"), r.path("d/h")) },
		"a hard link":         func() error { return os.Link(r.path("d/f"), r.path("link")) },
		"a symbolic link":     func() error { return os.Symlink("x", r.path("symlink")) },
		"one file less":       func() error { return os.Remove(r.path("d/f")) },
	}
	for i, name := range slices.Sorted(maps.Keys(changes)) {
		r.snapshot(fmt.Sprint("before", i))
		r.settle(fmt.Sprint("before", i))
		r.must(changes[name]())
		v := r.snapshot(fmt.Sprint("changed", i))
		if r.isShared(r.store, v.Name) {
			t.Errorf("%s: the tree is shared", name)
		}
	}
	r.snapshot("before")
	r.settle("before")
	_, err := r.sender.Snapshot(t.Context(), testFS, "full", SnapshotOptions{Full: true})
	r.must(err)
	if r.isShared(r.store, "full") {
		t.Error("a full snapshot, which reads everything, shares its tree")
	}
}

// TestDestroyWhileSharedTreeIsUsed: only the version that is used stays.
func TestDestroyWhileSharedTreeIsUsed(t *testing.T) {
	r := newRig(t)
	r.zoo()
	one := r.settled()
	two := r.unchanged(one, "two")[0]
	used, err := openVersion(r.root, testFS, "two")
	r.must(err)
	defer used.Close()
	r.destroy(one)
	f, _ := r.openVersion(r.root, "two")
	r.must(f.setHolds(lastReceivedHoldTag("sink")))
	req := &pdu.DestroySnapshotsReq{Filesystem: testFS, Snapshots: []*pdu.FilesystemVersion{two}}
	res, err := r.receiver.DestroySnapshots(t.Context(), req)
	r.must(err)
	if res.Results[0].Error == "" {
		t.Error("a version that is used was destroyed")
	}
	r.check("two")
}

// TestSharingInterrupted: a tree that was put aside for a version that did not come is
// still its version's; a link that was not exchanged is removed.
func TestSharingInterrupted(t *testing.T) {
	r := newRig(t)
	r.zoo()
	one := r.settled()
	f, v := r.openVersion(r.root, "one")
	m, err := f.readManifest(v)
	r.must(err)
	link, err := f.commonTree(v, m)
	r.must(err)
	if again, err := f.commonTree(v, m); err != nil || again != link {
		t.Errorf("a tree that is there already: %q, then %q, error %v", link, again, err)
	}
	r.must(f.root.Symlink(treeLink("unused"), treesDir+"/unused"))
	lock, err := f.lock(t.Context())
	r.must(err)
	lock.unlock()
	if trees, err := os.ReadDir(filepath.Join(r.root, testFS, treesDir)); err != nil || len(trees) != 1 {
		t.Errorf("trees: %v, error %v", trees, err)
	}
	r.check("one")
	r.destroy(one)
}

// TestResumeOfSharedTree: a step that shared its tree before it broke, and cannot when it
// goes on, gets one of its own.
func TestResumeOfSharedTree(t *testing.T) {
	r := newRig(t)
	r.write("d/f", []byte("f"))
	r.must(os.Mkdir(r.path("empty"), 0o700))
	one := r.settled()
	two := r.snapshot("two")
	whole := r.stream(one, two, "")
	tail := errors.New("broken")
	if err := r.receive(two, io.MultiReader(bytes.NewReader(whole), iotest.ErrReader(tail))); !errors.Is(err, tail) {
		t.Fatal(err)
	}
	r.must(os.Remove(filepath.Join(treeOf(r.root, "one"), "empty")))
	rest := r.stream(one, two, r.token())
	r.must(r.receive(two, bytes.NewReader(rest)))
	if r.isShared(r.root, "two") {
		t.Error("it shares a tree that lacks something")
	}
	r.check("two")
}

// TestShareTreeWithoutExchange: where it fails, there is a tree to be built, as before.
func TestShareTreeWithoutExchange(t *testing.T) {
	r := newRig(t)
	r.write("f", nil)
	r.snapshot("one")
	f, v := r.openVersion(r.store, "one")
	m, err := f.readManifest(v)
	r.must(err)
	r.must(f.root.MkdirAll("work", 0o700)) // without a tree to exchange
	if f.shareTree("work", v, m) {
		t.Error("shared")
	}
	if entries, err := os.ReadDir(filepath.Join(r.store, testFS, "work")); err != nil || len(entries) > 0 {
		t.Errorf("left behind: %v, error %v", entries, err)
	}
	gone := v
	gone.manifest = "@gone/manifest"
	if f.shareTree("work", gone, m) {
		t.Error("the tree of a version that is not there is shared")
	}
}

// TestStoreUnreadableVersionKeepsItsTree: while nobody can tell what it leads to, no tree
// is removed. (Also run by a user whom modes keep out: TestWithoutRoot.)
func TestStoreUnreadableVersionKeepsItsTree(t *testing.T) {
	r := newRig(t)
	r.write("d/f", []byte("f"))
	one := r.settled()
	r.unchanged(one, "two")
	r.destroy(one)
	version := filepath.Join(r.root, testFS, "@two")
	f, _ := r.openVersion(r.root, "two")
	r.must(os.Chmod(version, 0))
	f.log = &storeLog{Logger: slog.New(slog.DiscardHandler)}
	lock, err := f.lock(t.Context())
	r.must(err)
	lock.unlock()
	r.must(os.Chmod(version, 0o700))
	r.check("two")
}

// TestLinksOfOthers: one to a tree keeps that however it is written; one to another
// version's tree is not passed on.
func TestLinksOfOthers(t *testing.T) {
	r := newRig(t)
	r.write("f", []byte("f"))
	one := r.settled()
	two := r.unchanged(one, "two")[0]
	r.destroy(one)
	link, err := os.Readlink(treeOf(r.root, "two"))
	r.must(err)
	r.must(os.Remove(treeOf(r.root, "two")))
	r.must(os.Symlink("./"+link, treeOf(r.root, "two")))
	f, _ := r.openVersion(r.root, "two")
	lock, err := f.lock(t.Context())
	r.must(err)
	lock.unlock()
	r.check("two")

	three := r.snapshot("three")
	r.step(two, three)
	if r.isShared(r.root, "three") {
		t.Error("a link that is not ours is passed on")
	}
	r.check("three")
}
