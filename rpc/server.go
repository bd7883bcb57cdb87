package rpc

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/dualrepl/dualrepl/dataconn"
	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
	"github.com/dualrepl/dualrepl/transport"
	"github.com/dualrepl/dualrepl/transportmux"
)

// ServerOptions may be the zero value.
type ServerOptions struct {
	// Grace is how long requests that run when Serve's context ends may go on, so
	// that a step can finish. 0: they end at once.
	Grace time.Duration
	// MaxPending bounds the connections whose peer and label are not known yet.
	// 0: transportmux.DefaultMaxPending.
	MaxPending int
	// Logger gets failed requests (Warn), panics (Error) and what the layers below
	// report. nil: discard.
	Logger *slog.Logger
}

// A Server answers both channels with one endpoint.
type Server struct {
	handler endpoint.Endpoint
	opts    ServerOptions
	logger  *slog.Logger
}

// NewServer returns a Server for h, which is an endpoint.Sender, an
// endpoint.Receiver or both. What h is not is answered with
// endpoint.ErrUnimplemented.
func NewServer(h endpoint.Endpoint, opts ServerOptions) *Server {
	s := &Server{handler: h, opts: opts, logger: opts.Logger}
	if s.logger == nil {
		s.logger = slog.New(slog.DiscardHandler)
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
	requests, end := withGrace(ctx, s.opts.Grace)
	defer end()
	control := s.startControl(requests, l.Addr())
	err := transportmux.Serve(ctx, l, map[string]transportmux.Handler{
		transportmux.LabelControl: func(_ context.Context, conn *transportmux.Conn) { control.handle(conn) },
		transportmux.LabelData:    func(accepting context.Context, conn *transportmux.Conn) { s.serveData(accepting, requests, conn) },
	}, transportmux.ServeOptions{MaxPending: s.opts.MaxPending, Logger: s.logger})
	control.shutdown()
	return err
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

// serveData answers the request of one data connection. It ends with requests, or,
// while the request has not begun, with accepting.
func (s *Server) serveData(accepting, requests context.Context, conn *transportmux.Conn) {
	ctx, cancel := context.WithCancel(requests)
	defer cancel()
	begin := context.AfterFunc(accepting, cancel)
	defer begin()
	h := &dataHandler{server: s, client: conn.ClientIdentity, begin: begin}
	// The bare Wire: writev needs to see what the transport returned.
	dataconn.ServeConn(ctx, conn.Wire, h, dataconn.ServeOptions{Logger: s.logger.With("client", conn.ClientIdentity)})
}

// call is one request on either channel.
type call struct {
	client  string
	channel string // label
	method  string
	req     any
}

// guard runs a request's handler: on a validated request, with the client identity
// in its context, its panic recovered and its failure logged.
func (s *Server) guard(ctx context.Context, c call, run func(context.Context) error) error {
	logger := s.logger.With("client", c.client, "channel", c.channel, "call", c.method)
	err := guarded(logger, func() error {
		if err := validate(c.req); err != nil {
			return err
		}
		return run(transport.ContextWithClientIdentity(ctx, c.client))
	})
	if err != nil {
		logger.Warn("request failed", "err", err)
	} else {
		logger.Debug("request answered")
	}
	return err
}

func guarded(logger *slog.Logger, fn func() error) (err error) {
	defer recoverPanic(logger, &err)
	return fn()
}

// dataHandler answers the requests of one data connection.
type dataHandler struct {
	server *Server
	client string
	begin  func() bool // false: the server stops, and ends this connection
}

func (h *dataHandler) guard(ctx context.Context, method string, req any, run func(context.Context) error) error {
	if !h.begin() {
		return errDraining
	}
	return h.server.guard(ctx, call{h.client, transportmux.LabelData, method, req}, run)
}

// Ping implements dataconn.Handler.
func (h *dataHandler) Ping(_ context.Context, req *pdu.PingReq) (*pdu.PingRes, error) {
	return &pdu.PingRes{Echo: req.GetMessage()}, nil
}

// Send implements dataconn.Handler.
func (h *dataHandler) Send(ctx context.Context, req *pdu.SendReq) (res *pdu.SendRes, stream io.ReadCloser, err error) {
	err = h.guard(ctx, "Send", req, func(ctx context.Context) (err error) {
		sender, ok := h.server.handler.(endpoint.Sender)
		if !ok {
			return unimplemented("Send")
		}
		res, stream, err = sender.Send(ctx, req)
		return err
	})
	if stream != nil { // dataconn refuses none, and closes one that comes with an error
		stream = &guardedStream{stream, h.server.logger.With("client", h.client, "call", "Send")}
	}
	return res, stream, err
}

// Receive implements dataconn.Handler.
func (h *dataHandler) Receive(ctx context.Context, req *pdu.ReceiveReq, stream io.Reader) (res *pdu.ReceiveRes, err error) {
	err = h.guard(ctx, "Receive", req, func(ctx context.Context) (err error) {
		receiver, ok := h.server.handler.(endpoint.Receiver)
		if !ok {
			return unimplemented("Receive")
		}
		res, err = receiver.Receive(ctx, req, stream)
		return err
	})
	return res, err
}

func unimplemented(method string) error {
	return fmt.Errorf("%s: %w", method, endpoint.ErrUnimplemented)
}
