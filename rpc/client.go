package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
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
	// CallTimeout bounds each control call, and each ping on either channel, so
	// that planning cannot hang. Each page of a list of versions is a call. 0:
	// DefaultCallTimeout.
	CallTimeout time.Duration
	// Logger gets failed attempts to connect (Debug). nil: discard.
	Logger *slog.Logger
}

// A Client is the endpoint that a Server serves. All methods may be called
// concurrently. It connects when a call needs it, and again after a connection
// was lost: no call is repeated, but the next one finds a new connection.
type Client struct {
	connecter transport.Connecter
	timeout   time.Duration
	logger    *slog.Logger
	conn      *grpc.ClientConn
	control   pdu.ReplicationClient
	data      *dataconn.Client
	close     func() error
	closed    atomic.Bool
	// connecting is what the last attempt to connect the control channel failed
	// of; nil once one succeeded.
	connecting atomic.Pointer[error]
	counters   counters
}

var (
	_ endpoint.Sender   = (*Client)(nil)
	_ endpoint.Receiver = (*Client)(nil)
)

// NewClient returns a Client of the peer that c connects to. It does not connect.
func NewClient(c transport.Connecter, opts ClientOptions) (*Client, error) {
	cl := &Client{connecter: c, timeout: opts.CallTimeout, logger: opts.Logger}
	if cl.timeout == 0 {
		cl.timeout = DefaultCallTimeout
	}
	if cl.logger == nil {
		cl.logger = slog.New(slog.DiscardHandler)
	}
	conn, err := grpc.NewClient("passthrough:///"+transportmux.LabelControl, cl.dialOptions()...)
	if err != nil {
		return nil, fmt.Errorf("control channel: %w", err)
	}
	cl.conn, cl.control = conn, pdu.NewReplicationClient(conn)
	cl.data = dataconn.NewClient(cl.dialData, dataconn.ClientOptions{})
	cl.close = sync.OnceValue(cl.closeBoth)
	return cl, nil
}

func (c *Client) dialOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()), // the transport authenticates
		grpc.WithContextDialer(c.dialControl),
		grpc.WithUnaryInterceptor(c.intercept),
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

func (c *Client) closeBoth() error {
	c.closed.Store(true)
	return errors.Join(c.conn.Close(), c.data.Close())
}

func (c *Client) dial(ctx context.Context, label string) (*transportmux.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := transportmux.Dial(ctx, c.connecter, label, nil)
	if err != nil {
		c.logger.Debug("connecting failed", "channel", label, "err", err)
		return nil, err
	}
	return conn, nil
}

func (c *Client) dialData(ctx context.Context) (transport.Wire, dataconn.Features, error) {
	conn, err := c.dial(ctx, transportmux.LabelData)
	if err != nil {
		return nil, dataconn.Features{}, err
	}
	return conn.Wire, dataconn.Features{}, nil // bare: writev needs to see what the transport returned
}

func (c *Client) dialControl(ctx context.Context, _ string) (net.Conn, error) {
	conn, err := c.dial(ctx, transportmux.LabelControl)
	if err != nil {
		c.connecting.Store(&err)
		return nil, err
	}
	c.connecting.Store(nil)
	return &countedConn{Wire: conn.Wire, counters: &c.counters}, nil
}

// lastConnecting returns what connecting the control channel failed of, or nil.
func (c *Client) lastConnecting() error {
	if err := c.connecting.Load(); err != nil {
		return *err
	}
	return nil
}

// intercept is every control call's way to the wire.
func (c *Client) intercept(ctx context.Context, method string, req, res any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	c.counters.controlCalls.Add(1)
	if err := invoke(ctx, method, req, res, cc, opts...); err != nil {
		return newCallError(ctx, path.Base(method), err, c.closed.Load(), c.lastConnecting())
	}
	return nil
}

// WaitForConnectivity pings on both channels until the peer has answered on both,
// or ctx ends; the error then has ctx's cause and the last ping's in its chain.
func (c *Client) WaitForConnectivity(ctx context.Context) error {
	var last error
	for {
		err := c.pingBoth(ctx)
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil { // the end of ctx explains nothing
			last = err
		}
		if c.closed.Load() {
			return fmt.Errorf("no connectivity: %w", last)
		}
		if !sleep(ctx, pingInterval) {
			return fmt.Errorf("no connectivity: %w: %w", context.Cause(ctx), last)
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (c *Client) pingBoth(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	control := make(chan error, 1)
	go func() {
		c.conn.ResetConnectBackoff()
		control <- ping("control", func(req *pdu.PingReq) (*pdu.PingRes, error) { return c.control.Ping(ctx, req) })
	}()
	c.counters.dataRequests.Add(1)
	data := ping("data", func(req *pdu.PingReq) (*pdu.PingRes, error) { return c.data.Ping(ctx, req) })
	return errors.Join(<-control, data)
}

func ping(channel string, call func(*pdu.PingReq) (*pdu.PingRes, error)) error {
	res, err := call(&pdu.PingReq{Message: channel})
	if err != nil {
		return fmt.Errorf("%s channel: %w", channel, err)
	}
	if res.GetEcho() != channel {
		return fmt.Errorf("%s channel: the ping's echo is %q", channel, res.GetEcho())
	}
	return nil
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

// Send implements endpoint.Sender. The stream is an io.WriterTo too, which spares
// its reader a copy.
func (c *Client) Send(ctx context.Context, req *pdu.SendReq) (*pdu.SendRes, io.ReadCloser, error) {
	c.counters.dataRequests.Add(1)
	res, stream, err := c.data.Send(ctx, req)
	if err != nil {
		return nil, nil, err
	}
	return res, &countedStream{stream, &c.counters}, nil
}

// Receive implements endpoint.Receiver. A panic of the stream's Read, which runs in
// another goroutine than the caller's, becomes an error. If Receive fails while a Read
// blocks, it leaves that Read behind after a second: the stream's owner ends it.
func (c *Client) Receive(ctx context.Context, req *pdu.ReceiveReq, stream io.Reader) (*pdu.ReceiveRes, error) {
	c.counters.dataRequests.Add(1)
	return c.data.Receive(ctx, req, &countedReader{stream, &c.counters, c.logger})
}
