package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/dualrepl/dualrepl/internal/config"
)

func newConfigcheckCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "configcheck",
		Short: "Check the configuration and explain every mistake",
		Long: `Reads the configuration, the environment (DUALREPL_...) included, and lists every
mistake with its place and the way out. It exits with 2 if there is one.`,
		Example: `  dualrepl configcheck
  dualrepl configcheck --config ./push.yml --json`,
		Args: arguments(),
	}
	asJSON := addJSONFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := a.load()
		if *asJSON {
			return firstError(err, printJSON(cmd.OutOrStdout(), newCheck(a.configFile, cfg, err)))
		}
		if err != nil {
			return err
		}
		return printJobs(cmd.OutOrStdout(), a.configFile, cfg)
	}
	return cmd
}

// check is the result of configcheck.
type check struct {
	File     string    `json:"file"`
	OK       bool      `json:"ok"`
	Jobs     []string  `json:"jobs"`
	Mistakes []mistake `json:"mistakes"`
}

// mistake is a config.Error. Line and column are 0 where the mistake is not in the file.
type mistake struct {
	Line    int    `json:"line"`
	Column  int    `json:"column"`
	Env     string `json:"env,omitempty"`
	Field   string `json:"field"`
	Message string `json:"message"`
	Hint    string `json:"hint"`
}

func newCheck(file string, cfg *config.Config, err error) check {
	c := check{File: file, OK: err == nil, Jobs: []string{}, Mistakes: []mistake{}}
	if cfg != nil {
		for _, job := range cfg.Jobs {
			c.Jobs = append(c.Jobs, job.Name)
		}
	}
	var all config.Errors
	switch {
	case errors.As(err, &all):
		for _, e := range all {
			c.Mistakes = append(c.Mistakes, mistake{e.Line, e.Column, e.Env, e.Field, e.Message, e.Hint})
		}
	case err != nil:
		c.Mistakes = append(c.Mistakes, mistake{Message: err.Error()})
	}
	return c
}

func printJobs(w io.Writer, file string, cfg *config.Config) error {
	fmt.Fprintf(w, "%s is good: %s\n", file, counted(len(cfg.Jobs), "job"))
	rows := make([][]string, len(cfg.Jobs))
	for i, job := range cfg.Jobs {
		rows[i] = []string{"  " + job.Name, job.Type, where(job)}
	}
	return printTable(w, rows)
}

// where tells how a job and its peer meet.
func where(job config.Job) string {
	switch {
	case job.Connect != nil:
		return connected(job.Connect)
	case job.Serve != nil:
		return served(job)
	}
	return "takes snapshots only"
}

// connected tells where a job connects to.
func connected(c *config.Connect) string {
	text := "connects to " + c.Address + " (" + c.Type + ")"
	if c.Type == config.TransportLocal {
		text = "connects to " + c.ListenerName + " in this daemon"
	}
	if c.Route != "" {
		text += ", route " + c.Route
	}
	return text
}

// served tells where the peer of a job connects to.
func served(job config.Job) string {
	verb := "serves "
	if job.Active() {
		verb = "waits for " + job.Peer + " on "
	}
	switch s := job.Serve; s.Type {
	case config.TransportLocal:
		return verb + s.ListenerName + " in this daemon"
	case config.ServeShared:
		text := verb + "listener " + s.Listener + ", route " + s.Route
		if s.Default {
			text += " and the default"
		}
		return text
	default:
		return verb + s.Listen + " (" + s.Type + ")"
	}
}
