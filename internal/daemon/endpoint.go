package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/endpoint/btrfs"
	"github.com/dualrepl/dualrepl/endpoint/dir"
	"github.com/dualrepl/dualrepl/endpoint/flow"
	"github.com/dualrepl/dualrepl/endpoint/zfs"
	"github.com/dualrepl/dualrepl/internal/config"
)

// This file is where the types of endpoints are told apart.

// ownSender and ownReceiver are what all types of endpoints have.
type (
	ownSender interface {
		endpoint.Sender
		endpoint.TokenReader
	}
	ownReceiver interface {
		endpoint.Receiver
		endpoint.TokenReader
	}
)

// newSender opens the job's sender, with what is around it. It is an
// endpoint.TokenReader.
func (j *Job) newSender() (endpoint.Sender, error) {
	s, err := j.openSender()
	if err != nil {
		return nil, err
	}
	return flow.Sender(keptSender{s, j.keep}, j.flow()), nil
}

// newReceiver opens the job's receiver, with what is around it. It is an
// endpoint.TokenReader. The clients of a sink are kept apart; a pull job has one peer.
func (j *Job) newReceiver() (endpoint.Receiver, error) {
	r, err := j.openReceiver(j.conf.Type == config.TypeSink)
	if err != nil {
		return nil, err
	}
	return flow.Receiver(keptReceiver{r, j.keep}, j.flow()), nil
}

// flow is what stands between the job's endpoint and the wire.
func (j *Job) flow() flow.Options {
	buffer := j.conf.Recv.Buffer
	if j.sends() {
		buffer = j.conf.Send.Buffer
	}
	return flow.Options{Buffer: int64(buffer), Limit: j.limit}
}

// newLimit is one of all streams of a job; nil: none.
func newLimit(j config.Job) *flow.Limit {
	l := j.Recv.BandwidthLimit
	if j.Sends() {
		l = j.Send.BandwidthLimit
	}
	return flow.NewLimit(int64(l.Max), int64(l.BucketCapacity))
}

func (j *Job) openSender() (ownSender, error) {
	switch e := j.conf.Endpoint; e.Type {
	case config.EndpointZFS:
		return zfs.NewSender(j.zfsSenderOptions())
	case config.EndpointBtrfs:
		return btrfs.NewSender(btrfs.SenderOptions{
			Root:    e.Root,
			Program: e.Program,
			Job:     j.Name(),
			Filter:  j.conf.Filesystems.Match,
			Logger:  j.base,
		})
	default:
		return dir.NewSender(dir.SenderOptions{
			Store:       e.Store,
			Directories: e.Directories,
			Job:         j.Name(),
			Filter:      j.conf.Filesystems.Match,
			Logger:      j.base,
		})
	}
}

func (j *Job) zfsSenderOptions() zfs.SenderOptions {
	s := j.conf.Send
	return zfs.SenderOptions{
		Program:          j.conf.Endpoint.Program,
		Job:              j.Name(),
		Filter:           j.conf.Filesystems.Match,
		Logger:           j.base,
		Encrypted:        s.Encrypted,
		Raw:              s.Raw,
		Properties:       s.SendProperties,
		BackupProperties: s.BackupProperties,
		LargeBlocks:      s.LargeBlocks,
		Compressed:       s.Compressed,
		EmbeddedData:     s.EmbeddedData,
		Saved:            s.Saved,
	}
}

// openReceiver keeps clients apart if asked to; else it has what all of them have sent.
func (j *Job) openReceiver(perClient bool) (ownReceiver, error) {
	switch e, r := j.conf.Endpoint, j.conf.Recv; e.Type {
	case config.EndpointZFS:
		return zfs.NewReceiver(zfs.ReceiverOptions{
			Program:               e.Program,
			Job:                   j.Name(),
			RootFS:                j.conf.RootFS,
			PerClient:             perClient,
			Logger:                j.base,
			Inherit:               r.Properties.Inherit,
			Override:              r.Properties.Override,
			PlaceholderEncryption: r.Placeholder.Encryption,
		})
	case config.EndpointBtrfs:
		return btrfs.NewReceiver(btrfs.ReceiverOptions{
			Root:      j.conf.ReceiveRoot(),
			Program:   e.Program,
			PerClient: perClient,
			Job:       j.Name(),
			Logger:    j.base,
		})
	default:
		return dir.NewReceiver(dir.ReceiverOptions{
			Root:      j.conf.ReceiveRoot(),
			Job:       j.Name(),
			Logger:    j.base,
			PerClient: perClient,
		})
	}
}

// A snapshotter takes snapshots of a job's filesystems.
type snapshotter interface {
	// Filesystems lists those that snapshots are taken of.
	Filesystems(context.Context) ([]string, error)
	// take takes a snapshot of each, all of one name.
	take(ctx context.Context, name string, filesystems []string) []Snapshot
}

// newSnapshotter is for one round of snapshots of directories, which may report its
// progress and read every file again.
func (j *Job) newSnapshotter(full bool, progress StoreProgress) (snapshotter, error) {
	s, err := j.openSender()
	if err != nil {
		return nil, err
	}
	switch s := s.(type) {
	case *dir.Sender:
		return directories{s, j, full, progress}, nil
	case snapshotSender:
		return datasets{s}, nil
	}
	return nil, fmt.Errorf("%w: snapshots of a %s endpoint", endpoint.ErrUnimplemented, j.conf.Endpoint.Type)
}

// directories are the filesystems of a dir endpoint.
type directories struct {
	sender   *dir.Sender
	job      *Job
	full     bool
	progress StoreProgress
}

// Filesystems implements snapshotter.
func (d directories) Filesystems(context.Context) ([]string, error) {
	var names []string
	for name := range d.job.conf.Endpoint.Directories {
		if d.job.conf.Filesystems.Match(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

func (d directories) take(ctx context.Context, name string, filesystems []string) []Snapshot {
	options := d.job.snapshotOptions(ctx, d.full, name, d.progress)
	var all []Snapshot
	for _, filesystem := range filesystems {
		s := Snapshot{Filesystem: filesystem, Version: name}
		s.Report, s.Err = d.sender.Snapshot(ctx, filesystem, name, options(filesystem))
		if s.Err != nil {
			s.Err = fmt.Errorf("snapshot of %s (%s): %w", filesystem, d.job.conf.Endpoint.Directories[filesystem], s.Err)
		}
		all = append(all, s)
	}
	return all
}

// A snapshotSender takes snapshots of many filesystems at once.
type snapshotSender interface {
	Filesystems(context.Context) ([]string, error)
	Snapshot(ctx context.Context, name string, filesystems []string) map[string]error
}

// datasets are the filesystems of a zfs or btrfs endpoint.
type datasets struct{ snapshotSender }

func (d datasets) take(ctx context.Context, name string, filesystems []string) []Snapshot {
	failed := d.Snapshot(ctx, name, filesystems)
	all := make([]Snapshot, len(filesystems))
	for i, filesystem := range filesystems {
		all[i] = Snapshot{Filesystem: filesystem, Version: name}
		if err := failed[filesystem]; err != nil {
			all[i].Err = fmt.Errorf("snapshot of %s: %w", filesystem, err)
		}
	}
	return all
}

// errNoFilesystem: a configuration that looks right and replicates nothing.
var errNoFilesystem = errors.New("`filesystems` selects none of those that there are")

// waysOut are what does to other endpoints what a command does to directories.
var waysOut = map[string]map[string]string{
	config.EndpointZFS: {
		verify:   "`zpool scrub` verifies all that a pool has",
		restore:  "copy from .zfs/snapshot/VERSION in its mountpoint, or run `zfs clone` or `zfs rollback`",
		snapshot: "a snapshot of ZFS always has everything",
	},
	config.EndpointBtrfs: {
		verify:   "`btrfs scrub` verifies all that a file system has",
		restore:  "copy from the version, which is a subvolume, or run `btrfs subvolume snapshot`",
		snapshot: "a snapshot of btrfs always has everything",
	},
}

// What only directories have.
const (
	verify   = "verify"
	restore  = "restore"
	snapshot = "snapshot --full"
)

// onlyDirectories is ErrJob for a job of another endpoint.
func (j *Job) onlyDirectories(command string) error {
	wayOut, other := waysOut[j.conf.Endpoint.Type][command]
	if !other {
		return nil
	}
	return wrongJob("%s is for directories, and %s is a job of a %s endpoint: %s", command, j.Name(), j.conf.Endpoint.Type, wayOut)
}
