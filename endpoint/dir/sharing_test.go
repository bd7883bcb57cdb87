package dir

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/dualrepl/dualrepl/endpoint"
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
	if r.isShared(r.root, "four") {
		t.Error("four, the first by name, has not got the tree") // "four" < "three" < "two"
	}
	for _, v := range same {
		r.check(v.Name)
	}
	r.destroy(same[1]) // one that has no tree
	r.destroy(same[2])
	r.check("two")
	if r.isShared(r.root, "two") {
		t.Error("the last version shares a tree with none")
	}
	r.write("new", []byte("new"))
	five := r.snapshot("five")
	r.step(same[0], five)
	r.check("five")
	if r.isShared(r.store, "five") || r.isShared(r.root, "five") {
		t.Error("a version with a change shares its tree")
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

// TestBequeathInterrupted: at each moment, all versions but the one that is being
// destroyed are whole, and it can be destroyed again.
func TestBequeathInterrupted(t *testing.T) {
	moments := map[string]func(f *filesystem, v versionInfo) error{
		"link not in place": func(f *filesystem, _ versionInfo) error {
			dir, err := openTreeDir(f.root, "@three")
			if err != nil {
				return err
			}
			return errors.Join(dir.newLink("@two"), dir.Close())
		},
		"others lead to the heir": func(f *filesystem, _ versionInfo) error { return f.relink("@two", "@three") },
		"not hidden":              func(f *filesystem, v versionInfo) error { return f.bequeath(v) },
	}
	for name, interrupt := range moments {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.zoo()
			one := r.settled()
			r.unchanged(one, "two", "three")
			f, err := openFilesystem(r.root, testFS, false)
			r.must(err)
			defer f.Close()
			v, err := f.snapshotInfo(one.Name)
			r.must(err)
			r.must(interrupt(f, v))
			r.check("two")
			r.check("three")
			r.destroy(one)
			r.check("two")
			r.check("three")
		})
	}
}

// TestDestroyWhileSharedTreeIsUsed: the tree stays where it is.
func TestDestroyWhileSharedTreeIsUsed(t *testing.T) {
	r := newRig(t)
	r.zoo()
	one := r.settled()
	two := r.unchanged(one, "two")[0]
	used, err := openVersion(r.root, testFS, "two")
	r.must(err)
	req := &pdu.DestroySnapshotsReq{Filesystem: testFS, Snapshots: []*pdu.FilesystemVersion{one, two}}
	res, err := r.receiver.DestroySnapshots(t.Context(), req)
	r.must(err)
	for _, result := range res.Results {
		if result.Error == "" {
			t.Errorf("%s was destroyed", result.Snapshot.Name)
		}
	}
	r.must(used.Close())
	r.destroy(one)
	r.check("two")
}

// TestShareTreeWithoutExchange: where it fails, there is a tree to be built, as before.
func TestShareTreeWithoutExchange(t *testing.T) {
	r := newRig(t)
	r.write("f", nil)
	r.snapshot("one")
	f, err := openFilesystem(r.store, testFS, false)
	r.must(err)
	defer f.Close()
	v, err := f.snapshotInfo("one")
	r.must(err)
	m, err := f.readManifest(v)
	r.must(err)
	r.must(f.root.MkdirAll("work", 0o700)) // without a tree to exchange
	if err := f.shareTree("work", v, m); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
	if entries, err := os.ReadDir(filepath.Join(r.store, testFS, "work")); err != nil || len(entries) > 0 {
		t.Errorf("left behind: %v, error %v", entries, err)
	}
	gone := v
	gone.manifest = "@gone/manifest"
	if err := f.shareTree("work", gone, m); !errors.Is(err, fs.ErrNotExist) || errors.Is(err, endpoint.ErrNotFound) {
		t.Errorf("of a version that is not there: %v", err)
	}
}
