package prune

import (
	"cmp"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/dualrepl/dualrepl/pdu"
)

// A Snapshot is what rules are asked about.
type Snapshot struct {
	Version  *pdu.FilesystemVersion
	Creation time.Time
	// Replicated: the replication cursor is at this snapshot or at a newer version.
	Replicated bool
	// AtCursor: the replication cursor is at this very snapshot.
	AtCursor bool
}

// order is from the oldest to the newest.
func order(a, b Snapshot) int {
	return cmp.Or(
		a.Creation.Compare(b.Creation),
		cmp.Compare(a.Version.GetCreateTXG(), b.Version.GetCreateTXG()),
		strings.Compare(a.Version.GetName(), b.Version.GetName()),
	)
}

// A Rule keeps snapshots: [NotReplicated], [LastN], [Regex] or [Grid].
type Rule interface {
	// keep sets the elements of kept whose snapshots the rule keeps, and no others. The
	// snapshots are of one filesystem, the oldest first.
	keep(snapshots []Snapshot, kept []bool)
}

// Destroy returns the snapshots of one filesystem that no rule keeps, the oldest first.
// Without rules there are none. The order of the argument does not matter, and it is not
// changed.
func Destroy(snapshots []Snapshot, rules []Rule) []Snapshot {
	if len(rules) == 0 {
		return nil
	}
	snapshots = slices.SortedFunc(slices.Values(snapshots), order)
	kept := make([]bool, len(snapshots))
	for _, rule := range rules {
		rule.keep(snapshots, kept)
	}
	var doomed []Snapshot
	for i, s := range snapshots {
		if !kept[i] {
			doomed = append(doomed, s)
		}
	}
	return doomed
}

// NotReplicated keeps what the receiver does not have yet: all that is newer than the
// replication cursor, and the snapshot at the cursor, from which the next step starts.
type NotReplicated struct {
	// ReleaseCursor does not keep the snapshot at the cursor: a sender that has the cursor
	// as a bookmark can go on from that.
	ReleaseCursor bool
}

func (r NotReplicated) keep(snapshots []Snapshot, kept []bool) {
	for i, s := range snapshots {
		if !s.Replicated || s.AtCursor && !r.ReleaseCursor {
			kept[i] = true
		}
	}
}

// LastN keeps the newest snapshots among those that it matches.
type LastN struct {
	Count int            // how many; 0 or less: none
	Regex *regexp.Regexp // of names; nil: matches all
}

func (r LastN) keep(snapshots []Snapshot, kept []bool) {
	left := r.Count
	for i, s := range slices.Backward(snapshots) {
		if left > 0 && matches(r.Regex, s) {
			kept[i] = true
			left--
		}
	}
}

// Regex keeps the snapshots whose names it matches.
type Regex struct {
	Regex  *regexp.Regexp // nil: matches all
	Negate bool           // keeps those that are not matched instead
}

func (r Regex) keep(snapshots []Snapshot, kept []bool) {
	for i, s := range snapshots {
		if matches(r.Regex, s) != r.Negate {
			kept[i] = true
		}
	}
}

func matches(re *regexp.Regexp, s Snapshot) bool {
	return re == nil || re.MatchString(s.Version.GetName())
}
