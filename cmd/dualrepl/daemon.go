package main

import (
	"fmt"
	"io"
	"log/slog"
	"log/syslog"

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
			logger, err := a.daemonLogger(cmd, cfg.Global.Logging)
			if err != nil {
				return err
			}
			return daemon.New(cfg, logger).Run(cmd.Context())
		},
	}
}

// daemonLogger logs to where the configuration says.
func (a *app) daemonLogger(cmd *cobra.Command, l config.Logging) (*slog.Logger, error) {
	handler, err := openLog(cmd, l)
	if err != nil {
		return nil, marked{fmt.Errorf("%s: global.logging: %w", a.configFile, err), errConfig}
	}
	return slog.New(handler), nil
}

func openLog(cmd *cobra.Command, l config.Logging) (slog.Handler, error) {
	switch l.Type {
	case config.LoggingSyslog:
		w, err := syslog.New(syslogFacility, "dualrepl") // which connects anew after a failed write
		if err != nil {
			return nil, fmt.Errorf("the system's log cannot be reached: %w; start it, or use type: stderr", err)
		}
		return newSyslogHandler(w, l)
	case config.LoggingStdout:
		return newHandler(cmd.OutOrStdout(), l)
	}
	return newHandler(cmd.ErrOrStderr(), l)
}

func newHandler(w io.Writer, l config.Logging) (slog.Handler, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(l.Level)); err != nil {
		return nil, fmt.Errorf("level: %w", err)
	}
	opts := &slog.HandlerOptions{Level: level}
	if !l.Time {
		opts.ReplaceAttr = withoutTime
	}
	if l.Format == config.FormatJSON {
		return slog.NewJSONHandler(w, opts), nil
	}
	return slog.NewTextHandler(w, opts), nil
}

// withoutTime leaves out the time of a line.
func withoutTime(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}
