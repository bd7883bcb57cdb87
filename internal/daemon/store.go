package daemon

import (
	"context"
	"errors"
	"fmt"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/endpoint/dir"
)

// List lists what is in the job's store. A store that nothing came to yet is empty.
func (j *Job) List() ([]dir.StoredFilesystem, error) {
	list, err := dir.ListStore(j.Store())
	if errors.Is(err, endpoint.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("job %s: %w", j.Name(), err)
	}
	return list, nil
}

// A StoreProgress is called with the bytes of one version that are done and that
// there are.
type StoreProgress func(name string, done, total uint64)

// Restore restores a version from the job's store; version "" is the newest. See
// dir.Restore. Progress may be nil.
func (j *Job) Restore(ctx context.Context, filesystem, version, target string, progress StoreProgress) (*dir.RestoreReport, error) {
	var opts dir.RestoreOptions
	if progress != nil {
		name, total := j.measure(filesystem, version)
		opts.Progress = func(bytes int64) { progress(name, uint64(bytes), total) }
	}
	report, err := dir.Restore(ctx, j.Store(), filesystem, version, target, opts)
	if err != nil {
		err = fmt.Errorf("job %s: %w", j.Name(), err)
	}
	return report, err
}

// measure returns a version's name and size. What cannot be found or read has none,
// which only whoever works on it can explain.
func (j *Job) measure(filesystem, version string) (name string, bytes uint64) {
	list, _ := j.List()
	for _, fs := range list {
		for _, v := range fs.Versions {
			if fs.Name == filesystem && !v.Bookmark && (version == "" || version == v.Name) {
				name, bytes = fs.Name+"@"+v.Name, uint64(v.Bytes)
			}
		}
	}
	return name, bytes
}

// Verified is what a verification of one version found.
type Verified struct {
	Filesystem string
	Version    string
	Report     *dir.VerifyReport // nil: not even the manifest could be read
	Err        error             // it could not be verified to its end
}

// Good reports whether the version is all that its manifest says.
func (v Verified) Good() bool { return v.Err == nil && len(v.Report.Mismatches) == 0 }

// Verify checks every file of every version in the job's store. Progress may be nil.
// The error joins those of all versions; it is nil if mismatches are all that was
// found.
func (j *Job) Verify(ctx context.Context, progress StoreProgress) ([]Verified, error) {
	list, err := j.List()
	if err != nil {
		return nil, err
	}
	if progress == nil {
		progress = func(string, uint64, uint64) {}
	}
	var all []Verified
	var errs []error
	for _, fs := range list {
		for _, version := range fs.Versions {
			if version.Bookmark {
				continue // has no files
			}
			if ctx.Err() != nil {
				return all, errors.Join(append(errs, context.Cause(ctx))...)
			}
			v := j.verify(ctx, fs.Name, version, progress)
			if v.Err != nil {
				errs = append(errs, fmt.Errorf("job %s: %w", j.Name(), v.Err))
			}
			all = append(all, v)
		}
	}
	return all, errors.Join(errs...)
}

func (j *Job) verify(ctx context.Context, filesystem string, version dir.StoredVersion, progress StoreProgress) Verified {
	v := Verified{Filesystem: filesystem, Version: version.Name}
	name := filesystem + "@" + version.Name
	v.Report, v.Err = dir.Verify(ctx, j.Store(), filesystem, version.Name, dir.VerifyOptions{
		Progress: func(bytes int64) { progress(name, uint64(bytes), uint64(version.Bytes)) },
	})
	return v
}
