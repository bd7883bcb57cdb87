// Package socket is what the transports over TCP have in common: dialling,
// accepting under a context, and keepalive.
package socket

import (
	"context"
	"net"
	"time"
)

// DefaultDialTimeout bounds connecting, so that an unreachable peer is an error
// within the patience of a user.
const DefaultDialTimeout = 10 * time.Second

// keepAlive notices within 45 s that the machine at the other end is gone. The
// channels have shorter heartbeats of their own; this is for connections that are
// still, or that nobody reads from.
var keepAlive = net.KeepAliveConfig{
	Enable:   true,
	Idle:     15 * time.Second,
	Interval: 5 * time.Second,
	Count:    6,
}

// Dial connects to address (host:port) before ctx ends.
func Dial(ctx context.Context, address string) (*net.TCPConn, error) {
	d := net.Dialer{KeepAliveConfig: keepAlive}
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil // what the network "tcp" gives
}

// DialContext is ctx bounded by timeout, or by DefaultDialTimeout if that is 0.
func DialContext(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	if timeout == 0 {
		timeout = DefaultDialTimeout
	}
	return context.WithTimeout(ctx, timeout)
}

// A Listener accepts TCP connections. Accept and Close may be called concurrently.
type Listener struct {
	tcp *net.TCPListener
	// turn holds a token while an Accept waits: the deadline that ends it would
	// end another one, too.
	turn chan struct{}
}

// Listen listens on address (host:port).
func Listen(ctx context.Context, address string) (*Listener, error) {
	config := net.ListenConfig{KeepAliveConfig: keepAlive}
	l, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return &Listener{tcp: l.(*net.TCPListener), turn: make(chan struct{}, 1)}, nil
}

// Accept waits for the next connection, until Close (net.ErrClosed) or the end of
// ctx (its cause).
func (l *Listener) Accept(ctx context.Context) (*net.TCPConn, error) {
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		_ = l.tcp.SetDeadline(time.Now()) // fails only if closed, which ends Accept as well
	})
	conn, err := l.tcp.AcceptTCP()
	if stop() {
		return conn, err
	}
	<-interrupted
	_ = l.tcp.SetDeadline(time.Time{}) // as above
	if err == nil {
		_ = conn.Close() // nobody waits for it any more
	}
	return nil, context.Cause(ctx)
}

// Addr is the address that peers connect to.
func (l *Listener) Addr() net.Addr { return l.tcp.Addr() }

// Close stops listening; accepted connections live on.
func (l *Listener) Close() error { return l.tcp.Close() }
