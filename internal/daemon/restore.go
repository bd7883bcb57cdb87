package daemon

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/endpoint/dir"
	"github.com/dualrepl/dualrepl/internal/config"
	"github.com/dualrepl/dualrepl/internal/paths"
)

// Restore restores a version from the job's store; version "" is the newest, unless there
// are damaged ones, whose age nobody knows. See dir.Restore. Progress may be nil. The
// target's parent must exist, and the target lie apart from what the configuration names:
// only what was lost may go back to its place. The error is endpoint.ErrInvalid if nothing
// of the names or the target's can ever be.
func (j *Job) Restore(ctx context.Context, filesystem, version, target string, progress StoreProgress) (*dir.RestoreReport, error) {
	if err := j.onlyDirectories(restore); err != nil {
		return nil, err
	}
	report, err := j.restore(ctx, filesystem, version, target, progress)
	if err != nil {
		err = fmt.Errorf("job %s: %w", j.Name(), err)
	}
	return report, err
}

func (j *Job) restore(ctx context.Context, filesystem, version, target string, progress StoreProgress) (*dir.RestoreReport, error) {
	store, name, err := j.locate(filesystem)
	if err == nil {
		err = checkNames(name, version)
	}
	if err == nil {
		err = j.checkTarget(filesystem, target)
	}
	if err != nil {
		return nil, err
	}
	found, err := j.choose(ctx, filesystem, version)
	if err != nil {
		return nil, err
	}
	var opts dir.RestoreOptions
	if progress != nil {
		title := filesystem + "@" + found.Name
		opts.Progress = func(bytes int64) { progress(title, uint64(bytes), uint64(found.Bytes)) }
	}
	report, err := dir.Restore(ctx, store, name, found.Name, target, opts)
	if report != nil {
		report.Filesystem = filesystem // as it was asked for
	}
	return report, withClient(filesystem, name, err)
}

// checkNames checks the form of names; the error is endpoint.ErrInvalid.
func checkNames(filesystem, version string) error {
	if err := dir.ValidateFilesystem(filesystem); err != nil {
		return err
	}
	if version == "" {
		return nil
	}
	return dir.ValidateVersion(version)
}

// checkTarget refuses to restore to where other data has its place: what lands in a
// directory that is replicated, for one, is replicated too.
func (j *Job) checkTarget(filesystem, target string) error {
	real, err := paths.Resolve(target)
	if err != nil {
		return err
	}
	home := j.isHome(filesystem, real)
	for _, other := range j.all {
		for _, place := range places(other, !home) {
			if how := relation(real, place); how != "" {
				text := fmt.Sprintf("%s %s of job %s; restore to a directory apart", target, how, other.Name)
				return &explained{text, endpoint.ErrInvalid}
			}
		}
	}
	if _, err := os.Stat(filepath.Dir(real)); err != nil {
		return fmt.Errorf("the parent directory of %s has to be there: %w", target, err)
	}
	return nil
}

// isHome reports whether a resolved path is the directory that the filesystem's snapshots
// are taken of: where it was lost, it is restored to its place.
func (j *Job) isHome(filesystem, real string) bool {
	home, ok := j.conf.Endpoint.Directories[filesystem]
	return ok && relation(real, home) == isPlace
}

// isPlace is what relation says of two names of one directory.
const isPlace = "is a directory"

// relation says what a resolved path is to a place, or nothing if they are apart. In a
// place that cannot be resolved lies nothing.
func relation(real, place string) string {
	resolved, err := paths.Resolve(place)
	switch {
	case err != nil:
		return ""
	case real == resolved:
		return isPlace
	case paths.Within(real, resolved):
		return "lies in " + place
	case paths.Within(resolved, real):
		return "contains " + place
	}
	return ""
}

// places are the directories that a job keeps versions in and, if asked for, those that it
// takes snapshots of. A zfs job has none.
func places(j config.Job, sources bool) []string {
	var all []string
	if place := cmp.Or(j.Endpoint.Store, j.Endpoint.Root); place != "" {
		all = append(all, place)
	}
	if sources {
		all = append(all, slices.Sorted(maps.Values(j.Endpoint.Directories))...)
	}
	return all
}

// choose finds the version to restore; "" is the newest.
func (j *Job) choose(ctx context.Context, filesystem, version string) (dir.StoredVersion, error) {
	good, damaged, err := j.snapshots(ctx, filesystem)
	switch {
	case err != nil:
		return dir.StoredVersion{}, err
	case version == "":
		return newest(filesystem, good, damaged)
	}
	all := slices.Concat(good, damaged)
	i := slices.IndexFunc(all, func(v dir.StoredVersion) bool { return v.Name == version })
	if i < 0 {
		return dir.StoredVersion{}, fmt.Errorf("%w: version %s@%s; %s", endpoint.ErrNotFound, filesystem, version, enumerate(versionNames(good)))
	}
	return all[i], nil // of a damaged one, package dir tells what is wrong with it
}

// newest is the last of the good versions, unless a damaged one may be newer.
func newest(filesystem string, good, damaged []dir.StoredVersion) (dir.StoredVersion, error) {
	switch {
	case len(good) > 0 && len(damaged) == 0:
		return good[len(good)-1], nil
	case len(good) > 0:
		return dir.StoredVersion{}, fmt.Errorf("of %s, %s cannot be read (%s), and may be the newest: name a version to restore; %s",
			filesystem, strings.Join(versionNames(damaged), ", "), damaged[0].Damaged, enumerate(versionNames(good)))
	case len(damaged) > 0:
		return dir.StoredVersion{}, fmt.Errorf("all versions of %s are damaged: %s: %s", filesystem, damaged[0].Name, damaged[0].Damaged)
	}
	return dir.StoredVersion{}, fmt.Errorf("%w: %s has no version yet", endpoint.ErrNotFound, filesystem)
}

// snapshots lists a filesystem's versions that have files, those that can be read in
// their order.
func (j *Job) snapshots(ctx context.Context, filesystem string) (good, damaged []dir.StoredVersion, err error) {
	store, name, err := j.locate(filesystem)
	if err != nil {
		return nil, nil, err
	}
	list, err := listStore(store, "")
	if err != nil {
		return nil, nil, err
	}
	i := slices.IndexFunc(list, func(item dir.StoredFilesystem) bool { return item.Name == name })
	if i < 0 {
		return nil, nil, fmt.Errorf("%w: filesystem %s; %s", endpoint.ErrNotFound, filesystem, enumerate(j.stored(ctx)))
	}
	for _, v := range list[i].Versions {
		switch {
		case v.Bookmark:
		case v.Damaged != "":
			damaged = append(damaged, v)
		default:
			good = append(good, v)
		}
	}
	return good, damaged, nil
}

// stored are the names of the filesystems that the job's store has.
func (j *Job) stored(ctx context.Context) []string {
	list, _ := j.List(ctx) // what cannot be listed cannot be told
	names := make([]string, len(list))
	for i, item := range list {
		names[i] = item.Name
	}
	return names
}

func versionNames(versions []dir.StoredVersion) []string {
	names := make([]string, len(versions))
	for i, v := range versions {
		names[i] = v.Name
	}
	return names
}

// enumerate lists the last few of the names: a list of thousands is no message.
func enumerate(names []string) string {
	const shown = 10
	switch n := len(names); {
	case n == 0:
		return "there is none"
	case n == 1:
		return "there is only " + names[0]
	case n > shown:
		return fmt.Sprintf("there are %d, at last: %s", n, strings.Join(names[n-shown:], ", "))
	}
	return "there are: " + strings.Join(names, ", ")
}

// sizes are those of each filesystem's newest version, of what can be listed.
func (j *Job) sizes(ctx context.Context) map[string]uint64 {
	list, _ := j.List(ctx) // they only say how long something may take
	sizes := make(map[string]uint64)
	for _, item := range list {
		for _, v := range item.Versions {
			if !v.Bookmark && v.Damaged == "" {
				sizes[item.Name] = uint64(v.Bytes)
			}
		}
	}
	return sizes
}
