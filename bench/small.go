package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/dualrepl/dualrepl/bench/internal/report"
)

// smallFlags are the small command's.
type smallFlags struct {
	common
	contenders []string
	atOnce     []int
	steps      int
	size       int64
}

func newSmall() *cobra.Command {
	var f smallFlags
	cmd := &cobra.Command{
		Use:   "small",
		Short: "Many small streams, one after another and several at once",
		Long: `Sends many small streams, each confirmed by its receiver: what steps that carry
little cost. The connections are those that were opened on this machine meanwhile.
"bench stream -h" tells how contenders are configured. drpc is left out: it has one
stream at a time on a connection.`,
		Example: `  bench small
  bench small --steps 10000 --at-once 64 --contender "dualrepl,dualrepl tls"`,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd.Context(), cmd.OutOrStdout()) },
	}
	f.register(cmd, 5)
	cmd.Flags().StringSliceVar(&f.contenders, "contender", []string{
		"tcp", "dualrepl", "dualrepl base", "dualrepl mux", "crypto/tls", "dualrepl tls", "dualrepl tls base", "grpc 64 KiB", "http/1.1", "http/2", "yamux",
	}, "these")
	cmd.Flags().IntSliceVar(&f.atOnce, "at-once", []int{1, 16}, "streams at a time")
	cmd.Flags().IntVar(&f.steps, "steps", 2000, "streams in all")
	cmd.Flags().Int64Var(&f.size, "size", 4*kib, "of a stream, in bytes")
	return cmd
}

func (f smallFlags) run(ctx context.Context, out io.Writer) error {
	r, err := f.begin(out)
	if err != nil {
		return err
	}
	return withField(f.contenders, func(contenders field) error {
		for _, atOnce := range f.atOnce {
			t := transfer{Direction: directionSend, Size: f.size, Streams: f.steps, AtOnce: atOnce}
			series, err := contenders.measure(ctx, t, fromMemory, f.rounds)
			if err != nil {
				return err
			}
			if err := r.add(compareSmall(t, series)); err != nil {
				return err
			}
		}
		return r.end()
	})
}

func compareSmall(t transfer, series []report.Series[measurement]) report.Comparison[measurement] {
	steps := float64(t.Streams)
	speed := func(m measurement) float64 { return steps / m.Seconds }
	reference := referenceOf(series)
	return report.Comparison[measurement]{
		Title: fmt.Sprintf("steps of %d B, %d at once", t.Size, t.AtOnce),
		Figures: []report.Figure[measurement]{
			{Name: "steps/s", Of: speed, Range: true},
			{Name: "CPU us/step", Of: func(m measurement) float64 { return m.bothCPU() / steps * 1e6 }},
			{Name: "connections/step", Of: func(m measurement) float64 { return float64(m.Connections) / steps }, Digits: 2},
		},
		Ratios: []report.Ratio[measurement]{
			{Name: "speed/" + reference, Of: speed, To: reference},
			{Name: "CPU/" + reference, Of: measurement.bothCPU, To: reference},
		},
		Series: series,
	}
}
