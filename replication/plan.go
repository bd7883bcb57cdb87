package replication

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
)

// planInput is all that the plan for one filesystem depends on.
type planInput struct {
	filesystem string
	sender     []*pdu.FilesystemVersion // as the sender lists them
	receiver   []*pdu.FilesystemVersion // as the receiver lists them; empty: it has none
	policy     InitialPolicy
	token      string               // the receiver's resume token; "": none
	resume     *endpoint.ResumeStep // what the token says; nil: nobody here can read it
}

// plannedStep is one transfer. A nil from is a full step.
type plannedStep struct {
	from, to *pdu.FilesystemVersion
	token    string // "": from the beginning
}

// plan is what to do for one filesystem, and what is worth telling about it.
type plan struct {
	steps []plannedStep
	notes []string
	empty bool // the sender has no snapshot
}

// makePlan is the planner: it depends on nothing but its argument, and changes nothing.
func makePlan(in planInput) (plan, error) {
	sender, err := sortVersions("sender", in.sender)
	if err != nil {
		return plan{}, err
	}
	receiver, err := sortVersions("receiver", in.receiver)
	if err != nil {
		return plan{}, err
	}
	base, err := findBase(in.filesystem, sender, snapshotsOf(receiver))
	if err != nil {
		return plan{}, err
	}
	var p plan
	first, err := p.firstStep(in, sender, base)
	if err != nil {
		return plan{}, err
	}
	if first != nil {
		p.steps = append(p.steps, *first)
		base = first.to
	}
	for _, to := range newerSnapshots(sender, base) {
		p.steps = append(p.steps, plannedStep{from: base, to: to})
		base = to
	}
	p.passUnreadToken(in)
	return p, nil
}

func (p *plan) notef(format string, args ...any) {
	p.notes = append(p.notes, fmt.Sprintf(format, args...))
}

// firstStep is the step that does not simply follow from base: a resumed or an
// initial one. nil: there is none.
func (p *plan) firstStep(in planInput, sender []*pdu.FilesystemVersion, base *pdu.FilesystemVersion) (*plannedStep, error) {
	if s := p.resumedStep(in, sender, base); s != nil {
		return s, nil
	}
	snapshots := snapshotsOf(sender)
	if len(snapshots) == 0 {
		p.empty = true
		return nil, nil
	}
	if base != nil {
		return nil, nil
	}
	switch in.policy {
	case InitialFail:
		return nil, ErrInitial
	case InitialAll:
		return &plannedStep{to: snapshots[0]}, nil
	}
	return &plannedStep{to: snapshots[len(snapshots)-1]}, nil
}

// resumedStep is the step that the token continues, if it can still be taken.
func (p *plan) resumedStep(in planInput, sender []*pdu.FilesystemVersion, base *pdu.FilesystemVersion) *plannedStep {
	if in.token == "" || in.resume == nil {
		return nil
	}
	to := slices.IndexFunc(sender, func(v *pdu.FilesystemVersion) bool {
		return v.Type == pdu.FilesystemVersion_Snapshot && v.Guid == in.resume.ToGUID
	})
	switch {
	case to < 0:
		p.notef("resume token dropped: the sender has no snapshot with guid %016x any more", in.resume.ToGUID)
	case in.resume.FromGUID != base.GetGuid():
		p.notef("resume token dropped: it starts from guid %016x, the newest version on both sides is guid %016x",
			in.resume.FromGUID, base.GetGuid())
	case to <= slices.Index(sender, base):
		p.notef("resume token dropped: %s is not newer than what the receiver has", versionName(sender[to]))
	default:
		return &plannedStep{from: base, to: sender[to], token: in.token}
	}
	return nil
}

// passUnreadToken gives a token that nobody here can read to the first step: the
// sender finds out whether it fits.
func (p *plan) passUnreadToken(in planInput) {
	if in.resume == nil && len(p.steps) > 0 {
		p.steps[0].token = in.token
	}
	if in.token != "" && len(p.steps) == 0 {
		p.notef("the receiver keeps the beginning of a broken step; there is nothing to send")
	}
}

// findBase returns the newest version that both sides have, from the sender's list:
// the snapshot, else a bookmark. nil: the receiver has no version, or the sender has
// none at all. It must be the receiver's newest.
func findBase(filesystem string, sender, receiver []*pdu.FilesystemVersion) (*pdu.FilesystemVersion, error) {
	if len(receiver) == 0 || len(sender) == 0 {
		return nil, nil
	}
	known := map[uint64]*pdu.FilesystemVersion{}
	for _, v := range sender {
		if known[v.Guid] == nil || v.Type == pdu.FilesystemVersion_Snapshot {
			known[v.Guid] = v
		}
	}
	for i, v := range slices.Backward(receiver) {
		common := known[v.Guid]
		if common != nil && i == len(receiver)-1 {
			return common, nil
		}
		if common != nil {
			return nil, &DivergedError{Filesystem: filesystem, Common: common, Sender: sender, Receiver: receiver}
		}
	}
	return nil, &DivergedError{Filesystem: filesystem, Sender: sender, Receiver: receiver}
}

// newerSnapshots returns the snapshots after base in a sorted list; none if base is nil.
func newerSnapshots(sorted []*pdu.FilesystemVersion, base *pdu.FilesystemVersion) []*pdu.FilesystemVersion {
	i := slices.Index(sorted, base)
	if i < 0 {
		return nil
	}
	return snapshotsOf(sorted[i+1:])
}

func snapshotsOf(versions []*pdu.FilesystemVersion) []*pdu.FilesystemVersion {
	var snapshots []*pdu.FilesystemVersion
	for _, v := range versions {
		if v.Type == pdu.FilesystemVersion_Snapshot {
			snapshots = append(snapshots, v)
		}
	}
	return snapshots
}

// sortVersions checks a peer's list and returns it by age. Peers of the base protocol
// need not sort theirs. A bookmark sorts before the snapshot that it marks.
func sortVersions(side string, list []*pdu.FilesystemVersion) ([]*pdu.FilesystemVersion, error) {
	guids, names := map[uint64]bool{}, map[string]bool{}
	for _, v := range list {
		if err := checkVersion(v); err != nil {
			return nil, fmt.Errorf("%w: versions of the %s: %w", ErrProtocol, side, err)
		}
		if names[versionName(v)] {
			return nil, fmt.Errorf("%w: versions of the %s: %s twice", ErrProtocol, side, versionName(v))
		}
		names[versionName(v)] = true
		if v.Type == pdu.FilesystemVersion_Bookmark {
			continue
		}
		if guids[v.Guid] {
			return nil, fmt.Errorf("%w: versions of the %s: two snapshots with guid %016x", ErrProtocol, side, v.Guid)
		}
		guids[v.Guid] = true
	}
	sorted := slices.Clone(list)
	slices.SortStableFunc(sorted, func(a, b *pdu.FilesystemVersion) int {
		return cmp.Or(cmp.Compare(a.CreateTXG, b.CreateTXG), -cmp.Compare(a.Type, b.Type))
	})
	return sorted, nil
}

func checkVersion(v *pdu.FilesystemVersion) error {
	switch {
	case v == nil:
		return fmt.Errorf("an empty entry")
	case v.Name == "":
		return fmt.Errorf("a version without a name")
	case v.Guid == 0:
		return fmt.Errorf("%s has guid 0", versionName(v))
	case v.Type != pdu.FilesystemVersion_Snapshot && v.Type != pdu.FilesystemVersion_Bookmark:
		return fmt.Errorf("%s is of unknown type %d", v.Name, v.Type)
	}
	return nil
}
