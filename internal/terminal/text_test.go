package terminal

import "testing"

func TestPrintable(t *testing.T) {
	for text, want := range map[string]string{
		"":                        "",
		`täglich "a" \ b`:         `täglich "a" \ b`,
		"two\nlines\r":            `two\nlines\r`,
		"\x1b[2Jgone":             `\x1b[2Jgone`,
		"\xff\xfe.txt":            `\xff\xfe.txt`,
		"right\u202eto left":      `right\u202eto left`,
		"replaced \ufffd":         "replaced \ufffd",
		"tab\tand no-break\u00a0": `tab\tand no-break\u00a0`,
	} {
		if got := Printable(text); got != want {
			t.Errorf("Printable(%q) = %q, want %q", text, got, want)
		}
	}
}
