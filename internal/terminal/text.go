package terminal

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Printable writes text that holds names from elsewhere so that it is one line and
// moves no cursor: what does not print, and bytes that are not UTF-8, are written as
// Go does, such as \n, \x1b or \xff. All else, quotes and backslashes too, stays.
func Printable(text string) string {
	if !strings.ContainsFunc(text, unprintable) {
		return text
	}
	var b strings.Builder
	for len(text) > 0 {
		r, size := utf8.DecodeRuneInString(text)
		if unprintable(r) {
			quoted := strconv.Quote(text[:size])
			b.WriteString(quoted[1 : len(quoted)-1])
		} else {
			b.WriteString(text[:size])
		}
		text = text[size:]
	}
	return b.String()
}

// unprintable also finds what invalid UTF-8 decodes to.
func unprintable(r rune) bool { return !unicode.IsPrint(r) || r == utf8.RuneError }
