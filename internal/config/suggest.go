package config

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// maxQuoted is how much of a value is repeated in a message, in bytes.
const maxQuoted = 80

// maxListed is how many known words a hint lists.
const maxListed = 16

// suggest is the hint for a word that is not among the known ones.
func suggest(word string, known []string) string {
	switch near := nearest(word, known); {
	case near != "":
		return fmt.Sprintf("did you mean %q?", near)
	case len(known) > maxListed:
		return "docs/config.md lists what there is"
	}
	return "choose from " + strings.Join(known, ", ")
}

// maxEdits is how many typing errors a word may have and still be recognized; a
// word of two or three letters may have one.
const maxEdits = 2

// maxCompared is how many known words a word is compared with at most, so that
// thousands of mistakes do not take minutes.
const maxCompared = 1000

// nearest is the known word that word may be meant for, or "": one that is few
// edits away, or else one that contains the other.
func nearest(word string, known []string) string {
	if len(word) > maxQuoted || len(known) > maxCompared {
		return ""
	}
	word = strings.ToLower(word)
	best, limit := "", min(maxEdits, len(word)/2)+1
	for _, k := range known {
		if n := distance(word, strings.ToLower(k)); n < limit {
			best, limit = k, n
		}
	}
	if i := slices.IndexFunc(known, func(k string) bool { return related(word, strings.ToLower(k)) }); best == "" && i >= 0 {
		return known[i]
	}
	return best
}

// related reports whether one of the words contains the other, and is not so
// short that this means nothing.
func related(a, b string) bool {
	return min(len(a), len(b)) >= 4 && (strings.Contains(a, b) || strings.Contains(b, a))
}

// distance counts the edits from a to b: a byte put in, left out, replaced, or
// swapped with the next.
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range b {
		rows[0][j+1] = j + 1
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			rows[i][j] = edits(rows, a, b, i, j)
		}
	}
	return rows[len(a)][len(b)]
}

// edits is the distance of a[:i] and b[:j], given those of all shorter ones.
func edits(rows [][]int, a, b string, i, j int) int {
	replace := rows[i-1][j-1]
	if a[i-1] != b[j-1] {
		replace++
	}
	n := min(replace, rows[i-1][j]+1, rows[i][j-1]+1)
	if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
		n = min(n, rows[i-2][j-2]+1)
	}
	return n
}

// enumerate writes "a, b or c".
func enumerate(words []string) string {
	last := len(words) - 1
	if last < 1 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

// quote repeats a value of the user's in a message.
func quote(s string) string { return fmt.Sprintf("%.*q", maxQuoted, s) }

// clip is quote without the quotes.
func clip(s string) string {
	quoted := quote(s)
	return quoted[1 : len(quoted)-1]
}

// brief repeats an error about a value of the user's in a message.
func brief(err error) string {
	const most = 2 * maxQuoted
	if text := err.Error(); len(text) > most {
		return strings.ToValidUTF8(text[:most], "") + "..."
	}
	return err.Error()
}

func isControl(r rune) bool { return unicode.IsControl(r) || r == unicode.ReplacementChar }
