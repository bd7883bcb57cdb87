package zfs

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/dualrepl/dualrepl/endpoint"
)

// TestNames has the names that are on the pools of existing installations.
func TestNames(t *testing.T) {
	for got, want := range map[string]string{
		cursorName("prod_to_backups", 0x1a2b3c):          "zrepl_CURSOR_G_00000000001a2b3c_J_prod_to_backups",
		tentativeCursorName("prod_to_backups", 0x1a2b3c): "zrepl_CURSORTENTATIVE__G_00000000001a2b3c_J_prod_to_backups",
		stepHoldTag("prod_to_backups"):                   "zrepl_STEP_J_prod_to_backups",
		lastReceivedTag("backups"):                       "zrepl_last_received_J_backups",
	} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func TestIsCursor(t *testing.T) {
	const guid = 0xfedcba9876543210
	tests := []struct {
		v                 version
		cursor, tentative bool
	}{
		{version{name: "zrepl_CURSOR_G_fedcba9876543210_J_x", bookmark: true, guid: guid}, true, false},
		{version{name: "zrepl_CURSORTENTATIVE__G_fedcba9876543210_J_x", bookmark: true, guid: guid}, false, true},
		{version{name: "zrepl_CURSOR_G_fedcba9876543210_J_x", bookmark: true, guid: 1}, false, false},
		{version{name: "zrepl_CURSOR_G_fedcba9876543210_J_x", guid: guid}, false, false},
		{version{name: "zrepl_CURSOR_G_fedcba9876543210_J_y", bookmark: true, guid: guid}, false, false},
		{version{name: "zrepl_CURSOR_G_fedcba9876543210_J_x_J_x", bookmark: true, guid: guid}, false, false},
		{version{name: "zrepl_CURSOR_G_FEDCBA9876543210_J_x", bookmark: true, guid: guid}, false, false},
		{version{name: "zrepl_CURSOR_G_0xedcba987654321_J_x", bookmark: true, guid: guid}, false, false},
		{version{name: "zrepl_CURSOR_G__J_x", bookmark: true, guid: guid}, false, false},
		{version{name: "zrepl_CURSOR_G_fedcba9876543210_J_", bookmark: true, guid: guid}, false, false},
		{version{name: "x", bookmark: true, guid: guid}, false, false},
	}
	for _, tt := range tests {
		if cursor, tentative := isCursor(&tt.v, "x"), isTentativeCursor(&tt.v, "x"); cursor != tt.cursor || tentative != tt.tentative {
			t.Errorf("%+v: cursor %t, tentative %t", tt.v, cursor, tentative)
		}
	}
}

func FuzzParseBookmarkName(f *testing.F) {
	f.Add("zrepl_CURSOR_G_00000000001a2b3c_J_prod_to_backups")
	f.Add("zrepl_CURSOR_G_00000000001a2b3c_J_a_J_b")
	f.Fuzz(func(t *testing.T, name string) {
		if job, guid, ok := parseBookmarkName(cursorPrefix, name); ok && cursorName(job, guid) != name {
			t.Errorf("%q is read as %q, %#x", name, job, guid)
		}
	})
}

func TestValidateJob(t *testing.T) {
	for job, want := range map[string]error{
		"prod_to_backups": nil, "a b:c.d-e": nil,
		"": endpoint.ErrInvalid, "a/b": endpoint.ErrInvalid, "a@b": endpoint.ErrInvalid, "a,b": endpoint.ErrInvalid,
		strings.Repeat("x", 250): endpoint.ErrInvalid,
	} {
		if err := validateJob(job); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", job, err, want)
		}
	}
}

// TestIdempotence has what OpenZFS 2.1.11 says when there is nothing left to do.
func TestIdempotence(t *testing.T) {
	one, two := version{name: "1"}, version{name: "2"}
	tests := []struct {
		name, said string
		do         func(*program) error
		ok         bool
	}{
		{"hold", "cannot hold snapshot 'a@1': tag already exists on this dataset",
			func(p *program) error { return p.hold(t.Context(), "t", "a", one, two) }, true},
		{"hold of what is gone", "cannot hold snapshot 'a@1': tag already exists on this dataset\\ncannot hold snapshot 'a@2': dataset does not exist",
			func(p *program) error { return p.hold(t.Context(), "t", "a", one, two) }, false},
		{"release", "cannot release hold from snapshot 'a@1': no such tag on this dataset\\ncannot release hold from snapshot 'a@2': dataset does not exist",
			func(p *program) error { return p.release(t.Context(), "t", "a", one, two) }, true},
		{"release without permission", "cannot release hold from snapshot 'a@1': permission denied",
			func(p *program) error { return p.release(t.Context(), "t", "a", one, two) }, false},
		{"bookmark", "cannot create bookmark 'a#b': bookmark exists",
			func(p *program) error { return p.bookmark(t.Context(), "a", one, "b") }, true},
		{"bookmark of what is gone", "cannot open 'a@1': dataset does not exist",
			func(p *program) error { return p.bookmark(t.Context(), "a", one, "b") }, false},
		{"destroy a bookmark", "bookmark 'a#b' does not exist.",
			func(p *program) error { return p.destroyBookmark(t.Context(), "a", "b") }, true},
		{"silent failure", "", func(p *program) error { return p.hold(t.Context(), "t", "a", one) }, false},
		{"nothing to do", "", func(p *program) error { return p.release(t.Context(), "t", "a") }, true},
	}
	for _, tt := range tests {
		p := fake(t, `printf "`+tt.said+`\n" >&2; exit 1`)
		if tt.said == "" {
			p = fake(t, "exit 1")
		}
		if err := tt.do(p); (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestHoldsOf(t *testing.T) {
	p := fake(t, `[ "$*" = "holds -H a/fs@1 a/fs@3" ] || exit 1
printf 'a/fs@1\ttag\tSun Nov 22 01:46 2026\na/fs@3\ttag\tSun Nov 22 01:46 2026\na/fs@3\tother tag\tSun Nov 22 01:46 2026\n'`)
	got, err := p.holdsOf(t.Context(), "a/fs", []version{{name: "1", userRefs: 1}, {name: "2"}, {name: "3", userRefs: 2}})
	want := map[string][]string{"1": {"tag"}, "3": {"tag", "other tag"}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("holds are %v, %v", got, err)
	}
	p = fake(t, `printf 'a/fs@3\ttag\tSun Nov 22 01:46 2026\n'; echo "cannot open 'a/fs@1': dataset does not exist" >&2; exit 1`)
	got, err = p.holdsOf(t.Context(), "a/fs", []version{{name: "1", userRefs: 1}, {name: "3", userRefs: 1}})
	if want := map[string][]string{"3": {"tag"}}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("where one is gone, holds are %v, %v", got, err)
	}
	p = fake(t, "exit 1")
	if got, err := p.holdsOf(t.Context(), "a/fs", []version{{name: "1"}}); err != nil || len(got) != 0 || p.starts.Load() != 0 {
		t.Errorf("without any: %v, %v, %d processes", got, err, p.starts.Load())
	}
}
