package config

import (
	"strings"
	"testing"
)

func TestNearest(t *testing.T) {
	known := []string{"ca", "cert", "key", "address", "listener_name", "Docs"}
	tests := map[string]string{
		"adress":          "address",
		"addresss":        "address",
		"adderss":         "address", // swapped
		"ADDRESS":         "address",
		"docs":            "Docs",
		"listner_nam":     "listener_name",
		"remote_address":  "address", // contained
		"name":            "listener_name",
		"sert":            "cert",
		"xy":              "", // as far from ca as anything of two letters
		"":                "",
		"password":        "",
		longWord("cert"):  "",
		"listener_naming": "", // three edits
	}
	for word, want := range tests {
		if got := nearest(word, known); got != want {
			t.Errorf("%q: got %q, want %q", word, got, want)
		}
	}
}

func longWord(s string) string { return strings.Repeat(s, 1000) }

func TestDistance(t *testing.T) {
	tests := []struct {
		a, b string
		want int
	}{
		{"", "", 0},
		{"", "abc", 3},
		{"abc", "abc", 0},
		{"abc", "acb", 1},
		{"abc", "abd", 1},
		{"abc", "ab", 1},
		{"abc", "xabc", 1},
		{"abcd", "badc", 2},
		{"kitten", "sitting", 3},
	}
	for _, test := range tests {
		if got, back := distance(test.a, test.b), distance(test.b, test.a); got != test.want || back != test.want {
			t.Errorf("%q and %q: got %d and %d, want %d", test.a, test.b, got, back, test.want)
		}
	}
}

func TestEnumerate(t *testing.T) {
	for want, words := range map[string][]string{"": nil, "a": {"a"}, "a or b": {"a", "b"}, "a, b or c": {"a", "b", "c"}} {
		if got := enumerate(words); got != want {
			t.Errorf("%q: got %q, want %q", words, got, want)
		}
	}
}
