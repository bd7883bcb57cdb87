package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dualrepl/dualrepl/endpoint/dir"
	"github.com/dualrepl/dualrepl/internal/terminal"
)

func newRestoreCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "restore JOB FILESYSTEM[@VERSION] TARGET",
		Short: "Restore a version from a job's store to a new directory",
		Long: `Makes TARGET what the directory was when the version was taken, with every attribute.
Without @VERSION the newest one is restored. TARGET must not exist, or be empty. Names
are those of dualrepl list.`,
		Example: `  dualrepl restore backups alice/docs /tmp/docs
  dualrepl restore docs docs@dr_20261121_120000_000 /tmp/docs`,
		Args: arguments("JOB", "FILESYSTEM[@VERSION]", "TARGET"),
	}
	asJSON := addJSONFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		job, err := a.job(args[0], foregroundLogger(cmd.ErrOrStderr()))
		if err != nil {
			return err
		}
		filesystem, version, named := strings.Cut(args[1], "@")
		if named && version == "" {
			return marked{fmt.Errorf("%q names no version behind the @", args[1]), errUsage}
		}
		bars := terminal.NewProgress(cmd.ErrOrStderr())
		defer bars.Close()
		report, err := job.Restore(cmd.Context(), filesystem, version, args[2], bars.Set)
		bars.Close()
		if report == nil {
			return err
		}
		return firstError(err, printRestore(cmd, newRestoreResult(report, args[2]), *asJSON))
	}
	return cmd
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

func newRestoreResult(r *dir.RestoreReport, target string) restoreResult {
	return restoreResult{
		Filesystem: r.Filesystem, Version: r.Version, Target: target,
		Entries: r.Entries, Files: r.Files, Bytes: r.Bytes,
		Damaged: entryProblems(r.Damaged), NotApplied: entryProblems(r.NotApplied),
		Inconsistent: append([]string{}, r.Inconsistent...),
	}
}

func printRestore(cmd *cobra.Command, r restoreResult, asJSON bool) error {
	if asJSON {
		return printJSON(cmd.OutOrStdout(), r)
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s@%s is restored to %s: %s, %s\n",
		r.Filesystem, r.Version, r.Target, counted(r.Files, "file"), terminal.Bytes(uint64(r.Bytes)))
	printSome(cmd.ErrOrStderr(), "Damaged in the store:", problemLines(r.Damaged))
	printSome(cmd.ErrOrStderr(), "Could not be applied:", problemLines(r.NotApplied))
	printSome(cmd.ErrOrStderr(), "Not of one moment, since the snapshot was taken:", r.Inconsistent)
	return nil
}

func problemLines(problems []entryProblem) []string {
	lines := make([]string, len(problems))
	for i, p := range problems {
		lines[i] = `"` + p.Path + `" ` + p.Problem
	}
	return lines
}
