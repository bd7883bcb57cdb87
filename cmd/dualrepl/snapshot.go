package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/dualrepl/dualrepl/internal/daemon"
	"github.com/dualrepl/dualrepl/internal/terminal"
)

func newSnapshotCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "snapshot JOB",
		Short: "Take a snapshot of each of a job's filesystems now",
		Long: `Takes a snapshot of each filesystem of a push, source or snap job, all of one name: the
job's prefix and the time in UTC. It may run beside the daemon.

Of directories, files are read again if they changed by inode, size, mtime or ctime. What could not be
read, or kept changing while it was read, is listed; the snapshot is taken nevertheless,
and the exit code is 3. With --full, so is what is found damaged in the version before.`,
		Example: `  dualrepl snapshot docs
  dualrepl snapshot docs --full --json`,
		Args:        arguments("JOB"),
		Annotations: map[string]string{wayOn: "what is not listed was not taken; run it again"},
	}
	full := cmd.Flags().Bool("full", false, "read every file of directories again, also those that look unchanged")
	asJSON := addJSONFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		bars := terminal.NewProgress(cmd.ErrOrStderr())
		defer bars.Close()
		job, err := a.job(args[0], terminal.NewLogger(bars))
		if err != nil {
			return err
		}
		taken, err := job.Snapshot(cmd.Context(), *full, oneAfterAnother(bars))
		bars.Close()
		if taken == nil {
			return err
		}
		results := newSnapshotResults(taken)
		return firstError(err, printSnapshots(cmd, results, *asJSON), incompleteSnapshots(results))
	}
	return cmd
}

// snapshotResult is a daemon.Snapshot for scripts.
type snapshotResult struct {
	Filesystem   string   `json:"filesystem"`
	Version      string   `json:"version"`
	GUID         string   `json:"guid"` // hexadecimal
	directory    bool     // else there is no more to tell than the name
	Files        int64    `json:"files"`
	Bytes        int64    `json:"bytes"`
	Changed      int64    `json:"changed"` // files that were read
	Sockets      int      `json:"sockets"` // left out
	Inconsistent []string `json:"inconsistent"`
	Damaged      []string `json:"damaged"` // in the version before; this one has it anew
	Notes        []string `json:"notes"`
	Error        string   `json:"error,omitempty"` // not empty: not taken
}

func newSnapshotResult(s daemon.Snapshot) snapshotResult {
	r := snapshotResult{
		Filesystem: s.Filesystem, Version: s.Version,
		Inconsistent: []string{}, Damaged: []string{}, Notes: []string{},
	}
	if s.Err != nil {
		r.Error = s.Err.Error()
		return r
	}
	if r.directory = s.Report != nil; !r.directory {
		return r
	}
	r.GUID = guid(s.Report.GUID)
	r.Files, r.Bytes, r.Changed, r.Sockets = s.Report.Files, s.Report.Bytes, s.Report.Changed, s.Report.Sockets
	r.Inconsistent = append(r.Inconsistent, s.Report.Inconsistent...)
	r.Damaged = texts(s.Report.Damaged)
	r.Notes = append(r.Notes, s.Report.Notes...)
	return r
}

func newSnapshotResults(taken []daemon.Snapshot) []snapshotResult {
	results := make([]snapshotResult, len(taken))
	for i, s := range taken {
		results[i] = newSnapshotResult(s)
	}
	return results
}

// incompleteSnapshots is errIncomplete if a snapshot, or the one before it, lacks something.
func incompleteSnapshots(results []snapshotResult) error {
	var errs []error
	for _, r := range results {
		if n := len(r.Inconsistent); n > 0 {
			errs = append(errs, fmt.Errorf("%s@%s is taken except for %s", r.Filesystem, r.Version, counted(n, "entry")))
		}
		if n := len(r.Damaged); n > 0 {
			errs = append(errs, fmt.Errorf("%s@%s has anew what is damaged in the version before: %s", r.Filesystem, r.Version, counted(n, "file")))
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return marked{errors.Join(errs...), errIncomplete}
}

func printSnapshots(cmd *cobra.Command, results []snapshotResult, asJSON bool) error {
	if asJSON {
		return printJSON(cmd.OutOrStdout(), results)
	}
	for _, r := range results {
		if r.Error == "" {
			printSnapshot(cmd.OutOrStdout(), cmd.ErrOrStderr(), r)
		}
	}
	return nil
}

func printSnapshot(stdout, stderr io.Writer, r snapshotResult) {
	name := terminal.Printable(r.Filesystem + "@" + r.Version)
	if !r.directory {
		fmt.Fprintln(stdout, name)
		return
	}
	fmt.Fprintf(stdout, "%s: %s, %s, %d of them read\n",
		name, counted(r.Files, "file"), terminal.Bytes(uint64(r.Bytes)), r.Changed)
	if r.Sockets > 0 {
		fmt.Fprintf(stdout, "  %s left out\n", counted(r.Sockets, "socket"))
	}
	for _, note := range r.Notes {
		fmt.Fprintln(stdout, "  note:", terminal.Printable(note))
	}
	printSome(stderr, name+" does not have as it was:", r.Inconsistent)
	printSome(stderr, "Damaged in the version before:", r.Damaged)
}
