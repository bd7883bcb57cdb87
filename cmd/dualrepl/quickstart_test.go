package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/dualrepl/dualrepl/internal/quickstart"
)

// TestPrintPlace: a failure tells what became of the files that it left.
func TestPrintPlace(t *testing.T) {
	for _, tc := range []struct {
		work    string
		removed bool
		want    string
	}{
		{"/w", false, "what was written is still in /w, for a look\n"},
		{"/w", true, "what was written to /w is removed\n"},
	} {
		var b strings.Builder
		printPlace(&b, tc.work, tc.removed)
		if b.String() != tc.want {
			t.Errorf("%q, want %q", &b, tc.want)
		}
	}
}

// TestHeadline: what was left out is not passed over.
func TestHeadline(t *testing.T) {
	for _, tc := range []struct {
		left    []string
		sockets int
		want    string
	}{
		{nil, 0, "Everything in /d is replicated"},
		{nil, 2, "Everything in /d is replicated except for 2 sockets"},
		{[]string{"a"}, 0, "Everything in /d is replicated except for 1 entry (no permission, or changed meanwhile)"},
		{[]string{"a", "b"}, 1, "Everything in /d is replicated except for 2 entries (no permission, or changed meanwhile) and 1 socket"},
	} {
		r := &quickstart.Result{Source: "/d", Left: tc.left, Sockets: tc.sockets}
		if got := headline(r); got != tc.want {
			t.Errorf("%q, want %q", got, tc.want)
		}
		if err := incompleteTour(r); errors.Is(err, errIncomplete) != (len(tc.left) > 0) {
			t.Errorf("%d left out: error is %v", len(tc.left), err)
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
