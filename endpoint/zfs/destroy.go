package zfs

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
)

// destroySnapshots destroys snapshots of fs, many with one process, and answers as
// endpoint.Endpoint says. One that has holds, or another GUID than the request says, is
// left alone.
func (p *program) destroySnapshots(ctx context.Context, fs string, snapshots []*pdu.FilesystemVersion) (*pdu.DestroySnapshotsRes, error) {
	for _, v := range snapshots {
		if v == nil || v.Type != pdu.FilesystemVersion_Snapshot {
			return nil, fmt.Errorf("%w: only snapshots can be destroyed: %v", endpoint.ErrInvalid, v)
		}
	}
	versions, err := p.versions(ctx, fs)
	if err != nil {
		return nil, err
	}
	byName := map[string][]version{} // requests may be as long as the list
	for _, v := range versions {
		byName[v.name] = append(byName[v.name], v)
	}
	failed, wanted := map[string]error{}, map[string]bool{}
	for _, v := range snapshots {
		if err := destroyable(byName[v.Name], v); err != nil {
			failed[v.Name] = err
		} else {
			wanted[v.Name] = true
		}
	}
	names := slices.Sorted(maps.Keys(wanted))
	for name, err := range inBatches(ctx, names, func(names []string) error { return p.destroy(ctx, fs, names) }) {
		failed[name] = err
	}
	p.explainHolds(ctx, fs, versions, failed)
	return destroyResults(snapshots, failed), nil
}

var errHeld = fmt.Errorf("%w: it has holds", endpoint.ErrFailedPrecondition)

// destroyable tells why a snapshot cannot be destroyed, as far as the list of versions does.
func destroyable(versions []version, wanted *pdu.FilesystemVersion) error {
	v, err := findVersion(versions, wanted)
	switch {
	case err != nil:
		return err
	case v.userRefs > 0:
		return errHeld
	}
	return nil
}

// destroy destroys all of the snapshots or none. Those that are gone are as good.
func (p *program) destroy(ctx context.Context, fs string, names []string) error {
	_, err := p.run(ctx, "destroy", fs+"@"+strings.Join(names, ","))
	if errors.Is(err, endpoint.ErrNotFound) {
		return nil
	}
	return err
}

// explainHolds says for snapshots that have holds which these are.
func (p *program) explainHolds(ctx context.Context, fs string, versions []version, failed map[string]error) {
	var held []version
	for _, v := range versions {
		if !v.bookmark && errors.Is(failed[v.name], errHeld) {
			held = append(held, v)
		}
	}
	holds, err := p.holdsOf(ctx, fs, held)
	if err != nil {
		p.log.Debug("holds cannot be told", "filesystem", fs, "err", err)
	}
	for name, tags := range holds {
		failed[name] = fmt.Errorf("%w: %s", errHeld, strings.Join(tags, ", "))
	}
}

func destroyResults(snapshots []*pdu.FilesystemVersion, failed map[string]error) *pdu.DestroySnapshotsRes {
	res := &pdu.DestroySnapshotsRes{Results: make([]*pdu.DestroySnapshotRes, len(snapshots))}
	for i, v := range snapshots {
		res.Results[i] = &pdu.DestroySnapshotRes{Snapshot: v}
		if err := failed[v.Name]; err != nil {
			res.Results[i].Error = fmt.Sprintf("destroy %s: %v", v.Name, err)
		}
	}
	return res
}

// findVersion returns the version of that kind, name and, unless that is 0, GUID;
// endpoint.ErrNotFound.
func findVersion(versions []version, wanted *pdu.FilesystemVersion) (version, error) {
	if err := endpoint.ValidateVersionName(wanted.GetName()); err != nil {
		return version{}, err
	}
	for _, v := range versions {
		if v.name != wanted.GetName() || v.bookmark != (wanted.GetType() == pdu.FilesystemVersion_Bookmark) {
			continue
		}
		if guid := wanted.GetGuid(); guid != 0 && guid != v.guid {
			return version{}, fmt.Errorf("%w: %s has GUID %#x, not %#x", endpoint.ErrNotFound, v.fullName(""), v.guid, guid)
		}
		return v, nil
	}
	return version{}, fmt.Errorf("%w: version %s", endpoint.ErrNotFound, wanted.GetName())
}
