package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/internal/config"
	"github.com/dualrepl/dualrepl/pdu"
	"github.com/dualrepl/dualrepl/replication"
	"github.com/dualrepl/dualrepl/rpc"
	"github.com/dualrepl/dualrepl/transport"
)

// A Daemon runs all jobs of a configuration.
type Daemon struct {
	jobs   []*Job
	logger *slog.Logger
}

// New returns a Daemon that logs to logger. It opens nothing yet.
func New(cfg *config.Config, logger *slog.Logger) *Daemon {
	return &Daemon{jobs: newJobs(cfg, logger, newLocals(cfg.Jobs)), logger: logger}
}

// Run runs all jobs until ctx ends, and returns nil when they have ended as the
// package's contract says. It returns an error if a job cannot run, once the others
// have ended too.
func (d *Daemon) Run(ctx context.Context) error {
	services, err := d.open(ctx)
	if err != nil {
		return err
	}
	d.logger.Info("daemon started", "jobs", len(d.jobs))
	group, ctx := errgroup.WithContext(ctx)
	for _, s := range services {
		group.Go(func() error { return s.run(ctx) })
	}
	group.Go(func() error {
		<-ctx.Done()
		d.logger.Info("daemon stopping: running steps may finish", "grace", GracePeriod)
		return nil
	})
	err = group.Wait()
	d.logger.Info("daemon stopped")
	return err
}

// open opens what the jobs need for good: a daemon that starts at all can serve
// all that it should.
func (d *Daemon) open(ctx context.Context) ([]*service, error) {
	var services []*service
	var errs []error
	for _, j := range d.jobs {
		s, err := openService(ctx, j)
		if err != nil {
			errs = append(errs, fmt.Errorf("job %s: %w", j.Name(), err))
			continue
		}
		services = append(services, s)
	}
	if len(errs) == 0 {
		return services, nil
	}
	for _, s := range services {
		s.close()
	}
	return nil, errors.Join(errs...)
}

// A service is a job while the daemon runs it.
type service struct {
	*Job
	handler  endpoint.Endpoint  // passive jobs
	listener transport.Listener // passive jobs
}

func openService(ctx context.Context, j *Job) (s *service, err error) {
	s = &service{Job: j}
	if j.sends() {
		s.handler, err = j.newSender()
	} else {
		s.handler, err = j.newReceiver()
	}
	if err == nil {
		err = j.keep.check() // and so know it from now on
	}
	if err != nil || j.conf.Serve == nil {
		return s, err
	}
	s.listener, err = listen(ctx, j.conf.Serve, j.within)
	return s, err
}

func (s *service) close() {
	if s.listener != nil {
		_ = s.listener.Close() // nothing was accepted
	}
}

// run returns when ctx has ended and all that ran has finished, or on an error
// that ends the daemon.
func (s *service) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	wake := make(chan struct{}, 1) // a new snapshot is there to replicate
	if s.periodic() {
		group.Go(func() error { s.takeSnapshots(ctx, wake); return nil })
	}
	switch s.conf.Type {
	case config.TypePush:
		group.Go(func() error { s.push(ctx, wake); return nil })
	case config.TypePull:
		group.Go(func() error { s.pull(ctx); return nil })
	case config.TypeSink, config.TypeSource:
		group.Go(func() error { return s.serve(ctx) })
	}
	return group.Wait()
}

func (s *service) periodic() bool {
	return s.sends() && s.conf.Snapshotting.Type == config.SnapshottingPeriodic
}

// push replicates after each snapshot.
func (s *service) push(ctx context.Context, wake <-chan struct{}) {
	if !s.periodic() {
		s.logger.Info("snapshotting is manual: this job replicates by `dualrepl replicate` only")
		return
	}
	onWake(ctx, wake, func() { s.replicateOnce(ctx) })
}

// pull replicates at once and then each interval.
func (s *service) pull(ctx context.Context) {
	if s.conf.Interval == 0 {
		s.logger.Info("the interval is manual: this job replicates by `dualrepl replicate` only")
		return
	}
	every(ctx, time.Now(), s.conf.Interval, func() { s.replicateOnce(ctx) })
}

func (s *service) serve(ctx context.Context) error {
	s.logger.Info("serving", "address", s.listener.Addr().String())
	server := rpc.NewServer(s.handler, rpc.ServerOptions{Grace: GracePeriod, Logger: s.logger})
	if err := server.Serve(ctx, s.listener); err != nil {
		return fmt.Errorf("job %s: %w", s.Name(), err)
	}
	return nil
}

// replicateOnce leaves the steps to the replication's own log and says how it ended.
func (s *service) replicateOnce(ctx context.Context) {
	started := time.Now()
	result, err := s.replicateGracefully(ctx)
	switch {
	case err != nil && ctx.Err() != nil:
		s.logger.Info("replication stopped", "reason", err)
	case err != nil:
		for _, err := range parts(err) {
			s.logger.Error("replication failed", "err", err)
		}
	default:
		s.logger.Info("replication done", "duration", time.Since(started))
		s.warnOfEmpty(result.Filesystems)
	}
}

func (s *service) warnOfEmpty(filesystems []replication.FilesystemReport) {
	for _, fs := range filesystems {
		if fs.State == replication.StateEmpty {
			s.logger.Warn("the sender has no snapshot yet", "filesystem", fs.Filesystem)
		}
	}
}

// takeSnapshots takes a snapshot each interval and signals wake. What an earlier
// daemon left to replicate does not wait for the first.
func (s *service) takeSnapshots(ctx context.Context, wake chan<- struct{}) {
	first := s.nextSnapshot(ctx)
	if time.Until(first) > 0 {
		signal(wake)
	}
	every(ctx, first, s.conf.Snapshotting.Interval, func() {
		s.snapshotOnce(ctx)
		signal(wake)
	})
}

func (s *service) snapshotOnce(ctx context.Context) {
	work, end := withGrace(ctx)
	defer end()
	snapshots, err := s.Snapshot(work, false, nil)
	for _, taken := range snapshots {
		s.logSnapshot(taken)
	}
	for _, err := range parts(err) {
		s.logger.Error("snapshot failed", "err", err)
	}
}

// logSnapshot leaves out one that failed, which the error tells.
func (s *service) logSnapshot(taken Snapshot) {
	if taken.Err != nil {
		return
	}
	logger := s.logger.With("filesystem", taken.Filesystem, "version", taken.Version)
	logger.Info("snapshot taken", "files", taken.Report.Files, "bytes", taken.Report.Bytes, "changed", taken.Report.Changed)
	if n := len(taken.Report.Inconsistent); n > 0 {
		logger.Warn("snapshot does not have all as it was", "entries", n, "first", taken.Report.Inconsistent[0])
	}
}

// nextSnapshot is one interval after the newest snapshot of the filesystem that
// has waited longest, or now if that has passed: a daemon that is restarted often
// takes no more of them.
func (s *service) nextSnapshot(ctx context.Context) time.Time {
	now := time.Now()
	next := now.Add(s.conf.Snapshotting.Interval)
	for _, filesystem := range s.filesystems() {
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
