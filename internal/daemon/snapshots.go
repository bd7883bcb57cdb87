package daemon

import (
	"context"
	"strings"
	"time"

	"github.com/dualrepl/dualrepl/internal/config"
	"github.com/dualrepl/dualrepl/pdu"
)

// takeSnapshots takes snapshots when it is time and signals wake. What an earlier
// daemon left to replicate does not wait for the first.
func (s *service) takeSnapshots(ctx context.Context, wake chan<- struct{}) {
	first := s.nextSnapshot(ctx)
	if time.Until(first) > 0 {
		signal(wake)
	}
	failed := false
	every(ctx, first, s.times.orRetry(&failed), func() {
		failed = !s.snapshotOnce(ctx)
		signal(wake)
		if s.conf.Type == config.TypeSnap {
			s.pruneSnapshots(ctx)
		}
	})
}

// snapshotOnce reports whether it could begin.
func (s *service) snapshotOnce(ctx context.Context) (begun bool) {
	work, end := withGrace(ctx)
	defer end()
	snapshots, err := s.Snapshot(work, false, nil)
	s.metrics.snapshotsTaken(snapshots, err)
	s.logSnapshots(snapshots)
	for _, err := range parts(err) {
		s.logger.Error("snapshot failed", "err", err)
	}
	return len(snapshots) > 0
}

// logSnapshots leaves out those that failed, which the error tells. Of directories there is
// something to tell of each; datasets are many.
func (s *service) logSnapshots(snapshots []Snapshot) {
	datasets, version := 0, ""
	for _, taken := range snapshots {
		switch {
		case taken.Err != nil:
		case taken.Report != nil:
			s.logSnapshot(taken)
		default:
			datasets, version = datasets+1, taken.Version
		}
	}
	if datasets > 0 {
		s.logger.Info("snapshots taken", "version", version, "filesystems", datasets)
	}
}

// logSnapshot is for one of a directory.
func (s *service) logSnapshot(taken Snapshot) {
	logger := s.logger.With("filesystem", taken.Filesystem, "version", taken.Version)
	logger.Info("snapshot taken", "files", taken.Report.Files, "bytes", taken.Report.Bytes, "changed", taken.Report.Changed)
	if n := len(taken.Report.Inconsistent); n > 0 {
		logger.Warn("snapshot does not have all as it was", "entries", n, "first", taken.Report.Inconsistent[0])
	}
}

// nextSnapshot is one interval after the newest snapshot of the filesystem that
// has waited longest, or now if that has passed: a daemon that is restarted often
// takes no more of them. Times of a cron table do not depend on snapshots.
func (s *service) nextSnapshot(ctx context.Context) time.Time {
	now := time.Now()
	if s.conf.Snapshotting.Type == config.SnapshottingCron {
		return s.times(now, now)
	}
	next := now.Add(s.conf.Snapshotting.Interval)
	filesystems := s.listed(ctx)
	if len(filesystems) == 0 {
		return now
	}
	for _, filesystem := range filesystems {
		due := s.newestSnapshot(ctx, filesystem).Add(s.conf.Snapshotting.Interval)
		if due.Before(next) {
			next = due
		}
	}
	if next.Before(now) {
		return now
	}
	return next
}

// listed are the filesystems that the sender lists: none, if it cannot. Their versions are
// cheaper to list then.
func (s *service) listed(ctx context.Context) []string {
	res, _ := s.handler.ListFilesystems(ctx, &pdu.ListFilesystemReq{}) // the snapshot itself will tell
	var names []string
	for _, fs := range res.GetFilesystems() {
		if !fs.GetIsPlaceholder() {
			names = append(names, fs.GetPath())
		}
	}
	return names
}

// newestSnapshot is when the newest of the job's snapshots was made, the zero time
// if none was, or that cannot be told.
func (s *service) newestSnapshot(ctx context.Context, filesystem string) (newest time.Time) {
	res, err := s.handler.ListFilesystemVersions(ctx, &pdu.ListFilesystemVersionsReq{Filesystem: filesystem})
	if err != nil {
		return time.Time{} // the snapshot itself will tell
	}
	prefix := s.conf.Snapshotting.Prefix
	for _, v := range res.GetVersions() {
		created, err := time.Parse(time.RFC3339, v.GetCreation())
		if err == nil && v.GetType() == pdu.FilesystemVersion_Snapshot && strings.HasPrefix(v.GetName(), prefix) && created.After(newest) {
			newest = created
		}
	}
	return newest
}
