package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/dualrepl/dualrepl/bench/internal/report"
)

// Units of figures, in bytes.
const (
	gib = 1 << 30
	mib = 1 << 20
	kib = 1 << 10
)

// common are the flags of every command.
type common struct {
	rounds int
	json   bool
}

func (c *common) register(cmd *cobra.Command, rounds int) {
	cmd.Args = cobra.NoArgs
	cmd.Flags().IntVar(&c.rounds, "rounds", rounds, "how often each contender does the work, in turns")
	cmd.Flags().BoolVar(&c.json, "json", false, "print JSON, with every round, instead of tables")
}

// comparison is a report.Comparison of any rounds.
type comparison interface {
	WriteTable(io.Writer) error
	JSON() any
}

// results are what a command has measured so far.
type results struct {
	common
	out         io.Writer
	Machine     report.Machine `json:"machine"`
	Comparisons []any          `json:"comparisons"`
}

func (c common) begin(out io.Writer) (*results, error) {
	if c.rounds < 1 {
		return nil, errors.New("--rounds must be at least 1")
	}
	machine, err := report.ThisMachine()
	if err != nil {
		return nil, err
	}
	if !c.json {
		_, err = fmt.Fprintf(out, "%s\n\n", machine)
	}
	return &results{common: c, out: out, Machine: machine}, err
}

// add prints a table, or keeps it for JSON.
func (r *results) add(c comparison) error {
	if r.json {
		r.Comparisons = append(r.Comparisons, c.JSON())
		return nil
	}
	return c.WriteTable(r.out)
}

// end prints what add has kept.
func (r *results) end() error {
	if !r.json {
		return nil
	}
	return json.NewEncoder(r.out).Encode(r)
}

// inTurns has each of the names do its part of a round before any does its next.
func inTurns[T any](names []string, rounds int, once func(i int) (T, error)) ([]report.Series[T], error) {
	series := make([]report.Series[T], len(names))
	for range rounds {
		for i, name := range names {
			result, err := once(i)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			series[i].Name = name
			series[i].Rounds = append(series[i].Rounds, result)
		}
	}
	return series, nil
}
