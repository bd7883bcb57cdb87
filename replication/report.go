package replication

import (
	"errors"
	"fmt"
	"time"
)

// State is how far a filesystem came.
type State string

// The states of a filesystem.
const (
	StatePending State = "pending"     // not all steps were taken: a dry run, or the context ended
	StateDone    State = "done"        // the receiver has all that the sender has
	StateEmpty   State = "no_snapshot" // the sender has no snapshot of it
	StateFailed  State = "failed"      // Error says why; the steps in Steps were taken nevertheless
)

// Report is what one Run did, or with DryRun would do. It can be marshaled as JSON, in
// which empty lists are [].
type Report struct {
	// Filesystems that were planned, parents before children. The sender's placeholders
	// are among them only if they have an error.
	Filesystems []FilesystemReport `json:"filesystems"`
	// Error is why the run as a whole ended early. "": it did not.
	Error string `json:"error,omitempty"`

	err error
}

// FilesystemReport is one filesystem's part of a Report.
type FilesystemReport struct {
	Filesystem string `json:"filesystem"`
	State      State  `json:"state"`
	// Steps that the receiver has and the sender knows of, in order.
	Steps []StepReport `json:"steps"`
	// Pending are steps that were planned and not completed, in order.
	Pending []PendingStep `json:"pending"`
	// Bytes handed to the receiver, those of failed attempts included.
	Bytes uint64 `json:"bytes"`
	// Failures counts attempts that failed, whether or not a later one succeeded.
	Failures int `json:"failures"`
	// Notes tell what is no error and not as usual: a dropped resume token, for one.
	Notes []string `json:"notes"`
	Error string   `json:"error,omitempty"`

	err error
}

// StepReport is a completed step. Versions are written "@snapshot" or "#bookmark".
type StepReport struct {
	From     string        `json:"from,omitempty"` // "": a full step
	To       string        `json:"to"`
	Bytes    uint64        `json:"bytes"` // of the attempt that completed it
	Duration time.Duration `json:"duration_ns"`
	Resumed  bool          `json:"resumed,omitempty"` // it continued an earlier attempt
}

// PendingStep is a step that was not completed.
type PendingStep struct {
	From     string `json:"from,omitempty"`
	To       string `json:"to"`
	Expected uint64 `json:"expected_bytes,omitempty"` // the sender's estimate; 0: unknown
	Resumes  bool   `json:"resumes,omitempty"`        // it would continue a broken step
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

// Err is the filesystem's error: why State is StateFailed, or nil.
func (f *FilesystemReport) Err() error { return f.err }

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// report is the state of the run as a Report.
func (r *run) report() *Report {
	r.mu.Lock()
	defer r.mu.Unlock()
	rep := &Report{Filesystems: make([]FilesystemReport, 0, len(r.filesystems)), Error: text(r.err), err: r.err}
	for _, f := range r.filesystems {
		if !f.placeholder || f.err != nil {
			rep.Filesystems = append(rep.Filesystems, f.report())
		}
	}
	return rep
}

// report is the filesystem's part; run.mu is held.
func (f *filesystem) report() FilesystemReport {
	rep := FilesystemReport{
		Filesystem: f.path, State: f.state, Steps: append([]StepReport{}, f.done...), Pending: []PendingStep{},
		Bytes: f.moved.Load(), Failures: f.failures, Notes: append([]string{}, f.notes...), Error: text(f.err), err: f.err,
	}
	for _, s := range f.pending {
		rep.Pending = append(rep.Pending, PendingStep{
			From: versionName(s.from), To: versionName(s.to), Expected: s.expected, Resumes: s.token != "",
		})
	}
	return rep
}
