// Command dualrepl replicates directories between machines: see dualrepl --help.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/dualrepl/dualrepl/internal/config"
	"github.com/dualrepl/dualrepl/internal/daemon"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2 // wrong usage or a bad configuration: nothing was tried
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run is main without the process around it. The first SIGINT or SIGTERM ends the
// work in an orderly way; a second one ends the process at once, as if there were
// no handler, which is safe at any moment.
func run(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)

	a := &app{}
	root := newRoot(a)
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	return a.report(stderr, cmd, err)
}

// app is what the commands have in common.
type app struct {
	configFile string
	started    bool // the command line was understood
}

func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "dualrepl",
		Short: "Replicates directories between machines",
		Long: `dualrepl replicates versioned data from an active side to a passive side: planning
goes over a control channel, bulk data over a data channel.

Exit codes: 0 done, 1 failed, 2 wrong usage or a bad configuration.`,
		Example: `  # see it work, on a directory of yours, which is only read
  dualrepl quickstart ~/documents

  # run what /etc/dualrepl/dualrepl.yml says
  dualrepl configcheck && dualrepl daemon`,
		SilenceErrors:     true, // run reports them, once
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
		PersistentPreRun:  func(*cobra.Command, []string) { a.started = true },
	}
	root.PersistentFlags().StringVar(&a.configFile, "config", config.DefaultPath, "configuration `FILE`")
	root.AddCommand(
		newQuickstartCommand(), newDaemonCommand(a), newConfigcheckCommand(a),
		newSnapshotCommand(a), newReplicateCommand(a),
		newListCommand(a), newRestoreCommand(a), newVerifyCommand(a), newVersionCommand(),
	)
	return root
}

// report prints an error once, and returns the exit code that it deserves.
func (a *app) report(stderr io.Writer, cmd *cobra.Command, err error) int {
	for line := range strings.SplitSeq(err.Error(), "\n") {
		fmt.Fprintln(stderr, "dualrepl:", line)
	}
	if !a.started {
		fmt.Fprintf(stderr, "Run '%s --help' for its usage.\n", cmd.CommandPath())
		return exitUsage
	}
	if errors.Is(err, errConfig) || errors.Is(err, errUsage) || errors.Is(err, daemon.ErrJob) {
		return exitUsage
	}
	return exitFailed
}

// errUsage marks a command line that turned out to be wrong when it was looked at closely.
var errUsage = errors.New("wrong usage")

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

// foregroundLogger writes what a command that talks to a person should not keep to
// itself: retries, notes, dropped tokens.
func foregroundLogger(w io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelWarn}))
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
		return nil
	}
}
