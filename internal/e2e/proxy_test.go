package e2e

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// proxyBuffer bounds what the proxy and its sockets hold, so that bytes in flight
// don't drown what is measured.
const proxyBuffer = 128 << 10

// proxy forwards TCP connections to a target, counts the bytes that go there, and
// calls the trigger once, in a goroutine of its own, when the count passes a mark.
type proxy struct {
	listener net.Listener
	target   string
	sent     atomic.Int64
	mark     atomic.Int64
	trigger  chan struct{}

	wg    sync.WaitGroup
	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

func startProxy(t *testing.T, target string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: l, target: target, trigger: make(chan struct{}, 1), conns: map[net.Conn]struct{}{}}
	p.wg.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

func (p *proxy) addr() string { return p.listener.Addr().String() }

// fireAfter makes trigger receive once n more bytes have gone to the target.
func (p *proxy) fireAfter(n int64) { p.mark.Store(p.sent.Load() + n) }

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.target)
		if err != nil {
			client.Close()
			continue
		}
		p.wg.Go(func() { p.forward(client, server) })
	}
}

func (p *proxy) forward(client, server net.Conn) {
	if !p.track(client, server) {
		return
	}
	var wg sync.WaitGroup
	wg.Go(func() { pump(server, client, p.count) })
	wg.Go(func() { pump(client, server, func(int) {}) })
	wg.Wait()
	client.Close()
	server.Close()
}

func (p *proxy) track(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		if p.conns == nil {
			c.Close()
			continue
		}
		c.(*net.TCPConn).SetReadBuffer(proxyBuffer)
		c.(*net.TCPConn).SetWriteBuffer(proxyBuffer)
		p.conns[c] = struct{}{}
	}
	return p.conns != nil
}

func (p *proxy) count(n int) {
	sent := p.sent.Add(int64(n))
	mark := p.mark.Load()
	if mark != 0 && sent >= mark && p.mark.CompareAndSwap(mark, 0) {
		p.trigger <- struct{}{}
	}
}

// pump copies one direction and passes its end on, an abrupt one abruptly.
func pump(dst, src net.Conn, count func(int)) {
	buf := make([]byte, proxyBuffer)
	for {
		n, err := src.Read(buf)
		count(n)
		if _, werr := dst.Write(buf[:n]); werr != nil {
			src.Close()
			return
		}
		if errors.Is(err, io.EOF) {
			dst.(*net.TCPConn).CloseWrite()
			return
		}
		if err != nil {
			dst.Close()
			return
		}
	}
}

func (p *proxy) close() {
	p.listener.Close()
	p.mu.Lock()
	for c := range p.conns {
		c.Close()
	}
	p.conns = nil
	p.mu.Unlock()
	p.wg.Wait()
}
