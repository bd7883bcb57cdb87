package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/dualrepl/dualrepl/bench/internal/contender"
	"github.com/dualrepl/dualrepl/bench/internal/ends"
	"github.com/dualrepl/dualrepl/bench/internal/report"
)

// streamFlags are the stream command's.
type streamFlags struct {
	common
	contenders []string
	directions []string
	gib        float64
	source     string
	sink       string
	chart      string
	profiles   string
}

func newStream() *cobra.Command {
	var f streamFlags
	cmd := &cobra.Command{
		Use:   "stream",
		Short: "One stream of bulk data through each contender",
		Long: `Moves one stream of bulk data through each contender, from the client to the server
(send) and back (receive). Every stream comes after a warm-up of the same connection
and is confirmed by its receiver.

Ratios are to tcp, and for contenders over TLS also to crypto/tls; CPU is that of both
ends together, without processes behind pipes. Peaks are resident memory since a
process's start.

Sources and sinks:
  generated   memory: costs almost nothing, and goes nowhere
  random      memory that no compression makes smaller; as a sink like generated
  text        memory that compression makes smaller; as a sink like generated
  pipe        another process behind os.Pipe, which writes or reads 128 KiB at a time
  file:PATH   a file; a source shorter than the stream is read again
  checked     content of which each byte is compared: shows that a contender is
              right, not that it is fast

With --source pipe --sink pipe, as between zfs send and zfs receive, compare with
"tcp 1 MiB": io.CopyBuffer from pipe to socket and from socket to pipe.

Contenders:
` + contender.Legend(),
		Example: `  bench stream
  bench stream --contender tcp,dualrepl --direction send --rounds 9
  bench stream --source pipe --sink pipe --contender "tcp 1 MiB,dualrepl"
  bench stream --json --chart stream.svg > stream.json
  bench stream --contender dualrepl --rounds 1 --gib 16 --profile /tmp`,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd.Context(), cmd.OutOrStdout()) },
	}
	f.register(cmd, 5)
	cmd.Flags().StringSliceVar(&f.contenders, "contender", contender.Usual(), "these")
	cmd.Flags().StringSliceVar(&f.directions, "direction", []string{directionSend, directionReceive}, "seen from the client")
	cmd.Flags().Float64Var(&f.gib, "gib", 4, "size of a stream")
	cmd.Flags().StringVar(&f.source, "source", string(ends.Generated), "see above")
	cmd.Flags().StringVar(&f.sink, "sink", string(ends.Generated), "see above")
	cmd.Flags().StringVar(&f.chart, "chart", "", "draw the table into this SVG file")
	cmd.Flags().StringVar(&f.profiles, "profile", "", "write CPU profiles of both ends (pprof) into this directory")
	return cmd
}

func (f streamFlags) run(ctx context.Context, out io.Writer) error {
	k := kinds{ends.Kind(f.source), ends.Kind(f.sink)}
	if err := errors.Join(k.check(), checkDirections(f.directions)); err != nil {
		return err
	}
	r, err := f.begin(out)
	if err != nil {
		return err
	}
	return withField(f.contenders, func(contenders field) error {
		contenders.profiles = f.profiles
		var panels [][]report.Panel
		for _, direction := range f.directions {
			t := transfer{Direction: direction, Size: int64(f.gib * gib), Streams: 1, AtOnce: 1}
			series, err := contenders.measure(ctx, t, k, f.rounds)
			if err != nil {
				return err
			}
			c := compareStreams(t, series)
			if err := r.add(c); err != nil {
				return err
			}
			panels = append(panels, streamPanels(c))
		}
		return errors.Join(f.drawChart(r.Machine, panels), r.end())
	})
}

func checkDirections(directions []string) error {
	for _, d := range directions {
		if d != directionSend && d != directionReceive {
			return fmt.Errorf("direction %q is not send or receive", d)
		}
	}
	return nil
}

// Positions in compareStreams' figures.
const (
	figureSpeed = iota
	figureClientCPU
	figureServerCPU
)

func compareStreams(t transfer, series []report.Series[measurement]) report.Comparison[measurement] {
	size := float64(t.Size) / gib
	speed := func(m measurement) float64 { return size / m.Seconds }
	only := func(name string, of func(measurement) float64) report.Ratio[measurement] {
		return report.Ratio[measurement]{Name: name, Of: of, To: contender.ReferenceTLS, Only: contender.OverTLS}
	}
	reference := referenceOf(series)
	return report.Comparison[measurement]{
		Title: fmt.Sprintf("%s %.4g GiB", t.Direction, size),
		Figures: append([]report.Figure[measurement]{
			figureSpeed:     {Name: "GiB/s", Of: speed, Digits: 2, Range: true},
			figureClientCPU: {Name: "CPU s/GiB client", Of: func(m measurement) float64 { return m.Client.CPUSeconds / size }, Digits: 2},
			figureServerCPU: {Name: "CPU s/GiB server", Of: func(m measurement) float64 { return m.Server.CPUSeconds / size }, Digits: 2},
		}, peakFigures...),
		Ratios: []report.Ratio[measurement]{
			{Name: "speed/" + reference, Of: speed, To: reference},
			{Name: "CPU/" + reference, Of: measurement.bothCPU, To: reference},
			only("speed/tls", speed), only("CPU/tls", measurement.bothCPU),
		},
		Series: series,
	}
}

// referenceOf is the reference, or the first if it does not take part.
func referenceOf(series []report.Series[measurement]) string {
	for _, s := range series {
		if s.Name == contender.Reference {
			return s.Name
		}
	}
	return series[0].Name
}

// peakFigures are the memory of both ends.
var peakFigures = []report.Figure[measurement]{
	{Name: "peak MiB client", Of: func(m measurement) float64 { return float64(m.Client.PeakBytes) / mib }},
	{Name: "peak MiB server", Of: func(m measurement) float64 { return float64(m.Server.PeakBytes) / mib }},
}

// streamPanels are a row of the chart.
func streamPanels(c report.Comparison[measurement]) []report.Panel {
	client, server := c.Figures[figureClientCPU], c.Figures[figureServerCPU]
	client.Name, server.Name = "client", "server"
	return []report.Panel{
		report.PanelOf(c, c.Title+": GiB/s", c.Figures[figureSpeed]),
		report.PanelOf(c, c.Title+": CPU s per GiB", client, server),
	}
}

func (f streamFlags) drawChart(m report.Machine, panels [][]report.Panel) error {
	if f.chart == "" {
		return nil
	}
	file, err := os.Create(f.chart)
	if err != nil {
		return err
	}
	return errors.Join(report.WriteChart(file, "Bulk data: "+m.String(), panels), file.Close())
}
