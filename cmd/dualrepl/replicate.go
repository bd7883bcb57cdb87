package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/dualrepl/dualrepl/internal/config"
	"github.com/dualrepl/dualrepl/internal/daemon"
	"github.com/dualrepl/dualrepl/internal/terminal"
	"github.com/dualrepl/dualrepl/replication"
)

func newReplicateCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "replicate JOB",
		Short: "Replicate a push or pull job once, in the foreground",
		Long: `Replicates what the sender has and the receiver does not, once, with a progress bar on
a terminal. It takes no snapshot (see dualrepl snapshot), and fails if there is none. It
may run beside the daemon. The job of a passive side that connects is an exception: the
daemon has its port. Without one, this listens and waits up to 90 seconds for that side.

When it is interrupted, the next replication goes on where this one stopped.`,
		Example: `  dualrepl snapshot docs && dualrepl replicate docs
  dualrepl replicate docs --json | jq .channels`,
		Args:        arguments("JOB"),
		Annotations: map[string]string{wayOn: "run it again to go on where it stopped"},
	}
	asJSON := addJSONFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		bars := terminal.NewProgress(cmd.ErrOrStderr())
		defer bars.Close()
		job, err := a.job(args[0], terminal.NewLogger(bars))
		if err != nil {
			return err
		}
		result, err := job.Replicate(cmd.Context(), newFollower(bars).follow)
		bars.Close()
		if errors.Is(err, daemon.ErrWithin) {
			return fmt.Errorf("%w: run `%s`", err, a.command("daemon"))
		}
		if result == nil {
			return err
		}
		return firstError(err, printReplication(cmd.OutOrStdout(), result, *asJSON), a.noSnapshotError(job, result))
	}
	return cmd
}

// follower draws a replication: a bar for each step, named as the step is.
type follower struct {
	bars    *terminal.Progress
	running map[string]bool // bars of steps that run
}

func newFollower(bars *terminal.Progress) *follower {
	return &follower{bars: bars, running: make(map[string]bool)}
}

// follow is called with each state of the replication.
func (f *follower) follow(p replication.Progress) {
	ended := f.running
	f.running = make(map[string]bool)
	for _, step := range p.Running {
		if step.Bytes == 0 {
			continue // small ones are over before there is anything to see
		}
		name := step.Filesystem + step.To
		f.bars.Set(name, step.Bytes, step.Expected)
		f.running[name] = true
		delete(ended, name)
	}
	for name := range ended {
		f.bars.End(name)
	}
}

func printReplication(w io.Writer, r *daemon.Replication, asJSON bool) error {
	if asJSON {
		return printJSON(w, r)
	}
	if len(r.Filesystems) == 0 && r.Err() == nil {
		fmt.Fprintln(w, "nothing to replicate: the sender has no filesystems")
	}
	for _, fs := range r.Filesystems {
		printFilesystem(w, fs)
	}
	return nil
}

// noSnapshotError tells of filesystems that have nothing to replicate, which a person who
// replicates them did not expect.
func (a *app) noSnapshotError(job *daemon.Job, r *daemon.Replication) error {
	wayOut := "run `dualrepl snapshot` for its job on the passive side"
	if job.Type() == config.TypePush {
		wayOut = "run `" + a.command("snapshot", job.Name()) + "`"
	}
	var errs []error
	for _, fs := range r.Filesystems {
		if fs.State == replication.StateEmpty {
			errs = append(errs, fmt.Errorf("job %s: filesystem %q: no snapshot yet: %s", job.Name(), fs.Filesystem, wayOut))
		}
	}
	return errors.Join(errs...)
}

// printFilesystem leaves out the error, which the command ends with, and the notes,
// which were logged.
func printFilesystem(w io.Writer, fs replication.FilesystemReport) {
	for _, step := range fs.Steps {
		printStep(w, fs.Filesystem, step)
	}
	if fs.State == replication.StateDone && len(fs.Steps) == 0 {
		fmt.Fprintln(w, terminal.Printable(fs.Filesystem)+": up to date")
	}
}

func printStep(w io.Writer, filesystem string, step replication.StepReport) {
	what := "in full"
	if step.From != "" {
		what = "since " + step.From
	}
	if step.Resumed {
		what += ", resumed"
	}
	line := fmt.Sprintf("%s%s %s: %s in %s", filesystem, step.To, what,
		terminal.Bytes(step.Bytes), terminal.Duration(step.Duration.Round(time.Millisecond)))
	fmt.Fprintln(w, terminal.Printable(line)) // the peer has a say in the names
}
