package tls

import (
	"net"
	"sync"
	"sync/atomic"
)

// Sizes in bytes.
const (
	// maxPlaintext is what a record carries at most (RFC 8446, 5.1).
	maxPlaintext = 16 << 10
	// fullRecord is a record that carries maxPlaintext: with its header, its content
	// type (RFC 8446, 5.2) and the tag, which is as long in all ciphers of crypto/tls.
	fullRecord = 5 + maxPlaintext + 1 + 16
	// gatherSize is how much goes to the kernel at once, about 256 KiB. A quarter of it
	// saves less time, twice as much saves no more.
	gatherSize = 16 * fullRecord
)

// A gatherBuffer is what a Write of more than one record needs while it runs.
type gatherBuffer [gatherSize]byte

var gatherBuffers = sync.Pool{New: func() any { return new(gatherBuffer) }}

// A gatherer is the connection below TLS. crypto/tls writes each record by itself,
// and the system calls cost as much as the encryption. The gatherer keeps a full
// record as long as it knows that the same Write brings another one; with any other
// record, an alert too, all that it has goes out. So it is empty when crypto/tls
// is not in the midst of a Write: errors, deadlines and Close work as without it.
//
// crypto/tls calls Write under a lock of its own.
type gatherer struct {
	net.Conn // no more: with the io.ReaderFrom of a *net.TCPConn, data could pass by

	more atomic.Int64  // full records of the current Write that another one will follow
	buf  *gatherBuffer // nil when empty
	n    int           // bytes in buf
}

// expect is called before each Write of application data, with its size. crypto/tls
// makes full records of it but for the last one; any others would go out one by one.
func (g *gatherer) expect(size int) { g.more.Store(int64(size-1) / maxPlaintext) }

// Write takes one record. After an error, it has kept nothing.
func (g *gatherer) Write(record []byte) (int, error) {
	keep := len(record) == fullRecord && g.more.Add(-1) >= 0
	if g.buf == nil && !keep {
		return g.Conn.Write(record)
	}
	if err := g.add(record); err != nil {
		return 0, err
	}
	if keep {
		return len(record), nil
	}
	if err := g.flush(); err != nil {
		return 0, err
	}
	return len(record), nil
}

// add flushes first if there is no room.
func (g *gatherer) add(record []byte) error {
	if g.n+len(record) > gatherSize {
		if err := g.flush(); err != nil {
			return err
		}
	}
	if g.buf == nil {
		g.buf = gatherBuffers.Get().(*gatherBuffer)
	}
	g.n += copy(g.buf[g.n:], record)
	return nil
}

// flush leaves the gatherer empty, also when it fails: crypto/tls sends no more data
// then.
func (g *gatherer) flush() error {
	_, err := g.Conn.Write(g.buf[:g.n])
	gatherBuffers.Put(g.buf)
	g.buf, g.n = nil, 0
	return err
}
