package daemon

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"sync"

	"github.com/dualrepl/dualrepl/internal/config"
	"github.com/dualrepl/dualrepl/rpc"
	"github.com/dualrepl/dualrepl/transport"
)

// A door is a listener and who is behind it: one job, or those that share it.
type door struct {
	kind, name string // of what has the listener: a job or a listener
	serve      *config.Serve
	services   []*service
	logger     *slog.Logger
	server     *rpc.Server
	listener   transport.Listener
	active     sync.WaitGroup // jobs that replicate over connections that came in here
}

// doors are those of the configuration, not open yet.
func (d *Daemon) doors(services []*service) []*door {
	var all []*door
	byName := map[string]*door{}
	for _, l := range d.cfg.Listeners {
		byName[l.Name] = &door{kind: "listener", name: l.Name, serve: l.Serve}
		all = append(all, byName[l.Name])
	}
	for _, s := range services {
		switch serve := s.conf.Serve; {
		case serve == nil:
		case serve.Type == config.ServeShared:
			shared := byName[serve.Listener]
			shared.services = append(shared.services, s)
		default:
			all = append(all, &door{kind: "job", name: s.Name(), serve: serve, services: []*service{s}})
		}
	}
	for _, o := range all {
		o.logger = d.logger.With(o.kind, o.name)
		o.server = newServer(o.serve.Limits, o.logger)
	}
	return all
}

// open listens, and leads to each job by its route.
func (o *door) open(ctx context.Context, within locals) (err error) {
	for _, s := range o.services {
		s.offer(o.server)
		if !s.awaits() {
			continue
		}
		if s.peer, err = s.newPeer(o.server); err != nil {
			return fmt.Errorf("job %s: %w", s.Name(), err)
		}
		s.metrics.watchPeer(s.peer)
		o.active.Add(1)
		s.ended = o.active.Done
	}
	l, err := listen(ctx, o.serve, within)
	if err != nil {
		return err
	}
	o.listener = l
	return nil
}

// offer puts the job behind a server. An active one answers nothing: its route is for the
// connection of its passive side only.
func (s *service) offer(server *rpc.Server) {
	route := s.routeOf()
	if s.conf.Passive() {
		route.Endpoint = s.handler
	}
	server.Handle(s.conf.Serve.Route, route)
	if s.conf.Serve.Default {
		server.Handle("", route)
	}
}

// routeOf is the job's route but for what answers there. The one of a job with a listener
// of its own has no name.
func (j *Job) routeOf() rpc.Route {
	if j.conf.Active() {
		return rpc.Route{Clients: []string{j.conf.Peer}}
	}
	return rpc.Route{Clients: j.conf.Serve.RouteClients, Verbs: newVerbs(j.conf.Serve.Verbs)}
}

// newPeer returns a client of the passive side that connects to server.
func (j *Job) newPeer(server *rpc.Server) (*rpc.Client, error) {
	return server.Peer(j.conf.Serve.Route, j.conf.Peer, rpc.ClientOptions{Logger: j.logger})
}

// ownServe is what the job's peer connects to.
func (j *Job) ownServe() *config.Serve { return cmp.Or(j.shared, j.conf.Serve) }

// run serves until ctx has ended and the jobs that replicate over connections that came
// in here have, too.
func (o *door) run(ctx context.Context) error {
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	defer context.AfterFunc(ctx, func() { o.active.Wait(); stop() })()
	o.logger.Info("serving", "address", o.listener.Addr().String(), "jobs", o.jobNames())
	if err := o.server.Serve(serving, o.listener); err != nil {
		return fmt.Errorf("%s %s: %w", o.kind, o.name, err)
	}
	return nil
}

func (o *door) jobNames() []string {
	var names []string
	for _, s := range o.services {
		names = append(names, s.Name())
	}
	return names
}

// close is for a door that may not even be open.
func (o *door) close() {
	if o.listener != nil {
		_ = o.listener.Close()
	}
}
