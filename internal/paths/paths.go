// Package paths tells which of two directories lies in the other: by their names, or by
// what is on disk, where neither need exist yet and symbolic links may lead from one to
// the other.
package paths

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
)

// Resolve makes a path absolute and resolves the symbolic links in as much of it as
// exists.
func Resolve(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	real, err := filepath.EvalSymlinks(path)
	if !errors.Is(err, fs.ErrNotExist) || path == "/" {
		return real, err
	}
	parent, err := Resolve(filepath.Dir(path))
	return filepath.Join(parent, filepath.Base(path)), err
}

// Within reports whether path is dir or lies in it, going by their names: both are
// absolute and clean, as Resolve makes them.
func Within(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}
