package rpc

import (
	"context"
	"fmt"
	"net"
	"sync"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
	"github.com/dualrepl/dualrepl/transport"
	"github.com/dualrepl/dualrepl/transportmux"
)

// Peer returns a Client that calls the client of this Server that has the identity, over
// the mux connection that it opened naming the route ("": none). While there is none,
// calls are ErrDisconnected, or wait (WaitForReady). A second connection of the same
// identity and route takes the place of the first, which is closed.
//
// Of opts, Route, Mux, Checksum, PeerIdentity and BaseProtocol mean nothing here: what
// the connection's own banners say holds. A Level of 0 is the one that the client's says.
// The caller closes the Client, which leaves the connection as it is.
func (s *Server) Peer(route, identity string, opts ClientOptions) (*Client, error) {
	if err := transport.ValidateClientIdentity(identity); err != nil {
		return nil, fmt.Errorf("%w: %w", endpoint.ErrInvalid, err)
	}
	opts.Route = ""
	if err := opts.validate(); err != nil {
		return nil, err
	}
	link, release := s.peers.acquire(peerKey{route, identity})
	return openClient(links{link: link, release: release}, opts)
}

// peers are the links to clients that opened mux connections, or are awaited.
type peers struct {
	mu    sync.Mutex
	links map[peerKey]*sharedLink
}

type peerKey struct{ route, identity string }

// sharedLink is used by Clients, and by the session that is attached.
type sharedLink struct {
	*transportmux.Link
	users int
}

// acquire returns the link, which is closed when all have released it.
func (p *peers) acquire(key peerKey) (link *transportmux.Link, release func() error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.links[key]
	if l == nil {
		l = &sharedLink{Link: transportmux.NewLink(nil, transportmux.LinkOptions{})}
		if p.links == nil {
			p.links = map[peerKey]*sharedLink{}
		}
		p.links[key] = l
	}
	l.users++
	return l.Link, func() error { return p.release(key, l) }
}

func (p *peers) release(key peerKey, l *sharedLink) error {
	p.mu.Lock()
	l.users--
	unused := l.users == 0
	if unused {
		delete(p.links, key)
	}
	p.mu.Unlock()
	if unused {
		return l.Close()
	}
	return nil
}

// serveMux answers the channels that the client opens within conn, and makes it a Peer.
// It returns when the connection has ended, or when the server stops and no data request
// runs any more: shutdown ends the connection then, after the last control call.
func (c *channels) serveMux(conn *transportmux.Conn) {
	origin, leave := c.enter(conn)
	if origin == nil {
		return
	}
	data := newTracker()
	session, err := transportmux.NewSession(conn, false, c.within(data), transportmux.SessionOptions{Logger: c.server.logger})
	if err != nil {
		leave()
		c.server.logger.Info("mux connection failed", "client", conn.ClientIdentity, "err", err)
		return
	}
	release := c.attach(origin, session)
	end := func() { _ = session.Close(); release(); leave() }
	select {
	case <-session.Done():
		end()
	case <-c.accepting.Done():
		data.wait()
		c.ending.Go(func() { <-c.requests.Done(); end() })
	}
}

// attach makes the session that of the Peer, unless the client may not use the route.
func (c *channels) attach(origin *origin, session *transportmux.Session) (release func()) {
	if origin.refusal != nil {
		return func() {}
	}
	link, done := c.server.peers.acquire(peerKey{origin.route, origin.client})
	if link.State() == Ready {
		c.server.logger.Warn("a newer connection takes the place of the client's", "client", origin.client, "route", origin.route)
	}
	link.Attach(session)
	return func() { _ = done() }
}

// within finds the handlers of the channels within a session. Data requests are tracked.
func (c *channels) within(data *tracker) func(label string) (transportmux.Handler, bool) {
	handlers := c.handlers()
	delete(handlers, transportmux.LabelMux) // one is enough
	serveData := handlers[transportmux.LabelData]
	handlers[transportmux.LabelData] = func(ctx context.Context, conn *transportmux.Conn) {
		defer data.begin()()
		serveData(ctx, conn)
	}
	return func(label string) (transportmux.Handler, bool) {
		h, ok := handlers[label]
		return h, ok
	}
}

// A tracker tells when nothing runs.
type tracker struct {
	mu      sync.Mutex
	running int
	idle    chan struct{} // closed while nothing runs
}

func newTracker() *tracker {
	t := &tracker{idle: make(chan struct{})}
	close(t.idle)
	return t
}

func (t *tracker) begin() (end func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.running++; t.running == 1 {
		t.idle = make(chan struct{})
	}
	return t.end
}

func (t *tracker) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.running--; t.running == 0 {
		close(t.idle)
	}
}

// wait waits until nothing runs.
func (t *tracker) wait() {
	t.mu.Lock()
	idle := t.idle
	t.mu.Unlock()
	<-idle
}

// ServeOver answers what c's peer calls over the mux connection that c opens: the way to
// serve from where nobody can connect to. It keeps c connected, with pauses that grow to
// half a minute, until ctx ends or c is closed. Handlers see ClientOptions.PeerIdentity
// as the client identity, and the default route, whatever the peer says. The peer calls
// with Server.Peer.
//
// The end of ctx stops it as it stops Serve, and it returns nil; after the end of c it
// returns net.ErrClosed. c stays the caller's, who closes it. A c without
// ClientOptions.Mux is endpoint.ErrInvalid.
func (s *Server) ServeOver(ctx context.Context, c *Client) error {
	if c.link == nil || c.direct == nil {
		return fmt.Errorf("%w: ServeOver needs a client of NewClient with Mux", endpoint.ErrInvalid)
	}
	if err := transport.ValidateClientIdentity(c.opts.PeerIdentity); err != nil {
		return fmt.Errorf("%w: PeerIdentity: %w", endpoint.ErrInvalid, err)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	channels, err := s.start(ctx, muxAddr{})
	if err != nil {
		return err
	}
	defer channels.shutdown()
	channels.dialled, channels.level = true, c.opts.Level
	data := newTracker()
	c.link.Handle(channels.within(data))
	var greeting sync.WaitGroup
	greeting.Go(func() { s.greet(ctx, c) })
	err = c.link.Keep(ctx)
	ended := ctx.Err() != nil
	stop()
	greeting.Wait()
	data.wait()
	if ended {
		return nil
	}
	return err
}

// greet pings the peer each time that there is a new connection: one that refuses this
// client says so only when it is called.
func (s *Server) greet(ctx context.Context, c *Client) {
	for state, err := c.link.State(), error(nil); err == nil; state, err = c.link.WaitForStateChange(ctx, state) {
		if state != Ready {
			continue
		}
		if _, err := c.Ping(ctx, &pdu.PingReq{}); OutcomeOf(err) == Answered && err != nil {
			s.logger.Warn("the peer refuses this client", "peer", c.opts.PeerIdentity, "err", err)
		}
	}
}

// muxAddr is where the channels within a mux connection are served.
type muxAddr struct{}

var _ net.Addr = muxAddr{}

// Network implements net.Addr.
func (muxAddr) Network() string { return "mux" }

// String implements net.Addr.
func (muxAddr) String() string { return "mux" }
