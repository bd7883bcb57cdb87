package quickstart

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestChangeSome(t *testing.T) {
	for _, tc := range []struct {
		name  string
		files int
		want  int // changes
	}{
		{"nothing there", 0, 0},
		{"one file", 1, 1},
		{"as many as there are ways", len(changes), len(changes)},
		{"many files", 100, len(changes)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			root := t.TempDir()
			for i := range tc.files {
				makeTree(t, root, strings.Repeat("x", i+1))
			}
			before := snapshotOf(t, root)
			told, err := changeSome(root)
			if err != nil {
				t.Fatal(err)
			}
			if len(told) != tc.want {
				t.Errorf("%d changes, want %d: %q", len(told), tc.want, told)
			}
			if after := snapshotOf(t, root); slices.Equal(before, after) != (tc.want == 0) {
				t.Errorf("before %q, after %q", before, after)
			}
		})
	}
}

// TestChangeSomeReadOnly: files that are read-only are changed and stay read-only;
// a directory that is, is left alone.
func TestChangeSomeReadOnly(t *testing.T) {
	root := t.TempDir()
	makeTree(t, root, "file", "closed/file")
	if err := os.Chmod(filepath.Join(root, "file"), 0o444); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(root, "closed"), 0o555); err != nil {
		t.Fatal(err)
	}
	told, err := changeSome(root)
	if err != nil || len(told) != 1 {
		t.Fatalf("%q, %v", told, err)
	}
	info, err := os.Stat(filepath.Join(root, "file"))
	if err != nil || info.Mode().Perm() != 0o444 || info.Size() <= 4 {
		t.Errorf("%v, %v", info, err)
	}
}

func TestOpenUp(t *testing.T) {
	root := t.TempDir()
	makeTree(t, root, "closed/sub/file", "open/file")
	modes := map[string]fs.FileMode{
		"closed/sub/file": 0o020, "closed/sub": 0o100, "closed": 0o070, "open/file": 0o440, "open": 0o550,
	}
	for _, name := range []string{"closed/sub/file", "closed/sub", "closed", "open/file", "open"} {
		if err := os.Chmod(filepath.Join(root, name), modes[name]); err != nil {
			t.Fatal(err)
		}
	}
	if err := openUp(root); err != nil {
		t.Fatal(err)
	}
	modes["closed/sub/file"], modes["closed/sub"], modes["closed"] = 0o420, 0o500, 0o570
	for name, want := range modes {
		if info, err := os.Stat(filepath.Join(root, name)); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v, want %o", name, info.Mode(), err, want)
		}
	}
}

// snapshotOf lists names, modes and contents.
func snapshotOf(t *testing.T, root string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		all = append(all, path+" "+info.Mode().String()+" "+string(data))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
