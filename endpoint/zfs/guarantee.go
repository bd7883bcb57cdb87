package zfs

import (
	"context"
	"fmt"
	"slices"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
)

// guarantee is what a step has to survive: the protection of initial steps for a full one,
// that of incremental steps for any other. One that is missing or unknown is
// endpoint.ErrInvalid.
func guarantee(req *pdu.SendReq) (pdu.ReplicationGuaranteeKind, error) {
	kind := endpoint.GuaranteeOf(req.GetReplicationConfig(), req.GetFrom() == nil)
	switch kind {
	case pdu.ReplicationGuaranteeKind_GuaranteeResumability,
		pdu.ReplicationGuaranteeKind_GuaranteeIncrementalReplication,
		pdu.ReplicationGuaranteeKind_GuaranteeNothing:
		return kind, nil
	}
	return 0, fmt.Errorf("%w: the request has no guarantee that is known: %v", endpoint.ErrInvalid, kind)
}

// protect sees to it that what the guarantee promises survives snapshots being destroyed:
//
//   - resumability: To, and From if it is a snapshot, have holds, so that a broken step can
//     go on. They stay until the step is completed or another one of the filesystem begins.
//   - incremental: both have bookmarks. A broken step begins anew, but whichever of the two
//     the receiver has can be the From of the next one.
//   - nothing: neither.
//
// Whatever else steps before this one left behind goes afterwards.
func (s *Sender) protect(ctx context.Context, st *step, g pdu.ReplicationGuaranteeKind) error {
	if err := s.checkMarks(st, g); err != nil {
		return err
	}
	var kept []version
	switch g {
	case pdu.ReplicationGuaranteeKind_GuaranteeResumability:
		kept = st.ends(func(v version) bool { return !v.bookmark })
		if err := s.program.hold(ctx, stepHoldTag(s.opts.Job), st.fs, kept...); err != nil {
			return err
		}
	case pdu.ReplicationGuaranteeKind_GuaranteeIncrementalReplication:
		if err := s.markEnds(ctx, st); err != nil {
			return err
		}
	}
	if err := s.releaseSteps(ctx, st, kept); err != nil {
		return err
	}
	return s.destroyMarks(ctx, st, func(v *version) bool {
		return isTentativeCursor(v, s.opts.Job) && !st.marks(v, g)
	})
}

// checkMarks returns endpoint.ErrInvalid if zfs cannot have the bookmarks that the step needs,
// now or when it is completed, as their names would be too long.
func (s *Sender) checkMarks(st *step, g pdu.ReplicationGuaranteeKind) error {
	var name string
	switch g {
	case pdu.ReplicationGuaranteeKind_GuaranteeResumability:
		name = st.fs + "#" + cursorName(s.opts.Job, st.to.guid)
	case pdu.ReplicationGuaranteeKind_GuaranteeIncrementalReplication:
		name = st.fs + "#" + tentativeCursorName(s.opts.Job, st.to.guid)
	}
	if len(name) > endpoint.MaxNameLength {
		return fmt.Errorf("%w: the bookmark %s would have %d bytes, and zfs takes at most %d: the names of the job and the filesystem are too long",
			endpoint.ErrInvalid, name, len(name), endpoint.MaxNameLength)
	}
	return nil
}

// ends are To and From, if there is one, as far as they are wanted.
func (st *step) ends(wanted func(version) bool) []version {
	ends := []version{st.to}
	if st.from != nil {
		ends = append(ends, *st.from)
	}
	return slices.DeleteFunc(ends, func(v version) bool { return !wanted(v) })
}

// markEnds makes tentative cursors of To and From. A From that is a bookmark needs none:
// it is there whatever is destroyed.
func (s *Sender) markEnds(ctx context.Context, st *step) error {
	for _, v := range st.ends(func(v version) bool { return !v.bookmark }) {
		if err := s.mark(ctx, st, v, tentativeCursorName(s.opts.Job, v.guid)); err != nil {
			return err
		}
	}
	return nil
}

func (s *Sender) mark(ctx context.Context, st *step, v version, name string) error {
	if slices.ContainsFunc(st.versions, func(b version) bool { return b.bookmark && b.name == name && b.guid == v.guid }) {
		return nil
	}
	return s.program.bookmark(ctx, st.fs, v, name)
}

// marks tells whether the step needs the tentative cursor v.
func (st *step) marks(v *version, g pdu.ReplicationGuaranteeKind) bool {
	if st.from != nil && st.from.bookmark && st.from.name == v.name {
		return true
	}
	return g == pdu.ReplicationGuaranteeKind_GuaranteeIncrementalReplication && (v.guid == st.to.guid || v.guid == st.fromGUID())
}

// releaseSteps removes the job's step holds from all snapshots but those to keep.
func (s *Sender) releaseSteps(ctx context.Context, st *step, keep []version) error {
	tag := stepHoldTag(s.opts.Job)
	holds, err := s.program.holdsOf(ctx, st.fs, st.versions)
	if err != nil {
		return err
	}
	var stale []version
	for _, v := range st.versions {
		if !v.bookmark && slices.Contains(holds[v.name], tag) && !slices.ContainsFunc(keep, func(k version) bool { return k.name == v.name }) {
			stale = append(stale, v)
		}
	}
	return s.program.release(ctx, tag, st.fs, stale...)
}

// destroyMarks destroys the bookmarks that are stale.
func (s *Sender) destroyMarks(ctx context.Context, st *step, stale func(*version) bool) error {
	for _, v := range st.versions {
		if !stale(&v) {
			continue
		}
		if err := s.program.destroyBookmark(ctx, st.fs, v.name); err != nil {
			return err
		}
	}
	return nil
}

// settle is for a step that the receiver has: the cursor comes first, so that there is
// always something to go on from.
func (s *Sender) settle(ctx context.Context, st *step, g pdu.ReplicationGuaranteeKind) error {
	cursor := ""
	if g != pdu.ReplicationGuaranteeKind_GuaranteeNothing {
		cursor = cursorName(s.opts.Job, st.to.guid)
		if err := s.mark(ctx, st, st.to, cursor); err != nil {
			return err
		}
	}
	if err := s.releaseSteps(ctx, st, nil); err != nil {
		return err
	}
	return s.destroyMarks(ctx, st, func(v *version) bool {
		return isTentativeCursor(v, s.opts.Job) || isCursor(v, s.opts.Job) && v.name != cursor
	})
}
