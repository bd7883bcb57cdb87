package config

import "testing"

func TestFilter(t *testing.T) {
	f := Filter{{"<", false}, {"Pool<", true}, {"Pool/a<", false}, {"Pool/a", true}, {"Pool/a/b/c<", true}, {"other", true}}
	tests := map[string]bool{
		"":             false,
		"x":            false,
		"pool":         false,
		"Pool":         true,
		"Pool/b":       true,
		"Poolside":     false,
		"Pool/a":       true,
		"Pool/ab":      true,
		"Pool/a/b":     false,
		"Pool/a/b/c":   true,
		"Pool/a/b/c/d": true,
		"other":        true,
		"other/x":      false,
	}
	for name, want := range tests {
		if got := f.Match(name); got != want {
			t.Errorf("%q: got %v, want %v", name, got, want)
		}
	}
	if (Filter)(nil).Match("x") {
		t.Error("a filter without rules selects something")
	}
}

// TestFilterOrder: where a rule stands does not matter.
func TestFilterOrder(t *testing.T) {
	for _, f := range []Filter{{{"<", true}, {"a<", false}}, {{"a<", false}, {"<", true}}} {
		if f.Match("a") || !f.Match("b") {
			t.Errorf("%v: a is %v, b is %v", f, f.Match("a"), f.Match("b"))
		}
	}
}
