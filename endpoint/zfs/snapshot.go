package zfs

import (
	"context"
	"fmt"
	"strings"

	"github.com/dualrepl/dualrepl/endpoint"
)

// Snapshot takes a snapshot of each of the filesystems, which are of those that
// Filesystems lists. Those of one pool get it at the same instant, unless there are too
// many for one command or one of them fails. It returns what failed, by filesystem; nil: nothing.
func (s *Sender) Snapshot(ctx context.Context, name string, filesystems []string) map[string]error {
	failed := map[string]error{}
	byPool := map[string][]string{}
	for _, fs := range filesystems {
		if err := s.checkSnapshot(fs, name); err != nil {
			failed[fs] = err
			continue
		}
		pool, _, _ := strings.Cut(fs, "/")
		byPool[pool] = append(byPool[pool], fs+"@"+name)
	}
	for _, names := range byPool {
		s.snapshotPool(ctx, names, failed)
	}
	if len(failed) == 0 {
		return nil
	}
	return failed
}

func (s *Sender) snapshotPool(ctx context.Context, names []string, failed map[string]error) {
	errs := inBatches(ctx, names, func(names []string) error {
		_, err := s.program.run(ctx, append([]string{"snapshot"}, names...)...)
		return err
	})
	for _, name := range names {
		fs, _, _ := strings.Cut(name, "@")
		s.lister.changed(fs)
		if err := errs[name]; err != nil {
			failed[fs] = err
		}
	}
}

func (s *Sender) checkSnapshot(fs, name string) error {
	if err := s.check(fs); err != nil {
		return err
	}
	if err := endpoint.ValidateVersionName(name); err != nil {
		return err
	}
	if n := len(fs) + 1 + len(name); n > endpoint.MaxNameLength {
		return fmt.Errorf("%w: %s@%s is %d bytes long, at most %d are possible", endpoint.ErrInvalid, fs, name, n, endpoint.MaxNameLength)
	}
	return nil
}

// Filesystems lists the datasets that the filter selects, parents before children,
// without placeholders: what snapshots are taken of.
func (s *Sender) Filesystems(ctx context.Context) ([]string, error) {
	datasets, err := s.datasets(ctx)
	var names []string
	for _, d := range datasets {
		if !d.placeholder {
			names = append(names, d.name)
		}
	}
	return names, err
}
