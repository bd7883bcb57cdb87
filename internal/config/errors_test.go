package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestErrorsAs(t *testing.T) {
	_, err := Parse("test.yml", []byte("jobs:\n  - {name: a, type: b, c: d}\n"))
	var all Errors
	if !errors.As(fmt.Errorf("start: %w", err), &all) || len(all) != 2 {
		t.Fatalf("got %v, want two Errors", err)
	}
	want := Error{
		File: "test.yml", Line: 2, Column: 21, Field: "jobs[0].type",
		Message: `"b" is unknown`, Hint: "choose from pull, push, sink, snap, source",
	}
	var first *Error
	if !errors.As(err, &first) || *first != want {
		t.Errorf("got %+v, want %+v", first, want)
	}
}

// TestErrorsSorted: errors come in the order of the file, whatever found them, and
// the same each time although maps have none.
func TestErrorsSorted(t *testing.T) {
	t.Setenv("DUALREPL_ZZZ", "")
	t.Setenv("DUALREPL_AAA", "")
	var clients strings.Builder
	for i := range 50 {
		fmt.Fprintf(&clients, "        not-an-address-%d: alice\n", i)
	}
	file := []byte("x: y\njobs:\n  - type: sink\n    serve:\n      clients:\n" + clients.String() + "    name: a/b\nglobal: []\n")
	_, err := Parse("test.yml", file)
	var all Errors
	if !errors.As(err, &all) || len(all) < 50 {
		t.Fatalf("got %v", err)
	}
	if all[0].Env != "DUALREPL_AAA" || all[1].Env != "DUALREPL_ZZZ" {
		t.Errorf("got %v and %v first", all[0], all[1])
	}
	byPlace := func(a, b *Error) int { return cmp.Or(a.Line-b.Line, a.Column-b.Column) }
	if !slices.IsSortedFunc(all, byPlace) {
		t.Errorf("not sorted: %v", err)
	}
	for range 10 {
		if _, again := Parse("test.yml", file); again.Error() != err.Error() {
			t.Fatalf("got\n%v\nand then\n%v", err, again)
		}
	}
}

func TestNotUTF8(t *testing.T) {
	_, err := Parse("test.yml", []byte("jobs:\n  - name: M\xfcller\n")) // Latin-1
	if want := "test.yml:2:12: is not UTF-8; save the file as UTF-8"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
