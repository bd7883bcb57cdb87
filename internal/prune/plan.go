package prune

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
)

// The reasons to destroy nothing of what the rules do not keep.
const (
	skipNoPeer   = "nothing is replicated from here, and not_replicated keeps what was not replicated"
	skipNoCursor = "there is no replication cursor yet, and not_replicated keeps what was not replicated"
	skipNoPlace  = "the version at the replication cursor is not here, so that not_replicated keeps all"
	skipDiverged = "the sender has none of these snapshots"
)

// plan is what to do in one filesystem.
type plan struct {
	destroy []Snapshot
	kept    int    // snapshots that stay
	skipped string // why nothing is destroyed that the rules would not keep
}

// plan asks the sender only where the rules leave something to destroy, whatever was
// replicated.
func (r *run) plan(ctx context.Context, path string) (plan, error) {
	versions, err := listVersions(ctx, r.Name, r.Endpoint, path)
	if err != nil {
		return plan{}, err
	}
	snapshots, err := asReplicated(versions)
	if err != nil {
		return plan{}, fmt.Errorf("%w: the %s: %w", ErrProtocol, r.Name, err)
	}
	p := plan{kept: len(snapshots)}
	if len(r.doomed(snapshots)) == 0 {
		return p, nil
	}
	base, skipped, err := r.compare(ctx, path, versions, snapshots)
	if err != nil || skipped != "" {
		p.skipped = skipped
		return p, err
	}
	p.destroy = slices.DeleteFunc(r.doomed(snapshots), func(s Snapshot) bool { return s.Version.GetGuid() == base })
	p.kept -= len(p.destroy)
	return p, nil
}

// doomed are what the rules do not keep of those that are not of the future.
func (r *run) doomed(snapshots []Snapshot) []Snapshot {
	future := func(s Snapshot) bool { return s.Creation.After(r.future) }
	return Destroy(slices.DeleteFunc(slices.Clone(snapshots), future), r.Rules)
}

// asReplicated returns the snapshots among the versions, as if all were replicated.
func asReplicated(versions []*pdu.FilesystemVersion) ([]Snapshot, error) {
	var snapshots []Snapshot
	for _, v := range versions {
		if v.GetType() != pdu.FilesystemVersion_Snapshot {
			continue
		}
		creation, err := time.Parse(time.RFC3339, v.GetCreation())
		if err != nil {
			return nil, fmt.Errorf("snapshot %q: %w", v.GetName(), err)
		}
		snapshots = append(snapshots, Snapshot{Version: v, Creation: creation, Replicated: true})
	}
	return snapshots, nil
}

// compare marks what was replicated, where a rule wants to know. Base is the GUID of the
// snapshot that replication goes on from, which has to stay, or 0; skipped is why nothing
// may be destroyed, or "".
func (r *run) compare(ctx context.Context, path string, versions []*pdu.FilesystemVersion, snapshots []Snapshot) (base uint64, skipped string, err error) {
	if r.Name == Receiver {
		base, err = r.newestCommon(ctx, path, snapshots)
		if err == nil && base == 0 {
			skipped = skipDiverged
		}
		if err != nil || skipped != "" || !r.notReplicated {
			return base, skipped, err
		}
	}
	cursor, err := r.cursor(ctx, path)
	if err != nil {
		return 0, "", err
	}
	if r.Name != Receiver && !r.releaseCursor {
		base = cursor
	}
	if r.notReplicated {
		skipped = r.mark(versions, snapshots, cursor)
	}
	return base, skipped, nil
}

// newestCommon is the GUID of the newest snapshot that the sender has as a snapshot or a
// bookmark. 0: it has none.
func (r *run) newestCommon(ctx context.Context, path string, snapshots []Snapshot) (uint64, error) {
	versions, err := listVersions(ctx, Sender, r.Cursors, path)
	if err != nil {
		return 0, err
	}
	sent := make(map[uint64]bool, len(versions))
	for _, v := range versions {
		sent[v.GetGuid()] = true
	}
	var newest *pdu.FilesystemVersion
	for _, s := range snapshots {
		if sent[s.Version.GetGuid()] && s.Version.GetCreateTXG() >= newest.GetCreateTXG() {
			newest = s.Version
		}
	}
	return newest.GetGuid(), nil
}

// cursor is the GUID at the sender's replication cursor. 0: it has none.
func (r *run) cursor(ctx context.Context, path string) (uint64, error) {
	if r.Cursors == nil {
		return 0, nil
	}
	res, err := r.Cursors.ReplicationCursor(ctx, &pdu.ReplicationCursorReq{Filesystem: path})
	if err != nil {
		return 0, fmt.Errorf("replication cursor of the sender: %w", err)
	}
	return res.GetGuid(), nil
}

// mark tells the snapshots whether they were replicated: the versions up to the cursor
// were. A cursor whose snapshot is gone may still be there as a bookmark.
func (r *run) mark(versions []*pdu.FilesystemVersion, snapshots []Snapshot, cursor uint64) (skipped string) {
	if r.Cursors == nil {
		return skipNoPeer
	}
	if cursor == 0 {
		return skipNoCursor
	}
	at := slices.IndexFunc(versions, func(v *pdu.FilesystemVersion) bool { return v.GetGuid() == cursor })
	if at < 0 {
		return skipNoPlace
	}
	for i := range snapshots {
		v := snapshots[i].Version
		snapshots[i].Replicated = v.GetCreateTXG() <= versions[at].GetCreateTXG()
		snapshots[i].AtCursor = v.GetGuid() == cursor
	}
	return ""
}

// listVersions lists a filesystem's versions: all have a GUID and their place in the order.
func listVersions(ctx context.Context, name string, e endpoint.Endpoint, path string) ([]*pdu.FilesystemVersion, error) {
	res, err := e.ListFilesystemVersions(ctx, &pdu.ListFilesystemVersionsReq{Filesystem: path})
	if err != nil {
		return nil, fmt.Errorf("list versions of the %s: %w", name, err)
	}
	for _, v := range res.GetVersions() {
		if v.GetGuid() == 0 || v.GetCreateTXG() == 0 || v.GetName() == "" {
			return nil, fmt.Errorf("%w: version %q of the %s has no GUID, CreateTXG or name", ErrProtocol, v.GetName(), name)
		}
	}
	return res.GetVersions(), nil
}
