package rpc

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/transport"
)

// A Route is one of several handlers behind a listener, and who may do what with it.
type Route struct {
	// Endpoint answers the requests: an endpoint.Sender, an endpoint.Receiver or
	// both. nil: the route leads to custom services only.
	Endpoint endpoint.Endpoint
	// Clients are the identities that may use the route. nil: all; empty: none.
	Clients []string
	// Verbs are what they may do with Endpoint. nil: all; empty: nothing but Ping.
	Verbs []Verb
}

// A Verb is a right to some of an endpoint's methods.
type Verb string

// The verbs. Ping needs none, nor do custom services.
const (
	VerbList    Verb = "list"    // ListFilesystems, ListFilesystemVersions, ReplicationCursor
	VerbSend    Verb = "send"    // Send, SendDry, SendCompleted: the client pulls
	VerbReceive Verb = "receive" // Receive: the client pushes
	VerbDestroy Verb = "destroy" // DestroySnapshots
)

// Methods of the data channel, as Call.Method has them.
const (
	methodPing    = "Ping"
	methodSend    = "Send"
	methodReceive = "Receive"
)

// verbs are what an endpoint's methods need.
var verbs = map[string]Verb{
	"/Replication/ListFilesystems":        VerbList,
	"/Replication/ListFilesystemVersions": VerbList,
	"/Replication/ReplicationCursor":      VerbList,
	"/Replication/SendDry":                VerbSend,
	"/Replication/SendCompleted":          VerbSend,
	"/Replication/DestroySnapshots":       VerbDestroy,
	methodSend:                            VerbSend,
	methodReceive:                         VerbReceive,
}

// permits returns why the route's clients may not call method; nil if they may.
func (r Route) permits(method string) error {
	verb, ofEndpoint := verbs[method]
	switch {
	case !ofEndpoint:
		return nil
	case r.Endpoint == nil:
		return unimplemented(method)
	case r.Verbs != nil && !slices.Contains(r.Verbs, verb):
		return fmt.Errorf("%w: %s needs the verb %q", endpoint.ErrPermission, method, verb)
	}
	return nil
}

// Handle makes r the handler of the clients that name route (a name as
// transport.ValidateClientIdentity wants it), or of those that name none, if route is
// empty. It takes the place of a former one for connections made from then on. An error
// of route is returned by Serve.
func (s *Server) Handle(route string, r Route) {
	r.Clients, r.Verbs = slices.Clone(r.Clients), slices.Clone(r.Verbs) // nil stays nil
	s.mu.Lock()
	defer s.mu.Unlock()
	if route != "" {
		if err := transport.ValidateClientIdentity(route); err != nil {
			s.misuse = errors.Join(s.misuse, fmt.Errorf("route: %w", err))
			return
		}
	}
	s.routes[route] = r
}

// An origin is where requests come from: a connection of a client that named a route.
type origin struct {
	client  string
	route   string
	target  Route // where it leads
	refusal error // the answer to every request; nil: none
}

// maxRouteText is how much of a route's name an error repeats, in characters: a banner
// has room for names of 64 KiB.
const maxRouteText = 64

// originOf finds out where the route that a client has named leads.
func (s *Server) originOf(client, route string) *origin {
	o := &origin{client: client, route: route}
	s.mu.RLock()
	target, known := s.routes[o.route]
	s.mu.RUnlock()
	switch {
	case !known && o.route == "":
		o.refusal = fmt.Errorf("%w: the client named no route, and there is no default one", endpoint.ErrNotFound)
	case !known:
		o.refusal = fmt.Errorf("%w: route %.*q", endpoint.ErrNotFound, maxRouteText, o.route)
	case target.Clients != nil && !slices.Contains(target.Clients, o.client):
		o.refusal = fmt.Errorf("%w: client %q may not use route %q", endpoint.ErrPermission, o.client, o.route)
	default:
		o.target = target
	}
	return o
}

type originKey struct{}

// contextWithOrigin is a handler's context.
func contextWithOrigin(ctx context.Context, o *origin) context.Context {
	ctx = transport.ContextWithClientIdentity(ctx, o.client)
	return context.WithValue(ctx, originKey{}, o)
}

// RouteFromContext returns the route that the client of a handler's call has named;
// "" is the default one. The identity is transport.ClientIdentityFromContext's.
func RouteFromContext(ctx context.Context) string {
	if o, ok := ctx.Value(originKey{}).(*origin); ok {
		return o.route
	}
	return ""
}

// endpointOf returns the endpoint of a call's route, which permits has found to exist.
func endpointOf(ctx context.Context) endpoint.Endpoint {
	return ctx.Value(originKey{}).(*origin).target.Endpoint
}
