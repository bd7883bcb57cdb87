package main

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/dualrepl/dualrepl/bench/internal/report"
)

// scaleFlags are the scale command's.
type scaleFlags struct {
	common
	works       []string
	streams     int
	streamMiB   int64
	gib         float64
	filesystems int
	versions    int
	listed      int
}

// The kinds of work of the scale command.
const (
	workStreams = "streams"
	workLong    = "long"
	workPlan    = "plan"
	workList    = "list"
)

var scaleWorks = []string{workStreams, workLong, workPlan, workList}

func newScale() *cobra.Command {
	var f scaleFlags
	cmd := &cobra.Command{
		Use:   "scale",
		Short: "Many streams at once, a very long one, and many filesystems and versions",
		Long: `Takes dualrepl to sizes that nothing in it may grow with:

  streams   so many streams at once, in both directions; none gets beyond its half
            before all have come so far. Memory for each stream is the peak above what
            was resident before them, without the kernel's socket buffers.
  long      one short and one very long stream: the peaks must be alike. Allocations
            are objects on the heap: none for a frame.
  plan      a replication of so many filesystems with so many versions each, planned
  list      all versions of one filesystem, listed`,
		Example: `  bench scale
  bench scale --work long --gib 1000
  bench scale --work plan,list --rounds 5 --json`,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd.Context(), cmd.OutOrStdout()) },
	}
	f.register(cmd, 1)
	cmd.Flags().StringSliceVar(&f.works, "work", scaleWorks, "only these")
	cmd.Flags().IntVar(&f.streams, "streams", 1000, "streams at once")
	cmd.Flags().Int64Var(&f.streamMiB, "stream-mib", 4, "size of each of them, in MiB")
	cmd.Flags().Float64Var(&f.gib, "gib", 100, "size of the long stream; the short one is a hundredth of it")
	cmd.Flags().IntVar(&f.filesystems, "filesystems", 10_000, "planned")
	cmd.Flags().IntVar(&f.versions, "versions", 100, "of each filesystem planned")
	cmd.Flags().IntVar(&f.listed, "listed", 1_000_000, "versions listed")
	return cmd
}

func (f scaleFlags) run(ctx context.Context, out io.Writer) error {
	for _, work := range f.works {
		if !slices.Contains(scaleWorks, work) {
			return fmt.Errorf("work %q is not one of %v", work, scaleWorks)
		}
	}
	r, err := f.begin(out)
	if err != nil {
		return err
	}
	return withField([]string{"dualrepl"}, func(dualrepl field) error {
		for _, c := range []struct {
			work string
			do   func(context.Context, field) (report.Comparison[measurement], error)
		}{{workStreams, f.manyStreams}, {workLong, f.longStream}, {workPlan, f.plan}, {workList, f.list}} {
			if !slices.Contains(f.works, c.work) {
				continue
			}
			compared, err := c.do(ctx, dualrepl)
			if err != nil {
				return err
			}
			if err := r.add(compared); err != nil {
				return err
			}
		}
		return r.end()
	})
}

// manyStreams are open all at once.
func (f scaleFlags) manyStreams(ctx context.Context, dualrepl field) (report.Comparison[measurement], error) {
	var transfers []transfer
	for _, direction := range []string{directionSend, directionReceive} {
		transfers = append(transfers, transfer{direction, f.streamMiB * mib, f.streams, f.streams, true})
	}
	c, err := f.transfers(ctx, dualrepl, transfers)
	c.Title = fmt.Sprintf("%d streams of %d MiB at once", f.streams, f.streamMiB)
	streams := float64(f.streams)
	each := func(name string, of func(measurement) int64, unit float64) {
		c.Figures = append(c.Figures, report.Figure[measurement]{
			Name: name, Of: func(m measurement) float64 { return float64(of(m)) / unit / streams },
		})
	}
	each("KiB/stream client", func(m measurement) int64 { return m.Client.GrownBytes }, kib)
	each("KiB/stream server", func(m measurement) int64 { return m.Server.GrownBytes }, kib)
	each("allocations/stream client", func(m measurement) int64 { return m.Client.Allocations }, 1)
	each("allocations/stream server", func(m measurement) int64 { return m.Server.Allocations }, 1)
	return c, err
}

// longStream is one, after a short one to compare with.
func (f scaleFlags) longStream(ctx context.Context, dualrepl field) (report.Comparison[measurement], error) {
	var transfers []transfer
	for _, direction := range []string{directionSend, directionReceive} {
		for _, size := range []float64{f.gib / 100, f.gib} {
			transfers = append(transfers, transfer{Direction: direction, Size: int64(size * gib), Streams: 1, AtOnce: 1})
		}
	}
	c, err := f.transfers(ctx, dualrepl, transfers)
	c.Title = "a long stream"
	c.Figures = append(c.Figures,
		report.Figure[measurement]{Name: "allocations client", Of: func(m measurement) float64 { return float64(m.Client.Allocations) }},
		report.Figure[measurement]{Name: "allocations server", Of: func(m measurement) float64 { return float64(m.Server.Allocations) }},
	)
	return c, err
}

func (f scaleFlags) transfers(ctx context.Context, dualrepl field, transfers []transfer) (report.Comparison[measurement], error) {
	names := make([]string, len(transfers))
	for i, t := range transfers {
		names[i] = fmt.Sprintf("%s %.4g GiB", t.Direction, float64(t.Size)/gib)
		if t.Together {
			names[i] = t.Direction
		}
	}
	series, err := inTurns(names, f.rounds, func(i int) (measurement, error) {
		return dualrepl.once(ctx, dualrepl.names[0], transfers[i], fromMemory)
	})
	return compareScale("", series), err
}

func (f scaleFlags) plan(ctx context.Context, _ field) (report.Comparison[measurement], error) {
	name := fmt.Sprintf("plan %d filesystems of %d versions", f.filesystems, f.versions)
	return f.fleet(ctx, name, fleetEnd{Filesystems: f.filesystems, Versions: f.versions})
}

func (f scaleFlags) list(ctx context.Context, _ field) (report.Comparison[measurement], error) {
	return f.fleet(ctx, fmt.Sprintf("list %d versions", f.listed), fleetEnd{Filesystems: 1, Versions: f.listed, Listing: true})
}

func (f scaleFlags) fleet(ctx context.Context, name string, e fleetEnd) (report.Comparison[measurement], error) {
	series, err := inTurns([]string{name}, f.rounds, func(int) (measurement, error) { return e.once(ctx) })
	return compareScale("many names", series), err
}

func compareScale(title string, series []report.Series[measurement]) report.Comparison[measurement] {
	return report.Comparison[measurement]{
		Title: title,
		Figures: append([]report.Figure[measurement]{
			{Name: "seconds", Of: func(m measurement) float64 { return m.Seconds }, Digits: 2},
			{Name: "CPU s client", Of: func(m measurement) float64 { return m.Client.CPUSeconds }, Digits: 2},
			{Name: "CPU s server", Of: func(m measurement) float64 { return m.Server.CPUSeconds }, Digits: 2},
		}, peakFigures...),
		Series: series,
	}
}
