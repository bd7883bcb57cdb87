package versionhandshake

import "testing"

func TestFind(t *testing.T) {
	lines := []string{"", "=", "other", Line(ExtensionSum, "a"), Line(ExtensionSum, "b"), ExtensionReuse, "dualrepl.route=a=b", "dualrepl.muxer"}
	for _, tt := range []struct {
		name, value string
		found       bool
	}{
		{ExtensionSum, "a", true},
		{ExtensionReuse, "", true},
		{ExtensionRoute, "a=b", true},
		{ExtensionMux, "", false},
	} {
		if value, found := Find(lines, tt.name); value != tt.value || found != tt.found {
			t.Errorf("%s: %q, %t, want %q, %t", tt.name, value, found, tt.value, tt.found)
		}
	}
}
