package dir

import (
	"errors"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// A version in which nothing changed has no tree of its own: in its place is a symbolic
// link to the tree of the version that it is like, so that such a version costs little
// whatever it contains. When that other version is destroyed, the tree goes to one that
// shares it.

// newLinkName is a link that is about to take a tree's place.
const newLinkName = treeName + ".new"

// treeLink is the content of a link, in a version, to the tree of the version at owner.
func treeLink(owner string) string { return "../" + owner + "/" + treeName }

// treeOwner returns the path of the version whose tree is also v's.
func (f *filesystem) treeOwner(v versionInfo) (string, error) {
	link, err := f.root.Readlink(path.Join(v.path(), treeName))
	if errors.Is(err, unix.EINVAL) { // no link
		return v.path(), nil
	}
	return path.Base(path.Dir(link)), err
}

// shareTree makes the tree of the version that is built in work, a path below the
// filesystem's root, that of v, whose manifest is m. On error the tree in work is as
// before: where a file system cannot exchange names, or v's tree lacks something, which
// building another one may mend.
func (f *filesystem) shareTree(work string, v versionInfo, m *Manifest) error {
	if err := f.checkTree(v, m); err != nil {
		return err
	}
	owner, err := f.treeOwner(v)
	if err != nil {
		return err
	}
	dir, err := openTreeDir(f.root, work)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := dir.newLink(owner); err != nil {
		return err
	}
	return errors.Join(exchange(dir, newLinkName, dir, treeName), dir.root.RemoveAll(newLinkName))
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

// newLink makes newLinkName in the directory of a version.
func (d *treeDir) newLink(owner string) error {
	if err := d.remove(newLinkName); err != nil { // of a destroy that was interrupted
		return err
	}
	return d.root.Symlink(treeLink(owner), newLinkName)
}

// exchange gives two entries each other's name, at one moment.
func exchange(a *treeDir, nameA string, b *treeDir, nameB string) error {
	err := unix.Renameat2(int(a.fd.Fd()), nameA, int(b.fd.Fd()), nameB, unix.RENAME_EXCHANGE)
	if err != nil {
		return &os.LinkError{Op: "exchange", Old: nameA, New: nameB, Err: err}
	}
	return nil
}

// bequeath hands the tree of a version that is about to be destroyed to those that share
// it. The caller has the writer's lock and has claimed the tree. Whatever interrupts it,
// only the version itself may be without a tree.
func (f *filesystem) bequeath(v versionInfo) error {
	heirs, err := f.heirs(v)
	if err != nil || len(heirs) == 0 {
		return err
	}
	for _, other := range heirs[1:] { // to the first one, by its link, until that has the tree
		if err := f.relink(other, heirs[0]); err != nil {
			return err
		}
	}
	from, err := openTreeDir(f.root, v.path())
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := openTreeDir(f.root, heirs[0])
	if err != nil {
		return err
	}
	defer to.Close()
	if err := exchange(from, treeName, to, treeName); err != nil {
		return err
	}
	return errors.Join(from.fd.Sync(), to.fd.Sync())
}

// heirs returns the paths of the versions that share v's tree.
func (f *filesystem) heirs(v versionInfo) (paths []string, err error) {
	entries, err := readDir(f.root, ".")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "@") {
			continue
		}
		if link, err := f.root.Readlink(path.Join(e.Name(), treeName)); err == nil && link == treeLink(v.path()) {
			paths = append(paths, e.Name())
		}
	}
	return paths, nil
}

// relink makes the tree of the version at name a link to that of another one.
func (f *filesystem) relink(name, owner string) error {
	dir, err := openTreeDir(f.root, name)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := dir.newLink(owner); err != nil {
		return err
	}
	return errors.Join(dir.root.Rename(newLinkName, treeName), dir.fd.Sync())
}
