package quickstart

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dualrepl/dualrepl/endpoint/dir"
)

// TestPrepare: the configuration files are good, whatever the paths look like, or
// it is said at once what no file can hold.
func TestPrepare(t *testing.T) {
	for _, tc := range []struct{ name, want string }{
		{"plain", ""},
		{`"quoted" {and: #special}`, ""},
		{"täglich $HOME", ""},
		{"-", ""},
		{"tab\there", "control character"},
		{"\xff", "UTF-8"},
	} {
		root := t.TempDir()
		makeTree(t, root, tc.name+"/file")
		tour := newTour(root, tc.name, "work")
		err := tour.makeWork()
		if err == nil {
			err = tour.prepare()
		}
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%q: %v, want %q", tc.name, err, tc.want)
		}
		if err != nil {
			continue
		}
		if got := tour.push.Jobs[0].Endpoint.Directories[filesystem]; got != filepath.Join(root, tc.name) {
			t.Errorf("directory %q, want %q", got, tc.name)
		}
	}
}

// TestMakeSample: some thousand files, about 100 MiB, and all kinds of entries.
func TestMakeSample(t *testing.T) {
	root := filepath.Join(t.TempDir(), "sample")
	if err := makeSample(root); err != nil {
		t.Fatal(err)
	}
	kinds := map[fs.FileMode]int{}
	var bytes int64
	err := filepath.WalkDir(root, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		kinds[d.Type()]++
		info, err := d.Info()
		if err == nil && d.Type().IsRegular() && !sparse(info) {
			bytes += info.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if kinds[0] < 3000 || kinds[fs.ModeSymlink] == 0 || kinds[fs.ModeDir] < 50 {
		t.Errorf("kinds: %v", kinds)
	}
	if bytes < 90<<20 || bytes > 130<<20 {
		t.Errorf("%d bytes", bytes)
	}
	if err := makeSample(root); err == nil {
		t.Error("made over an existing one")
	}
}

// TestRunRemoves: after an error, too.
func TestRunRemoves(t *testing.T) {
	root := t.TempDir()
	makeTree(t, root, "user/file")
	work := filepath.Join(root, "work")
	result, err := Run(t.Context(), Options{
		Source: filepath.Join(root, "user"), Work: work, Remove: true,
		Program: "/nowhere/dualrepl", Step: func(string) {},
	})
	if err == nil || !strings.Contains(err.Error(), "/nowhere/dualrepl") || result.Work != work {
		t.Errorf("%+v, %v", result, err)
	}
	if _, err := os.Stat(work); !os.IsNotExist(err) {
		t.Errorf("the work directory is still there: %v", err)
	}
}

func TestDifferencesError(t *testing.T) {
	if err := differencesError(nil); err != nil {
		t.Error(err)
	}
	err := differencesError([]dir.Difference{{Path: "a", What: "mode", A: "0644", B: "0600"}, {Path: "b"}})
	if err == nil || !strings.Contains(err.Error(), `2 attributes, first: "a": mode: 0644, restored: 0600`) {
		t.Errorf("error is %v", err)
	}
}
