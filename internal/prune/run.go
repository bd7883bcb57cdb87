package prune

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
)

// The names of targets.
const (
	Sender   = "sender"   // also where nothing is replicated
	Receiver = "receiver" // what the sender has too decides what it has to keep
)

const (
	// concurrency is how many filesystems are pruned at once: most need two or three small
	// calls, which otherwise add up where the endpoint is far away.
	concurrency = 4
	// batchSize bounds the snapshots of one DestroySnapshots, since a call has a deadline.
	batchSize = 100
	// maxSkew is how far the clocks of two machines may be apart: a snapshot that is newer
	// by more is of the future.
	maxSkew = time.Hour
)

// ErrProtocol: an endpoint's answer breaks its contract.
var ErrProtocol = errors.New("answer breaks the protocol")

// A Target is an endpoint to prune.
type Target struct {
	Name     string            // Sender or Receiver
	Endpoint endpoint.Endpoint // whose snapshots are destroyed
	// Cursors is the sender; on a sender, that is Endpoint again. nil: nothing is
	// replicated, so that rules alone decide; a receiver has to have it.
	Cursors endpoint.Endpoint
	// Filter picks filesystems by path. nil: all that the endpoint lists.
	Filter func(path string) bool
	Rules  []Rule // none: nothing is destroyed
}

// run is one Run.
type run struct {
	Target
	log           *slog.Logger
	notReplicated bool // a rule depends on the cursor
	releaseCursor bool // and lets go of the snapshot there
	future        time.Time
}

// Run applies the rules to each filesystem of the target and destroys what none of them
// keeps. A filesystem that fails does not stop the others; only the end of ctx, and an
// endpoint that lets this client destroy nothing (endpoint.ErrPermission), end the run.
// The report is never nil, and the error is its Err. The logger gets what was destroyed or
// skipped (Info); nil discards.
func Run(ctx context.Context, target Target, logger *slog.Logger) (*Report, error) {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	r := &run{Target: target, log: logger.With("side", target.Name), future: time.Now().Add(maxSkew)}
	for _, rule := range target.Rules {
		if n, ok := rule.(NotReplicated); ok {
			r.notReplicated, r.releaseCursor = true, r.releaseCursor || n.ReleaseCursor
		}
	}
	rep := &Report{Target: target.Name, Filesystems: []FilesystemReport{}}
	if len(target.Rules) > 0 {
		rep.fail(r.do(ctx, rep))
	}
	return rep, rep.Err()
}

func (r *run) do(ctx context.Context, rep *Report) error {
	paths, err := r.list(ctx)
	if err != nil {
		return err
	}
	reports := make([]FilesystemReport, len(paths))
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(concurrency)
	for i, path := range paths {
		group.Go(func() (err error) {
			if groupCtx.Err() == nil {
				reports[i], err = r.filesystem(groupCtx, path)
			}
			return err
		})
	}
	err = group.Wait()
	rep.Filesystems = slices.DeleteFunc(reports, func(fs FilesystemReport) bool { return fs.Filesystem == "" })
	if ctx.Err() != nil {
		return fmt.Errorf("pruning was stopped: %w", context.Cause(ctx))
	}
	return err
}

// list returns the filesystems to prune: of a receiver, those that the sender has too. What
// else it holds is not the sender's any more, or never was.
func (r *run) list(ctx context.Context) ([]string, error) {
	paths, err := listFilesystems(ctx, r.Name, r.Endpoint)
	if err == nil && r.Filter != nil {
		paths = slices.DeleteFunc(paths, func(path string) bool { return !r.Filter(path) })
	}
	if err != nil || r.Name != Receiver {
		return paths, err
	}
	if r.Cursors == nil {
		return nil, fmt.Errorf("%w: a receiver is pruned by what its sender has, and there is none", endpoint.ErrInvalid)
	}
	sent, err := listFilesystems(ctx, Sender, r.Cursors)
	if err != nil {
		return nil, err
	}
	slices.Sort(sent)
	return slices.DeleteFunc(paths, func(path string) bool {
		_, found := slices.BinarySearch(sent, path)
		return !found
	}), nil
}

// listFilesystems returns the paths of an endpoint's filesystems without placeholders,
// which have no snapshots.
func listFilesystems(ctx context.Context, name string, e endpoint.Endpoint) ([]string, error) {
	res, err := e.ListFilesystems(ctx, &pdu.ListFilesystemReq{})
	if err != nil {
		return nil, fmt.Errorf("list filesystems of the %s: %w", name, err)
	}
	var paths []string
	for _, fs := range res.GetFilesystems() {
		if fs.GetPath() == "" {
			return nil, fmt.Errorf("%w: the %s has a filesystem without a path", ErrProtocol, name)
		}
		if !fs.GetIsPlaceholder() {
			paths = append(paths, fs.GetPath())
		}
	}
	return paths, nil
}

// filesystem prunes one filesystem. Its error ends the run.
func (r *run) filesystem(ctx context.Context, path string) (FilesystemReport, error) {
	rep := FilesystemReport{Filesystem: path, Destroyed: []string{}, Failed: []Failure{}}
	p, err := r.plan(ctx, path)
	rep.Kept, rep.Skipped = p.kept, p.skipped
	for batch := range slices.Chunk(p.destroy, batchSize) {
		if err == nil {
			err = r.destroy(ctx, &rep, batch)
		}
	}
	// What a client may do is the same for all filesystems: saying so once is enough.
	denied := len(p.destroy) > 0 && errors.Is(err, endpoint.ErrPermission)
	if !denied && ctx.Err() == nil {
		rep.fail(errors.Join(err, rep.failures()))
	}
	r.logOutcome(&rep)
	if denied {
		return rep, err
	}
	return rep, nil
}

// destroy has the endpoint destroy one batch.
func (r *run) destroy(ctx context.Context, rep *FilesystemReport, batch []Snapshot) error {
	req := &pdu.DestroySnapshotsReq{Filesystem: rep.Filesystem}
	for _, s := range batch {
		req.Snapshots = append(req.Snapshots, s.Version)
	}
	res, err := r.Endpoint.DestroySnapshots(ctx, req)
	if err != nil {
		return fmt.Errorf("destroy snapshots of the %s: %w", r.Name, err)
	}
	results := res.GetResults()
	for i, s := range batch {
		name := s.Version.GetName()
		switch {
		case i >= len(results) || results[i].GetSnapshot().GetName() != name:
			return fmt.Errorf("%w: the %s does not tell whether it destroyed snapshot %q", ErrProtocol, r.Name, name)
		case results[i].GetError() != "":
			rep.Failed = append(rep.Failed, Failure{name, results[i].GetError()})
		default:
			rep.Destroyed = append(rep.Destroyed, name)
		}
	}
	return nil
}

func (r *run) logOutcome(rep *FilesystemReport) {
	log := r.log.With("filesystem", rep.Filesystem)
	if len(rep.Destroyed) > 0 {
		log.Info("snapshots destroyed", "snapshots", rep.Destroyed, "kept", rep.Kept)
	}
	if rep.Skipped != "" {
		log.Info("no snapshot destroyed", "reason", rep.Skipped)
	}
}
