package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/dualrepl/dualrepl/bench/internal/fleet"
	"github.com/dualrepl/dualrepl/bench/internal/process"
	"github.com/dualrepl/dualrepl/pdu"
	"github.com/dualrepl/dualrepl/replication"
	"github.com/dualrepl/dualrepl/rpc"
	"github.com/dualrepl/dualrepl/transport/tcp"
)

// fleetEnd is one end of planning or listing.
type fleetEnd struct {
	Filesystems int
	Versions    int    // of each filesystem
	Listing     bool   // instead of planning
	Address     string // of the server
}

// fleetEnds are the two ends, which the benchmark starts.
func fleetEnds() []*cobra.Command {
	return []*cobra.Command{endCommand("fleet-serve", serveFleet), endCommand("fleet-dial", dialFleet)}
}

// once starts both ends, does the work and stops them.
func (e fleetEnd) once(ctx context.Context) (m measurement, err error) {
	err = runEnds(ctx, "fleet", e, func(address string) any {
		e.Address = address
		return e
	}, &m.clientResult, &m.Server)
	return m, err
}

func (e fleetEnd) fleet() fleet.Fleet {
	return fleet.Fleet{Filesystems: e.Filesystems, Versions: e.Versions}
}

func serveFleet(ctx context.Context, e fleetEnd) error { return serveEndpoint(ctx, e.fleet()) }

func dialFleet(ctx context.Context, e fleetEnd) error {
	client, err := rpc.NewClient(tcp.NewConnecter(e.Address), rpc.ClientOptions{})
	if err != nil {
		return err
	}
	defer client.Close() // all was answered
	if err := client.WaitForConnectivity(ctx); err != nil {
		return err
	}
	result, err := measured(func() error {
		if e.Listing {
			return e.list(ctx, client)
		}
		_, err := replication.Run(ctx, e.fleet(), client, replication.Options{DryRun: true})
		return err
	})
	if err != nil {
		return err
	}
	return process.Say(result)
}

func (e fleetEnd) list(ctx context.Context, client *rpc.Client) error {
	res, err := client.ListFilesystemVersions(ctx, &pdu.ListFilesystemVersionsReq{Filesystem: "tank"})
	if err != nil {
		return err
	}
	if n := len(res.GetVersions()); n != e.Versions {
		return fmt.Errorf("%d versions came, not %d", n, e.Versions)
	}
	return nil
}
