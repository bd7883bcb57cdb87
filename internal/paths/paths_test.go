package paths

import (
	"os"
	"path/filepath"
	"testing"
)

func TestResolve(t *testing.T) {
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(root+"/real", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("real", root+"/link"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(root+"/file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"/real":           "/real",
		"/link":           "/real",
		"/link/new/below": "/real/new/below",
		"/new/../link/":   "/real",
		"/new":            "/new",
	} {
		if got, err := Resolve(root + path); err != nil || got != root+want {
			t.Errorf("%s: %s, %v, want %s", path, got, err, want)
		}
	}
	if got, err := Resolve(root + "/file/below"); err == nil {
		t.Errorf("below a file: %s", got)
	}
	t.Chdir(root + "/real")
	if got, err := Resolve("new"); err != nil || got != root+"/real/new" {
		t.Errorf("relative: %s, %v", got, err)
	}
}

func TestWithin(t *testing.T) {
	for _, tc := range []struct {
		path, dir string
		want      bool
	}{
		{"/a/b", "/a", true},
		{"/a", "/a", true},
		{"/a/b", "/", true},
		{"/a", "/a/b", false},
		{"/ab", "/a", false},
	} {
		if got := Within(tc.path, tc.dir); got != tc.want {
			t.Errorf("%s in %s: %v", tc.path, tc.dir, got)
		}
	}
}
