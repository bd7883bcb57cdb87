package quickstart

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/dualrepl/dualrepl/internal/paths"
)

// makeWork makes the work directory, once it is sure that the user's directory is
// one and lies apart.
func (t *tour) makeWork() (err error) {
	if t.opts.Source != "" {
		if t.result.Source, err = existingDirectory(t.opts.Source); err != nil {
			return err
		}
	}
	if t.opts.Work == "" {
		return t.makeTempWork()
	}
	work, err := filepath.Abs(t.opts.Work)
	if err != nil {
		return err
	}
	if err := t.checkApart(work); err != nil {
		return err
	}
	t.made = firstMissing(work)
	if err := makeEmpty(work); err != nil {
		return err
	}
	t.result.Work = work
	return nil
}

// firstMissing is the path, or the uppermost of its parents, that does not exist; "" if
// all of it does.
func firstMissing(path string) string {
	missing := ""
	for {
		if _, err := os.Lstat(path); err == nil || path == "/" {
			return missing
		}
		missing, path = path, filepath.Dir(path)
	}
}

func (t *tour) makeTempWork() (err error) {
	parent := tempDir()
	if err := t.checkApart(parent); err != nil {
		return err
	}
	t.result.Work, err = os.MkdirTemp(parent, "dualrepl-quickstart-")
	t.made = t.result.Work
	return err
}

// tempDir is where belongs what may be large and is not for ever: /tmp is memory
// on many machines.
func tempDir() string {
	if dir := os.TempDir(); dir != "/tmp" {
		return dir
	}
	if info, err := os.Stat("/var/tmp"); err == nil && info.IsDir() {
		return "/var/tmp"
	}
	return "/tmp"
}

// existingDirectory returns the absolute path of a directory.
func existingDirectory(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if !info.IsDir() {
		return "", fmt.Errorf("%s is not a directory", path)
	}
	return path, nil
}

// checkApart refuses to write into the user's directory: work, which need not
// exist, must not lie there, nor a symlink lead there.
func (t *tour) checkApart(work string) error {
	if t.result.Source == "" {
		return nil
	}
	source, err := paths.Resolve(t.result.Source)
	if err != nil {
		return err
	}
	real, err := paths.Resolve(work)
	if err != nil {
		return err
	}
	if paths.Within(real, source) {
		return fmt.Errorf("%s lies in %s, which is only read: name a directory elsewhere with --dir", work, t.result.Source)
	}
	return nil
}

// makeEmpty makes a directory, or takes one that is empty.
func makeEmpty(path string) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return fmt.Errorf("make the work directory: %w", err)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return fmt.Errorf("read the work directory: %w", err)
	}
	if len(entries) > 0 {
		return fmt.Errorf("the work directory %s is not empty: name a new one with --dir", path)
	}
	return nil
}

// removeWork removes all that was written, and no directory that was there before.
func (t *tour) removeWork() error {
	if t.made != "" {
		return removeTree(t.made)
	}
	entries, err := os.ReadDir(t.result.Work)
	for _, entry := range entries {
		err = errors.Join(err, removeTree(filepath.Join(t.result.Work, entry.Name())))
	}
	return err
}

// removeTree is os.RemoveAll for trees whose directories may be read-only.
func removeTree(root string) error {
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			return os.Chmod(path, 0o700)
		}
		return nil // RemoveAll will tell
	})
	return errors.Join(err, os.RemoveAll(root))
}
