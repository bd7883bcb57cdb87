package dir

import "io"

const (
	// aheadBlock is how many bytes a readAhead reads at once: they stay in the
	// processor's cache until they are written.
	aheadBlock = 256 << 10
	// aheadBlocks is how many of them there are: one that is read, one that is
	// written, and two between these, since neither goes at an even pace.
	aheadBlocks = 4
)

// A readAhead reads a stream in a goroutine of its own, so that taking it off the wire,
// decryption included, and writing it to disk go on at the same time.
type readAhead struct {
	src     io.Reader
	empty   chan []byte
	full    chan aheadResult // has room for all
	stop    chan struct{}
	stopped chan struct{}

	current aheadResult
	rest    []byte // of current
}

// aheadResult is one block: what was read into it, and how that ended.
type aheadResult struct {
	block []byte
	n     int
	err   error
}

// start begins to read from src, which nobody else may do before Close.
func (r *readAhead) start(src io.Reader) {
	r.src = src
	r.empty, r.full = make(chan []byte, aheadBlocks), make(chan aheadResult, aheadBlocks)
	r.stop, r.stopped = make(chan struct{}), make(chan struct{})
	go r.run()
}

// run fills blocks until the stream ends.
func (r *readAhead) run() {
	defer close(r.stopped)
	for made := 0; ; {
		var block []byte
		select {
		case <-r.stop:
			return
		case block = <-r.empty:
		default:
			if made < aheadBlocks { // a short stream needs few
				made++
				block = make([]byte, aheadBlock)
			} else if block = r.wait(); block == nil {
				return
			}
		}
		n, err := r.fill(block)
		r.full <- aheadResult{block, n, err}
		if err != nil {
			return
		}
	}
}

// wait returns the next empty block; nil: nobody wants more.
func (r *readAhead) wait() []byte {
	select {
	case block := <-r.empty:
		return block
	case <-r.stop:
		return nil
	}
}

// fill reads until the block is full, the stream ends or nobody wants more.
func (r *readAhead) fill(block []byte) (n int, err error) {
	for n < len(block) && err == nil {
		select {
		case <-r.stop:
			return n, nil
		default:
		}
		var m int
		m, err = r.src.Read(block[n:])
		n += m
	}
	return n, err
}

// next returns the next 1 to n bytes of the stream, valid until the next call, or why
// there are none.
func (r *readAhead) next(n int64) ([]byte, error) {
	for len(r.rest) == 0 {
		if r.current.err != nil {
			return nil, noEOF(r.current.err)
		}
		if r.current.block != nil {
			r.empty <- r.current.block
		}
		r.current = <-r.full
		r.rest = r.current.block[:r.current.n]
	}
	p := r.rest[:min(n, int64(len(r.rest)))]
	r.rest = r.rest[len(p):]
	return p, nil
}

// Close waits until nothing is read any more. A Read that has begun ends when the next
// bytes come, or with the connection. Calling it again, or without a start, does nothing.
func (r *readAhead) Close() error {
	if r.stop == nil {
		return nil
	}
	close(r.stop)
	<-r.stopped
	r.stop = nil
	return nil
}
