package dir

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"

	"github.com/zeebo/blake3"
)

// errContent is in the chain if a file's content is not what its manifest says.
var errContent = errors.New("content does not match its digest")

// A contentCheck compares the content of a file, which it is given in order, with what
// its entry says: a small file as a whole, a large one chunk by chunk.
type contentCheck struct {
	hash   *blake3.Hasher
	entry  *Entry
	chunks []Chunk // of a large file; the first is the current one
	done   int     // bytes of that
}

// newContentCheck makes use of hash.
func newContentCheck(e *Entry, hash *blake3.Hasher) *contentCheck {
	hash.Reset()
	return &contentCheck{hash: hash, entry: e, chunks: e.Chunks}
}

// data is given the next bytes of the file that are not in holes, and says whether all
// that can be told by now is right.
func (c *contentCheck) data(p []byte) bool {
	if c.small() {
		c.hash.Write(p)
		return true
	}
	right := true
	for len(p) > 0 {
		n := min(len(p), int(c.chunks[0].Len)-c.done)
		c.hash.Write(p[:n])
		p, c.done = p[n:], c.done+n
		if c.done == int(c.chunks[0].Len) {
			right = c.sum().prefix() == c.chunks[0].Hash && right
			c.skip()
		}
	}
	return right
}

func (c *contentCheck) small() bool { return c.entry.Size < MinChunkedSize }

// hole passes over n bytes without data.
func (c *contentCheck) hole(n int64) {
	if c.small() {
		hashZeros(c.hash, n)
	}
}

// skip passes over the current chunk of a large file, and returns how long it is.
func (c *contentCheck) skip() int64 {
	n := c.chunks[0].Len
	c.hash.Reset()
	c.chunks, c.done = c.chunks[1:], 0
	return int64(n)
}

// end says, after all of the file, whether it was right.
func (c *contentCheck) end() bool {
	return !c.small() || c.sum() == c.entry.Hash
}

func (c *contentCheck) sum() (d Digest) {
	c.hash.Sum(d[:0])
	return d
}

// checkContent reads a file of a tree and compares it with its entry: errContent if it
// is another one.
func checkContent(ctx context.Context, d *treeDir, name string, e *Entry) error {
	f, err := d.openRegular(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return copyChecked(ctx, f, nil, e)
}

// copyChecked copies what src has where its entry says that there is data to the same
// places of dst, an empty file, unless that is nil. It is errContent if src is not what
// the entry says; all is copied then that can be.
func copyChecked(ctx context.Context, src, dst *os.File, e *Entry) error {
	s := scratchPool.Get().(*scratch)
	defer scratchPool.Put(s)
	c := &checkedCopy{ctx: ctx, scratch: s, src: src, dst: dst, entry: e}
	copyAll := c.large
	if e.Size < MinChunkedSize {
		copyAll = c.small
	}
	if err := copyAll(); err != nil {
		return err
	}
	if dst != nil && len(e.Holes) > 0 {
		if err := dst.Truncate(e.Size); err != nil {
			return err
		}
	}
	if c.wrong {
		return errContent
	}
	return nil
}

// checkedCopy is one copyChecked.
type checkedCopy struct {
	*scratch
	ctx      context.Context
	src, dst *os.File
	entry    *Entry
	wrong    bool
}

// small reads all of the file at once.
func (c *checkedCopy) small() error {
	p, err := c.read(0, c.entry.Size+1)
	if err != nil {
		return err
	}
	c.wrong = int64(len(p)) != c.entry.Size || blake3.Sum256(p) != c.entry.Hash
	for _, x := range c.entry.dataExtents() {
		end := min(x.Off+x.Len, int64(len(p)))
		if err := c.write(p[min(x.Off, end):end], x.Off); err != nil {
			return err
		}
	}
	return nil
}

// large reads extent after extent. What lies where holes should be is zeros.
func (c *checkedCopy) large() error {
	st, err := c.src.Stat()
	if err != nil {
		return err
	}
	c.wrong = st.Size() != c.entry.Size
	check, off := newContentCheck(c.entry, c.hash), int64(0)
	for _, x := range c.entry.dataExtents() {
		if err := c.zeros(off, x.Off); err != nil {
			return err
		}
		if err := c.extent(check, x); err != nil {
			return err
		}
		off = x.Off + x.Len
	}
	return c.zeros(off, c.entry.Size)
}

func (c *checkedCopy) extent(check *contentCheck, x Extent) error {
	for end := x.Off + x.Len; x.Off < end; {
		p, err := c.read(x.Off, end-x.Off)
		if err != nil {
			return err
		}
		if len(p) == 0 {
			c.wrong = true
			return nil
		}
		c.wrong = !check.data(p) || c.wrong
		if err := c.write(p, x.Off); err != nil {
			return err
		}
		x.Off += int64(len(p))
	}
	return nil
}

// zeros reads what data there is in a hole of the entry.
func (c *checkedCopy) zeros(off, end int64) error {
	for off < end {
		start, stop, err := nextData(c.src, off, end)
		if err != nil {
			return err
		}
		for off = start; off < stop; {
			p, err := c.read(off, min(stop-off, int64(len(zeros))))
			if err != nil {
				return err
			}
			if len(p) == 0 { // the file is too short, which is known
				return nil
			}
			c.wrong = c.wrong || !bytes.Equal(p, zeros[:len(p)])
			off += int64(len(p))
		}
	}
	return nil
}

// read reads at most n bytes; less, or nothing, only at the file's end and because of the
// buffer's size.
func (c *checkedCopy) read(off, n int64) ([]byte, error) {
	if c.ctx.Err() != nil {
		return nil, context.Cause(c.ctx)
	}
	m, err := c.src.ReadAt(c.buf[:min(n, int64(len(c.buf)))], off)
	if err == io.EOF {
		err = nil
	}
	return c.buf[:m], err
}

func (c *checkedCopy) write(p []byte, off int64) error {
	if c.dst == nil || len(p) == 0 {
		return nil
	}
	_, err := c.dst.WriteAt(p, off)
	return err
}
