package rpc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"

	"github.com/dualrepl/dualrepl/dataconn"
	"github.com/dualrepl/dualrepl/pdu"
	"github.com/dualrepl/dualrepl/transport"
	"github.com/dualrepl/dualrepl/transportmux"
	ext "github.com/dualrepl/dualrepl/versionhandshake"
)

// State is that of a Client's connection.
type State = transportmux.State

// The states of a connection, as package transportmux has them. Without Mux they are
// those of the control channel's.
const (
	Disconnected = transportmux.Disconnected
	Connecting   = transportmux.Connecting
	Ready        = transportmux.Ready
	Closed       = transportmux.Closed
)

var (
	// ErrDisconnected: there is no connection with the peer, and none came about.
	// Nothing was sent; trying again later may help.
	ErrDisconnected = transportmux.ErrDisconnected
	// ErrNoRoutes: the client names a route, and the server knows none. It would lead
	// to another handler than the one that is meant.
	ErrNoRoutes = fmt.Errorf("%w: %s", ext.ErrExtension, ext.ExtensionRoute)
)

// WaitForReady returns a context for calls that wait for a connection, as long as it
// lives, instead of failing with ErrDisconnected. Unary control calls also end with
// ClientOptions.CallTimeout.
func WaitForReady(ctx context.Context) context.Context { return transportmux.WaitForReady(ctx) }

// links are a Client's ways to its peer.
type links struct {
	direct  transportmux.Dialer // a connection each; nil: the peer dials
	link    *transportmux.Link  // one connection for all; nil: none
	release func() error        // gives link back; nil: nothing to do
}

// connecting is what is known about connecting.
type connecting struct {
	// failure is what the control channel's last attempt failed of; nil once one succeeded.
	failure atomic.Pointer[error]
	// peer is what the peer last said.
	peer atomic.Pointer[peerKind]
}

// peerKind is what a peer can do.
type peerKind struct {
	plain   bool            // it cannot mux
	current context.Context // ends with replace
	replace context.CancelFunc
}

func newPeerKind(plain bool) *peerKind {
	current, replace := context.WithCancel(context.Background())
	return &peerKind{plain, current, replace}
}

// setPlain takes note of what the peer has said.
func (c *connecting) setPlain(plain bool) {
	if c.peer.Load().plain != plain {
		c.peer.Swap(newPeerKind(plain)).replace()
	}
}

// whileSame returns a context that ends when the peer says that it is of another kind.
func (k *peerKind) whileSame(ctx context.Context) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	unwatch := context.AfterFunc(k.current, cancel)
	return ctx, func() { unwatch(); cancel() }
}

// last returns what connecting the control channel failed of, or nil.
func (c *connecting) last() error {
	if err := c.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// dial opens a channel. Contexts of WaitForReady have it try until they end.
func (c *Client) dial(ctx context.Context, label string) (*transportmux.Conn, error) {
	for {
		conn, err := c.dialOnce(ctx, label)
		if err == nil {
			return conn, nil
		}
		c.logger.Debug("connecting failed", "channel", label, "err", err)
		if !transportmux.WaitsForReady(ctx) || errors.Is(err, ErrNoRoutes) || !sleep(ctx, pingInterval) {
			return nil, err
		}
	}
}

func (c *Client) dialOnce(ctx context.Context, label string) (*transportmux.Conn, error) {
	if c.direct != nil { // a link that the peer makes is waited for
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, connectTimeout)
		defer cancel()
	}
	conn, err := c.dialAny(ctx, label)
	if err != nil {
		return nil, err
	}
	if _, on := conn.On(ext.ExtensionRoute); !on && c.opts.Route != "" && c.direct != nil {
		_ = conn.Close() // nothing was asked
		return nil, &transportmux.DialError{Peer: conn.RemoteAddr(), Err: fmt.Errorf("route %q: %w", c.opts.Route, ErrNoRoutes)}
	}
	return conn, nil
}

// dialAny uses the link, unless the peer has none; then it gets the base protocol's connections.
func (c *Client) dialAny(ctx context.Context, label string) (*transportmux.Conn, error) {
	if c.watchesLink() {
		conn, err := c.link.Dial(ctx, label)
		if c.direct == nil || !errors.Is(err, transportmux.ErrNoMux) {
			return conn, err
		}
	}
	conn, err := c.direct.Dial(ctx, label)
	if err == nil && c.link != nil {
		_, mux := conn.On(ext.ExtensionMux)
		c.connecting.setPlain(!mux)
	}
	return conn, err
}

func (c *Client) dialData(ctx context.Context) (transport.Wire, dataconn.Features, error) {
	conn, err := c.dial(ctx, transportmux.LabelData)
	if err != nil {
		return nil, dataconn.Features{}, err
	}
	c.counters.dataConnections.Add(1)
	level := c.opts.Level
	if level == 0 && c.direct == nil {
		level = levelAsked(conn) // by the client that dialled
	}
	return conn.Wire, featuresOf(conn, level), nil // bare: writev needs to see what the transport returned
}

func (c *Client) dialControl(ctx context.Context, _ string) (net.Conn, error) {
	conn, err := c.dial(ctx, transportmux.LabelControl)
	if err != nil {
		c.connecting.failure.Store(&err)
		return nil, err
	}
	c.connecting.failure.Store(nil)
	return &countedConn{Wire: conn.Wire, counters: &c.counters}, nil
}

// ready readies a control call: it waits for the peer, if the call is to wait, and sees
// to it that the call ends when the peer goes. stop is called when the call has ended, or
// its stream begun.
func (c *Client) ready(ctx context.Context, opts []grpc.CallOption) (_ context.Context, _ []grpc.CallOption, stop func(), err error) {
	stop = func() {}
	if transportmux.WaitsForReady(ctx) {
		opts = append(opts, grpc.WaitForReady(true))
	}
	if c.direct != nil {
		return ctx, opts, stop, nil
	}
	if err := c.awaitPeer(ctx); err != nil {
		return ctx, opts, stop, err
	}
	ctx, stop = c.whileReady(ctx)
	if c.conn.GetState() == connectivity.TransientFailure {
		c.conn.ResetConnectBackoff() // what failed was the connection before
	}
	return ctx, append(opts, grpc.WaitForReady(true)), stop, nil
}

// awaitPeer returns at once, or when the link is ready, if the call is to wait.
func (c *Client) awaitPeer(ctx context.Context) (err error) {
	for state := c.link.State(); state != Ready; {
		if !transportmux.WaitsForReady(ctx) || state == Closed {
			return c.disconnected()
		}
		if state, err = c.link.WaitForStateChange(ctx, state); err != nil {
			return fmt.Errorf("%w: %w", ErrDisconnected, err)
		}
	}
	return nil
}

// disconnected is why there is no connection, as far as it is known.
func (c *Client) disconnected() error {
	if err := c.link.LastError(); err != nil {
		return fmt.Errorf("%w: %w", ErrDisconnected, err)
	}
	return ErrDisconnected
}

// whileReady returns a context that ends when the link is no longer ready: gRPC would
// have the call wait for the next connection. It watches until stop is called.
func (c *Client) whileReady(ctx context.Context) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	watching, stop := context.WithCancel(ctx)
	go func() {
		if _, err := c.link.WaitForStateChange(watching, Ready); err == nil {
			cancel(peerGone{c.disconnected()})
		}
	}()
	return ctx, stop
}

// peerGone is why a call's context ends with its peer: that of another call, whose error a
// caller's context may end with, is none of this one's.
type peerGone struct{ error }

func (e peerGone) Unwrap() error { return e.error }

// State is the connection's, at this moment.
func (c *Client) State() State {
	if c.watchesLink() {
		return c.link.State()
	}
	return stateOf(c.conn.GetState())
}

// watchesLink reports whether there is a link that is of use: its state tells.
func (c *Client) watchesLink() bool { return c.link != nil && !c.connecting.peer.Load().plain }

func stateOf(s connectivity.State) State {
	switch s {
	case connectivity.Connecting:
		return Connecting
	case connectivity.Ready:
		return Ready
	case connectivity.Shutdown:
		return Closed
	}
	return Disconnected
}

// LastError is why the connection ended or the last attempt to make one failed; nil while
// there is one, and before the first attempt.
func (c *Client) LastError() error {
	if c.watchesLink() {
		return c.link.LastError()
	}
	return c.connecting.last()
}

// WaitForStateChange waits until the state is another than from, and returns it, or the
// cause of ctx's end.
func (c *Client) WaitForStateChange(ctx context.Context, from State) (State, error) {
	for {
		kind := c.connecting.peer.Load()
		same, stop := kind.whileSame(ctx)
		state, err := c.waitWhileSame(same, from)
		stop()
		if err == nil || kind == c.connecting.peer.Load() {
			return state, err
		}
	}
}

// waitWhileSame is WaitForStateChange as long as the peer is of the same kind.
func (c *Client) waitWhileSame(ctx context.Context, from State) (State, error) {
	if c.watchesLink() {
		return c.link.WaitForStateChange(ctx, from)
	}
	for {
		state := c.conn.GetState()
		if s := stateOf(state); s != from {
			return s, nil
		}
		if !c.conn.WaitForStateChange(ctx, state) {
			return from, context.Cause(ctx)
		}
	}
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
	ctx, cancel := context.WithTimeout(ctx, c.opts.CallTimeout)
	defer cancel()
	control := make(chan error, 1)
	go func() {
		c.conn.ResetConnectBackoff()
		control <- ping("control", func(req *pdu.PingReq) (*pdu.PingRes, error) { return c.control.Ping(ctx, req) })
	}()
	data := ping("data", func(req *pdu.PingReq) (*pdu.PingRes, error) { return c.pingData(ctx, req) })
	return errors.Join(<-control, data)
}

func (c *Client) pingData(ctx context.Context, req *pdu.PingReq) (res *pdu.PingRes, err error) {
	err = c.request(ctx, methodPing, func(ctx context.Context) (err error) {
		res, err = c.data.Ping(ctx, req)
		return err
	})
	return res, err
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
