package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/dualrepl/dualrepl/bench/internal/contender"
	"github.com/dualrepl/dualrepl/bench/internal/ends"
	"github.com/dualrepl/dualrepl/bench/internal/process"
	"github.com/dualrepl/dualrepl/bench/internal/report"
)

// controlFlags are the control command's.
type controlFlags struct {
	common
	inFlight []int
	duration time.Duration
}

func newControl() *cobra.Command {
	var f controlFlags
	cmd := &cobra.Command{
		Use:   "control",
		Short: "Small calls beside a bare gRPC connection, idle and while bulk data runs",
		Long: `Makes small unary calls, so many at a time, first with nothing else to do and then
while the same client sends an endless stream of bulk data.

Contenders:
` + controlLegend(),
		Example: `  bench control
  bench control --in-flight 1,16 --duration 5s`,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd.Context(), cmd.OutOrStdout()) },
	}
	f.register(cmd, 5)
	cmd.Flags().IntSliceVar(&f.inFlight, "in-flight", []int{1, 16, 128}, "calls at a time")
	cmd.Flags().DurationVar(&f.duration, "duration", 2*time.Second, "of a contender's part of a round")
	return cmd
}

func controlLegend() string {
	var b strings.Builder
	for _, c := range contender.Controls {
		fmt.Fprintf(&b, "  %-10s %s\n", c.Name, c.About)
	}
	return b.String()
}

// calls is what one contender's part of a round came to.
type calls struct {
	PerSecond float64       `json:"per_second"`
	P50       float64       `json:"p50_us"`
	P99       float64       `json:"p99_us"`
	BulkGiBps float64       `json:"bulk_gib_per_second"`
	Client    process.Usage `json:"client"`
	Server    process.Usage `json:"server"`
}

func (f controlFlags) run(ctx context.Context, out io.Writer) error {
	r, err := f.begin(out)
	if err != nil {
		return err
	}
	for _, bulk := range []bool{false, true} {
		for _, inFlight := range f.inFlight {
			c, err := f.measure(ctx, callEnd{InFlight: inFlight, Bulk: bulk, Duration: f.duration})
			if err != nil {
				return err
			}
			if err := r.add(c); err != nil {
				return err
			}
		}
	}
	return r.end()
}

// measure has all contenders make their calls in turns.
func (f controlFlags) measure(ctx context.Context, e callEnd) (c report.Comparison[calls], err error) {
	var names []string
	for _, c := range contender.Controls {
		names = append(names, c.Name)
	}
	series, err := inTurns(names, f.rounds, func(i int) (calls, error) {
		e.Contender = names[i]
		return e.once(ctx)
	})
	return compareCalls(e, series), err
}

// once starts both ends and makes the calls.
func (e callEnd) once(ctx context.Context) (c calls, err error) {
	err = runEnds(ctx, "call", e, func(addresses string) any {
		e.Addresses = addresses
		return e
	}, &c, &c.Server)
	return c, err
}

func compareCalls(e callEnd, series []report.Series[calls]) report.Comparison[calls] {
	title := fmt.Sprintf("%d in flight, idle", e.InFlight)
	if e.Bulk {
		title = fmt.Sprintf("%d in flight, beside bulk", e.InFlight)
	}
	reference := contender.Controls[0].Name
	perSecond := func(c calls) float64 { return c.PerSecond }
	p99 := func(c calls) float64 { return c.P99 }
	return report.Comparison[calls]{
		Title: title,
		Figures: []report.Figure[calls]{
			{Name: "calls/s", Of: perSecond, Range: true},
			{Name: "p50 us", Of: func(c calls) float64 { return c.P50 }},
			{Name: "p99 us", Of: p99},
			{Name: "bulk GiB/s", Of: func(c calls) float64 { return c.BulkGiBps }, Digits: 2},
		},
		Ratios: []report.Ratio[calls]{
			{Name: "calls/" + reference, Of: perSecond, To: reference},
			{Name: "p99/" + reference, Of: p99, To: reference},
		},
		Series: series,
	}
}

// callEnd is one end of the calls.
type callEnd struct {
	Contender string
	Addresses string        // of the server
	InFlight  int           // calls at a time
	Bulk      bool          // beside bulk data
	Duration  time.Duration // of the calls
}

// callEnds are the two ends of calls, which the benchmark starts.
func callEnds() []*cobra.Command {
	return []*cobra.Command{endCommand("call-serve", serveCalls), endCommand("call-dial", dialCalls)}
}

func (e callEnd) find() (contender.Control, error) {
	i := slices.IndexFunc(contender.Controls, func(c contender.Control) bool { return c.Name == e.Contender })
	if i < 0 {
		return contender.Control{}, fmt.Errorf("no contender %q", e.Contender)
	}
	return contender.Controls[i], nil
}

// bulkSink takes anything.
type bulkSink struct{}

// Source implements contender.Ends.
func (bulkSink) Source() (io.ReadCloser, error) { return nil, errors.ErrUnsupported }

// Sink implements contender.Ends.
func (bulkSink) Sink() (io.WriteCloser, error) { return ends.Generated.Sink() }

func serveCalls(ctx context.Context, e callEnd) error {
	c, err := e.find()
	if err != nil {
		return err
	}
	if err := c.Serve(process.Stopped(ctx), bulkSink{}, func(a string) { _ = process.Say(a) }); err != nil {
		return err
	}
	usage, err := process.Now()
	if err != nil {
		return err
	}
	return process.Say(usage)
}

func dialCalls(ctx context.Context, e callEnd) error {
	c, err := e.find()
	if err != nil {
		return err
	}
	caller, err := c.Dial(e.Addresses)
	if err != nil {
		return err
	}
	defer caller.Close() // all was answered
	result, err := e.callAll(ctx, caller)
	if err != nil {
		return err
	}
	if result.Client, err = process.Now(); err != nil {
		return err
	}
	return process.Say(result)
}

// warmUpCalls come before the measured ones, from each goroutine.
const warmUpCalls = 100

// callAll makes calls for e.Duration, beside bulk data if that is asked for.
func (e callEnd) callAll(ctx context.Context, caller contender.Caller) (calls, error) {
	var bulk bulkSource
	g, ctx := errgroup.WithContext(ctx)
	if e.Bulk {
		g.Go(func() error { return caller.Send(ctx, &bulk) })
	}
	latencies := make([][]time.Duration, e.InFlight)
	callers, callCtx := errgroup.WithContext(ctx)
	for i := range latencies {
		callers.Go(func() (err error) {
			latencies[i], err = e.callFor(callCtx, caller)
			return err
		})
	}
	g.Go(func() error {
		defer bulk.stop.Store(true)
		return callers.Wait()
	})
	if err := g.Wait(); err != nil {
		return calls{}, err
	}
	result := e.summarize(slices.Concat(latencies...))
	result.BulkGiBps = float64(bulk.bytes.Load()) / gib / e.Duration.Seconds()
	return result, nil
}

func (e callEnd) callFor(ctx context.Context, caller contender.Caller) ([]time.Duration, error) {
	for range warmUpCalls {
		if err := caller.Call(ctx); err != nil {
			return nil, err
		}
	}
	var latencies []time.Duration
	for start := time.Now(); time.Since(start) < e.Duration; {
		begun := time.Now()
		if err := caller.Call(ctx); err != nil {
			return nil, err
		}
		latencies = append(latencies, time.Since(begun))
	}
	return latencies, nil
}

func (e callEnd) summarize(latencies []time.Duration) calls {
	slices.Sort(latencies)
	at := func(quantile float64) float64 {
		return float64(latencies[int(quantile*float64(len(latencies)-1))]) / float64(time.Microsecond)
	}
	return calls{
		PerSecond: float64(len(latencies)) / e.Duration.Seconds(),
		P50:       at(0.50),
		P99:       at(0.99),
	}
}

// bulkSource goes on until it is stopped.
type bulkSource struct {
	stop  atomic.Bool
	bytes atomic.Int64
}

// Read implements io.Reader.
func (b *bulkSource) Read(p []byte) (int, error) {
	if b.stop.Load() {
		return 0, io.EOF
	}
	b.bytes.Add(int64(len(p)))
	return len(p), nil
}
