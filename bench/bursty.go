package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/dualrepl/dualrepl/bench/internal/line"
	"github.com/dualrepl/dualrepl/bench/internal/report"
)

// burstyFlags are the bursty command's.
type burstyFlags struct {
	common
	buffers []int64 // MiB
	line    int64   // MiB/s
	size    int64   // MiB
	burst   int64   // MiB
	stall   time.Duration
}

func newBursty() *cobra.Command {
	var f burstyFlags
	cmd := &cobra.Command{
		Use:   "bursty",
		Short: "Programs that stall, with and without read-ahead between them and the line",
		Long: `Sends a stream over a line of a fixed rate, between programs that are as fast as
memory for a burst and then stall: the source, the sink, or both, out of step. Each
end has a buffer of its own (endpoint/flow).

The line is busy for the share shown of the time that the stream takes. It stores next
to nothing itself; the sockets of both ends do, as they would in front of a real line.
All buffers run at the same time, each with a line and processes of its own: the line
is slow enough for this machine not to matter.`,
		Example: `  bench bursty
  bench bursty --line 110 --buffer 0,256 --burst 256 --size 1024
  bench bursty --stall 5s --json`,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd.Context(), cmd.OutOrStdout()) },
	}
	f.register(cmd, 1)
	cmd.Flags().Int64SliceVar(&f.buffers, "buffer", []int64{0, 16, 64}, "of each end, in MiB")
	cmd.Flags().Int64Var(&f.line, "line", 32, "rate of the line, in MiB/s")
	cmd.Flags().Int64Var(&f.size, "size", 192, "of the stream, in MiB")
	cmd.Flags().Int64Var(&f.burst, "burst", 64, "what a program delivers or takes between two stalls, in MiB")
	cmd.Flags().DurationVar(&f.stall, "stall", 1500*time.Millisecond, "how long it then does nothing")
	return cmd
}

// Which programs stall.
var burstyCases = []struct {
	title        string
	source, sink bool
}{
	{"the source stalls", true, false},
	{"the sink stalls", false, true},
	{"both stall", true, true},
}

func (f burstyFlags) run(ctx context.Context, out io.Writer) error {
	if f.line < 1 || f.size < 1 || f.burst < 1 || len(f.buffers) == 0 {
		return errors.New("--line, --size and --burst must be at least 1, and there must be a --buffer")
	}
	r, err := f.begin(out)
	if err != nil {
		return err
	}
	for _, c := range burstyCases {
		series := make([]report.Series[measurement], len(f.buffers))
		for range f.rounds {
			if err := f.round(ctx, c.source, c.sink, series); err != nil {
				return fmt.Errorf("%s: %w", c.title, err)
			}
		}
		if err := r.add(f.compare(c.title, series)); err != nil {
			return err
		}
	}
	return r.end()
}

// round has all buffers do the work at once.
func (f burstyFlags) round(ctx context.Context, source, sink bool, series []report.Series[measurement]) error {
	g, ctx := errgroup.WithContext(ctx)
	for i, buffer := range f.buffers {
		series[i].Name = bufferName(buffer)
		g.Go(func() error {
			m, err := f.once(ctx, buffer*mib, source, sink)
			series[i].Rounds = append(series[i].Rounds, m)
			return err
		})
	}
	return g.Wait()
}

func bufferName(buffer int64) string {
	if buffer == 0 {
		return "no buffer"
	}
	return fmt.Sprintf("%d MiB", buffer)
}

// once starts both ends and the line between them, sends the stream and stops them.
func (f burstyFlags) once(ctx context.Context, buffer int64, source, sink bool) (m measurement, err error) {
	l, err := line.New(f.line * mib)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	end := burstyEnd{Size: f.size * mib, Buffer: buffer, Burst: f.burst * mib, Stall: f.stall, Address: l.Address()}
	client, server := end, end
	if source {
		client.First = end.Burst
	}
	if sink {
		server.First = end.Burst / 2 // when the source is in the middle of a burst
	}
	err = runEnds(ctx, "bursty", server, func(address string) any {
		l.To(address)
		return client
	}, &m.clientResult, &m.Server)
	return m, err
}

func (f burstyFlags) compare(title string, series []report.Series[measurement]) report.Comparison[measurement] {
	size := float64(f.size)
	speed := func(m measurement) float64 { return size / m.Seconds }
	return report.Comparison[measurement]{
		Title: title,
		Figures: append([]report.Figure[measurement]{
			{Name: "seconds", Of: func(m measurement) float64 { return m.Seconds }, Digits: 2},
			{Name: "MiB/s", Of: speed, Digits: 1},
			{Name: "line busy %", Of: func(m measurement) float64 { return 100 * speed(m) / float64(f.line) }},
		}, peakFigures...),
		Ratios: []report.Ratio[measurement]{{Name: "speed/" + series[0].Name, Of: speed, To: series[0].Name}},
		Series: series,
	}
}
