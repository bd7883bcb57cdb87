// Bench measures the data channel, the control channel and the dir endpoint beside
// what else does their job, and read-ahead beside none: the same work through each, in one run, every end a
// process of its own.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/dualrepl/dualrepl/bench/internal/ends"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := newRoot().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1) //nolint:gocritic // nothing is left to stop
	}
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "bench",
		Short: "Measure dualrepl beside its peers, in one run",
		Long: `Measures dualrepl beside its peers: the same work through each contender in turns
(A B C A B C ...), each end a process of its own, on the loopback device.

Tables show medians over the rounds. Ratios are made round by round, so that what
disturbs one round disturbs both of its parts; their median is shown. --json prints
every spread and every round. Keep the machine quiet.`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(newStream(), newSmall(), newControl(), newScale(), newBursty(), newDir())
	root.AddCommand(streamEnds()...)
	root.AddCommand(callEnds()...)
	root.AddCommand(fleetEnds()...)
	root.AddCommand(burstyEnds()...)
	root.AddCommand(pipeEnds()...)
	return root
}

// pipeEnds are the processes behind pipes.
func pipeEnds() []*cobra.Command {
	source := &cobra.Command{Use: ends.SourceCommand, Hidden: true, Args: cobra.ExactArgs(1), RunE: func(_ *cobra.Command, args []string) error {
		size, err := strconv.ParseInt(args[0], 10, 64)
		if err != nil {
			return err
		}
		return ends.WriteSource(size)
	}}
	sink := &cobra.Command{Use: ends.SinkCommand, Hidden: true, RunE: func(*cobra.Command, []string) error { return ends.ReadSink() }}
	return []*cobra.Command{source, sink}
}
