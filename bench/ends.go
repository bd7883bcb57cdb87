package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"runtime/pprof"
	"time"

	"github.com/spf13/cobra"

	"github.com/dualrepl/dualrepl/bench/internal/process"
	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/rpc"
	"github.com/dualrepl/dualrepl/transport/tcp"
)

// endCommand is a hidden command: one end of a benchmark, in a process of its own.
// Its argument is a T as JSON.
func endCommand[T any](name string, run func(context.Context, T) error) *cobra.Command {
	return &cobra.Command{Use: name, Hidden: true, Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		var end T
		if err := json.Unmarshal([]byte(args[0]), &end); err != nil {
			return err
		}
		return run(cmd.Context(), end)
	}}
}

func startEnd(ctx context.Context, name string, end any) (*process.Child, error) {
	arg, err := json.Marshal(end)
	if err != nil {
		return nil, err
	}
	return process.Start(ctx, name, string(arg))
}

// runEnds starts a server, which says its address, and then a client, which does the
// work and says its result. The server says its own when it is stopped. Commands are
// named after what, and get as arguments what server and client return.
func runEnds(ctx context.Context, what string, server any, client func(address string) any, clientResult, serverResult any) error {
	s, err := startEnd(ctx, what+"-serve", server)
	if err != nil {
		return err
	}
	var address string
	if err := s.Read(&address); err != nil {
		return errors.Join(err, s.Stop(nil))
	}
	c, err := startEnd(ctx, what+"-dial", client(address))
	if err != nil {
		return errors.Join(err, s.Stop(nil))
	}
	if err := c.Read(clientResult); err != nil {
		return errors.Join(err, c.Stop(nil), s.Stop(nil))
	}
	return errors.Join(c.Stop(nil), s.Stop(serverResult))
}

// clientResult is what a client's end says.
type clientResult struct {
	Seconds     float64       `json:"seconds"`
	Connections int64         `json:"connections"` // opened for the work
	Client      process.Usage `json:"client"`
}

// measurement is one contender's part of a round.
type measurement struct {
	clientResult
	Server process.Usage `json:"server"`
}

// bothCPU is what both ends took, in seconds.
func (m measurement) bothCPU() float64 { return m.Client.CPUSeconds + m.Server.CPUSeconds }

// measured measures work of this process.
func measured(do func() error) (r clientResult, err error) {
	opened, err := process.ConnectionsOpened()
	if err != nil {
		return r, err
	}
	before, err := process.Now()
	if err != nil {
		return r, err
	}
	start := time.Now()
	if err := do(); err != nil {
		return r, err
	}
	r.Seconds = time.Since(start).Seconds()
	after, err := process.Now()
	if err != nil {
		return r, err
	}
	r.Client = after.Since(before)
	r.Connections, err = process.ConnectionsOpened()
	r.Connections -= opened
	return r, err
}

// serveEndpoint is a server's end: it says its address, serves e over TCP until it is
// stopped, and says what that took.
func serveEndpoint(ctx context.Context, e endpoint.Endpoint) error {
	clients, err := tcp.ParseClientMap(map[string]string{"127.0.0.1": "client"})
	if err != nil {
		return err
	}
	l, err := tcp.Listen(ctx, "127.0.0.1:0", clients)
	if err != nil {
		return err
	}
	before, err := process.Now()
	if err != nil {
		return err
	}
	if err := process.Say(l.Addr().String()); err != nil {
		return err
	}
	if err := rpc.NewServer(e, rpc.ServerOptions{}).Serve(process.Stopped(ctx), l); err != nil {
		return err
	}
	now, err := process.Now()
	if err != nil {
		return err
	}
	return process.Say(now.Since(before))
}

// startProfile writes where this process spends its CPU time to a file until stop is
// called. No path means no profile.
func startProfile(path string) (stop func() error, err error) {
	if path == "" {
		return func() error { return nil }, nil
	}
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() error {
		pprof.StopCPUProfile()
		return f.Close()
	}, nil
}
