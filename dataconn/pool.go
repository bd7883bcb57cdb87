package dataconn

import (
	"slices"
	"sync"
	"time"
)

// A pool keeps a client's connections while they carry no request.
type pool struct {
	size    int           // how many it keeps at most
	timeout time.Duration // how long it keeps one

	mu   sync.Mutex
	idle []idleConn // the newest last
}

type idleConn struct {
	*conn
	expiry *time.Timer
}

// take returns the connection that was put last, of those that are sound, or nil. One
// that has been silent for too long stays: it recovers, or ends by itself.
func (p *pool) take() *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, c := range slices.Backward(p.idle) {
		if c.ctx.Err() == nil && time.Duration(c.silence.Load()) < idleSilence {
			return p.cut(i)
		}
	}
	return nil
}

// put keeps a connection, or closes it, or the oldest in its place.
func (p *pool) put(c *conn) {
	if surplus := p.add(c); surplus != nil {
		surplus.beginClose()
	}
}

func (p *pool) add(c *conn) (surplus *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.size <= 0 || c.ctx.Err() != nil { // it has been removed already, or will be
		return c
	}
	if len(p.idle) == p.size {
		surplus = p.cut(0)
	}
	p.idle = append(p.idle, idleConn{c, time.AfterFunc(p.timeout, func() { p.expire(c) })})
	return surplus
}

func (p *pool) expire(c *conn) {
	if p.remove(c) {
		c.beginClose()
	}
}

// remove reports whether the connection was in the pool.
func (p *pool) remove(c *conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.IndexFunc(p.idle, func(other idleConn) bool { return other.conn == c })
	if i >= 0 {
		p.cut(i)
	}
	return i >= 0
}

// cut is for who has locked mu.
func (p *pool) cut(i int) *conn {
	c := p.idle[i]
	c.expiry.Stop()
	p.idle = slices.Delete(p.idle, i, i+1)
	return c.conn
}
