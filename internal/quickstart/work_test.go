package quickstart

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// makeTree makes directories (with a slash at the end) and files.
func makeTree(t *testing.T, root string, names ...string) {
	t.Helper()
	for _, name := range names {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, "/") {
			if err := os.MkdirAll(path, 0o755); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.WriteFile(path, []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestMakeWork: the user's directory is never written to, whatever leads there, and
// nothing is taken over that holds something.
func TestMakeWork(t *testing.T) {
	root := t.TempDir()
	makeTree(t, root, "user/file", "user/sub/", "full/file", "empty/", "file")
	if err := os.Symlink(filepath.Join(root, "user"), filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ source, work, want string }{
		{"user", "new", ""},
		{"user", "new/below/new", ""},
		{"user", "empty", ""},
		{"user", "user-2", ""}, // a name that only begins alike
		{"user/sub", "user/beside", ""},
		{"", "new", ""},
		{"user", "user", "only read"},
		{"user", "user/sub", "only read"},
		{"user", "user/new/new", "only read"},
		{"user", "link/new", "only read"},
		{"link", "user/new", "only read"},
		{"user", "full", "not empty"},
		{"file", "new", "not a directory"},
		{"nowhere", "new", "no such file"},
		{"user", "file/new", "not a directory"},
	} {
		err := newTour(root, tc.source, tc.work).makeWork()
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("source %q, work %q: %v, want %q", tc.source, tc.work, err, tc.want)
		}
		if err == nil {
			if err := os.RemoveAll(filepath.Join(root, "new")); err != nil {
				t.Fatal(err)
			}
		}
	}
	entries, _ := filepath.Glob(root + "/user/*")
	if len(entries) != 3 { // file, sub, beside
		t.Errorf("the user's directory holds %q", entries)
	}
}

func newTour(root, source, work string) *tour {
	if source != "" {
		source = filepath.Join(root, source)
	}
	return &tour{opts: Options{Source: source, Work: filepath.Join(root, work), Step: func(string) {}}, result: &Result{}}
}

func TestMakeTempWork(t *testing.T) {
	root := t.TempDir()
	t.Setenv("TMPDIR", root)
	makeTree(t, root, "user/")
	tour := newTour(root, "user", "")
	tour.opts.Work = ""
	if err := tour.makeWork(); err != nil {
		t.Fatal(err)
	}
	if filepath.Dir(tour.result.Work) != root {
		t.Errorf("made %s", tour.result.Work)
	}
	tour.opts.Source = root
	if err := tour.makeWork(); err == nil {
		t.Error("a temporary directory in the user's directory")
	}
}

// TestRemoveWork: a directory that was there before stays, and what was made for the
// work directory goes, its parents too.
func TestRemoveWork(t *testing.T) {
	root := t.TempDir()
	makeTree(t, root, "user/", "there/")
	for _, work := range []string{"there", "new/below"} {
		tour := newTour(root, "user", work)
		if err := tour.makeWork(); err != nil {
			t.Fatal(err)
		}
		makeTree(t, tour.result.Work, "tree/file", "file")
		if err := tour.removeWork(); err != nil {
			t.Error(err)
		}
	}
	left, err := filepath.Glob(root + "/*")
	below, _ := filepath.Glob(root + "/there/*")
	if err != nil || !slices.Equal(left, []string{root + "/there", root + "/user"}) || len(below) > 0 {
		t.Errorf("left %q and %q, %v", left, below, err)
	}
}

// TestRemoveTree: received trees are read-only, and go nevertheless.
func TestRemoveTree(t *testing.T) {
	root := filepath.Join(t.TempDir(), "work")
	makeTree(t, root, "tree/sub/file")
	for _, dir := range []string{"tree/sub", "tree"} {
		if err := os.Chmod(filepath.Join(root, dir), 0o500); err != nil {
			t.Fatal(err)
		}
	}
	if err := removeTree(root); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(root); !os.IsNotExist(err) {
		t.Errorf("still there: %v", err)
	}
}
