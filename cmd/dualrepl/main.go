// Command dualrepl replicates directories, ZFS datasets and btrfs subvolumes between
// machines: see dualrepl --help.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/dualrepl/dualrepl/internal/config"
	"github.com/dualrepl/dualrepl/internal/daemon"
	"github.com/dualrepl/dualrepl/internal/terminal"
)

// Exit codes.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2   // wrong usage or a bad configuration: nothing was tried
	exitIncomplete  = 3   // done, except for what the command has listed
	exitInterrupted = 130 // by SIGINT or SIGTERM; as a shell reports a program that SIGINT ended
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run is main without the process around it.
func run(args []string, stdout, stderr io.Writer) int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	a := &app{}
	root := newRoot(a)
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	if text := cmd.Annotations[wayOn]; text != "" && cmd.Context().Err() != nil {
		fmt.Fprintln(stderr, "dualrepl: interrupted:", text)
		return exitInterrupted
	}
	return a.report(stderr, cmd, err)
}

// wayOn is the annotation of commands whose context a signal ends: how to go on after
// that. It is empty where that is an end like any other.
const wayOn = "interrupted"

// watchSignals lets the first SIGINT or SIGTERM end the command's context, for an orderly
// end. A second one ends the process at once, as if there were no handler, which is safe
// at any moment. Commands that watch no context end so by the first.
func watchSignals(cmd *cobra.Command) {
	if _, watches := cmd.Annotations[wayOn]; !watches {
		return
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	cmd.SetContext(ctx)
}

// app is what the commands have in common.
type app struct {
	configFile string
	started    bool // the command line was understood
}

func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "dualrepl",
		Short: "Replicates directories, ZFS datasets and btrfs subvolumes between machines",
		Long: `dualrepl replicates versioned data from an active side to a passive side: planning
goes over a control channel, bulk data over a data channel.

Exit codes:
  0    done
  1    failed
  2    wrong usage or a bad configuration: nothing was tried
  3    done, but incomplete: what was left out or could not be applied is listed
  130  interrupted by SIGINT or SIGTERM (the daemon ends with 0 then, list and
       configcheck by the signal itself)`,
		Example: `  # see it work, on a directory of yours, which is only read
  dualrepl quickstart ~/documents

  # run what /etc/dualrepl/dualrepl.yml says
  dualrepl configcheck && dualrepl daemon`,
		SilenceErrors:     true, // run reports them, once
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
		PersistentPreRunE: a.start,
		Version:           readVersion().String(),
	}
	root.SetVersionTemplate("{{.Version}}\n")
	root.PersistentFlags().StringVar(&a.configFile, "config", config.DefaultPath, "read the configuration from `FILE`")
	root.AddCommand(
		newQuickstartCommand(), newDaemonCommand(a), newConfigcheckCommand(a),
		newSnapshotCommand(a), newReplicateCommand(a),
		newListCommand(a), newRestoreCommand(a), newVerifyCommand(a), newVersionCommand(),
	)
	return root
}

// start is called before every command, once its arguments are known to be well.
func (a *app) start(cmd *cobra.Command, _ []string) error {
	if a.configFile == "" {
		return errors.New("--config names no file")
	}
	watchSignals(cmd)
	a.started = true
	return nil
}

// command is a command line for a person to copy, with the configuration file of this one.
func (a *app) command(args ...string) string {
	words := append([]string{"dualrepl"}, args...)
	if a.configFile != config.DefaultPath {
		words = append(words, "--config", quote(a.configFile))
	}
	return strings.Join(words, " ")
}

// report prints an error once, and returns the exit code that it deserves.
func (a *app) report(stderr io.Writer, cmd *cobra.Command, err error) int {
	for line := range strings.SplitSeq(err.Error(), "\n") {
		fmt.Fprintln(stderr, "dualrepl:", terminal.Printable(line))
	}
	if !a.started {
		fmt.Fprintf(stderr, "Run '%s --help' for its usage.\n", cmd.CommandPath())
		return exitUsage
	}
	switch {
	case errors.Is(err, errConfig), errors.Is(err, errUsage), errors.Is(err, daemon.ErrJob):
		return exitUsage
	case errors.Is(err, errIncomplete):
		return exitIncomplete
	}
	return exitFailed
}

// errUsage marks a command line that turned out to be wrong when it was looked at closely.
var errUsage = errors.New("wrong usage")

// errIncomplete marks what was done, except for something.
var errIncomplete = errors.New("incomplete")

// errConfig marks a configuration that cannot be used.
var errConfig = errors.New("bad configuration")

// marked is an error with a mark that errors.Is finds and nobody reads.
type marked struct {
	error
	mark error
}

func (m marked) Unwrap() []error { return []error{m.error, m.mark} }

// load reads the configuration; the error is errConfig.
func (a *app) load() (*config.Config, error) {
	cfg, err := config.Load(a.configFile)
	if errors.Is(err, os.ErrNotExist) {
		err = fmt.Errorf("%w; name yours with --config FILE, or let `dualrepl quickstart` write one", err)
	}
	if err != nil {
		return nil, marked{err, errConfig}
	}
	return cfg, nil
}

// job finds a job of the configuration.
func (a *app) job(name string, logger *slog.Logger) (*daemon.Job, error) {
	cfg, err := a.load()
	if err != nil {
		return nil, err
	}
	job, err := daemon.Open(cfg, name, logger)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", a.configFile, err)
	}
	return job, nil
}

// arguments wants an argument for each name; those in brackets may be left out.
func arguments(names ...string) cobra.PositionalArgs {
	least := len(names)
	for least > 0 && strings.HasPrefix(names[least-1], "[") {
		least--
	}
	return func(_ *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return fmt.Errorf("%s is missing", names[len(args)])
		case len(args) > len(names):
			return fmt.Errorf("%q is one argument too many", args[len(names)])
		}
		if i := slices.Index(args, ""); i >= 0 {
			name := names[i]
			if i >= least {
				name = strings.Trim(name, "[]")
			}
			return fmt.Errorf("%s is empty", name)
		}
		return nil
	}
}
