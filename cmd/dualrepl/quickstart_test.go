package main

import (
	"errors"
	"strings"
	"testing"
)

// TestWithPlace: a failure tells what became of the files that it left.
func TestWithPlace(t *testing.T) {
	broken := errors.New("broken")
	for _, tc := range []struct {
		work    string
		removed bool
		want    string
	}{
		{"", false, "broken"},
		{"/w", false, "broken\nwhat was written is still in /w, for a look"},
		{"/w", true, "broken\nwhat was written to /w is removed"},
	} {
		err := withPlace(broken, tc.work, tc.removed)
		if !errors.Is(err, broken) || err.Error() != tc.want {
			t.Errorf("%q, want %q", err, tc.want)
		}
	}
}

func TestQuote(t *testing.T) {
	for path, want := range map[string]string{
		"/plain-1.2_x/@y": "/plain-1.2_x/@y",
		"/my docs":        "'/my docs'",
		"/it's":           `'/it'\''s'`,
		"/$HOME":          "'/$HOME'",
	} {
		if got := quote(path); got != want {
			t.Errorf("quote(%q) = %q, want %q", path, got, want)
		}
	}
}

func TestCounted(t *testing.T) {
	for want, got := range map[string]string{
		"0 files":   counted(0, "file"),
		"1 entry":   counted(1, "entry"),
		"2 entries": counted(2, "entry"),
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// TestPrintSome: a long list is cut, and says so.
func TestPrintSome(t *testing.T) {
	var b strings.Builder
	printSome(&b, "Heading:", nil)
	if b.Len() > 0 {
		t.Errorf("printed %q for nothing", b.String())
	}
	printSome(&b, "Heading:", make([]string, shownAtMost+2))
	if got := b.String(); strings.Count(got, "\n") != shownAtMost+2 || !strings.Contains(got, "and 2 more") {
		t.Errorf("printed %q", got)
	}
}

func TestEscaped(t *testing.T) {
	for path, want := range map[string]string{"täglich": "täglich", "\xff\"": `\xff\"`} {
		if got := escaped(path); got != want {
			t.Errorf("escaped(%q) = %q, want %q", path, got, want)
		}
	}
}
