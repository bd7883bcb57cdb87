package rpc

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/endpoint/synth"
	"github.com/dualrepl/dualrepl/pdu"
	"github.com/dualrepl/dualrepl/transport"
	"github.com/dualrepl/dualrepl/transportmux"
	ext "github.com/dualrepl/dualrepl/versionhandshake"
)

// run makes s serve l until the test's end.
func run(t *testing.T, s *Server, l transport.Listener) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		check(t, <-done)
	})
}

// checkRefused wants sentinel at the end of a request, whichever channel it was on. In
// the base protocol only the text crosses the data channel.
func checkRefused(t *testing.T, r request, err, sentinel error, opts ClientOptions) {
	t.Helper()
	if r.onData() && opts.BaseProtocol {
		checkRemote(t, err, sentinel.Error())
		return
	}
	if !errors.Is(err, sentinel) || OutcomeOf(err) != Answered {
		t.Errorf("%s: error is %v (%v), not %v", r.method, err, OutcomeOf(err), sentinel)
	}
}

// whoAnswered is a fake that records where each request came from.
func whoAnswered(rec *recording) *fake {
	return &fake{size: megabyte, hook: func(ctx context.Context, method string, _ proto.Message) error {
		id, _ := transport.ClientIdentityFromContext(ctx)
		rec.add("%s from %s@%s", method, id, RouteFromContext(ctx))
		return nil
	}}
}

// Each route leads to its own handler, with the route and the identity in the context of
// both channels; what leads nowhere, or may not be used, is refused at once.
func TestRoutes(t *testing.T) {
	forEachWay(t, func(t *testing.T, p pair, opts ClientOptions) {
		l, c := p(t)
		handlers := map[string]*recording{"": {}, "open": {}, "hers": {}, "others": {}, "closed": {}, "unknown": {}}
		refused := map[string]error{"others": endpoint.ErrPermission, "closed": endpoint.ErrPermission, "unknown": endpoint.ErrNotFound}
		s := NewServer(whoAnswered(handlers[""]), ServerOptions{})
		s.Handle("open", Route{Endpoint: whoAnswered(handlers["open"])})
		s.Handle("hers", Route{Endpoint: whoAnswered(handlers["hers"]), Clients: []string{"bob", alice}})
		s.Handle("others", Route{Endpoint: whoAnswered(handlers["others"]), Clients: []string{"bob"}})
		s.Handle("closed", Route{Endpoint: whoAnswered(handlers["closed"]), Clients: []string{}})
		run(t, s, l)
		for _, opts.Route = range routesFor(opts) {
			client := newClient(t, c, opts)
			for _, r := range requests() {
				_, err := r.do(t.Context(), client, newContent())
				if want := refused[opts.Route]; want != nil {
					checkRefused(t, r, err, want, opts)
					continue
				}
				check(t, err)
				got, want := handlers[opts.Route].take(), r.method+" from alice@"+opts.Route
				if !slices.Equal(got, []string{want}) {
					t.Errorf("the handler saw %q, not %q", got, want)
				}
			}
		}
		for route, rec := range handlers {
			if got := rec.take(); len(got) > 0 {
				t.Errorf("route %q: %q", route, got)
			}
		}
	})
}

// newContent is what a fake receives.
func newContent() io.Reader {
	return synth.NewStream(synth.Spec{Seed: version().Guid, Size: megabyte})
}

// routesFor: one that offers nothing can name no route.
func routesFor(opts ClientOptions) []string {
	if opts.BaseProtocol {
		return []string{""}
	}
	return []string{"", "open", "hers", "others", "closed", "unknown"}
}

// A server without a default route refuses who names none: also a peer that does not
// know of routes.
func TestNoDefaultRoute(t *testing.T) {
	forEachWay(t, func(t *testing.T, p pair, opts ClientOptions) {
		l, c := p(t)
		s := NewServer(nil, ServerOptions{})
		s.Handle("only", Route{Endpoint: &fake{}})
		run(t, s, l)
		client := newClient(t, c, opts)
		for _, r := range requests() {
			_, err := r.do(t.Context(), client, strings.NewReader(""))
			checkRefused(t, r, err, endpoint.ErrNotFound, opts)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if err := client.WaitForConnectivity(ended); err == nil {
			t.Error("there is connectivity with nobody")
		}
	})
}

// verbsOf tells which verb permits each method.
var verbsOf = map[string]Verb{
	"ListFilesystems": VerbList, "ListFilesystemVersions": VerbList, "ReplicationCursor": VerbList,
	"Send": VerbSend, "SendDry": VerbSend, "SendCompleted": VerbSend,
	"Receive": VerbReceive, "DestroySnapshots": VerbDestroy,
}

func TestVerbs(t *testing.T) {
	forEachWay(t, func(t *testing.T, p pair, opts ClientOptions) {
		l, c := p(t)
		s := NewServer(nil, ServerOptions{})
		permitted := map[string][]Verb{"all": nil, "none": {}, "pull": {VerbList, VerbSend}, "push": {VerbList, VerbReceive}, "prune": {VerbDestroy}}
		for route, verbs := range permitted {
			s.Handle(route, Route{Endpoint: &fake{}, Verbs: verbs})
			if opts.BaseProtocol {
				s.Handle("", Route{Endpoint: &fake{}, Verbs: permitted["push"]})
			}
		}
		run(t, s, l)
		for route, verbs := range permitted {
			if opts.Route = route; opts.BaseProtocol {
				opts.Route, verbs = "", permitted["push"]
			}
			client := newClient(t, c, opts)
			check(t, client.WaitForConnectivity(t.Context())) // Ping needs none
			for _, r := range requests() {
				_, err := r.do(t.Context(), client, newContent())
				if verbs == nil || slices.Contains(verbs, verbsOf[r.method]) {
					check(t, err)
				} else {
					checkRefused(t, r, err, endpoint.ErrPermission, opts)
				}
			}
		}
	})
}

// A verb that is not there is not permitted to a handler that has no such method either;
// a route without an endpoint has none at all.
func TestRouteWithoutEndpoint(t *testing.T) {
	l, c := localPair(t)
	s := NewServer(nil, ServerOptions{})
	s.Handle("services", Route{})
	run(t, s, l)
	client := newClient(t, c, ClientOptions{Route: "services"})
	check(t, client.WaitForConnectivity(t.Context()))
	for _, r := range requests() {
		_, err := r.do(t.Context(), client, strings.NewReader(""))
		checkRefused(t, r, err, endpoint.ErrUnimplemented, ClientOptions{})
	}
}

// A route may be given another handler; connections that are there keep theirs.
func TestHandleAgain(t *testing.T) {
	l, c := localPair(t)
	var first, second recording
	s := NewServer(whoAnswered(&first), ServerOptions{})
	run(t, s, l)
	before := newClient(t, c, ClientOptions{})
	check(t, before.WaitForConnectivity(t.Context()))
	s.Handle("", Route{Endpoint: whoAnswered(&second)})
	after := newClient(t, c, ClientOptions{})
	for _, client := range []*Client{before, after} {
		_, err := client.ListFilesystems(t.Context(), &pdu.ListFilesystemReq{})
		check(t, err)
	}
	if a, b := first.take(), second.take(); len(a) != 1 || len(b) != 1 {
		t.Errorf("%q, %q", a, b)
	}
}

func TestBadRouteNames(t *testing.T) {
	for _, name := range []string{"a/b", "..", strings.Repeat("x", 256), "a\nb"} {
		l, _ := localPair(t)
		s := NewServer(&fake{}, ServerOptions{})
		s.Handle(name, Route{Endpoint: &fake{}})
		if err := s.Serve(t.Context(), l); err == nil || !strings.Contains(err.Error(), "route") {
			t.Errorf("route %q: Serve returned %v", name, err)
		}
	}
}

// A client decides what the name of its route is: neither an answer nor the log repeats
// 60 KiB, and the log is written once for a connection.
func TestHostileRouteName(t *testing.T) {
	log := &buffer{}
	l, c := localPair(t)
	serve(t, l, &fake{}, ServerOptions{Logger: slog.New(slog.NewTextHandler(log, nil))})
	name := strings.Repeat("x", 60_000)
	client := offering(t, c, ext.Line(ext.ExtensionRoute, name))
	for range 10 {
		_, err := client.ListFilesystems(t.Context(), &pdu.ListFilesystemReq{})
		if !errors.Is(err, endpoint.ErrNotFound) || len(err.Error()) > 300 {
			t.Errorf("error is %.400v", err)
		}
	}
	text := log.take()
	if n := strings.Count(text, "connection refused"); n != 1 || len(text) > 1000 {
		t.Errorf("%d records, %d bytes", n, len(text))
	}
}

// offering makes a client whose banners have the given lines.
func offering(t *testing.T, c transport.Connecter, lines ...string) *Client {
	t.Helper()
	offer := func(transport.Wire) []string { return lines }
	client, err := openClient(links{direct: transportmux.NewDialer(c, offer)}, ClientOptions{})
	check(t, err)
	t.Cleanup(func() { check(t, client.Close()) })
	return client
}

// A server's banner offers what it can, unless it is told to offer nothing; it does not
// matter to a peer that offers nothing.
func TestServerOffers(t *testing.T) {
	all := "dualrepl.status dualrepl.reuse dualrepl.sum=crc64nvme dualrepl.zstd dualrepl.route dualrepl.mux"
	for name, c := range map[string]struct {
		pair pair
		opts ServerOptions
		want string
	}{
		"tcp":       {tcpPair, ServerOptions{}, all},
		"tls":       {tlsPair, ServerOptions{}, strings.Replace(all, "dualrepl.sum=crc64nvme ", "", 1)},
		"always":    {tlsPair, ServerOptions{Checksum: ChecksumAlways}, all},
		"never":     {tcpPair, ServerOptions{Checksum: ChecksumNever}, strings.Replace(all, "dualrepl.sum=crc64nvme ", "", 1)},
		"base only": {tcpPair, ServerOptions{BaseProtocol: true}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			l, connecter := c.pair(t)
			serve(t, l, &fake{}, c.opts)
			conn, err := transportmux.Dial(t.Context(), connecter, transportmux.LabelControl, nil)
			check(t, err)
			defer conn.Close()
			if got := strings.Join(conn.Peer.Extensions, " "); got != c.want {
				t.Errorf("the banner has %q, not %q", got, c.want)
			}
		})
	}
}
