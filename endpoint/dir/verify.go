package dir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"

	"github.com/dualrepl/dualrepl/endpoint"
	"golang.org/x/sys/unix"
)

// VerifyOptions are options of Verify.
type VerifyOptions struct {
	// Progress, if set, is called after each file with the bytes of all files verified
	// so far. Calls do not overlap.
	Progress func(bytes int64)
}

// VerifyReport is what Verify found.
type VerifyReport struct {
	Filesystem string
	Version    string
	Files      int64 // that were read
	Bytes      int64 // the sum of their sizes
	// Mismatches has every entry of the tree that is not as its manifest says.
	Mismatches []Mismatch
}

// Verify reads every file of a version in a store and compares it with its manifest:
// type, size, BLAKE3 digest, the targets of symbolic links, and that nothing is
// missing and nothing is there that should not be. version "" is the newest. The
// manifest's own digest is checked first; a bookmark, which can be named too, has
// nothing else. What does not match is in the report; an error says that the version
// could not be verified to its end. Meanwhile the version cannot be destroyed.
func Verify(ctx context.Context, store, filesystem, version string, opts VerifyOptions) (*VerifyReport, error) {
	opened, err := openVersion(store, filesystem, version)
	if errors.Is(err, endpoint.ErrNotFound) && version != "" {
		return verifyBookmark(store, filesystem, version)
	}
	if err != nil {
		return nil, err
	}
	defer opened.Close()
	v := &verifier{
		version: opened, opts: opts,
		report: &VerifyReport{Filesystem: filesystem, Version: opened.manifest.Name},
	}
	if err := inParallel(ctx, opened.manifest.Entries, v.newWorker); err != nil {
		return v.report, fmt.Errorf("verify %s@%s: %w", filesystem, opened.manifest.Name, err)
	}
	slices.SortFunc(v.report.Mismatches, func(a, b Mismatch) int { return ComparePaths(a.Path, b.Path) })
	return v.report, nil
}

func verifyBookmark(store, filesystem, name string) (*VerifyReport, error) {
	f, err := openFilesystem(store, filesystem, false)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	l, err := f.listAll()
	if err != nil {
		return nil, err
	}
	v, err := l.find(name, true)
	if err == nil {
		_, err = f.readManifest(v)
	}
	if err != nil {
		return nil, fmt.Errorf("verify %s: %w", filesystem, err)
	}
	return &VerifyReport{Filesystem: filesystem, Version: name}, nil
}

// verifier does one Verify.
type verifier struct {
	version *openedVersion
	opts    VerifyOptions

	mu     sync.Mutex // guards report while workers run
	report *VerifyReport
}

// verifyWorker has a way of its own through the tree.
type verifyWorker struct {
	*verifier
	tree *treeCursor
}

func (v *verifier) newWorker() (*verifyWorker, error) {
	tree, err := v.version.tree.top.cursor()
	if err != nil {
		return nil, err
	}
	return &verifyWorker{verifier: v, tree: tree}, nil
}

// Close ends the worker.
func (v *verifyWorker) Close() error { return v.tree.Close() }

func (v *verifyWorker) entry(ctx context.Context, i int) error {
	e := &v.version.manifest.Entries[i]
	if !e.inTree() {
		return nil
	}
	dir, name, err := v.tree.parent(e.Path)
	if err == nil {
		err = v.node(ctx, dir, name, e)
	}
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		v.mismatch(e.Path, "is missing")
	case err != nil:
		v.mismatch(e.Path, err.Error())
	}
	return nil
}

func (v *verifyWorker) node(ctx context.Context, dir *treeDir, name string, e *Entry) error {
	st, err := dir.stat(name)
	if err != nil {
		return err
	}
	if t := typeOf(&st); t != e.Type {
		return fmt.Errorf("is a %s, not a %s", t, e.Type)
	}
	switch e.Type {
	case TypeDir:
		return v.extra(e.Path)
	case TypeSymlink:
		return v.symlink(dir, name, e)
	}
	if st.Size != e.Size {
		return fmt.Errorf("has %d bytes, not %d", st.Size, e.Size)
	}
	return v.file(ctx, dir, name, e)
}

// extra looks for what is in a directory and not in the manifest.
func (v *verifyWorker) extra(path string) error {
	dir, err := v.tree.dir(path)
	if err != nil {
		return err
	}
	names, err := dir.names()
	if err != nil {
		return err
	}
	for _, name := range names {
		i, ok := v.version.manifest.lookup(joinPath(path, name))
		if !ok || !v.version.manifest.Entries[i].inTree() {
			v.mismatch(joinPath(path, name), "is not in the manifest")
		}
	}
	return nil
}

func (v *verifyWorker) symlink(dir *treeDir, name string, e *Entry) error {
	target, err := dir.root.Readlink(name)
	if err == nil && target != e.Target {
		err = fmt.Errorf("points to %q, not to %q", target, e.Target)
	}
	return err
}

func (v *verifyWorker) file(ctx context.Context, dir *treeDir, name string, e *Entry) error {
	err := checkContent(ctx, dir, name, e)
	if err == nil || errors.Is(err, errContent) {
		v.count(e.Size)
	}
	return err
}

// count tells that a file was read.
func (v *verifier) count(bytes int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.report.Files++
	v.report.Bytes += bytes
	if v.opts.Progress != nil {
		v.opts.Progress(v.report.Bytes)
	}
}

func (v *verifier) mismatch(path, problem string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.report.Mismatches = append(v.report.Mismatches, Mismatch{Path: path, Problem: problem})
}
