package dir

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
)

// sendStream is the stream of one step, made as it is read: it depends on nothing
// but the step's manifests and the offset.
type sendStream struct {
	ctx  context.Context
	step *step

	mu      sync.Mutex // Close waits for a Read
	err     error      // sticky
	pending []byte     // goes out first: header and head
	skip    int64      // literal bytes not to be sent
	check   bool       // the next file, if it is sent from its start

	tree   *treeCursor
	file   int // index into plan.Files
	extent int // index into that file's Extents: the next one
	open   *os.File
	off    int64 // in open, of the next literal byte
	left   int64 // bytes of the current literal
}

// stream returns the stream, which has the step's tree now.
func (st *step) stream(ctx context.Context) *sendStream {
	head := st.head[min(st.offset, int64(len(st.head))):]
	return &sendStream{
		ctx: ctx, step: st, tree: newTreeCursor(st.tree),
		pending: append(st.header().encode(), head...),
		skip:    max(0, st.offset-int64(len(st.head))),
		check:   st.offset >= int64(len(st.head)),
	}
}

// Read fills p as far as the stream goes, across files, so that small files do not
// make small frames.
func (s *sendStream) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for n < len(p) && s.err == nil {
		if s.ctx.Err() != nil {
			s.err = context.Cause(s.ctx)
			break
		}
		m, err := s.read(p[n:])
		n, s.err = n+m, err
	}
	if n > 0 {
		return n, nil
	}
	return 0, s.err
}

// read reads from what is current; at its end it moves on and may return nothing.
func (s *sendStream) read(p []byte) (int, error) {
	switch {
	case len(s.pending) > 0:
		n := copy(p, s.pending)
		s.pending = s.pending[n:]
		return n, nil
	case s.left == 0:
		return 0, s.next()
	}
	n, err := s.open.ReadAt(p[:min(int64(len(p)), s.left)], s.off)
	s.off, s.left = s.off+int64(n), s.left-int64(n)
	if err != nil && s.left > 0 {
		return n, s.damaged(noEOF(err))
	}
	return n, nil
}

func (s *sendStream) entry() *Entry {
	return &s.step.to.Entries[s.step.plan.Files[s.file].Entry]
}

// next goes to the next literal that is to be sent; io.EOF behind the last one.
func (s *sendStream) next() error {
	for ; s.file < len(s.step.plan.Files); s.file, s.extent = s.file+1, 0 {
		f := &s.step.plan.Files[s.file]
		if s.extent == 0 && s.skip >= f.Literal {
			s.skip -= f.Literal
			continue
		}
		for s.extent < len(f.Extents) {
			x := f.Extents[s.extent]
			s.extent++
			if !x.Literal {
				continue
			}
			if s.skip < x.Len {
				return s.start(x)
			}
			s.skip -= x.Len
		}
		if err := s.closeFile(); err != nil {
			return err
		}
	}
	return io.EOF
}

// start begins a literal of the current file, behind what is to be skipped.
func (s *sendStream) start(x Extent) error {
	if s.open == nil {
		if err := s.openFile(); err != nil {
			return s.damaged(err)
		}
	}
	s.off, s.left, s.skip = x.Off+s.skip, x.Len-s.skip, 0
	return nil
}

// openFile opens the current file. A receiver that got one with a wrong digest
// continues at its start, for ever if it is wrong here: so it is read before it is sent
// again.
func (s *sendStream) openFile() error {
	e := s.entry()
	d, name, err := s.tree.parent(e.Path)
	if err == nil && s.check && s.skip == 0 {
		err = checkContent(s.ctx, d, name, e)
	}
	if err == nil {
		s.open, err = d.openRegular(name)
	}
	s.check = false
	return err
}

// damaged is the error of a file that cannot be sent.
func (s *sendStream) damaged(err error) error {
	if s.ctx.Err() != nil {
		return context.Cause(s.ctx)
	}
	return s.step.damaged(fmt.Errorf("%q: %w", s.entry().Path, err))
}

func (s *sendStream) closeFile() error {
	if s.open == nil {
		return nil
	}
	err := s.open.Close()
	s.open = nil
	return err
}

// Close may be called at any time, and again.
func (s *sendStream) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tree == nil {
		return nil
	}
	err := s.closeFile()
	if treeErr := s.tree.Close(); err == nil {
		err = treeErr
	}
	s.tree, s.err = nil, os.ErrClosed
	return err
}
