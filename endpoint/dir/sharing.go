package dir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// A version in which nothing changed has no tree of its own, so that it costs little
// whatever it contains: its tree is a symbolic link to one in treesDir, and so is that of
// the version that it is like. Whichever of them is removed, by us or by hand, the others
// have the tree. One that none leads to is removed by the next that takes the lock.

// treeLink is what the link to a tree in treesDir says, seen from a version.
func treeLink(id string) string { return "../" + treesDir + "/" + id }

// shareTree makes the tree of the version that is built in work, a path below the
// filesystem's root, that of v, whose manifest is m. It says whether it did: where a file
// system cannot exchange names, or v's tree lacks something that another one may get
// back, the tree in work is as before. The caller has the writer's lock.
func (f *filesystem) shareTree(work string, v versionInfo, m *Manifest) bool {
	link, err := f.commonTree(v, m)
	if err != nil {
		return false
	}
	dir, err := openTreeDir(f.root, work)
	if err != nil {
		return false
	}
	defer dir.Close()
	const name = treeName + ".new"
	if errors.Join(dir.remove(name), dir.root.Symlink(link, name)) != nil {
		return false
	}
	err = exchange(dir, name, dir, treeName)
	_ = dir.remove(name) // the link, or the empty tree: of no use, and no harm
	return err == nil
}

// commonTree puts v's tree into treesDir, if it is not there yet, and returns what links
// to it say.
func (f *filesystem) commonTree(v versionInfo, m *Manifest) (link string, err error) {
	if err := f.checkTree(v, m); err != nil {
		return "", err
	}
	link, err = f.root.Readlink(path.Join(v.path(), treeName))
	if err == nil && link != treeLink(path.Base(link)) {
		return "", fmt.Errorf("the tree of %s is a link that is not ours, to %q", v.Name, link)
	}
	if err == nil || !errors.Is(err, unix.EINVAL) { // EINVAL: it is no link
		return link, err
	}
	if err := f.root.MkdirAll(treesDir, 0o700); err != nil {
		return "", err
	}
	id := fmt.Sprintf("%016x", randomGUID())
	link = treeLink(id)
	// A link that lies where the tree will: exchanged, both are in place at one moment.
	if err := f.root.Symlink(link, path.Join(treesDir, id)); err != nil {
		return "", err
	}
	return link, f.exchangeTree(v, id)
}

func (f *filesystem) exchangeTree(v versionInfo, id string) error {
	version, err := openTreeDir(f.root, v.path())
	if err != nil {
		return err
	}
	defer version.Close()
	trees, err := openTreeDir(f.root, treesDir)
	if err != nil {
		return err
	}
	defer trees.Close()
	return exchange(version, treeName, trees, id)
}

// exchange gives two entries each other's name, at one moment.
func exchange(a *treeDir, nameA string, b *treeDir, nameB string) error {
	err := unix.Renameat2(int(a.fd.Fd()), nameA, int(b.fd.Fd()), nameB, unix.RENAME_EXCHANGE)
	if err != nil {
		return &os.LinkError{Op: "exchange", Old: nameA, New: nameB, Err: err}
	}
	return nil
}

// checkTree looks whether all that has a place in v's tree is there, by type and size.
func (f *filesystem) checkTree(v versionInfo, m *Manifest) error {
	top, err := f.openTree(v)
	if err != nil {
		return err
	}
	tree := newTreeCursor(top)
	defer tree.Close()
	for i := range m.Entries {
		if !m.Entries[i].inTree() {
			continue
		}
		dir, name, err := tree.parent(m.Entries[i].Path)
		if err == nil {
			err = dir.expect(name, &m.Entries[i])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// hideUnusedTrees leaves the trees that no version leads to to removeLeftovers. What goes
// wrong is in nobody's way. The caller has the writer's lock.
func (f *filesystem) hideUnusedTrees() {
	if err := f.tryHideUnusedTrees(); err != nil {
		f.log.Warn("trees without a version stay for now", "filesystem", f.name, "err", err)
	}
}

func (f *filesystem) tryHideUnusedTrees() error {
	trees, err := readDir(f.root, treesDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || len(trees) == 0 {
		return err
	}
	used, err := f.usedTrees()
	if err != nil {
		return err
	}
	for _, tree := range trees {
		if used[tree.Name()] {
			continue
		}
		if err := f.root.Rename(path.Join(treesDir, tree.Name()), destroyingPath()); err != nil {
			return err
		}
	}
	return nil
}

// usedTrees returns the names of the trees that versions lead to, however their links are
// written, that which is being received among them. While it cannot be told of one of
// them where it leads, it is an error: its tree must stay.
func (f *filesystem) usedTrees() (map[string]bool, error) {
	entries, err := readDir(f.root, ".")
	if err != nil {
		return nil, err
	}
	versions := []string{path.Join(receivingDir, buildName)}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "@") {
			versions = append(versions, e.Name())
		}
	}
	used := map[string]bool{}
	for _, v := range versions {
		link, err := f.root.Readlink(path.Join(v, treeName))
		switch {
		case err == nil:
			used[path.Base(link)] = true
		case !errors.Is(err, unix.EINVAL) && !isDamage(err): // EINVAL: it has a tree of its own
			return nil, err
		}
	}
	return used, nil
}
