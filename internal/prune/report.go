package prune

import (
	"errors"
	"fmt"
)

// Report is what one [Run] did. It can be marshaled as JSON, in which empty lists are [].
type Report struct {
	// Target is the name of the target: Sender or Receiver.
	Target string `json:"target"`
	// Filesystems that rules were applied to, parents before children.
	Filesystems []FilesystemReport `json:"filesystems"`
	// Error is why the run as a whole ended early. "": it did not.
	Error string `json:"error,omitempty"`

	err error
}

// FilesystemReport is one filesystem's part of a [Report].
type FilesystemReport struct {
	Filesystem string `json:"filesystem"`
	// Destroyed are the names of the snapshots that are gone, the oldest first.
	Destroyed []string `json:"destroyed"`
	// Failed are the snapshots that should be gone, and are not known to be.
	Failed []Failure `json:"failed"`
	// Kept counts the snapshots that should stay: kept by a rule, or against all rules.
	Kept int `json:"kept"`
	// Skipped is why nothing was destroyed that no rule keeps, where that is no error.
	Skipped string `json:"skipped,omitempty"`
	Error   string `json:"error,omitempty"`

	err error
}

// Failure is a snapshot that was not destroyed, and the endpoint's reason.
type Failure struct {
	Snapshot string `json:"snapshot"`
	Error    string `json:"error"`
}

// Err joins the errors of the run and of all filesystems. nil: none failed.
func (r *Report) Err() error {
	errs := []error{r.err}
	for _, fs := range r.Filesystems {
		if fs.err != nil {
			errs = append(errs, fmt.Errorf("filesystem %q: %w", fs.Filesystem, fs.err))
		}
	}
	return errors.Join(errs...)
}

// Destroyed counts the snapshots that are gone, in all filesystems.
func (r *Report) Destroyed() int {
	n := 0
	for _, fs := range r.Filesystems {
		n += len(fs.Destroyed)
	}
	return n
}

func (r *Report) fail(err error) {
	if err != nil {
		r.err, r.Error = err, err.Error()
	}
}

// Err is the filesystem's error, or nil.
func (f *FilesystemReport) Err() error { return f.err }

func (f *FilesystemReport) fail(err error) {
	if err != nil {
		f.err, f.Error = err, err.Error()
	}
}

// failures is the error that Failed amounts to.
func (f *FilesystemReport) failures() error {
	if len(f.Failed) == 0 {
		return nil
	}
	first := f.Failed[0]
	if more := len(f.Failed) - 1; more > 0 {
		return fmt.Errorf("snapshot %q and %d more were not destroyed: %s", first.Snapshot, more, first.Error)
	}
	return fmt.Errorf("snapshot %q was not destroyed: %s", first.Snapshot, first.Error)
}
