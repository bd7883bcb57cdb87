package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/internal/config"
	"github.com/dualrepl/dualrepl/internal/prune"
	"github.com/dualrepl/dualrepl/replication"
	"github.com/dualrepl/dualrepl/rpc"
)

// A Daemon runs all jobs of a configuration.
type Daemon struct {
	cfg    *config.Config
	jobs   []*Job
	within locals
	logger *slog.Logger
}

// New returns a Daemon that logs to logger. It opens nothing yet.
func New(cfg *config.Config, logger *slog.Logger) *Daemon {
	within := newLocals(cfg)
	return &Daemon{cfg: cfg, jobs: newJobs(cfg, logger, within), within: within, logger: logger}
}

// Run runs all jobs until ctx ends, and returns nil when they have ended as the
// package's contract says. It returns an error if a job cannot run, once the others
// have ended too.
func (d *Daemon) Run(ctx context.Context) error {
	o, err := d.open(ctx)
	if err != nil {
		return err
	}
	defer o.close()
	d.logger.Info("daemon started", "jobs", len(d.jobs))
	group, ctx := errgroup.WithContext(ctx)
	for _, run := range o.runs() {
		group.Go(func() error { return run(ctx) })
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

// opened is all that a running daemon holds.
type opened struct {
	services []*service
	doors    []*door
	pages    []*page
	metrics  *metrics
}

// open opens what the jobs need for good: a daemon that starts at all can serve
// all that it should.
func (d *Daemon) open(ctx context.Context) (*opened, error) {
	o := &opened{metrics: newMetrics()}
	err := errors.Join(d.openServices(o), d.openDoors(ctx, o), d.openPages(ctx, o))
	if err != nil {
		o.close()
		return nil, err
	}
	return o, nil
}

func (d *Daemon) openServices(o *opened) error {
	var errs []error
	for _, j := range d.jobs {
		s, err := openService(j, o.metrics)
		if err != nil {
			errs = append(errs, fmt.Errorf("job %s: %w", j.Name(), err))
		}
		o.services = append(o.services, s)
	}
	return errors.Join(errs...)
}

func (d *Daemon) openDoors(ctx context.Context, o *opened) error {
	var errs []error
	o.doors = d.doors(o.services)
	for _, door := range o.doors {
		if err := door.open(ctx, d.within); err != nil {
			errs = append(errs, fmt.Errorf("%s %s: %w", door.kind, door.name, err))
		}
		o.metrics.watchLimits(door.name, door.server)
	}
	return errors.Join(errs...)
}

func (d *Daemon) openPages(ctx context.Context, o *opened) error {
	var errs []error
	for _, m := range d.cfg.Global.Monitoring {
		p, err := openPage(ctx, m.Listen, o.metrics, d.logger)
		if err != nil {
			errs = append(errs, fmt.Errorf("monitoring %s: %w", m.Listen, err))
			continue
		}
		o.pages = append(o.pages, p)
	}
	return errors.Join(errs...)
}

// runs are what runs until its context ends.
func (o *opened) runs() []func(context.Context) error {
	var all []func(context.Context) error
	for _, s := range o.services {
		all = append(all, s.run)
	}
	for _, d := range o.doors {
		all = append(all, d.run)
	}
	for _, p := range o.pages {
		all = append(all, p.run)
	}
	return all
}

// close also closes what was opened by halves.
func (o *opened) close() {
	for _, s := range o.services {
		s.close()
	}
	for _, d := range o.doors {
		d.close()
	}
	for _, p := range o.pages {
		p.close()
	}
}

// A service is a job while the daemon runs it.
type service struct {
	*Job
	handler endpoint.Endpoint
	rules   map[string][]prune.Rule // by side
	times   timetable               // of snapshots; nil: none by itself
	server  *rpc.Server             // of a passive side that connects
	metrics jobMetrics
	// ended is called once the job has ended.
	ended func()
}

// openService opens a job's endpoint, and its connection if it is the passive side that
// connects.
func openService(j *Job, m *metrics) (s *service, err error) {
	s = &service{Job: j, metrics: m.of(j), ended: func() {}}
	if j.sends() {
		s.handler, err = j.newSender()
	} else {
		s.handler, err = j.newReceiver()
	}
	if err == nil {
		s.rules, err = j.newRules()
	}
	if err == nil && j.sends() {
		s.times, err = newTimetable(j.conf.Snapshotting)
	}
	if err == nil {
		err = j.keep.check() // and so know it from now on
	}
	if err == nil && j.calledBack() {
		err = s.openConnection()
	}
	return s, err
}

// openConnection prepares what the active side calls over the connection that this passive
// side makes.
func (s *service) openConnection() (err error) {
	if s.peer, err = newClient(s.conf.Connect, s.within, s.logger); err != nil {
		return err
	}
	s.server = newServer(config.DefaultLimits, s.logger)
	s.server.Handle("", rpc.Route{Endpoint: s.handler, Verbs: newVerbs(s.conf.Connect.Verbs)})
	s.metrics.watchPeer(s.peer)
	s.metrics.watchLimits(s.Name(), s.server)
	return nil
}

func (s *service) close() {
	if s.peer != nil {
		_ = s.peer.Close() // nothing runs over it any more
	}
}

// run returns when ctx has ended and all that ran has finished, or on an error
// that ends the daemon.
func (s *service) run(ctx context.Context) error {
	defer s.ended()
	group, ctx := errgroup.WithContext(ctx)
	wake := make(chan struct{}, 1) // there is something to replicate, or somebody to replicate with
	if s.times != nil {
		group.Go(func() error { s.takeSnapshots(ctx, wake); return nil })
	}
	switch {
	case s.awaits():
		group.Go(func() error { s.followPeer(ctx, wake); return nil })
	case s.calledBack():
		group.Go(func() error { s.followConnection(ctx); return nil })
		group.Go(func() error { return s.serveOver(ctx) })
	}
	switch s.conf.Type {
	case config.TypePush:
		group.Go(func() error { s.push(ctx, wake); return nil })
	case config.TypePull:
		group.Go(func() error { s.pull(ctx, wake); return nil })
	case config.TypeSnap:
		if s.times == nil {
			s.logger.Info("snapshotting is manual: the daemon takes and prunes nothing")
		}
	}
	return group.Wait()
}

// push replicates after each snapshot and whenever the passive side has connected.
func (s *service) push(ctx context.Context, wake <-chan struct{}) {
	if s.times == nil && !s.byHand("snapshotting") {
		return
	}
	onWake(ctx, wake, func() { s.replicateOnce(ctx) })
}

// pull replicates at once and then each interval, and whenever the passive side has
// connected.
func (s *service) pull(ctx context.Context, wake <-chan struct{}) {
	replicate := func() { s.replicateOnce(ctx) }
	switch {
	case s.conf.Interval > 0:
		everyAndOnWake(ctx, time.Now(), intervals(s.conf.Interval), wake, replicate)
	case s.byHand("the interval"):
		onWake(ctx, wake, replicate)
	}
}

// byHand says when a job with a manual setting replicates, and whether there is anything
// for the daemon to do.
func (s *service) byHand(setting string) (more bool) {
	if s.awaits() {
		s.logger.Info(setting + " is manual: this job replicates only when the passive side has connected")
		return true
	}
	s.logger.Info(setting + " is manual: this job replicates by `dualrepl replicate` only, which prunes nothing")
	return false
}

// replicateOnce leaves the steps to the replication's own log and says how it ended. Then
// it prunes.
func (s *service) replicateOnce(ctx context.Context) {
	if s.awaits() && s.peer.State() != rpc.Ready {
		s.logger.Info("replication waits for the passive side to connect", "client", s.conf.Peer)
		return
	}
	ends, err := s.connect(ctx)
	if err != nil {
		s.tellReplication(ctx, nil, err, 0)
		return
	}
	defer ends.close()
	started := time.Now()
	result, err := s.replicateGracefully(ctx, ends)
	s.tellReplication(ctx, result, err, time.Since(started))
	s.pruneSides(ctx, ends, err == nil || len(result.Filesystems) > 0)
}

// tellReplication counts a replication and logs how it ended.
func (s *service) tellReplication(ctx context.Context, result *Replication, err error, took time.Duration) {
	switch {
	case err != nil && ctx.Err() != nil:
		s.metrics.replicated(result, resultStopped)
		s.logger.Info("replication stopped", "reason", err)
	case err != nil:
		s.metrics.replicated(result, resultFailed)
		for _, err := range parts(err) {
			s.logger.Error("replication failed", "err", err)
		}
	default:
		s.metrics.replicated(result, resultDone)
		s.logger.Info("replication done", "duration", took)
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
