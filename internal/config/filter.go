package config

import "strings"

// A Filter selects filesystems by name. Of the rules that match a name the most
// specific one decides: a rule for just that filesystem before a rule for a
// subtree, a deeper subtree before a shallower one. A name that no rule matches
// is not selected.
type Filter []Rule

// A Rule is one line of a filter. Its pattern is the name of a filesystem, or a
// name and `<` for that filesystem and all below it; `<` alone is everything.
type Rule struct {
	Pattern string
	Include bool
}

// Match reports whether the filter selects the filesystem.
func (f Filter) Match(filesystem string) bool {
	best, include := 0, false
	for _, r := range f {
		if s := r.specificity(filesystem); s > best {
			best, include = s, r.Include
		}
	}
	return include
}

// specificity is 0 if the rule does not match, else higher for a closer match.
func (r Rule) specificity(filesystem string) int {
	root, subtree := strings.CutSuffix(r.Pattern, "<")
	switch {
	case !subtree && root == filesystem:
		return 2*len(root) + 2
	case subtree && within(filesystem, root):
		return 2*len(root) + 1
	}
	return 0
}

// within reports whether name is parent or lies below it.
func within(name, parent string) bool {
	rest, ok := strings.CutPrefix(name, parent)
	return ok && (rest == "" || parent == "" || rest[0] == '/')
}
