package rpc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/dualrepl/dualrepl/dataconn"
	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
	"github.com/dualrepl/dualrepl/transport"
	"github.com/dualrepl/dualrepl/transportmux"
	"github.com/dualrepl/dualrepl/versionhandshake"
)

// ServerOptions may be the zero value.
type ServerOptions struct {
	// Grace is how long requests that run when Serve's context ends may go on, so
	// that a step can finish. 0: they end at once.
	Grace time.Duration
	// Limits bound what one client may have.
	Limits Limits
	// Interceptors stand around each request, the first outermost.
	Interceptors []Interceptor
	// Checksum says where the server wants the data channel to have checksums.
	Checksum Checksum
	// BaseProtocol offers no extension to clients.
	BaseProtocol bool
	// Logger gets failed requests (Warn), panics (Error) and what the layers below
	// report. nil: discard.
	Logger *slog.Logger
}

// A Server answers both channels: the base protocol's calls with the endpoint of the
// route that the client names, those of custom services with what was registered.
type Server struct {
	opts   ServerOptions
	logger *slog.Logger
	usage  *usage
	peers  peers

	mu       sync.RWMutex
	routes   map[string]Route
	services []registration
	misuse   error // what Serve returns at once
}

// NewServer returns a Server for h, which is an endpoint.Sender, an
// endpoint.Receiver or both. What h is not is answered with
// endpoint.ErrUnimplemented. h is the default route's, for all clients and verbs; nil:
// there is no default route, and who names none is refused, unless Handle makes one.
// Custom services alone need a route as well: Handle("", Route{}).
func NewServer(h endpoint.Endpoint, opts ServerOptions) *Server {
	opts.Limits = opts.Limits.withDefaults()
	s := &Server{opts: opts, logger: opts.Logger, usage: newUsage(opts.Limits), routes: map[string]Route{}}
	if s.logger == nil {
		s.logger = slog.New(slog.DiscardHandler)
	}
	if h != nil {
		s.routes[""] = Route{Endpoint: h}
	}
	return s
}

// Serve answers the clients of l until ctx ends or l fails for good; it closes l.
//
// The end of ctx is the way to stop: no connection is accepted and no data request
// begins any more (its connection ends, so that the client tries again later).
// What runs then has ServerOptions.Grace to finish, and control calls are answered
// for as long as a data request runs. After that the handlers' contexts end, their
// connections too, and Serve returns nil once every handler has returned.
func (s *Server) Serve(ctx context.Context, l transport.Listener) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	l = stoppingListener{l, stop}
	channels, err := s.start(ctx, l.Addr())
	if err != nil {
		return errors.Join(err, l.Close())
	}
	defer channels.shutdown()
	return transportmux.Serve(ctx, l, channels.handlers(), transportmux.ServeOptions{
		MaxPending: s.opts.Limits.PendingHandshakes, Pending: &s.usage.pending, Offer: s.opts.offer, Logger: s.logger,
	})
}

// channels are what answers labelled connections, until accepting ends, and what they
// have begun then until its grace is over.
type channels struct {
	server    *Server
	accepting context.Context
	requests  context.Context // every connection, request and handler
	end       context.CancelFunc
	control   *controlServer
	ending    sync.WaitGroup // mux connections that end with requests
	dialled   bool           // by this side: what the peer's banner says is nothing that it asks for
	level     int            // of compression, if this side dialled; 0: what the client asked for
}

// start makes channels run; their owner calls shutdown.
func (s *Server) start(accepting context.Context, addr net.Addr) (*channels, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.misuse != nil {
		return nil, s.misuse
	}
	requests, end := withGrace(accepting, s.opts.Grace)
	return &channels{server: s, accepting: accepting, requests: requests, end: end, control: s.startControl(requests, addr)}, nil
}

// handlers are those of the labels.
func (c *channels) handlers() map[string]transportmux.Handler {
	return map[string]transportmux.Handler{
		transportmux.LabelControl: func(_ context.Context, conn *transportmux.Conn) { c.serveControl(conn) },
		transportmux.LabelData:    func(_ context.Context, conn *transportmux.Conn) { c.serveData(conn) },
		transportmux.LabelMux:     func(_ context.Context, conn *transportmux.Conn) { c.serveMux(conn) },
	}
}

// shutdown waits for everything that runs. All handlers of connections have returned.
func (c *channels) shutdown() {
	c.control.shutdown()
	c.end()
	c.ending.Wait()
}

// stoppingListener stops the server when it is closed, which transportmux.Serve does
// as soon as it accepts no more: a listener that failed must not leave handlers
// running without end.
type stoppingListener struct {
	transport.Listener
	stop context.CancelFunc
}

// Close implements transport.Listener.
func (l stoppingListener) Close() error {
	l.stop()
	return l.Listener.Close()
}

// withGrace returns a context that ends d after ctx has, or when end is called.
func withGrace(ctx context.Context, d time.Duration) (requests context.Context, end context.CancelFunc) {
	requests, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		grace := time.NewTimer(d)
		defer grace.Stop()
		select {
		case <-grace.C:
			cancel()
		case <-requests.Done():
		}
	})
	return requests, func() { stop(); cancel() }
}

// serveControl hands conn on to gRPC.
func (c *channels) serveControl(conn *transportmux.Conn) {
	origin, leave := c.enter(conn)
	if origin == nil {
		return
	}
	// gRPC's own Stop waits for connections that are not HTTP/2 yet; the end of
	// requests does not.
	stop := context.AfterFunc(c.requests, func() { _ = conn.Close() })
	c.control.handle(&controlConn{Conn: conn, origin: origin, onClose: sync.OnceFunc(func() { stop(); leave() })})
}

// serveData answers the requests of one data connection.
func (c *channels) serveData(conn *transportmux.Conn) {
	origin, leave := c.enter(conn)
	if origin == nil {
		return
	}
	defer leave()
	// The bare Wire: writev needs to see what the transport returned.
	dataconn.ServeConn(c.requests, conn.Wire, &dataHandler{c.server, origin}, dataconn.ServeOptions{
		Features: featuresOf(conn, cmp.Or(c.level, levelAsked(conn))),
		Logger:   c.server.logger.With("client", conn.ClientIdentity),
		StatusOf: statusOf,
		Drain:    c.accepting,
	})
}

// enter counts conn in, until leave, and finds out where it leads. One over the limit
// gets its answer for a while; nil: there are too many of those too, and it is closed.
func (c *channels) enter(conn *transportmux.Conn) (o *origin, leave func()) {
	s := c.server
	o = s.originOf(conn.ClientIdentity, c.routeOf(conn))
	leave, err := s.usage.acquire(o.client, limitConnections)
	if err != nil {
		o.refusal = err
		leave = s.refuse(conn)
	}
	if o.refusal != nil {
		s.logger.Warn("connection refused", "client", o.client, "peer", conn.RemoteAddr(), "err", o.refusal)
	}
	if leave == nil {
		_ = conn.Close()
		return nil, nil
	}
	return o, leave
}

// routeOf is the route that the client has named.
func (c *channels) routeOf(conn *transportmux.Conn) string {
	if c.dialled {
		return ""
	}
	route, _ := conn.On(versionhandshake.ExtensionRoute)
	return route
}

// refuse ends conn soon, but not at once. nil: it has to be at once.
func (s *Server) refuse(conn *transportmux.Conn) (leave func()) {
	release, err := s.usage.acquire(conn.ClientIdentity, limitRefusals)
	if err != nil {
		return nil
	}
	late := time.AfterFunc(refusalTime, func() { _ = conn.Close() })
	return func() { late.Stop(); release() }
}

// guard runs a request's handler inside of the interceptors: if the client may have it,
// with its origin in the context, its panic recovered and its failure logged. The
// caller calls end when the request is over, whatever the error.
func (s *Server) guard(ctx context.Context, o *origin, c Call, run func(context.Context) error) (end func(), err error) {
	c.Client, c.Route = o.client, o.route
	logger := s.logger.With("client", c.Client, "channel", c.Channel, "call", c.Method)
	end, err = s.admit(o, c.Method)
	if err == nil {
		err = guarded(logger, func() error {
			return intercept(contextWithOrigin(ctx, o), s.opts.Interceptors, c, run)
		})
	}
	switch {
	case err == nil:
		logger.Debug("request answered")
	case err != o.refusal: // that one was logged already
		logger.Warn("request failed", "err", err)
	}
	return end, err
}

// admit counts a request in, until end, if the client may have it.
func (s *Server) admit(o *origin, method string) (end func(), err error) {
	nothing := func() {}
	if o.refusal != nil {
		return nothing, o.refusal
	}
	if err := o.target.permits(method); err != nil {
		return nothing, err
	}
	end, err = s.usage.acquire(o.client, limitRequests)
	if err != nil {
		return nothing, err
	}
	return end, nil
}

func guarded(logger *slog.Logger, fn func() error) (err error) {
	defer recoverPanic(logger, &err)
	return fn()
}

// dataHandler answers the requests of one data connection.
type dataHandler struct {
	server *Server
	origin *origin
}

// guard is the server's, for a data request.
func (h *dataHandler) guard(ctx context.Context, method string, req any, run func(context.Context) error) (end func(), err error) {
	c := Call{Channel: transportmux.LabelData, Method: method}
	return h.server.guard(ctx, h.origin, c, func(ctx context.Context) error {
		if err := validate(req); err != nil {
			return err
		}
		return run(ctx)
	})
}

// Ping implements dataconn.Handler.
func (h *dataHandler) Ping(ctx context.Context, req *pdu.PingReq) (res *pdu.PingRes, err error) {
	end, err := h.guard(ctx, methodPing, req, func(context.Context) error {
		res = &pdu.PingRes{Echo: req.GetMessage()}
		return nil
	})
	end()
	return res, err
}

// Send implements dataconn.Handler.
func (h *dataHandler) Send(ctx context.Context, req *pdu.SendReq) (res *pdu.SendRes, stream io.ReadCloser, err error) {
	end, err := h.guard(ctx, methodSend, req, func(ctx context.Context) (err error) {
		sender, ok := h.origin.target.Endpoint.(endpoint.Sender)
		if !ok {
			return unimplemented(methodSend)
		}
		res, stream, err = sender.Send(ctx, req)
		return err
	})
	if stream == nil { // dataconn refuses none, and closes one that comes with an error
		end()
		return res, nil, err
	}
	logger := h.server.logger.With("client", h.origin.client, "call", methodSend)
	return res, &guardedStream{stream, logger, sync.OnceFunc(end)}, err
}

// Receive implements dataconn.Handler.
func (h *dataHandler) Receive(ctx context.Context, req *pdu.ReceiveReq, stream io.Reader) (res *pdu.ReceiveRes, err error) {
	end, err := h.guard(ctx, methodReceive, req, func(ctx context.Context) (err error) {
		receiver, ok := h.origin.target.Endpoint.(endpoint.Receiver)
		if !ok {
			return unimplemented(methodReceive)
		}
		res, err = receiver.Receive(ctx, req, sentStream{stream})
		return err
	})
	end()
	return res, err
}

func unimplemented(method string) error {
	return fmt.Errorf("%s: %w", method, endpoint.ErrUnimplemented)
}
