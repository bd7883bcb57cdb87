package dir

import (
	"errors"
	"fmt"
	"slices"
)

// encodeDelta encodes what makes to from from (nil: a full step): to's identity,
// the paths that are gone, and every entry that is new or not as before. to has
// been encoded or decoded, so that its counts are set.
func encodeDelta(from, to *Manifest) []byte {
	if from == nil {
		from = &Manifest{}
	}
	var e encoder
	e.header(to)
	removed, changed := diff(from.Entries, to.Entries)
	e.uint(uint64(len(removed)))
	for _, path := range removed {
		e.path(path)
	}
	e.last = ""
	e.uint(uint64(len(changed)))
	for _, i := range changed {
		e.entry(&to.Entries[i])
	}
	return e.buf
}

// diff returns the paths only in from and the indexes of entries of to that are
// not the same in from.
func diff(from, to []Entry) (removed []string, changed []int) {
	for i := 0; i < len(to) || len(from) > 0; {
		switch c := compareHeads(from, to[i:]); {
		case c < 0:
			removed = append(removed, from[0].Path)
			from = from[1:]
		case c > 0:
			changed = append(changed, i)
			i++
		default:
			if !from[0].sameNode(&to[i]) {
				changed = append(changed, i)
			}
			from = from[1:]
			i++
		}
	}
	return removed, changed
}

// compareHeads compares the first paths of two lists that are not both empty; an
// empty one is last.
func compareHeads(a, b []Entry) int {
	switch {
	case len(b) == 0:
		return -1
	case len(a) == 0:
		return 1
	}
	return ComparePaths(a[0].Path, b[0].Path)
}

// applyDelta rebuilds a manifest from the one before (nil: a full step) and what
// encodeDelta made, and checks that it is valid and has the digest want.
func applyDelta(from *Manifest, delta []byte, want Digest) (*Manifest, error) {
	to, err := rebuild(from, delta)
	if err != nil {
		return nil, fmt.Errorf("manifest delta: %w", err)
	}
	if to.Digest != want {
		return nil, errors.New("manifest delta: it makes another manifest than the stream's header says")
	}
	return to, nil
}

func rebuild(from *Manifest, delta []byte) (*Manifest, error) {
	if from == nil {
		from = &Manifest{}
	}
	d := decoder{rest: delta}
	to := d.header()
	removed := make([]string, d.count(minPathBytes))
	for i := range removed {
		removed[i] = d.path()
	}
	d.last = ""
	changed := d.entries()
	if d.err != nil || len(d.rest) > 0 {
		return nil, errMalformed
	}
	to.Entries = merge(from.Entries, removed, changed)
	if err := to.validate(); err != nil {
		return nil, err
	}
	to.Encode() // for its digest
	return to, nil
}

// merge leaves removed out of from and puts changed in, all sorted. What is not
// sorted makes entries out of order, which validate refuses.
func merge(from []Entry, removed []string, changed []Entry) []Entry {
	entries := make([]Entry, 0, len(from)+len(changed))
	for len(from) > 0 || len(changed) > 0 {
		c := compareHeads(from, changed)
		if c <= 0 {
			if len(removed) > 0 && removed[0] == from[0].Path {
				removed = removed[1:]
			} else if c < 0 {
				entries = append(entries, from[0])
			}
			from = from[1:]
		}
		if c >= 0 {
			entries = append(entries, changed[0])
			changed = changed[1:]
		}
	}
	return slices.Clip(entries)
}
