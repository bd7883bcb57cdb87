package quickstart

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// insertMax is the size in bytes of the largest file that is changed: it is held in
// memory for that.
const insertMax = 64 << 20

// A candidate is a file of the scratch copy that may be changed.
type candidate struct {
	path string
	size int64
	mode fs.FileMode
}

// changeSome changes a few files below root, each in another way, and tells what
// it did. A tree with few files gets few changes.
func changeSome(root string) ([]string, error) {
	files, err := candidates(root)
	if err != nil {
		return nil, err
	}
	var told []string
	for _, change := range changes {
		if len(files) == 0 {
			break
		}
		said, err := change(files[0])
		if err != nil {
			return told, fmt.Errorf("change the scratch copy: %w", err)
		}
		told = append(told, said)
		files = files[1:]
	}
	return told, nil
}

// openUp makes all of the scratch copy readable for its owner: what was closed to
// its reader came without its content, and the copy could not be compared.
func openUp(root string) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		var need fs.FileMode
		switch {
		case d.IsDir():
			need = 0o500
		case d.Type().IsRegular():
			need = 0o400
		}
		if info.Mode()&need == need {
			return nil
		}
		return os.Chmod(path, info.Mode()|need)
	})
}

// changes are the ways to change a file. The first gets the largest one.
var changes = []func(candidate) (string, error){insertInFront, rename, chmod, appendLine, addBeside, remove}

// candidates are a few regular files without holes, the largest first, in
// directories that can be written to.
func candidates(root string) ([]candidate, error) {
	var files []candidate
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		switch {
		case err != nil:
			return err
		case d.IsDir() && info.Mode()&0o200 == 0:
			return fs.SkipDir
		case d.Type().IsRegular() && info.Size() > 0 && info.Size() <= insertMax && !sparse(info):
			files = append(files, candidate{path, info.Size(), info.Mode()})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look through the scratch copy: %w", err)
	}
	return pick(files), nil
}

// sparse reports whether a file has large holes, which writing it anew would fill.
// (Small files may take no block of their own, and compression looks alike.)
func sparse(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && stat.Size > 1<<20 && stat.Blocks*512 < stat.Size
}

// pick takes the largest file and, of the others, some from all over the tree.
func pick(files []candidate) []candidate {
	if len(files) == 0 {
		return nil
	}
	largest := 0
	for i, f := range files {
		if f.size > files[largest].size {
			largest = i
		}
	}
	picked := []candidate{files[largest]}
	files = slices.Delete(files, largest, largest+1)
	n := min(len(files), len(changes)-1)
	for i := range n {
		picked = append(picked, files[i*len(files)/n])
	}
	return picked
}

func insertInFront(f candidate) (string, error) {
	data, err := os.ReadFile(f.path)
	if err != nil {
		return "", err
	}
	line := []byte("a line that dualrepl quickstart put in front\n")
	return "inserted a line in front of " + f.path, rewrite(f, append(line, data...))
}

func appendLine(f candidate) (string, error) {
	data, err := os.ReadFile(f.path)
	if err != nil {
		return "", err
	}
	return "appended a line to " + f.path, rewrite(f, append(data, "a line that dualrepl quickstart appended\n"...))
}

// rewrite writes to a file in place, which may be read-only.
func rewrite(f candidate, data []byte) error {
	if err := os.Chmod(f.path, f.mode|0o200); err != nil {
		return err
	}
	if err := os.WriteFile(f.path, data, 0); err != nil {
		return err
	}
	return os.Chmod(f.path, f.mode)
}

func rename(f candidate) (string, error) {
	return "renamed " + f.path + " to …-renamed", os.Rename(f.path, f.path+"-renamed")
}

func chmod(f candidate) (string, error) {
	return "changed the mode of " + f.path, os.Chmod(f.path, f.mode^0o040)
}

func addBeside(f candidate) (string, error) {
	added := f.path + "-added"
	return "added " + added, os.WriteFile(added, []byte("a file that dualrepl quickstart added\n"), 0o644)
}

func remove(f candidate) (string, error) {
	return "removed " + f.path, os.Remove(f.path)
}
