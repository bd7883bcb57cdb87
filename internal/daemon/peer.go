package daemon

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"sync"
	"syscall"
	"time"

	"github.com/dualrepl/dualrepl/rpc"
	"github.com/dualrepl/dualrepl/transport"
	"github.com/dualrepl/dualrepl/transportmux"
)

// This file is for pairs in which the passive side connects.

// PeerWait is how long a replication in the foreground waits for the passive side to
// connect: longer than the longest pause between two attempts of a passive side.
const PeerWait = 90 * time.Second

// follow calls fn with each state of the client's connection, until ctx ends or the client
// is closed.
func follow(ctx context.Context, c *rpc.Client, fn func(rpc.State)) {
	for state, err := c.State(), error(nil); err == nil && state != rpc.Closed; {
		fn(state)
		state, err = c.WaitForStateChange(ctx, state)
	}
}

// followPeer tells of the passive side that connects to this active one, and wakes the
// job when it has.
func (s *service) followPeer(ctx context.Context, wake chan<- struct{}) {
	follow(ctx, s.peer, func(state rpc.State) {
		if state == rpc.Ready {
			s.logger.Info("the passive side has connected", "client", s.conf.Peer)
			signal(wake)
			return
		}
		logger := s.logger.With("client", s.conf.Peer)
		if err := s.peer.LastError(); err != nil {
			logger = logger.With("disconnected", err)
		}
		logger.Info("waiting for the passive side to connect")
	})
}

// followConnection tells of the connection of a passive job that connects. What keeps it
// from connecting is told once, until it is something else.
func (s *service) followConnection(ctx context.Context) {
	told := ""
	follow(ctx, s.peer, func(state rpc.State) {
		err := s.peer.LastError()
		switch {
		case state == rpc.Ready:
			s.logger.Info("connected: the active side can call", "peer", s.peerName())
			told = ""
		case state == rpc.Disconnected && err != nil && told != lasting(err):
			s.logger.Warn("disconnected", "peer", s.peerName(), "reason", why(err), "next_attempt", "within 30s, and so on")
			told = lasting(err)
		}
	})
}

// ownEnd is that of a connection, as package net writes it.
var ownEnd = regexp.MustCompile(`\S+->`)

// lasting is what an error says but for the port of this side, which every attempt has
// another one of.
func lasting(err error) string { return ownEnd.ReplaceAllString(err.Error(), "") }

// why is an error in plain words.
func why(err error) string {
	if dial := (*transportmux.DialError)(nil); errors.As(err, &dial) {
		return reason(dial)
	}
	return err.Error()
}

// serveOver answers the active side over the connection that this passive side makes.
func (s *service) serveOver(ctx context.Context) error {
	if err := s.server.ServeOver(ctx, s.peer); err != nil {
		return fmt.Errorf("job %s: %w", s.Name(), err)
	}
	return nil
}

// awaitPeer listens as the daemon would, and waits until the passive side has connected.
func (j *Job) awaitPeer(ctx context.Context) (client *rpc.Client, release func(), err error) {
	l, err := j.listenForPeer(ctx)
	if err != nil {
		return nil, nil, err
	}
	server := newServer(j.ownServe().Limits, j.logger)
	server.Handle(j.conf.Serve.Route, j.routeOf())
	if client, err = j.newPeer(server); err != nil {
		_ = l.Close() // nothing was accepted
		return nil, nil, err
	}
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	var served sync.WaitGroup
	served.Go(func() {
		if err := server.Serve(serving, l); err != nil {
			j.logger.Warn("listening failed", "err", err)
		}
	})
	release = func() { _ = client.Close(); stop(); served.Wait() }
	if err := j.waitReady(ctx, client); err != nil {
		release()
		return nil, nil, err
	}
	return client, release, nil
}

func (j *Job) listenForPeer(ctx context.Context) (transport.Listener, error) {
	l, err := listen(ctx, j.ownServe(), j.within)
	if errors.Is(err, syscall.EADDRINUSE) {
		text := fmt.Sprintf("%s is in use: if the daemon has it, it replicates this job itself, whenever the passive side has connected; stop it to do that by hand",
			j.ownServe().Listen)
		return nil, &explained{text, err}
	}
	return l, err
}

// waitReady waits for the passive side, PeerWait at most, which a person should know.
func (j *Job) waitReady(ctx context.Context, client *rpc.Client) error {
	j.logger.Warn("waiting for the passive side to connect", "client", j.conf.Peer, "address", j.ownServe().Listen, "most", PeerWait)
	waiting, cancel := context.WithTimeout(ctx, PeerWait)
	defer cancel()
	var state rpc.State
	follow(waiting, client, func(s rpc.State) {
		if state = s; s == rpc.Ready {
			cancel()
		}
	})
	switch {
	case state == rpc.Ready:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	text := fmt.Sprintf("%s has not connected to %s within %v; does its daemon run, with `connect` to here, and what does its log say?",
		j.peerName(), j.ownServe().Listen, PeerWait)
	return &explained{text, rpc.ErrDisconnected}
}
