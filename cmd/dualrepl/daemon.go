package main

import (
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/dualrepl/dualrepl/internal/config"
	"github.com/dualrepl/dualrepl/internal/daemon"
)

func newDaemonCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "daemon",
		Short: "Run all jobs of the configuration until SIGTERM or SIGINT",
		Long: `Runs all jobs of the configuration: push jobs take snapshots and replicate after
each, pull jobs replicate every interval, sink and source jobs serve, snap jobs take
snapshots. A sink or source job that connects keeps connected, and its push or pull job
also replicates whenever it has. Jobs with pruning then destroy what no rule keeps.

SIGTERM or SIGINT lets running steps finish for 30 s and then stops them so that they
can be resumed. A second signal stops at once; that is safe too.

Logs go to standard error, unless global.logging says otherwise.`,
		Example: `  dualrepl daemon
  dualrepl daemon --config ./sink.yml`,
		Args:        arguments(),
		Annotations: map[string]string{wayOn: ""},
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := a.load()
			if err != nil {
				return err
			}
			out := cmd.ErrOrStderr()
			if cfg.Global.Logging.Type == config.LoggingStdout {
				out = cmd.OutOrStdout()
			}
			logger, err := newLogger(out, cfg.Global.Logging)
			if err != nil {
				return marked{fmt.Errorf("%s: %w", a.configFile, err), errConfig}
			}
			return daemon.New(cfg, logger).Run(cmd.Context())
		},
	}
}

func newLogger(w io.Writer, l config.Logging) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(l.Level)); err != nil {
		return nil, fmt.Errorf("global.logging.level: %w", err)
	}
	opts := &slog.HandlerOptions{Level: level}
	if !l.Time {
		opts.ReplaceAttr = withoutTime
	}
	if l.Format == config.FormatJSON {
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	}
	return slog.New(slog.NewTextHandler(w, opts)), nil
}

// withoutTime leaves out the time of a line.
func withoutTime(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}
