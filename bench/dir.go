package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/dualrepl/dualrepl/bench/internal/dataset"
	"github.com/dualrepl/dualrepl/bench/internal/keeper"
	"github.com/dualrepl/dualrepl/bench/internal/process"
	"github.com/dualrepl/dualrepl/bench/internal/report"
)

// dirFlags are the dir command's.
type dirFlags struct {
	common
	keepers []string
	scale   float64
	warmUp  bool
	active  string
	passive string
}

func newDir() *cobra.Command {
	var f dirFlags
	cmd := &cobra.Command{
		Use:   "dir",
		Short: "Versions of a directory of 2.3 GiB, beside rsync and restic",
		Long: `Keeps versions of a directory of 20,000 files of 1 to 16 KiB and 4 of 512 MiB with
each keeper, in turns: the first, then another after changes (1 % of the small files
edited, 100 MiB of a large one rewritten, 1 MiB inserted at the front of another, 200
files deleted, 50 renamed), then one without changes. It verifies and restores the last.

The time of each work has a final sync in it. CPU is that of all processes. Bytes on
the wire are those of the loopback device, headers included. New disk is that of the
passive side: blocks of its files, links counted once; where --passive is on another
file system than --active, what that has used more. The peak is the largest process's,
but for those that a daemon forks; less than bench's own, about 20 MiB, shows as that.

Two things would spoil the figures: creating files soon after deleting thousands is
several times slower on ext4, so nothing is deleted before the end; and the first touch
of memory is slow on some virtual machines, so that the page cache is filled first.

It needs root, rsync, restic and OpenSSH's server and client for all keepers, and
about 8 GiB of space for each keeper and round.

Keepers:
` + keeper.Legend(),
		Example: `  bench dir
  bench dir --keeper dualrepl,restic --rounds 3 --active /mnt/a --passive /mnt/b
  bench dir --scale 0.01 --warm-up=false`,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd.Context(), cmd.OutOrStdout()) },
	}
	f.register(cmd, 1)
	cmd.Flags().StringSliceVar(&f.keepers, "keeper", nil, "only these (default all)")
	cmd.Flags().Float64Var(&f.scale, "scale", 1, "part of the full size and of the changes")
	cmd.Flags().BoolVar(&f.warmUp, "warm-up", true, "fill the page cache first")
	cmd.Flags().StringVar(&f.active, "active", os.TempDir(), "where the active side's directory is made")
	cmd.Flags().StringVar(&f.passive, "passive", os.TempDir(), "where the passive side's directory is made")
	return cmd
}

// kept is one keeper's work of one kind in one round.
type kept struct {
	Seconds   float64 `json:"seconds"`
	CPU       float64 `json:"cpu_seconds"` // of all processes
	Wire      int64   `json:"wire_bytes"`
	Disk      int64   `json:"new_disk_bytes"` // on the passive side
	PeakBytes int64   `json:"peak_bytes"`     // of the largest process, the passive daemon's since its start
}

// dirRun is the run of a dir command.
type dirRun struct {
	dirFlags
	active, passive string // directories of this run
	source          dataset.Set
	kinds           []keeper.Kind
	keepers         [][]keeper.Keeper // by round, then in the order of kinds
}

func (f dirFlags) run(ctx context.Context, out io.Writer) (err error) {
	r := &dirRun{dirFlags: f}
	if r.kinds, err = keeper.Named(f.keepers); err != nil {
		return err
	}
	results, err := f.begin(out)
	if err != nil {
		return err
	}
	for place, parent := range map[*string]string{&r.active: f.active, &r.passive: f.passive} {
		if *place, err = os.MkdirTemp(parent, "bench-dir-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(*place)) }()
	}
	r.source = dataset.Set{Dir: filepath.Join(r.active, "source"), Scale: f.scale}
	if err := r.checkSpace(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.stop()) }()
	if err := r.prepare(ctx); err != nil {
		return err
	}
	if err := r.all(ctx, results); err != nil {
		return err
	}
	return results.end()
}

// checkSpace fails if there is not enough for all rounds: an active side keeps what it
// restores and perhaps a snapshot, a passive one two versions.
func (r *dirRun) checkSpace() error {
	each := 3 * r.source.Bytes() / 2 * int64(r.rounds*len(r.kinds))
	for _, dir := range []string{r.active, r.passive} {
		free, err := process.DiskFree(dir)
		if err != nil {
			return err
		}
		// Both may be on one file system.
		if need := 2*each + r.source.Bytes(); free < need {
			return fmt.Errorf("%s: %.1f GiB are free, and %.1f may be needed: have fewer rounds or keepers",
				filepath.Dir(dir), float64(free)/gib, float64(need)/gib)
		}
	}
	return nil
}

// prepare makes the data set and starts all passive sides.
func (r *dirRun) prepare(ctx context.Context) error {
	if err := keeper.Build(ctx, r.active); err != nil {
		return err
	}
	if err := r.source.Make(); err != nil {
		return err
	}
	for round := range r.rounds {
		r.keepers = append(r.keepers, nil)
		for i, kind := range r.kinds {
			k, err := r.start(ctx, kind, fmt.Sprintf("%d-%d", round, i))
			if err != nil {
				return fmt.Errorf("%s: %w", kind.Name, err)
			}
			r.keepers[round] = append(r.keepers[round], k)
		}
	}
	unix.Sync()
	if r.warmUp {
		return process.FillPageCache(filepath.Join(r.active, "holes"))
	}
	return nil
}

// start makes a keeper's places, and starts it.
func (r *dirRun) start(ctx context.Context, kind keeper.Kind, name string) (keeper.Keeper, error) {
	p := keeper.Places{Source: r.source.Dir, Active: filepath.Join(r.active, name), Passive: filepath.Join(r.passive, name)}
	if err := errors.Join(os.Mkdir(p.Active, 0o700), os.MkdirAll(p.Passive, 0o700)); err != nil {
		return nil, err
	}
	k := kind.New(p)
	return k, k.Start(ctx)
}

func (r *dirRun) stop() (err error) {
	for _, k := range slices.Concat(r.keepers...) {
		if d := k.Daemon(); d != nil {
			err = errors.Join(err, d.Stop())
		}
	}
	return err
}

// task is what a keeper does, with a directory of its own to restore to.
type task func(k keeper.Keeper, target string) (process.Usage, error)

// all does each work with each keeper, in turns. Nothing is deleted in between.
func (r *dirRun) all(ctx context.Context, results *results) error {
	keep := func(k keeper.Keeper, _ string) (process.Usage, error) { return k.Keep(ctx) }
	for _, work := range []struct {
		name   string
		before func() error
		do     task
	}{
		{"initial", nil, keep},
		{"incremental", r.source.Change, keep},
		{"no change", nil, keep},
		{"verify", nil, func(k keeper.Keeper, _ string) (process.Usage, error) { return k.Verify(ctx) }},
		{"restore", nil, func(k keeper.Keeper, target string) (process.Usage, error) { return k.Restore(ctx, target) }},
	} {
		if work.before != nil {
			if err := work.before(); err != nil {
				return err
			}
			unix.Sync()
		}
		series, err := r.each(ctx, work.do)
		if err != nil {
			return fmt.Errorf("%s: %w", work.name, err)
		}
		if len(series) == 0 {
			continue
		}
		if err := results.add(compareKept(work.name, series)); err != nil {
			return err
		}
	}
	return nil
}

// each has every keeper that can do it do it.
func (r *dirRun) each(ctx context.Context, do task) ([]report.Series[kept], error) {
	series := make([]report.Series[kept], len(r.kinds))
	for round, keepers := range r.keepers {
		for i, k := range keepers {
			series[i].Name = r.kinds[i].Name
			target := filepath.Join(r.active, fmt.Sprintf("restored-%d-%d", round, i))
			result, err := r.measure(ctx, k, fmt.Sprintf("%d-%d", round, i), func() (process.Usage, error) { return do(k, target) })
			if errors.Is(err, errors.ErrUnsupported) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", r.kinds[i].Name, err)
			}
			series[i].Rounds = append(series[i].Rounds, result)
		}
	}
	return slices.DeleteFunc(series, func(s report.Series[kept]) bool { return len(s.Rounds) == 0 }), nil
}

func (r *dirRun) measure(ctx context.Context, k keeper.Keeper, name string, do func() (process.Usage, error)) (result kept, err error) {
	before, err := r.read(ctx, k, name)
	if err != nil {
		return kept{}, err
	}
	start := time.Now()
	active, err := do()
	if err != nil {
		return kept{}, err
	}
	unix.Sync()
	seconds := time.Since(start).Seconds()
	after, err := r.read(ctx, k, name)
	return kept{
		Seconds: seconds, CPU: active.CPUSeconds + after.CPU - before.CPU, Wire: after.Wire - before.Wire,
		Disk: after.Disk - before.Disk, PeakBytes: max(active.PeakBytes, after.PeakBytes),
	}, err
}

// read reads what only grows.
func (r *dirRun) read(ctx context.Context, k keeper.Keeper, name string) (now kept, err error) {
	if d := k.Daemon(); d != nil {
		u, err := d.Usage(ctx)
		if err != nil {
			return now, err
		}
		now.CPU, now.PeakBytes = u.CPUSeconds, u.PeakBytes
	}
	if now.Wire, err = process.LoopbackBytes(); err != nil {
		return now, err
	}
	now.Disk, err = process.DiskUsed(filepath.Join(r.passive, name), r.active)
	return now, err
}

func compareKept(work string, series []report.Series[kept]) report.Comparison[kept] {
	seconds := func(k kept) float64 { return k.Seconds }
	reference := series[0].Name
	return report.Comparison[kept]{
		Title: work,
		Figures: []report.Figure[kept]{
			{Name: "seconds", Of: seconds, Digits: 2, Range: true},
			{Name: "CPU s", Of: func(k kept) float64 { return k.CPU }, Digits: 2},
			{Name: "wire MB", Of: func(k kept) float64 { return float64(k.Wire) / 1e6 }, Digits: 3},
			{Name: "new disk MiB", Of: func(k kept) float64 { return float64(k.Disk) / mib }, Digits: 1},
			{Name: "peak MiB", Of: func(k kept) float64 { return float64(k.PeakBytes) / mib }},
		},
		Ratios: []report.Ratio[kept]{{Name: reference + "/this", Of: func(k kept) float64 { return 1 / k.Seconds }, To: reference}},
		Series: series,
	}
}
