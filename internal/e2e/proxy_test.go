package e2e

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// What the network holds, in bytes, so that bytes in flight don't drown what is measured.
const (
	proxyBuffer = 128 << 10 // of the proxy, and of each of its sockets
	maxUnread   = 512 << 10 // of the target's socket, before the proxy waits
)

// proxy forwards TCP connections to a target, counts the bytes that go there, and
// stops once where a transfer has come to a mark, until somebody hears the trigger.
type proxy struct {
	listener *net.TCPListener
	target   string
	trigger  chan int // receives which of the transfers has come to the mark
	closed   chan struct{}
	wg       sync.WaitGroup

	mu        sync.Mutex
	conns     map[*net.TCPConn]struct{}
	sent      int64 // to the target, over all connections
	carried   int64 // in either direction
	cut       int64 // what has been carried when all connections break, once; 0: they don't
	transfers []*transfer
	mark      int64 // an offset in the body of a step; 0: none
	next      int   // the first transfer that the mark holds for: those before were stopped
}

func startProxy(t *testing.T, target string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{
		listener: l.(*net.TCPListener), target: target, conns: map[*net.TCPConn]struct{}{},
		trigger: make(chan int), closed: make(chan struct{}),
	}
	p.wg.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

func (p *proxy) addr() string { return p.listener.Addr().String() }

// fireAt makes trigger receive once when a transfer has come to an offset of the body:
// one that began after the last that fired.
func (p *proxy) fireAt(offset int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mark = offset
}

// sentBytes is what has gone to the target so far.
func (p *proxy) sentBytes() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sent
}

// cutAfter breaks all connections once n more bytes have come, in either direction.
func (p *proxy) cutAfter(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = p.carried + n
}

// carriedBytes is what has come so far, in either direction.
func (p *proxy) carriedBytes() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.carried
}

// carry counts what a connection carries, and breaks all where they are to be cut.
func (p *proxy) carry(b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.carried += int64(len(b))
	if p.cut == 0 || p.carried < p.cut {
		return
	}
	p.cut = 0
	for c := range p.conns {
		c.SetLinger(0)
		c.Close()
	}
	clear(p.conns)
}

// seen is all transfers so far, in the order in which they began.
func (p *proxy) seen() []transfer {
	p.mu.Lock()
	defer p.mu.Unlock()
	seen := make([]transfer, 0, len(p.transfers))
	for _, tr := range p.transfers {
		seen = append(seen, *tr)
	}
	return seen
}

func (p *proxy) accept() {
	for {
		client, err := p.listener.AcceptTCP()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.target)
		if err != nil {
			client.Close()
			continue
		}
		p.wg.Go(func() { p.forward(client, server.(*net.TCPConn)) })
	}
}

func (p *proxy) forward(client, server *net.TCPConn) {
	if !p.track(client, server) {
		return
	}
	var wg sync.WaitGroup
	tr := &transfer{start: unknownOffset}
	wg.Go(func() { pump(&boundedConn{TCPConn: server}, client, func(b []byte) { p.carry(b); p.count(tr, b) }) })
	wg.Go(func() { pump(&boundedConn{TCPConn: client}, server, p.carry) })
	wg.Wait()
	client.Close()
	server.Close()
}

func (p *proxy) track(conns ...*net.TCPConn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		if p.conns == nil {
			c.Close()
			continue
		}
		c.SetReadBuffer(proxyBuffer)
		c.SetWriteBuffer(proxyBuffer)
		p.conns[c] = struct{}{}
	}
	return p.conns != nil
}

// count counts what a connection carries to the target, and fires at the mark.
func (p *proxy) count(tr *transfer, b []byte) {
	if i, ok := p.add(tr, b); ok {
		select {
		case p.trigger <- i:
		case <-p.closed:
		}
	}
}

// add reports which transfer it is that has come to the mark, if it has.
func (p *proxy) add(tr *transfer, b []byte) (int, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sent += int64(len(b))
	if tr.add(b) {
		p.transfers = append(p.transfers, tr)
	}
	if p.mark == 0 || tr.start == unknownOffset || tr.start+tr.sent < p.mark {
		return 0, false
	}
	i := slices.Index(p.transfers, tr)
	if i < p.next {
		return 0, false
	}
	p.mark, p.next = 0, i+1
	return i, true
}

// unknownOffset is where a connection begins that has not (yet) carried the header of a stream.
const unknownOffset = -1

// transfer is one attempt at a step: a connection that carries a stream of the dir
// endpoint to the target.
type transfer struct {
	start int64  // offset of the body at which the stream begins, as its header says
	sent  int64  // bytes on the connection, those around the body included
	head  []byte // the first of them, until they contain the header or are too many
}

// The header of a stream, as docs/protocol.md has it, and how early it comes: only a
// label, a banner and a request precede it.
const (
	streamMagic  = "DRSTRM2\n"
	offsetAt     = 8 + 8 + 32 + 8 + 32 + 8
	headerBehind = 4 << 10
)

// add counts bytes, and reports whether they complete the header.
func (tr *transfer) add(b []byte) bool {
	early := tr.sent < headerBehind
	tr.sent += int64(len(b))
	if !early || tr.start != unknownOffset {
		return false
	}
	tr.head = append(tr.head, b...)
	i := bytes.Index(tr.head, []byte(streamMagic))
	if i < 0 || len(tr.head) < i+offsetAt+8 {
		return false
	}
	tr.start = int64(binary.BigEndian.Uint64(tr.head[i+offsetAt:]))
	tr.head = nil
	return true
}

// pump copies one direction and passes its end on, an abrupt one abruptly.
func pump(dst halfCloser, src net.Conn, count func([]byte)) {
	buf := make([]byte, proxyBuffer)
	for {
		n, err := src.Read(buf)
		count(buf[:n])
		if _, werr := dst.Write(buf[:n]); werr != nil {
			src.Close()
			return
		}
		if errors.Is(err, io.EOF) {
			dst.CloseWrite()
			return
		}
		if err != nil {
			dst.Close()
			return
		}
	}
}

type halfCloser interface {
	io.WriteCloser
	CloseWrite() error
}

// boundedConn waits where its peer, a process on this machine, does not read. The
// kernel's receive buffer alone would take up to 32 MiB, which nobody has received.
type boundedConn struct {
	*net.TCPConn
	unchecked int // bytes written since the peer's buffer was looked at
}

func (c *boundedConn) Write(b []byte) (int, error) {
	if c.unchecked += len(b); c.unchecked > maxUnread {
		for c.unread() > maxUnread {
			time.Sleep(time.Millisecond) // nothing tells when another process reads
		}
		c.unchecked = 0
	}
	return c.TCPConn.Write(b)
}

// unread is how much the peer's socket has that its process has not read; 0 when
// there is no such socket any more.
func (c *boundedConn) unread() int64 {
	table, _ := os.ReadFile("/proc/net/tcp")
	local := fmt.Sprintf(":%04X", c.RemoteAddr().(*net.TCPAddr).Port)
	remote := fmt.Sprintf(":%04X", c.LocalAddr().(*net.TCPAddr).Port)
	for line := range strings.Lines(string(table)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasSuffix(f[1], local) && strings.HasSuffix(f[2], remote) {
			_, queue, _ := strings.Cut(f[4], ":")
			n, _ := strconv.ParseInt(queue, 16, 64)
			return n
		}
	}
	return 0
}

func (p *proxy) close() {
	p.listener.Close()
	close(p.closed)
	p.mu.Lock()
	for c := range p.conns {
		c.Close()
	}
	p.conns = nil
	p.mu.Unlock()
	p.wg.Wait()
}
