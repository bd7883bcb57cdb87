package config

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

var update = flag.Bool("update", false, "write the expected messages of testdata/mistakes.txtar anew")

const mistakesFile = "testdata/mistakes.txtar"

// TestMistakes compares what is said about each mistake, to the letter.
func TestMistakes(t *testing.T) {
	archive, err := txtar.ParseFile(mistakesFile)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	for _, f := range archive.Files {
		want[f.Name] = string(f.Data)
	}
	var files []txtar.File
	for _, f := range archive.Files {
		name, ok := strings.CutSuffix(f.Name, ".yml")
		if !ok {
			continue
		}
		got := complaints(t, f.Name, f.Data)
		files = append(files, f, txtar.File{Name: name + ".want", Data: []byte(got)})
		if !*update && got != want[name+".want"] {
			t.Errorf("%s: got\n%swant\n%s", f.Name, got, want[name+".want"])
		}
	}
	if *update {
		archive.Files = files
		if err := os.WriteFile(mistakesFile, txtar.Format(archive), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// complaints is what Parse says about a file that has mistakes.
func complaints(t *testing.T, name string, data []byte) string {
	t.Helper()
	cfg, err := Parse(name, data)
	if err == nil {
		t.Errorf("%s: loads", name)
		return ""
	}
	if cfg != nil {
		t.Errorf("%s: a configuration beside an error", name)
	}
	return err.Error() + "\n"
}
