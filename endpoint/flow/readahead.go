package flow

import (
	"context"
	"io"
	"slices"
	"sync"
)

const (
	// blockSize is in bytes: what is read stays in the processor's cache until it is
	// taken, where both go at the same pace.
	blockSize = 256 << 10
	// minBlocks lets one be filled while another is emptied.
	minBlocks = 2
	// maxEmptyReads is how many Reads without bytes or an error end a stream.
	maxEmptyReads = 100
)

// A block holds bytes of a stream: data[from:to] is still to be taken.
type block struct {
	from, to int
	data     [blockSize]byte
}

// blocks are those of all streams that are in no use: a stream that has caught up
// leaves its memory to others, or to the garbage collector.
var blocks = sync.Pool{New: func() any { return new(block) }}

// A readAhead reads src in a goroutine of its own, from its first Read or WriteTo on,
// until ctx ends or src does. Read and WriteTo are not safe for concurrent use.
//
// The goroutine writes behind the last block's bytes while the consumer reads those
// before: only where they begin and end is guarded.
type readAhead struct {
	ctx   context.Context
	src   io.Reader
	most  int           // blocks
	begin sync.Once     // of run
	ended chan struct{} // after run
	more  chan struct{} // has an element if bytes, or the end, may have come
	room  chan struct{} // has an element if a block may have gone

	mu    sync.Mutex
	queue []*block
	err   error // of src, after all blocks
}

func newReadAhead(ctx context.Context, src io.Reader, buffer int64) *readAhead {
	return &readAhead{
		ctx: ctx, src: src, most: int(max((buffer+blockSize-1)/blockSize, minBlocks)),
		ended: make(chan struct{}), more: make(chan struct{}, 1), room: make(chan struct{}, 1),
	}
}

// run is the goroutine that fills blocks.
func (r *readAhead) run() {
	defer close(r.ended)
	for empty := 0; ; {
		b, end := r.last()
		if b == nil {
			return
		}
		n, err := r.src.Read(b.data[end:])
		if empty++; n > 0 {
			empty = 0
		} else if empty == maxEmptyReads && err == nil {
			err = io.ErrNoProgress
		}
		r.put(b, n, err)
		if err != nil {
			return
		}
	}
}

// last waits for a block with room and returns it, and where its bytes end; nil when
// ctx ends.
func (r *readAhead) last() (b *block, end int) {
	for r.ctx.Err() == nil {
		if b, end = r.tryLast(); b != nil {
			return b, end
		}
		select {
		case <-r.room:
		case <-r.ctx.Done():
		}
	}
	return nil, 0
}

func (r *readAhead) tryLast() (b *block, end int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.queue); n > 0 && r.queue[n-1].to < blockSize {
		return r.queue[n-1], r.queue[n-1].to
	}
	if len(r.queue) == r.most {
		return nil, 0
	}
	b = blocks.Get().(*block) //nolint:forcetypeassert // see New
	b.from, b.to = 0, 0
	r.queue = append(r.queue, b)
	return b, 0
}

// put adds n bytes that were read into the last block, and how that ended.
func (r *readAhead) put(b *block, n int, err error) {
	r.mu.Lock()
	b.to += n
	r.err = err
	r.mu.Unlock()
	signal(r.more)
}

// signal makes whoever waits, or will, look again.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it will already
	}
}

// next waits for bytes and returns them, valid until took is called, or why there are
// none.
func (r *readAhead) next() ([]byte, error) {
	r.begin.Do(func() { go r.run() })
	for r.ctx.Err() == nil {
		if p, err := r.tryNext(); p != nil || err != nil {
			return p, err
		}
		select {
		case <-r.more:
		case <-r.ctx.Done():
		}
	}
	return nil, context.Cause(r.ctx)
}

func (r *readAhead) tryNext() ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.queue) == 0 {
		return nil, r.err
	}
	b := r.queue[0]
	if b.from < b.to {
		return b.data[b.from:b.to], nil
	}
	if r.err != nil {
		r.drop()
	}
	return nil, r.err
}

// took frees the first n of the bytes that next returned.
func (r *readAhead) took(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.queue[0].from += n; r.queue[0].from == blockSize {
		r.drop()
		signal(r.room)
	}
}

// drop gives the first block back; mu is held.
func (r *readAhead) drop() {
	blocks.Put(r.queue[0])
	r.queue = slices.Delete(r.queue, 0, 1)
}

// Read implements io.Reader.
func (r *readAhead) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	ready, err := r.next()
	if err != nil {
		return 0, err
	}
	n := copy(p, ready)
	r.took(n)
	return n, nil
}

// WriteTo implements io.WriterTo, out of the buffer's own memory.
func (r *readAhead) WriteTo(w io.Writer) (written int64, err error) {
	for {
		p, err := r.next()
		if err == io.EOF {
			return written, nil
		}
		if err != nil {
			return written, err
		}
		n, err := w.Write(p)
		written += int64(n)
		r.took(n)
		if err == nil && n < len(p) {
			err = io.ErrShortWrite
		}
		if err != nil {
			return written, err
		}
	}
}

// atEnd says whether src has been read to its end.
func (r *readAhead) atEnd() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err != nil
}

// wait returns when src is not read any more, nor will be: after the Read that has
// begun. It is called when ctx has ended, or src.
func (r *readAhead) wait() {
	r.begin.Do(func() { close(r.ended) })
	<-r.ended
}
