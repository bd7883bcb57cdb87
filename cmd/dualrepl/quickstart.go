package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dualrepl/dualrepl/internal/quickstart"
	"github.com/dualrepl/dualrepl/internal/terminal"
)

func newQuickstartCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "quickstart [DIR]",
		Short: "See it work: replicate a directory of yours to a second process",
		Long: `Replicates DIR, which is only read, from an active side (this process) to a passive
side (a second one) over mutual TLS: a first snapshot in full, then, after a few files
were changed in a scratch copy, a second one incrementally. The newest version is
restored from the passive side and compared in every file and attribute. Without DIR a
sample of some thousand files is made.

Everything is written to one new directory (--dir): certificates, two configuration
files that you can go on with, the sender's store, what the receiver has, the scratch
copy and the restored version, about five times the size of DIR where the file system
cannot clone files. By default it lies in $TMPDIR or, without that, in /var/tmp.

What could not be read, or changed meanwhile, is listed, and the exit code is 3.`,
		Example: `  dualrepl quickstart
  dualrepl quickstart ~/documents
  dualrepl quickstart /usr/share --rm`,
		Args:        arguments("[DIR]"),
		Annotations: map[string]string{wayOn: "run it again to begin anew"},
	}
	work := cmd.Flags().String("dir", "", "write everything to `WORK`, which is new or empty")
	remove := cmd.Flags().Bool("rm", false, "remove all that was written when it is over, --dir too if it is new")
	asJSON := addJSONFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return runQuickstart(cmd, append(args, "")[0], *work, *remove, *asJSON)
	}
	return cmd
}

func runQuickstart(cmd *cobra.Command, source, work string, remove, asJSON bool) error {
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program, to run the passive side: %w", err)
	}
	bars := terminal.NewProgress(cmd.ErrOrStderr())
	defer bars.Close()
	result, err := quickstart.Run(cmd.Context(), quickstart.Options{
		Source: source, Work: work, Remove: remove, Program: program,
		Step:      func(text string) { fmt.Fprintln(bars, "==>", terminal.Printable(text)) },
		Snapshots: oneAfterAnother(bars),
		Progress:  newFollower(bars).follow,
		Logger:    terminal.NewLogger(bars),
	})
	bars.Close()
	switch {
	case err != nil && result.Work == "":
		return marked{err, errUsage} // DIR or WORK cannot be used
	case err != nil:
		printPlace(cmd.ErrOrStderr(), result.Work, remove)
		return err
	}
	return firstError(printTour(cmd.OutOrStdout(), result, remove, asJSON), incompleteTour(result))
}

// incompleteTour is errIncomplete if something was left out. Sockets always are.
func incompleteTour(r *quickstart.Result) error {
	if len(r.Left) == 0 {
		return nil
	}
	return marked{fmt.Errorf("%s is replicated except for %s", r.Source, counted(len(r.Left), "entry")), errIncomplete}
}

// printPlace tells where a tour that did not come to its end left what it wrote.
func printPlace(w io.Writer, work string, removed bool) {
	if removed {
		fmt.Fprintln(w, "what was written to", terminal.Printable(work), "is removed")
		return
	}
	fmt.Fprintln(w, "what was written is still in", terminal.Printable(work)+", for a look")
}

// headline says how much of the directory was replicated.
func headline(r *quickstart.Result) string {
	var except []string
	if n := len(r.Left); n > 0 {
		except = append(except, counted(n, "entry")+" (no permission, or changed meanwhile)")
	}
	if r.Sockets > 0 {
		except = append(except, counted(r.Sockets, "socket"))
	}
	if len(except) == 0 {
		return "Everything in " + r.Source + " is replicated"
	}
	return "Everything in " + r.Source + " is replicated except for " + strings.Join(except, " and ")
}

func printTour(w io.Writer, r *quickstart.Result, removed, asJSON bool) error {
	if asJSON {
		return printJSON(w, r)
	}
	fmt.Fprintf(w, "\n%s.\n", terminal.Printable(headline(r)))
	fmt.Fprintf(w, "The newest version, restored from the passive side, is equal to what was sent:\n")
	fmt.Fprintf(w, "%s compared in content and every attribute.\n\n", counted(r.Compared, "entry"))
	if err := printTransfers(w, r); err != nil {
		return err
	}
	printSome(w, "\nChanged in the scratch copy, for the incremental one:", r.Changes)
	printSome(w, "\nNot replicated as it is:", r.Left)
	printSome(w, "\nNotes:", r.Notes)
	if removed {
		fmt.Fprintf(w, "\nEverything that was written to %s is removed.\n", r.Work)
		return nil
	}
	return printWayOn(w, r)
}

// printTransfers prints what went over which channel.
func printTransfers(w io.Writer, r *quickstart.Result) error {
	full, inc := r.Full, r.Incremental
	row := func(name string, cell func(quickstart.Transfer) string) []string {
		return []string{name, cell(full), cell(inc)}
	}
	return printTable(w, [][]string{
		{"", "full", "incremental"},
		row("data channel", func(t quickstart.Transfer) string {
			return terminal.Bytes(t.DataBytes()) + " in " + counted(t.Channels.DataRequests, "request")
		}),
		row("control channel", func(t quickstart.Transfer) string {
			return terminal.Bytes(t.ControlBytes()) + " in " + counted(t.Channels.ControlCalls, "call")
		}),
		row("time", func(t quickstart.Transfer) string { return terminal.Duration(t.Duration) }),
		row("throughput", throughput),
		row("CPU, both sides", func(t quickstart.Transfer) string { return terminal.Duration(t.ActiveCPU + t.PassiveCPU) }),
		row("CPU per GiB", cpuPerGiB),
	})
}

func throughput(t quickstart.Transfer) string {
	rate, _, ok := t.Figures()
	if !ok {
		return tooLittle
	}
	return fmt.Sprintf("%.2f GiB/s", rate)
}

func cpuPerGiB(t quickstart.Transfer) string {
	_, seconds, ok := t.Figures()
	if !ok {
		return tooLittle
	}
	return fmt.Sprintf("%.1f s (files and hashing included)", seconds)
}

// tooLittle is a figure that would say nothing.
const tooLittle = "- (too little data)"

// printWayOn tells where everything lies and how to go on.
func printWayOn(w io.Writer, r *quickstart.Result) error {
	fmt.Fprintln(w, "\nWhere it lies:")
	err := printTable(w, [][]string{
		{"  passive side", r.SinkConfig},
		{"  active side", r.PushConfig},
		{"  what arrived", filepath.Join(r.Received, "data", "@*", "tree")},
		{"  all of it", r.Work},
	})
	program := programName()
	fmt.Fprintf(w, `
To go on (the active side takes snapshots of %s from now on, not of the scratch copy):
  %s daemon --config %s &
  %s daemon --config %s &
  %s list --config %s
`, r.Source, program, quote(r.SinkConfig), program, quote(r.PushConfig), program, quote(r.SinkConfig))
	return err
}

// programName is how this program can be run again: what `go run` built is gone then.
func programName() string {
	program, err := os.Executable()
	switch found, lookErr := exec.LookPath("dualrepl"); {
	case err != nil || lookErr == nil && found == program:
		return "dualrepl"
	case strings.Contains(program, "/go-build"):
		return "go run github.com/dualrepl/dualrepl/cmd/dualrepl"
	}
	return quote(program)
}

// quote makes one word for a shell of a path.
func quote(path string) string {
	if strings.ContainsAny(path, " \t\n'\"\\$&;|<>()*?[]#~`!{}") {
		return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
	}
	return path
}
