package dataset

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const scale = 0.01

func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		all[strings.TrimPrefix(path, dir)] = string(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func made(t *testing.T) (Set, map[string]string) {
	t.Helper()
	s := Set{Dir: t.TempDir(), Scale: scale}
	if err := s.Make(); err != nil {
		t.Fatal(err)
	}
	return s, contents(t, s.Dir)
}

func TestMakeIsTheSameEachTime(t *testing.T) {
	s, one := made(t)
	_, two := made(t)
	if !maps.Equal(one, two) {
		t.Error("two sets differ")
	}
	if got, want := len(one), smallFiles/100+largeFiles; got != want {
		t.Errorf("%d files, want %d", got, want)
	}
	var total int64
	for _, content := range one {
		total += int64(len(content))
	}
	if about := s.Bytes(); total < about*9/10 || total > about*11/10 {
		t.Errorf("the files hold %d bytes, Bytes says %d", total, about)
	}
}

func TestChange(t *testing.T) {
	s, before := made(t)
	if err := s.Change(); err != nil {
		t.Fatal(err)
	}
	after := contents(t, s.Dir)
	var gone, added, changed int
	for path, content := range before {
		switch now, there := after[path]; {
		case !there:
			gone++
		case now != content:
			changed++
		}
	}
	for path := range after {
		if _, there := before[path]; !there {
			added++
		}
	}
	// At this scale: 2 edited of which 1 may be deleted, 2 large ones; 2 deleted; 1 renamed.
	if gone != 3 || added != 1 || changed < 3 || changed > 4 {
		t.Errorf("%d are gone, %d are new, %d changed", gone, added, changed)
	}
	old, grown := before["/large1"], after["/large1"]
	if !strings.HasSuffix(grown, old) || len(grown)-len(old) != int(s.bytes(inserted)) {
		t.Errorf("large1 is not what it was, with %d bytes before it", s.bytes(inserted))
	}
	if len(before["/large0"]) != len(after["/large0"]) {
		t.Error("large0 was not rewritten in place")
	}
}
