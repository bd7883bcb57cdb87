package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"github.com/dualrepl/dualrepl/dataconn"
	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
	"github.com/dualrepl/dualrepl/transport"
	"github.com/dualrepl/dualrepl/transportmux"
)

// ClientOptions may be the zero value.
type ClientOptions struct {
	// CallTimeout bounds each unary control call, and each ping on either channel, so
	// that planning cannot hang. Each page of a list of versions is a call. 0:
	// DefaultCallTimeout.
	CallTimeout time.Duration
	// Logger gets failed attempts to connect (Debug). nil: discard.
	Logger *slog.Logger
	// Route names one of the server's handlers, as transport.ValidateClientIdentity wants
	// a name. "": the default one. A server that knows no routes is ErrNoRoutes.
	Route string
	// Level is zstd's, 1 to MaxLevel, at which both sides compress the streams that they
	// send; 0: they do not.
	Level int
	// Checksum says where the data channel has checksums of its own.
	Checksum Checksum
	// MaxIdle and IdleTimeout are as in dataconn.ClientOptions.
	MaxIdle     int
	IdleTimeout time.Duration
	// Mux has one connection carry all channels, if the server can; otherwise each
	// channel has its own.
	Mux bool
	// PeerIdentity is who the server is to the handlers that it calls with Mux
	// (Server.ServeOver).
	PeerIdentity string
	// Interceptors stand around each request, the first outermost.
	Interceptors []Interceptor
	// BaseProtocol offers no extension.
	BaseProtocol bool
}

// A Client is the endpoint that a Server serves. All methods may be called
// concurrently. It connects when a call needs it, and again after a connection
// was lost: no call is repeated that may have run, but the next one finds a new
// connection.
type Client struct {
	opts   ClientOptions
	logger *slog.Logger
	links
	connecting connecting
	conn       *grpc.ClientConn
	control    pdu.ReplicationClient
	data       *dataconn.Client
	close      func() error
	closed     atomic.Bool
	counters   counters
}

var (
	_ endpoint.Sender   = (*Client)(nil)
	_ endpoint.Receiver = (*Client)(nil)
)

// NewClient returns a Client of the peer that c connects to. It does not connect.
func NewClient(c transport.Connecter, opts ClientOptions) (*Client, error) {
	if err := opts.validate(); err != nil {
		return nil, err
	}
	l := links{direct: transportmux.NewDialer(c, opts.offer)}
	if opts.Mux && !opts.BaseProtocol {
		l.link = transportmux.NewLink(c, transportmux.LinkOptions{
			Offer: opts.offer, PeerIdentity: opts.PeerIdentity, Logger: opts.Logger,
		})
		l.release = l.link.Close
	}
	return openClient(l, opts)
}

func (o ClientOptions) validate() error {
	if o.Route != "" {
		if err := transport.ValidateClientIdentity(o.Route); err != nil {
			return fmt.Errorf("%w: route: %w", endpoint.ErrInvalid, err)
		}
	}
	if o.Level < 0 || o.Level > MaxLevel {
		return fmt.Errorf("%w: compression level %d is not 0 to %d", endpoint.ErrInvalid, o.Level, MaxLevel)
	}
	return nil
}

func openClient(l links, opts ClientOptions) (*Client, error) {
	c := &Client{opts: opts, logger: opts.Logger, links: l}
	c.connecting.peer.Store(newPeerKind(false))
	if c.opts.CallTimeout == 0 {
		c.opts.CallTimeout = DefaultCallTimeout
	}
	if c.logger == nil {
		c.logger = slog.New(slog.DiscardHandler)
	}
	conn, err := grpc.NewClient("passthrough:///"+transportmux.LabelControl, c.dialOptions()...)
	if err != nil {
		return nil, fmt.Errorf("control channel: %w", err)
	}
	c.conn, c.control = conn, pdu.NewReplicationClient(conn)
	c.data = dataconn.NewClient(c.dialData, dataconn.ClientOptions{
		MaxIdle: opts.MaxIdle, IdleTimeout: opts.IdleTimeout, StatusOf: statusOf,
	})
	c.close = sync.OnceValue(c.closeAll)
	return c, nil
}

func (c *Client) dialOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()), // the transport authenticates
		grpc.WithContextDialer(c.dialControl),
		grpc.WithUnaryInterceptor(c.interceptUnary),
		grpc.WithStreamInterceptor(c.interceptStream),
		grpc.WithStatsHandler(callRecorder{}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: keepaliveIdle, Timeout: keepaliveTimeout, PermitWithoutStream: true,
		}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{
				BaseDelay: reconnectFirst, Multiplier: backoff.DefaultConfig.Multiplier,
				Jitter: backoff.DefaultConfig.Jitter, MaxDelay: reconnectMax,
			},
			MinConnectTimeout: connectTimeout,
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxRequest)),
		grpc.WithDisableServiceConfig(),
	}
}

// Close ends the calls and streams that run, with net.ErrClosed in the chain of
// their errors, and both channels. It does not wait for a stream given to Receive
// that blocks in Read. Calling it again does nothing.
func (c *Client) Close() error { return c.close() }

func (c *Client) closeAll() error {
	c.closed.Store(true)
	errs := []error{c.conn.Close(), c.data.Close()}
	if c.release != nil {
		errs = append(errs, c.release())
	}
	return errors.Join(errs...)
}

// Conn is for calling the services that the peer has registered beside its endpoint
// (Server.RegisterService): with generated code, or with package service. Unary calls
// are bounded by ClientOptions.CallTimeout; streams last as long as their context, or
// the connection. OutcomeOf tells more about a call that failed.
func (c *Client) Conn() grpc.ClientConnInterface { return c.conn }

// interceptUnary is every unary control call's way to the wire.
func (c *Client) interceptUnary(ctx context.Context, method string, req, res any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	ctx, cancel := context.WithTimeout(ctx, c.opts.CallTimeout)
	defer cancel()
	ctx, rec := withRecord(ctx)
	c.counters.controlCalls.Add(1)
	return intercept(ctx, c.opts.Interceptors, c.call(transportmux.LabelControl, method), func(ctx context.Context) error {
		return c.invoke(ctx, method, rec, opts, func(ctx context.Context, opts []grpc.CallOption) error {
			return invoke(ctx, method, req, res, cc, opts...)
		})
	})
}

func (c *Client) call(channel, method string) Call {
	return Call{Route: c.opts.Route, Channel: channel, Method: method}
}

// invoke runs a control call up to its answer or, if it is a stream, to its beginning.
func (c *Client) invoke(ctx context.Context, method string, rec *record, opts []grpc.CallOption, run func(context.Context, []grpc.CallOption) error) error {
	ctx, opts, stop, err := c.ready(ctx, opts)
	defer stop()
	if err == nil {
		err = run(ctx, opts)
	}
	if err != nil {
		return c.newCallError(ctx, path.Base(method), err, rec)
	}
	return nil
}

// Ping echoes message over the control channel.
func (c *Client) Ping(ctx context.Context, req *pdu.PingReq) (*pdu.PingRes, error) {
	return c.control.Ping(ctx, req)
}

// ListFilesystems implements endpoint.Endpoint.
func (c *Client) ListFilesystems(ctx context.Context, req *pdu.ListFilesystemReq) (*pdu.ListFilesystemRes, error) {
	return c.control.ListFilesystems(ctx, req)
}

// DestroySnapshots implements endpoint.Endpoint.
func (c *Client) DestroySnapshots(ctx context.Context, req *pdu.DestroySnapshotsReq) (*pdu.DestroySnapshotsRes, error) {
	return c.control.DestroySnapshots(ctx, req)
}

// SendCompleted implements endpoint.Endpoint.
func (c *Client) SendCompleted(ctx context.Context, req *pdu.SendCompletedReq) (*pdu.SendCompletedRes, error) {
	return c.control.SendCompleted(ctx, req)
}

// ReplicationCursor implements endpoint.Endpoint.
func (c *Client) ReplicationCursor(ctx context.Context, req *pdu.ReplicationCursorReq) (*pdu.ReplicationCursorRes, error) {
	return c.control.ReplicationCursor(ctx, req)
}

// SendDry implements endpoint.Sender.
func (c *Client) SendDry(ctx context.Context, req *pdu.SendReq) (*pdu.SendRes, error) {
	return c.control.SendDry(ctx, req)
}

// request is every data request's way to the wire.
func (c *Client) request(ctx context.Context, method string, run func(context.Context) error) error {
	c.counters.dataRequests.Add(1)
	return intercept(ctx, c.opts.Interceptors, c.call(transportmux.LabelData, method), func(ctx context.Context) error {
		return newDataError(ctx, method, run(ctx))
	})
}

// Send implements endpoint.Sender. The stream is an io.WriterTo too, which spares
// its reader a copy.
func (c *Client) Send(ctx context.Context, req *pdu.SendReq) (res *pdu.SendRes, stream io.ReadCloser, err error) {
	err = c.request(ctx, methodSend, func(ctx context.Context) (err error) {
		res, stream, err = c.data.Send(ctx, req)
		return err
	})
	if err != nil {
		return nil, nil, closeUnwanted(stream, err)
	}
	return res, &countedStream{stream, ctx, &c.counters}, nil
}

// closeUnwanted closes a stream that an interceptor has not let through.
func closeUnwanted(stream io.Closer, err error) error {
	if stream != nil {
		_ = stream.Close() // nobody has read it
	}
	return err
}

// Receive implements endpoint.Receiver. A panic of the stream's Read, which runs in
// another goroutine than the caller's, becomes an error. If Receive fails while a Read
// blocks, it leaves that Read behind after a second: the stream's owner ends it.
func (c *Client) Receive(ctx context.Context, req *pdu.ReceiveReq, stream io.Reader) (res *pdu.ReceiveRes, err error) {
	err = c.request(ctx, methodReceive, func(ctx context.Context) (err error) {
		res, err = c.data.Receive(ctx, req, &countedReader{stream, &c.counters, c.logger})
		return err
	})
	return res, err
}
