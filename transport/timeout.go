package transport

import (
	"context"
	"net"
	"time"
)

// longAgo as a deadline makes what waits on a connection return at once.
var longAgo = time.Unix(1, 0)

// WithTimeout runs fn, which reads from and writes to conn, with a deadline on
// conn: timeout from now, or the end of ctx, whichever comes first. It returns
// what fn returns, or the cause of ctx's end if ctx ended meanwhile. After success
// conn has no deadline; after an error the caller should close it.
func WithTimeout(ctx context.Context, conn net.Conn, timeout time.Duration, fn func() error) error {
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		_ = conn.SetDeadline(longAgo) // fails only if conn is closed: nothing waits then
	})
	err := fn()
	if !stop() {
		<-interrupted
		return context.Cause(ctx)
	}
	if err != nil {
		return err
	}
	return conn.SetDeadline(time.Time{})
}
