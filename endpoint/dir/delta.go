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

// checkDelta checks that a receiver takes what encodeDelta made: two manifests within
// the limits may have a delta that is not.
func checkDelta(from, to *Manifest, delta []byte) error {
	var entries []Entry
	if from != nil {
		entries = from.Entries
	}
	_, changed := diff(entries, to.Entries)
	cost := 0
	for _, i := range changed {
		cost += to.Entries[i].cost()
	}
	return checkLimits("manifest delta", len(delta), cost)
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
// encodeDelta made, and checks that it is valid and has the digest want. It returns
// the manifest's encoding, too.
func applyDelta(from *Manifest, delta []byte, want Digest) (to *Manifest, encoded []byte, err error) {
	to, encoded, err = rebuild(from, delta)
	if err != nil {
		return nil, nil, fmt.Errorf("manifest delta: %w", err)
	}
	if to.Digest != want {
		return nil, nil, errors.New("manifest delta: it makes another manifest than the stream's header says")
	}
	return to, encoded, nil
}

func rebuild(from *Manifest, delta []byte) (to *Manifest, encoded []byte, err error) {
	if from == nil {
		from = &Manifest{}
	}
	d := newDecoder(delta)
	to = d.header()
	gone := d.removed(from.Entries)
	changed := d.entries()
	if err := d.end(); err != nil {
		return nil, nil, err
	}
	to.Entries = merge(from.Entries, gone, changed)
	if err := to.checkCounts(); err != nil {
		return nil, nil, err
	}
	if err := to.validate(); err != nil {
		return nil, nil, err
	}
	encoded, err = to.encodeLimited()
	return to, encoded, err
}

// removed reads the paths that are gone and says of each entry of from whether it is
// one. Each path must be there: so none needs to be kept.
func (d *decoder) removed(from []Entry) []bool {
	gone := make([]bool, len(from))
	i := 0
	for range d.count(minPathBytes, 0) {
		path := d.path()
		for i < len(from) && from[i].Path != path {
			i++
		}
		if i == len(from) || d.err != nil {
			d.fail()
			return nil
		}
		gone[i] = true
		i++
	}
	d.last = ""
	return gone
}

// merge leaves what is gone out of from and puts changed in, both sorted. What is not
// sorted makes entries out of order, which validate refuses.
func merge(from []Entry, gone []bool, changed []Entry) []Entry {
	entries := make([]Entry, 0, len(from)+len(changed))
	for len(from) > 0 || len(changed) > 0 {
		c := compareHeads(from, changed)
		if c <= 0 {
			if c < 0 && !gone[0] {
				entries = append(entries, from[0])
			}
			from, gone = from[1:], gone[1:]
		}
		if c >= 0 {
			entries = append(entries, changed[0])
			changed = changed[1:]
		}
	}
	return slices.Clip(entries)
}
