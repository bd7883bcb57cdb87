// Package keeper has the ways of keeping versions of a directory on another side that
// the benchmark compares, each driven as its users drive it: by its program.
package keeper

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/dualrepl/dualrepl/bench/internal/process"
)

// Places are the directories of one keeper; they exist, and are empty but for Source.
type Places struct {
	Source  string // what is kept
	Active  string // for what the active side needs: configuration, local snapshots
	Passive string // where versions go
}

// A Keeper keeps versions of Places.Source. What it cannot do fails with
// errors.ErrUnsupported.
type Keeper interface {
	// Start starts what the passive side needs.
	Start(ctx context.Context) error
	// Keep makes a version of the source as it is now. The usage is the active side's.
	Keep(ctx context.Context) (process.Usage, error)
	// Verify checks the content of the newest version against its checksums.
	Verify(ctx context.Context) (process.Usage, error)
	// Restore writes the newest version to target, which is not there yet.
	Restore(ctx context.Context, target string) (process.Usage, error)
	// Daemon is the passive side's process, nil if there is none.
	Daemon() *process.Daemon
}

// Kinds are the keepers by name, in the order of tables.
var Kinds = []Kind{
	{"dualrepl", "snapshot and push to a sink, over TLS", func(p Places) Keeper { return &dualrepl{places: p} }},
	{"rsync daemon", "rsync -a --link-dest to an rsync daemon, not encrypted", func(p Places) Keeper { return &rsync{places: p, serve: rsyncDaemon} }},
	{"rsync ssh", "rsync -a --link-dest over ssh to an sshd of its own", func(p Places) Keeper { return &rsync{places: p, serve: rsyncSSH} }},
	{"rsync local", "rsync -a --link-dest between two directories", func(p Places) Keeper { return &rsync{places: p, serve: rsyncLocal} }},
	{"restic", "restic with its defaults into a local repository, encrypted", func(p Places) Keeper { return &restic{places: p} }},
	{"cp -a", "initial and restore only: a plain copy", func(p Places) Keeper { return &plainCopy{places: p} }},
}

// A Kind makes Keepers.
type Kind struct {
	Name, About string
	New         func(Places) Keeper
}

// Named returns the kinds of these names, in Kinds' order; all if there are none.
func Named(names []string) ([]Kind, error) {
	if len(names) == 0 {
		return Kinds, nil
	}
	for _, name := range names {
		if !slices.ContainsFunc(Kinds, func(k Kind) bool { return k.Name == name }) {
			return nil, fmt.Errorf("no keeper %q", name)
		}
	}
	return slices.DeleteFunc(slices.Clone(Kinds), func(k Kind) bool { return !slices.Contains(names, k.Name) }), nil
}

// Legend has a line about each of Kinds.
func Legend() string {
	var b strings.Builder
	for _, k := range Kinds {
		fmt.Fprintf(&b, "  %-14s %s\n", k.Name, k.About)
	}
	return b.String()
}

// freeAddress is one of this machine that nobody listens on just now.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// await waits until somebody listens on an address.
func await(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return err
		}
	}
}

// add adds the usages of commands that ran one after another.
func add(a, b process.Usage) process.Usage {
	return process.Usage{CPUSeconds: a.CPUSeconds + b.CPUSeconds, PeakBytes: max(a.PeakBytes, b.PeakBytes)}
}
