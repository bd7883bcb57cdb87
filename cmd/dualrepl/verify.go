package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/dualrepl/dualrepl/internal/daemon"
	"github.com/dualrepl/dualrepl/internal/terminal"
)

func newVerifyCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify JOB",
		Short: "Check every file of a job's versions against its manifest",
		Long: `Reads every file of every version in the job's store and compares type, size and BLAKE3
with the version's manifest; of a bookmark, it checks the manifest. It exits with 1 if
anything does not match. It may run beside the daemon. It is for directories: ZFS and
btrfs verify what they store by themselves (zpool scrub, btrfs scrub).`,
		Example: `  dualrepl verify backups
  dualrepl verify backups --json | jq '.[] | select(.good | not)'`,
		Args:        arguments("JOB"),
		Annotations: map[string]string{wayOn: "what is not listed was not verified"},
	}
	asJSON := addJSONFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		bars := terminal.NewProgress(cmd.ErrOrStderr())
		defer bars.Close()
		job, err := a.job(args[0], terminal.NewLogger(bars))
		if err != nil {
			return err
		}
		verified, err := job.Verify(cmd.Context(), oneAfterAnother(bars))
		bars.Close()
		if errors.Is(err, daemon.ErrJob) {
			return err
		}
		results := newVerifyResults(verified)
		return firstError(err, printVerified(cmd, results, *asJSON), mismatchError(args[0], results))
	}
	return cmd
}

// oneAfterAnother ends the bar of one version when the next one's begins. It is nil where
// there are no bars.
func oneAfterAnother(bars *terminal.Progress) daemon.StoreProgress {
	if !bars.Draws() {
		return nil
	}
	last := ""
	return func(name string, done, total uint64) {
		if name != last {
			bars.End(last)
			last = name
		}
		bars.Set(name, done, total)
	}
}

// verifyResult is a daemon.Verified for scripts.
type verifyResult struct {
	Filesystem string         `json:"filesystem"`
	Type       string         `json:"type"` // snapshot, or bookmark, which has a manifest and no files
	Version    string         `json:"version"`
	Good       bool           `json:"good"`
	Files      int64          `json:"files"`
	Bytes      int64          `json:"bytes"`
	Mismatches []entryProblem `json:"mismatches"`
	Error      string         `json:"error,omitempty"` // it could not be verified to its end
}

func newVerifyResults(verified []daemon.Verified) []verifyResult {
	results := make([]verifyResult, len(verified))
	for i, v := range verified {
		results[i] = verifyResult{
			Filesystem: v.Filesystem, Type: typeOf(v.Bookmark), Version: v.Version, Good: v.Good(), Mismatches: []entryProblem{},
		}
		if v.Err != nil {
			results[i].Error = v.Err.Error()
		}
		if v.Report != nil {
			results[i].Files, results[i].Bytes = v.Report.Files, v.Report.Bytes
			results[i].Mismatches = entryProblems(v.Report.Mismatches)
		}
	}
	return results
}

func printVerified(cmd *cobra.Command, results []verifyResult, asJSON bool) error {
	if asJSON {
		return printJSON(cmd.OutOrStdout(), results)
	}
	if len(results) == 0 {
		fmt.Fprintln(cmd.OutOrStdout(), "no versions yet")
	}
	for _, r := range results {
		name := terminal.Printable(r.Filesystem + separators[r.Type] + r.Version) // a peer had a say in the names
		switch {
		case r.Good && r.Type == bookmark:
			fmt.Fprintf(cmd.OutOrStdout(), "%s: good\n", name)
		case r.Good:
			fmt.Fprintf(cmd.OutOrStdout(), "%s: good: %s, %s\n", name, counted(r.Files, "file"), terminal.Bytes(uint64(r.Bytes)))
		}
		printSome(cmd.ErrOrStderr(), name+" does not match its manifest:", problemLines(r.Mismatches))
	}
	return nil
}

// mismatchError tells how many versions are not what they were.
func mismatchError(job string, results []verifyResult) error {
	bad := 0
	for _, r := range results {
		if len(r.Mismatches) > 0 {
			bad++
		}
	}
	if bad == 0 {
		return nil
	}
	return fmt.Errorf("job %s: the store is damaged: of %s, %d not as the manifest says", job, counted(len(results), "version"), bad)
}
