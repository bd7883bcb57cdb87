package daemon

import (
	"context"
	"errors"
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

// Restore restores a version from the job's store; version "" is the newest. See
// dir.Restore. Progress may be nil. The target's parent must exist, and the target lie
// apart from what the configuration names. The error is endpoint.ErrInvalid if nothing
// of the names or the target's can ever be.
func (j *Job) Restore(ctx context.Context, filesystem, version, target string, progress StoreProgress) (*dir.RestoreReport, error) {
	store, name, err := j.locate(filesystem)
	if err != nil {
		return nil, err
	}
	err = checkNames(name, version)
	if err == nil {
		err = j.checkTarget(target)
	}
	if err != nil {
		return nil, fmt.Errorf("job %s: %w", j.Name(), err)
	}
	var opts dir.RestoreOptions
	if progress != nil {
		title, total := j.measure(filesystem, version)
		opts.Progress = func(bytes int64) { progress(title, uint64(bytes), total) }
	}
	report, err := dir.Restore(ctx, store, name, version, target, opts)
	if report != nil {
		report.Filesystem = filesystem // as it was asked for
	}
	if errors.Is(err, endpoint.ErrNotFound) {
		err = fmt.Errorf("%w; %s", err, j.known(filesystem))
	}
	if err != nil {
		err = fmt.Errorf("job %s: %w", j.Name(), err)
	}
	return report, err
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
func (j *Job) checkTarget(target string) error {
	real, err := paths.Resolve(target)
	if err != nil {
		return err
	}
	for _, other := range j.all {
		for _, place := range places(other) {
			if overlap(real, place) {
				text := fmt.Sprintf("%s and %s (of job %s) lie one in the other; restore to a directory apart", target, place, other.Name)
				return &explained{text, endpoint.ErrInvalid}
			}
		}
	}
	if _, err := os.Stat(filepath.Dir(real)); err != nil {
		return fmt.Errorf("the parent directory of %s has to be there: %w", target, err)
	}
	return nil
}

// overlap reports whether a resolved path and a place lie one in the other. In a place
// that cannot be resolved lies nothing.
func overlap(real, place string) bool {
	place, err := paths.Resolve(place)
	return err == nil && (paths.Within(real, place) || paths.Within(place, real))
}

// places are the directories that a job names.
func places(j config.Job) []string {
	all := slices.Sorted(maps.Values(j.Endpoint.Directories))
	for _, path := range []string{j.Endpoint.Store, j.Endpoint.Root} {
		if path != "" {
			all = append(all, path)
		}
	}
	return all
}

// known tells what there is: the versions of the filesystem, if it is there, else the
// filesystems.
func (j *Job) known(filesystem string) string {
	list, _ := j.List() // what cannot be listed cannot be told
	var names []string
	for _, item := range list {
		if item.Name == filesystem {
			return enumerate(snapshotNames(item.Versions))
		}
		names = append(names, item.Name)
	}
	return enumerate(names)
}

func snapshotNames(versions []dir.StoredVersion) []string {
	var names []string
	for _, v := range versions {
		if !v.Bookmark {
			names = append(names, v.Name)
		}
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

// measure returns a version's full name and size. What cannot be found or read has
// none, which only whoever works on it can explain.
func (j *Job) measure(filesystem, version string) (title string, bytes uint64) {
	list, _ := j.List()
	for _, item := range list {
		for _, v := range item.Versions {
			if item.Name == filesystem && !v.Bookmark && (version == "" || version == v.Name) {
				title, bytes = item.Name+"@"+v.Name, uint64(v.Bytes)
			}
		}
	}
	return title, bytes
}
