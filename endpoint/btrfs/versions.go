package btrfs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
	"golang.org/x/sys/unix"
)

// version is a snapshot in the directory "@name".
type version struct {
	subvolume
	name string
}

func (v version) guid() uint64 { return v.identity().guid() }

func (v version) pdu() *pdu.FilesystemVersion {
	return &pdu.FilesystemVersion{
		Name: v.name, Guid: v.guid(), CreateTXG: v.txg, Creation: v.created.UTC().Format(time.RFC3339),
	}
}

// versions lists the snapshots in ascending order of their creation on this file system.
// What is called like one and is none is logged and left out.
func (f *filesystem) versions(log *slog.Logger) ([]version, error) {
	entries, err := f.entries()
	if err != nil {
		return nil, fmt.Errorf("list versions of %s: %w", f.name, kernelError(err))
	}
	s, err := f.readState()
	if err != nil {
		return nil, err
	}
	var versions []version
	for _, e := range entries {
		name, ok := strings.CutPrefix(e.Name(), "@")
		if !ok || validateVersion(name) != nil {
			continue
		}
		v, err := f.version(name)
		if err != nil {
			log.Debug("no version", "filesystem", f.name, "name", name, "err", err)
			continue
		}
		versions = append(versions, v)
	}
	setCreations(versions, s.Received)
	slices.SortFunc(versions, func(a, b version) int { return cmp.Compare(a.txg, b.txg) })
	return versions, nil
}

// setCreations replaces the times at which versions were received.
func setCreations(versions []version, received []creation) {
	at := make(map[uint64]time.Time, len(received))
	for _, c := range received {
		at[c.GUID] = c.Time
	}
	for i := range versions {
		if t, ok := at[versions[i].guid()]; ok {
			versions[i].created = t
		}
	}
}

// version looks at one snapshot; endpoint.ErrNotFound.
func (f *filesystem) version(name string) (version, error) {
	dir, v, err := f.openVersion(name)
	if err != nil {
		return version{}, err
	}
	return v, dir.Close()
}

// openVersion opens a snapshot's directory, for the caller to close.
func (f *filesystem) openVersion(name string) (*os.File, version, error) {
	dir, v, err := f.subvolume("@" + name)
	if err != nil {
		return nil, version{}, fmt.Errorf("version %s@%s: %w", f.name, name, err)
	}
	if !v.readOnly {
		return nil, version{}, errors.Join(fmt.Errorf("%w: %s is writable, so no version", endpoint.ErrFailedPrecondition, clean(dir)), dir.Close())
	}
	return dir, version{v, name}, nil
}

// find returns the version with a GUID; endpoint.ErrNotFound.
func find(versions []version, guid uint64) (version, error) {
	for _, v := range versions {
		if v.guid() == guid {
			return v, nil
		}
	}
	return version{}, fmt.Errorf("%w: there is no version with GUID %#x", endpoint.ErrNotFound, guid)
}

// listVersions answers a peer that asks for them.
func (f *filesystem) listVersions(log *slog.Logger) (*pdu.ListFilesystemVersionsRes, error) {
	versions, err := f.versions(log)
	if err != nil {
		return nil, err
	}
	res := &pdu.ListFilesystemVersionsRes{}
	for _, v := range versions {
		res.Versions = append(res.Versions, v.pdu())
	}
	return res, nil
}

// destroySnapshots answers a peer that wants snapshots destroyed.
func (f *filesystem) destroySnapshots(ctx context.Context, snapshots []*pdu.FilesystemVersion) (*pdu.DestroySnapshotsRes, error) {
	for _, v := range snapshots {
		if v == nil || v.GetType() != pdu.FilesystemVersion_Snapshot {
			return nil, fmt.Errorf("%w: %q is not a snapshot", endpoint.ErrInvalid, v.GetName())
		}
	}
	res := &pdu.DestroySnapshotsRes{}
	for _, v := range snapshots {
		result := &pdu.DestroySnapshotRes{Snapshot: v}
		if ctx.Err() != nil {
			result.Error = context.Cause(ctx).Error()
		} else if err := f.destroy(v.GetName(), v.GetGuid()); err != nil {
			result.Error = err.Error()
		}
		res.Results = append(res.Results, result)
	}
	return res, nil
}

// destroy destroys a snapshot that nothing marks. Its marks cannot change meanwhile.
func (f *filesystem) destroy(name string, guid uint64) error {
	if err := validateVersion(name); err != nil {
		return err
	}
	return f.updateState(func(s *state) error {
		v, err := f.version(name)
		if err != nil {
			return err
		}
		if guid != 0 && guid != v.guid() {
			return fmt.Errorf("%w: %s@%s has GUID %#x, not %#x", endpoint.ErrNotFound, f.name, name, v.guid(), guid)
		}
		if marks := s.marksOn(v.guid()); len(marks) > 0 {
			return fmt.Errorf("%w: %s@%s is held: %v", endpoint.ErrFailedPrecondition, f.name, name, marks)
		}
		err = destroySubvolume(f.file, "@"+name)
		if errors.Is(err, unix.EPERM) {
			return fmt.Errorf("%w; btrfs says so also of a snapshot that is being sent", err)
		}
		return err
	})
}
