package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/endpoint/dir"
	"github.com/dualrepl/dualrepl/endpoint/flow"
	"github.com/dualrepl/dualrepl/internal/config"
	"github.com/dualrepl/dualrepl/replication"
	"github.com/dualrepl/dualrepl/rpc"
)

// ErrJob is in the chain of an error that names the wrong job: there is none of
// that name, or it is of a type that does not do what was asked.
var ErrJob = errors.New("wrong job")

// ErrWithin is the ErrJob of a job whose peer is within the daemon.
var ErrWithin = fmt.Errorf("%w: only the daemon replicates it", ErrJob)

// wrongJob is an error that is ErrJob.
func wrongJob(format string, args ...any) error {
	return &explained{fmt.Sprintf(format, args...), ErrJob}
}

// A Job is one configured job. It holds nothing open: each method opens what it
// needs and closes it, so that jobs may be used by several processes at once.
type Job struct {
	conf   config.Job
	all    []config.Job // of the configuration, this one among them
	base   *slog.Logger // for endpoints, which name the job themselves
	logger *slog.Logger
	within locals // nil outside a daemon
	keep   *keep
	limit  *flow.Limit   // of all streams; nil: none
	shared *config.Serve // of the listener that the job shares; nil: it shares none
	peer   *rpc.Client   // in a daemon, if the passive side connects: each side's client of the other
}

// Open finds a job of the configuration; the error is ErrJob.
func Open(cfg *config.Config, name string, logger *slog.Logger) (*Job, error) {
	i := slices.IndexFunc(cfg.Jobs, func(j config.Job) bool { return j.Name == name })
	if i < 0 {
		return nil, wrongJob("no job is named %q; %s", name, enumerate(jobNames(cfg.Jobs)))
	}
	return OpenAll(cfg, logger)[i], nil
}

// OpenAll returns the jobs of the configuration in their order.
func OpenAll(cfg *config.Config, logger *slog.Logger) []*Job {
	return newJobs(cfg, logger, nil)
}

func newJobs(cfg *config.Config, logger *slog.Logger, within locals) []*Job {
	jobs := make([]*Job, len(cfg.Jobs))
	for i, conf := range cfg.Jobs {
		jobs[i] = &Job{
			conf: conf, all: cfg.Jobs, base: logger, logger: logger.With("job", conf.Name), within: within,
			keep:   &keep{path: cmp.Or(conf.Endpoint.Store, conf.Endpoint.Root)},
			limit:  newLimit(conf),
			shared: sharedServe(cfg, conf),
		}
	}
	return jobs
}

// sharedServe finds the listener that a job shares.
func sharedServe(cfg *config.Config, job config.Job) *config.Serve {
	for _, l := range cfg.Listeners {
		if job.Serve != nil && job.Serve.Type == config.ServeShared && job.Serve.Listener == l.Name {
			return l.Serve
		}
	}
	return nil
}

func jobNames(jobs []config.Job) []string {
	names := make([]string, len(jobs))
	for i, j := range jobs {
		names[i] = j.Name
	}
	return names
}

// Name is the job's name in the configuration.
func (j *Job) Name() string { return j.conf.Name }

// Type is the job's type in the configuration: one of config.TypePush to config.TypeSnap.
func (j *Job) Type() string { return j.conf.Type }

// Endpoint is the type of the job's endpoint: one of config.EndpointDir to
// config.EndpointBtrfs.
func (j *Job) Endpoint() string { return j.conf.Endpoint.Type }

// Store is what holds the job's versions: the sender's store, or the receiver's root, where
// a sink has a directory, or a dataset, for each client identity. It is empty for a zfs
// sender, whose datasets may lie in any pool.
func (j *Job) Store() string {
	switch e := j.conf.Endpoint; {
	case e.Type == config.EndpointZFS:
		return j.conf.RootFS
	case j.sends():
		return cmp.Or(e.Store, e.Root)
	}
	return j.conf.ReceiveRoot()
}

// sends reports whether the job has a sender of its own.
func (j *Job) sends() bool { return j.conf.Sends() }

// awaits reports whether the job replicates with a passive side that connects.
func (j *Job) awaits() bool { return j.conf.Active() && j.conf.Dialled() }

// calledBack reports whether the job connects and is then called by its active side.
func (j *Job) calledBack() bool { return j.conf.Passive() && j.conf.Dialled() }

// A Snapshot is one that was taken, or could not be.
type Snapshot struct {
	Filesystem string              `json:"filesystem"`
	Version    string              `json:"version"`
	Report     *dir.SnapshotReport `json:"report,omitempty"` // nil: failed, or not of a directory
	Err        error               `json:"-"`                // nil: taken
}

// Snapshot takes a snapshot of each of the job's filesystems, all of one name.
// With full every file is read again. One filesystem's failure does not keep the
// others from theirs; the error joins all failures. Progress may be nil; how much there
// will be is guessed from the version before.
func (j *Job) Snapshot(ctx context.Context, full bool, progress StoreProgress) ([]Snapshot, error) {
	if !j.sends() {
		return nil, wrongJob("%s is a %s job, which takes no snapshots", j.Name(), j.Type())
	}
	if err := j.onlyDirectories(snapshot); full && err != nil {
		return nil, err
	}
	shots, err := j.newSnapshotter(full, progress)
	if err == nil {
		err = j.keep.check()
	}
	var filesystems []string
	if err == nil {
		filesystems, err = shots.Filesystems(ctx)
	}
	if err == nil && len(filesystems) == 0 {
		err = errNoFilesystem
	}
	if err != nil {
		return nil, fmt.Errorf("job %s: %w", j.Name(), err)
	}
	all := shots.take(ctx, snapshotName(j.conf.Snapshotting.Prefix, time.Now()), filesystems)
	var errs []error
	for _, s := range all {
		errs = append(errs, s.Err)
	}
	return all, errors.Join(errs...)
}

// snapshotOptions returns the options for each filesystem. Only for progress, the store
// is asked how much there was the last time.
func (j *Job) snapshotOptions(ctx context.Context, full bool, name string, progress StoreProgress) func(filesystem string) dir.SnapshotOptions {
	if progress == nil {
		return func(string) dir.SnapshotOptions { return dir.SnapshotOptions{Full: full} }
	}
	sizes := j.sizes(ctx)
	return func(filesystem string) dir.SnapshotOptions {
		title, total := filesystem+"@"+name, sizes[filesystem]
		return dir.SnapshotOptions{Full: full, Progress: func(_ int, bytes int64) { progress(title, uint64(bytes), total) }}
	}
}

// A Replication is what one replication of a job did.
type Replication struct {
	*replication.Report
	Channels Channels `json:"channels"`
}

// Channels tells what went over which channel: rpc.Stats, for scripts.
type Channels struct {
	ControlCalls    uint64 `json:"control_calls"`
	ControlSent     uint64 `json:"control_sent"` // bytes as transported
	ControlReceived uint64 `json:"control_received"`
	DataRequests    uint64 `json:"data_requests"`
	DataConnections uint64 `json:"data_connections"`
	DataSent        uint64 `json:"data_sent"` // bytes of streams
	DataReceived    uint64 `json:"data_received"`
}

// Replicate replicates the job's filesystems once. Progress is called as
// replication.Options says; it may be nil. The result is nil if the replication
// could not even begin. The end of ctx leaves running steps resumable.
func (j *Job) Replicate(ctx context.Context, progress func(replication.Progress)) (*Replication, error) {
	s, err := j.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer s.close()
	return j.replicate(ctx, s, progress)
}

// replicateGracefully is Replicate as the daemon does it: see graceful.
func (j *Job) replicateGracefully(ctx context.Context, s sides) (*Replication, error) {
	g, work := newGraceful(ctx)
	defer g.close()
	s.sender, s.receiver = gracefulSender{s.sender, g}, gracefulReceiver{s.receiver, g}
	return j.replicate(work, s, nil)
}

// sides are the two ends of a replication.
type sides struct {
	sender   endpoint.Sender
	receiver endpoint.Receiver
	tokens   endpoint.TokenReader // the local one of the two
	client   *rpc.Client          // the other
	release  func()               // gives client back
}

// connect opens the local side and prepares the connection to the other. Where the
// passive side is the one that connects, it waits for it.
func (j *Job) connect(ctx context.Context) (s sides, err error) {
	if !j.conf.Active() {
		return sides{}, wrongJob("%s is a %s job; only push and pull jobs replicate by themselves", j.Name(), j.Type())
	}
	if s.client, s.release, err = j.reach(ctx); err != nil {
		return sides{}, fmt.Errorf("job %s: %w", j.Name(), err)
	}
	if err := j.openLocal(&s); err != nil {
		s.close()
		return sides{}, fmt.Errorf("job %s: %w", j.Name(), err)
	}
	return s, nil
}

// reach returns a client of the passive side, until release.
func (j *Job) reach(ctx context.Context) (client *rpc.Client, release func(), err error) {
	switch {
	case j.peer != nil:
		return j.peer, func() {}, nil
	case j.awaits():
		return j.awaitPeer(ctx)
	}
	client, err = newClient(j.conf.Connect, j.within, j.logger)
	return client, func() { _ = client.Close() }, err // all that was done is on disk
}

func (j *Job) openLocal(s *sides) error {
	if j.conf.Type == config.TypePush {
		sender, err := j.newSender()
		s.sender, s.receiver = sender, s.client
		s.tokens, _ = sender.(endpoint.TokenReader)
		return err
	}
	receiver, err := j.newReceiver()
	s.sender, s.receiver = s.client, receiver
	s.tokens, _ = receiver.(endpoint.TokenReader)
	return err
}

func (s sides) close() { s.release() }

func (j *Job) replicate(ctx context.Context, s sides, progress func(replication.Progress)) (*Replication, error) {
	report, err := replication.Run(ctx, s.sender, s.receiver, replication.Options{
		InitialPolicy: replication.InitialPolicy(j.conf.ConflictResolution.InitialReplication),
		Concurrency:   j.conf.Replication.Concurrency.Steps,
		Estimates:     j.conf.Replication.Concurrency.SizeEstimates,
		Tokens:        s.tokens,
		Protection:    newProtection(j.conf.Replication.Protection),
		Progress:      progress,
		Logger:        j.logger,
	})
	return &Replication{Report: report, Channels: Channels(s.client.Stats())}, j.explain(ctx, err)
}

// WaitForPeer waits until the job's peer has answered on both channels, or ctx ends.
func (j *Job) WaitForPeer(ctx context.Context) error {
	s, err := j.connect(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.client.WaitForConnectivity(ctx); err != nil {
		return fmt.Errorf("job %s: peer %s: %w", j.Name(), j.peerName(), err)
	}
	return nil
}
