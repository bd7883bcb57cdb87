package quickstart

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/dualrepl/dualrepl/endpoint/dir"
	"github.com/dualrepl/dualrepl/internal/certs"
	"github.com/dualrepl/dualrepl/internal/config"
	"github.com/dualrepl/dualrepl/internal/daemon"
	"github.com/dualrepl/dualrepl/replication"
)

// The names that the configuration files use. Those of the two sides are in their
// certificates too; the client's is its identity, and so a directory.
const (
	serverName = "passive-side"
	clientName = "active-side"
	pushJob    = "push"
	sinkJob    = "sink"
	filesystem = "data"
)

// Options of Run. Program and Step are needed.
type Options struct {
	// Source is the user's directory, which is only read. "": a sample is made.
	Source string
	// Work is the directory that all is written to: new, or empty, and not within
	// Source. "": a new one in $TMPDIR or, without that, in /var/tmp.
	Work string
	// Remove removes what was written in the end, after an error too: the work directory
	// with it, unless that was there before.
	Remove bool
	// Program runs the passive side: it understands `daemon --config FILE`.
	Program string
	// Step is told what happens now, in one line each.
	Step func(text string)
	// Snapshots follows the two snapshots; nil: nobody looks.
	Snapshots daemon.StoreProgress
	// Progress follows the two replications; nil: nobody looks.
	Progress func(replication.Progress)
	// Logger gets what goes wrong on the way. nil: discard.
	Logger *slog.Logger
}

// Result is what Run did and where it left it.
type Result struct {
	Source      string   `json:"source"`      // what was replicated
	Work        string   `json:"work"`        // where everything lies
	SinkConfig  string   `json:"sink_config"` // the passive side's configuration file
	PushConfig  string   `json:"push_config"` // the active side's
	Received    string   `json:"received"`    // the passive side's versions, to browse
	Left        []string `json:"left_out"`    // what could not be read, or changed meanwhile
	Sockets     int      `json:"sockets"`     // of the source; they are left out
	Notes       []string `json:"notes"`
	Changes     []string `json:"changes"` // what was changed in the scratch copy
	Full        Transfer `json:"full"`
	Incremental Transfer `json:"incremental"`
	Compared    int64    `json:"compared"` // entries that are equal in every attribute
}

// Run does the whole tour. The result is never nil: after an error it tells how far
// the tour came, and its Work, unless removed, is there for a look. Without a Work nothing
// was tried: Source or Options.Work cannot be used.
func Run(ctx context.Context, opts Options) (*Result, error) {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	t := &tour{opts: opts, result: &Result{Left: []string{}, Notes: []string{}, Changes: []string{}}}
	err := t.makeWork()
	if err != nil {
		return t.result, err
	}
	err = t.run(ctx)
	if opts.Remove {
		err = errors.Join(err, t.removeWork())
	}
	return t.result, err
}

// tour is a run of the quickstart.
type tour struct {
	opts    Options
	result  *Result
	made    string // what was made for the work directory, parents included; "": it was there
	push    *config.Config
	passive *passive
}

// path returns a path in the work directory.
func (t *tour) path(name string) string { return filepath.Join(t.result.Work, name) }

// step tells what happens now.
func (t *tour) step(format string, args ...any) { t.opts.Step(fmt.Sprintf(format, args...)) }

// run does everything in the work directory.
func (t *tour) run(ctx context.Context) error {
	if err := t.prepare(); err != nil {
		return err
	}
	passive, err := startPassive(ctx, t.opts.Program, t.result.SinkConfig, t.path("passive.log"))
	if err != nil {
		return err
	}
	t.passive = passive
	err = t.travel(passive.ctx)
	return firstError(err, passive.stop())
}

// prepare fills the work directory with certificates, configuration files and, if
// need be, the sample.
func (t *tour) prepare() error {
	if t.opts.Source == "" {
		t.result.Source = t.path("sample")
		t.step("making a sample directory: %s", t.result.Source)
		if err := makeSample(t.result.Source); err != nil {
			return fmt.Errorf("make a sample directory: %w", err)
		}
	}
	t.step("making certificates and two configuration files in %s", t.result.Work)
	if err := os.Mkdir(t.path("certs"), 0o700); err != nil {
		return err
	}
	if err := certs.Make(t.path("certs"), serverName, clientName); err != nil {
		return err
	}
	address, err := freeAddress()
	if err != nil {
		return err
	}
	if err := t.writeConfigs(address); err != nil {
		return err
	}
	return t.loadConfigs()
}

// loadConfigs finds out now what the configuration files cannot say: a path with
// control characters, for one.
func (t *tour) loadConfigs() (err error) {
	if _, err := config.Load(t.result.SinkConfig); err != nil {
		return err
	}
	t.push, err = config.Load(t.result.PushConfig)
	return err
}

// travel is what there is to see, while the passive side runs.
func (t *tour) travel(ctx context.Context) (err error) {
	if err := t.snapshot(ctx, t.push, t.result.Source); err != nil {
		return err
	}
	if t.result.Full, err = t.replicate(ctx, "in full"); err != nil {
		return err
	}
	scratch, err := t.makeScratch(ctx)
	if err != nil {
		return err
	}
	if err := t.snapshot(ctx, onScratch(t.push, scratch), scratch); err != nil {
		return err
	}
	if t.result.Incremental, err = t.replicate(ctx, "what changed"); err != nil {
		return err
	}
	return t.compare(ctx, scratch)
}

// snapshot takes a snapshot of a directory as the push job's filesystem.
func (t *tour) snapshot(ctx context.Context, push *config.Config, directory string) error {
	t.step("taking a snapshot of %s", directory)
	job, err := daemon.Open(push, pushJob, t.opts.Logger)
	if err != nil {
		return err
	}
	taken, err := job.Snapshot(ctx, false, t.opts.Snapshots)
	if err != nil {
		return err
	}
	report := taken[0].Report
	t.result.Left = append(t.result.Left, report.Inconsistent...)
	t.result.Sockets += report.Sockets
	t.addNotes(report.Notes)
	return nil
}

// addNotes keeps each note once.
func (t *tour) addNotes(notes []string) {
	for _, note := range notes {
		if !slices.Contains(t.result.Notes, note) {
			t.result.Notes = append(t.result.Notes, note)
		}
	}
}

// onScratch is the push job with the scratch copy in the place of the user's directory.
func onScratch(push *config.Config, scratch string) *config.Config {
	moved := *push
	moved.Jobs = append([]config.Job(nil), push.Jobs...)
	moved.Jobs[0].Endpoint.Directories = map[string]string{filesystem: scratch}
	return &moved
}

// makeScratch restores the first snapshot from the sender's own store, with all
// attributes, and changes a few files there.
func (t *tour) makeScratch(ctx context.Context) (string, error) {
	scratch := t.path("scratch")
	t.step("making a scratch copy, to change a few files there: %s", scratch)
	if _, err := dir.Restore(ctx, t.path("store"), filesystem, "", scratch, dir.RestoreOptions{}); err != nil {
		return "", err
	}
	if err := openUp(scratch); err != nil {
		return "", fmt.Errorf("make the scratch copy readable: %w", err)
	}
	changes, err := changeSome(scratch)
	t.result.Changes = changes
	return scratch, err
}

// compare restores the newest version from the receiver and compares it.
func (t *tour) compare(ctx context.Context, scratch string) error {
	restored := t.path("restored")
	t.step("restoring the newest version from the passive side: %s", restored)
	report, err := dir.Restore(ctx, t.result.Received, filesystem, "", restored, dir.RestoreOptions{})
	if err != nil {
		return err
	}
	t.step("comparing every file and attribute with the scratch copy")
	differences, err := dir.Compare(ctx, scratch, restored)
	if err != nil {
		return err
	}
	t.result.Compared = report.Entries
	return differencesError(differences)
}

// differencesError names the first of the differences.
func differencesError(differences []dir.Difference) error {
	if len(differences) == 0 {
		return nil
	}
	d := differences[0]
	return fmt.Errorf("what was restored differs from what was sent in %d attributes, first: %q: %s: %s, restored: %s",
		len(differences), d.Path, d.What, d.A, d.B)
}

// firstError is the first error there is: the later ones follow from it.
func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
