package endpoint

import (
	"errors"
	"strings"
	"testing"
)

func TestValidateFilesystem(t *testing.T) {
	tests := []struct {
		path string
		ok   bool
	}{
		{"docs", true},
		{"zroot/var/Log-2_a.b:c d", true},
		{"...", true},
		{strings.Repeat("a", MaxNameLength), true},
		{strings.Repeat("a", MaxNameLength+1), false},
		{"", false},
		{"/docs", false},
		{"docs/", false},
		{"a//b", false},
		{".", false},
		{"a/../b", false},
		{"a/./b", false},
		{"docs@one", false},
		{"docs#one", false},
		{"docs\x00", false},
		{"docs\n", false},
		{"d\xffcs", false},
		{"dócs", false},
		{`a\b`, false},
	}
	for _, tt := range tests {
		check(t, "ValidateFilesystem", tt.path, ValidateFilesystem(tt.path), tt.ok)
	}
}

func TestValidateVersionName(t *testing.T) {
	tests := []struct {
		name string
		ok   bool
	}{
		{"dr_2026-01-02T03:04:05Z", true},
		{"CURSOR_G_0123456789abcdef_J_docs", true},
		{strings.Repeat("v", MaxNameLength), true},
		{strings.Repeat("v", MaxNameLength+1), false},
		{"", false},
		{"..", false},
		{"a/b", false},
		{"a@b", false},
	}
	for _, tt := range tests {
		check(t, "ValidateVersionName", tt.name, ValidateVersionName(tt.name), tt.ok)
	}
}

func check(t *testing.T, fn, arg string, err error, ok bool) {
	t.Helper()
	if ok && err != nil {
		t.Errorf("%s(%q) = %v, want nil", fn, arg, err)
	}
	if !ok && !errors.Is(err, ErrInvalid) {
		t.Errorf("%s(%q) = %v, want ErrInvalid", fn, arg, err)
	}
}
