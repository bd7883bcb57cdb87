package main

import (
	"cmp"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/endpoint/dir"
	"github.com/dualrepl/dualrepl/internal/daemon"
	"github.com/dualrepl/dualrepl/internal/terminal"
)

func newRestoreCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "restore JOB FILESYSTEM[@VERSION] TARGET",
		Short: "Restore a version from a job's store to a new directory",
		Long: `Makes TARGET what the directory was when the version was taken, with every attribute.
Without @VERSION the newest one is restored; where one is damaged, so that nobody knows
which is the newest, a version has to be named. Names are those of dualrepl list.

TARGET must not exist, or be empty, and its parent must exist. It must lie apart from all
that the configuration names, but for one place: a directory that was lost may be restored
to where snapshots of it are taken.

It is for directories. Of ZFS and btrfs, copy from the snapshot, or clone it.

What could not be applied (owners and devices without root, what the target's file system
does not have) is listed, and the exit code is 3.`,
		Example: `  dualrepl restore backups alice/docs /tmp/docs
  dualrepl restore docs docs@dr_20261121_120000_000 /tmp/docs
  dualrepl restore docs docs /home/alice/docs`,
		Args:        arguments("JOB", "FILESYSTEM[@VERSION]", "TARGET"),
		Annotations: map[string]string{wayOn: "TARGET has a part of it; remove that and run it again"},
	}
	asJSON := addJSONFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		job, err := a.job(args[0], terminal.NewLogger(cmd.ErrOrStderr()))
		if err != nil {
			return err
		}
		report, err := restore(cmd, job, args[1], args[2])
		if report == nil {
			return err
		}
		result := newRestoreResult(report, args[2])
		return firstError(err, printRestore(cmd, result, err == nil, *asJSON), result.incomplete())
	}
	return cmd
}

// restore restores FILESYSTEM[@VERSION].
func restore(cmd *cobra.Command, job *daemon.Job, name, target string) (*dir.RestoreReport, error) {
	filesystem, version, named := strings.Cut(name, "@")
	if named && version == "" {
		return nil, marked{fmt.Errorf("%q names no version behind the @", name), errUsage}
	}
	bars := terminal.NewProgress(cmd.ErrOrStderr())
	defer bars.Close()
	report, err := job.Restore(cmd.Context(), filesystem, version, target, oneAfterAnother(bars))
	if errors.Is(err, endpoint.ErrInvalid) {
		err = marked{err, errUsage}
	}
	return report, err
}

// restoreResult is a dir.RestoreReport for scripts.
type restoreResult struct {
	Filesystem   string         `json:"filesystem"`
	Version      string         `json:"version"`
	Target       string         `json:"target"`
	Entries      int64          `json:"entries"`
	Files        int64          `json:"files"`
	Bytes        int64          `json:"bytes"`
	Damaged      []entryProblem `json:"damaged"`
	NotApplied   []entryProblem `json:"not_applied"`
	Inconsistent []string       `json:"inconsistent"`
}

// entryProblem is what is wrong with one entry. What is not UTF-8 in a path is
// written as Go does, with \x.
type entryProblem struct {
	Path    string `json:"path"`
	Problem string `json:"problem"`
}

func entryProblems(mismatches []dir.Mismatch) []entryProblem {
	all := make([]entryProblem, len(mismatches))
	for i, m := range mismatches {
		all[i] = entryProblem{escaped(m.Path), m.Problem}
	}
	return all
}

// texts makes text of paths.
func texts(paths []string) []string {
	all := make([]string, len(paths))
	for i, path := range paths {
		all[i] = escaped(path)
	}
	return all
}

func newRestoreResult(r *dir.RestoreReport, target string) restoreResult {
	return restoreResult{
		Filesystem: r.Filesystem, Version: r.Version, Target: target,
		Entries: r.Entries, Files: r.Files, Bytes: r.Bytes,
		Damaged: entryProblems(r.Damaged), NotApplied: entryProblems(r.NotApplied),
		Inconsistent: texts(r.Inconsistent),
	}
}

// incomplete is errIncomplete if something is not as it was.
func (r restoreResult) incomplete() error {
	n := len(r.NotApplied)
	if n == 0 {
		return nil
	}
	return marked{fmt.Errorf("%s@%s is restored except for %s that could not be applied",
		r.Filesystem, r.Version, counted(n, "thing")), errIncomplete}
}

// printRestore leaves the summary of what is not whole to the error.
func printRestore(cmd *cobra.Command, r restoreResult, whole, asJSON bool) error {
	if asJSON {
		return printJSON(cmd.OutOrStdout(), r)
	}
	except := ""
	switch {
	case !whole:
		except = ", but not all of it"
	case len(r.NotApplied) > 0:
		except = ", except for what is listed below"
	}
	line := fmt.Sprintf("%s@%s is restored to %s%s: %s, %s",
		r.Filesystem, r.Version, r.Target, except, counted(r.Files, "file"), terminal.Bytes(uint64(r.Bytes)))
	fmt.Fprintln(cmd.OutOrStdout(), terminal.Printable(line))
	printSome(cmd.ErrOrStderr(), "Damaged in the store:", problemLines(r.Damaged))
	printSome(cmd.ErrOrStderr(), "Could not be applied:", groupLines(r.NotApplied))
	printSome(cmd.ErrOrStderr(), "Not of one moment, since the snapshot was taken:", r.Inconsistent)
	return nil
}

// problemLines writes a line for each entry.
func problemLines(problems []entryProblem) []string {
	lines := make([]string, len(problems))
	for i, p := range problems {
		lines[i] = p.name() + ": " + p.Problem
	}
	return lines
}

// groupLines writes a line for each problem, with the first of the entries that have it:
// what this process may not do, it may not do with any of them.
func groupLines(problems []entryProblem) []string {
	var firsts []entryProblem
	count := make(map[string]int)
	for _, p := range problems {
		if count[p.Problem] == 0 {
			firsts = append(firsts, p)
		}
		count[p.Problem]++
	}
	lines := make([]string, len(firsts))
	for i, p := range firsts {
		more := ""
		if n := count[p.Problem] - 1; n > 0 {
			more = fmt.Sprintf(" and %d more", n)
		}
		lines[i] = p.name() + more + ": " + p.Problem
	}
	return lines
}

// name is the entry's path; that of the filesystem's own directory is empty.
func (p entryProblem) name() string { return `"` + cmp.Or(p.Path, ".") + `"` }
