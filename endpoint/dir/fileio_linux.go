package dir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	chunkers "github.com/PlakarKorp/go-cdc-chunkers"
	_ "github.com/PlakarKorp/go-cdc-chunkers/chunkers/jc" // registers chunkAlgorithm
	"github.com/zeebo/blake3"
	"golang.org/x/sys/unix"
)

// Content-defined chunking. Only snapshots cut, and only lists of chunks are
// transferred; versions of one filesystem share chunks if they were cut alike.
const (
	chunkAlgorithm = "jc-v1.0.0"
	chunkMin       = 32 << 10
	chunkNormal    = 128 << 10
	chunkMax       = MaxChunkBytes
)

// copyBuffer is the size in bytes of one piece of work: twice chunkMax, which the
// chunker reads fastest from, and small enough for the CPU's cache.
const copyBuffer = 2 * chunkMax

// copyPiece is how many bytes are copied at once: they stay in the processor's cache
// from the read to the write.
const copyPiece = 256 << 10

// cloneAlign is the alignment in bytes that FICLONERANGE asks for on the file
// systems that have it.
const cloneAlign = 4096

// contentInfo is what the manifest says about a file's content.
type contentInfo struct {
	Size   int64
	Holes  []Hole
	Hash   [32]byte
	Chunks []Chunk
}

// fileIO puts file contents into one store, or into one restored directory. It is
// safe for concurrent use, if progress is.
type fileIO struct {
	clones   bool            // files can share blocks there
	progress func(off int64) // told how far a file was read; nil: nobody is
}

// newFileIO finds out whether files below dir can share blocks. It leaves no trace
// there.
func newFileIO(dir *os.Root) *fileIO { return &fileIO{clones: probeClone(dir)} }

// probeClone clones one nameless file to another.
func probeClone(dir *os.Root) bool {
	src, err := openNameless(dir)
	if err != nil {
		return false
	}
	defer src.Close()
	dst, err := openNameless(dir)
	if err != nil {
		return false
	}
	defer dst.Close()
	if _, err := src.Write(make([]byte, cloneAlign)); err != nil {
		return false
	}
	return unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) == nil
}

func openNameless(dir *os.Root) (*os.File, error) {
	return dir.OpenFile(".", unix.O_TMPFILE|os.O_RDWR, 0o600)
}

// ingest makes the new file name hold src's content, holes included, and
// describes what it stored. The file has mode 0600. It is left behind, incomplete,
// on error. A source that changes meanwhile is no error: the caller compares what
// Stat says before and after.
func (f *fileIO) ingest(ctx context.Context, src *os.File, dir *treeDir, name string) (contentInfo, error) {
	dst, err := dir.create(name)
	if err != nil {
		return contentInfo{}, err
	}
	info, err := f.fill(ctx, src, dst)
	return info, errors.Join(err, dst.Close())
}

// fill clones or copies src into the empty file dst.
func (f *fileIO) fill(ctx context.Context, src, dst *os.File) (contentInfo, error) {
	if f.clone(src, dst) {
		return f.read(ctx, dst, nil)
	}
	info, err := f.read(ctx, src, dst)
	if err == nil && (len(info.Holes) > 0 || f.clones) { // half a clone may reach further
		err = dst.Truncate(info.Size)
	}
	return info, err
}

// clone makes dst, an empty file, share all blocks of src. Where that does not work
// dst is empty still.
func (f *fileIO) clone(src, dst *os.File) bool {
	if !f.clones {
		return false
	}
	if unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) == nil {
		return true
	}
	_ = dst.Truncate(0) // of what failed half-way; most often there is nothing
	return false
}

// describe tells of src's content what ingest would.
func (f *fileIO) describe(ctx context.Context, src *os.File) (contentInfo, error) {
	return f.read(ctx, src, nil)
}

// scratch is what reading one file needs; it is too large to make anew for each.
type scratch struct {
	buf  []byte
	hash *blake3.Hasher
}

var scratchPool = sync.Pool{New: func() any {
	return &scratch{buf: make([]byte, copyBuffer), hash: blake3.New()}
}}

// contentReader follows one file from its first byte to its last.
type contentReader struct {
	ctx context.Context
	src *os.File
	dst *os.File // nil: read only
	*scratch
	chunker  *chunkers.Chunker // nil: not chunked
	info     contentInfo       // Size is how far we are
	progress func(off int64)   // nil: nobody is told
	sentBack int64             // writeBack has been here
}

// What keeps a file from being described.
var (
	errShrank   = errors.New("it shrank while it was read") // and is too small for its chunks now
	errTooLarge = errors.New("it is too large")
)

// read reads src, and writes its data extents to the same places of dst unless that
// is nil. Where src ends earlier than Stat said, so does the result.
func (f *fileIO) read(ctx context.Context, src, dst *os.File) (contentInfo, error) {
	if ctx.Err() != nil {
		return contentInfo{}, context.Cause(ctx)
	}
	st, err := fstat(src)
	if err != nil {
		return contentInfo{}, err
	}
	if st.Size > MaxFileBytes {
		return contentInfo{}, fmt.Errorf("%w: %d bytes, at most %d", errTooLarge, st.Size, int64(MaxFileBytes))
	}
	s := scratchPool.Get().(*scratch)
	defer scratchPool.Put(s)
	r := &contentReader{ctx: ctx, src: src, dst: dst, scratch: s, progress: f.progress}
	switch {
	case st.Size >= MinChunkedSize:
		err = r.large(st.Size)
	case st.Blocks*statBlock >= st.Size: // no holes to look for
		err = r.dense(st.Size)
	default:
		err = r.small(st.Size)
	}
	if err != nil {
		return contentInfo{}, fmt.Errorf("read %s: %w", src.Name(), err)
	}
	return r.info, nil
}

func newChunker(buf []byte) (*chunkers.Chunker, error) {
	return chunkers.NewChunkerBuffer(chunkAlgorithm, nil, &chunkers.ChunkerOpts{
		MinSize: chunkMin, NormalSize: chunkNormal, MaxSize: chunkMax,
	}, buf)
}

// statBlock is the unit of a stat's Blocks, in bytes.
const statBlock = 512

// large reads a file in chunks.
func (r *contentReader) large(size int64) (err error) {
	if r.chunker, err = newChunker(r.buf); err != nil {
		return err
	}
	if err := r.read(size); err != nil {
		return err
	}
	if r.info.Size < MinChunkedSize {
		return errShrank
	}
	r.info.Hash = layoutDigest(r.info.Holes, r.info.Chunks)
	return nil
}

// small reads a file as a whole, hole by hole.
func (r *contentReader) small(size int64) error {
	r.hash.Reset()
	err := r.read(size)
	r.hash.Sum(r.info.Hash[:0])
	return err
}

// dense reads a small file without holes at once.
func (r *contentReader) dense(size int64) error {
	n, err := r.src.ReadAt(r.buf[:size], 0)
	if err != nil && err != io.EOF {
		return err
	}
	r.info = contentInfo{Size: int64(n), Hash: blake3.Sum256(r.buf[:n])}
	if r.dst == nil || n == 0 {
		return nil
	}
	_, err = r.dst.WriteAt(r.buf[:n], 0)
	return err
}

func (r *contentReader) read(size int64) error {
	for r.info.Size < size {
		start, end, err := nextData(r.src, r.info.Size, size)
		if err != nil {
			return err
		}
		r.hole(start)
		if err := r.data(end); err != nil {
			return err
		}
		if r.info.Size < end {
			return nil // the file shrank
		}
	}
	return nil
}

// hole takes everything up to end as zeros.
func (r *contentReader) hole(end int64) {
	if end == r.info.Size {
		return
	}
	if r.chunker == nil {
		hashZeros(r.hash, end-r.info.Size)
	}
	r.addHole(Hole{Off: r.info.Size, Len: end - r.info.Size})
	r.info.Size = end
}

// addHole adds a hole, to the last one if it continues that: data between the two
// may have gone while we looked.
func (r *contentReader) addHole(h Hole) {
	if n := len(r.info.Holes); n > 0 {
		last := &r.info.Holes[n-1]
		if last.Off+last.Len == h.Off {
			last.Len += h.Len
			return
		}
	}
	r.info.Holes = append(r.info.Holes, h)
}

// data reads up to end, or to where the file ends now.
func (r *contentReader) data(end int64) error {
	section := io.NewSectionReader(r.src, r.info.Size, end-r.info.Size)
	next := func() ([]byte, error) { return readPiece(section, r.buf) }
	if r.chunker != nil {
		r.chunker.Reset(section)
		next = r.chunker.Next
	}
	for {
		piece, err := next()
		if err != nil && err != io.EOF {
			return err
		}
		if err := r.piece(piece); err != nil {
			return err
		}
		if err == io.EOF {
			return nil
		}
	}
}

// readPiece fills buf as far as it can; io.EOF comes with the last piece.
func readPiece(r io.Reader, buf []byte) ([]byte, error) {
	n, err := io.ReadFull(r, buf)
	if err == io.ErrUnexpectedEOF {
		err = io.EOF
	}
	return buf[:n], err
}

func (r *contentReader) piece(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	if err := r.ctx.Err(); err != nil {
		return context.Cause(r.ctx)
	}
	if r.dst != nil {
		if _, err := r.dst.WriteAt(p, r.info.Size); err != nil {
			return err
		}
		r.writeBack(r.info.Size + int64(len(p)))
	}
	if r.chunker != nil {
		r.info.Chunks = append(r.info.Chunks, chunkOf(p))
	} else {
		r.hash.Write(p)
	}
	r.info.Size += int64(len(p))
	if r.progress != nil {
		r.progress(r.info.Size)
	}
	return nil
}

func chunkOf(p []byte) Chunk {
	return Chunk{Len: uint32(len(p)), Hash: Digest(blake3.Sum256(p)).prefix()}
}

// writeBackEvery is how many bytes of a file are written before they are sent to the disk.
const writeBackEvery = 8 << 20

// writeBack has the disk busy with what was written up to end, while more is read: else
// all of a version would be left to the sync at its end.
func (r *contentReader) writeBack(end int64) {
	if end-r.sentBack < writeBackEvery {
		return
	}
	// Only a hint: an error shows in the sync.
	_ = unix.SyncFileRange(int(r.dst.Fd()), r.sentBack, end-r.sentBack, unix.SYNC_FILE_RANGE_WRITE)
	r.sentBack = end
}

// nextData finds the first data at or after off. Where no data follows, start and
// end are both size.
func nextData(f *os.File, off, size int64) (start, end int64, err error) {
	start, err = f.Seek(off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return size, size, nil
	case errors.Is(err, unix.EINVAL): // the file system does not know of holes
		return off, size, nil
	case err != nil:
		return 0, 0, err
	case start >= size:
		return size, size, nil
	}
	end, err = f.Seek(start, unix.SEEK_HOLE)
	if errors.Is(err, unix.ENXIO) { // cut off meanwhile: reading finds the end
		return start, size, nil
	}
	return start, min(end, size), err
}

var zeros [64 << 10]byte

// hashZeros writes n zero bytes, less than MinChunkedSize, to h.
func hashZeros(h *blake3.Hasher, n int64) {
	for n > 0 {
		p := zeros[:min(n, int64(len(zeros)))]
		h.Write(p)
		n -= int64(len(p))
	}
}

// cloneRange shares the whole blocks of src's [from, from+n) with dst's range at
// to, and returns the part of it that is now shared, as [start, end) of dst; the
// caller copies the rest. Nothing is shared where cloning does not work or the two
// ranges lie differently in their blocks.
func (f *fileIO) cloneRange(src, dst *os.File, from, to, n int64) (start, end int64) {
	if !f.clones || (from-to)%cloneAlign != 0 {
		return to, to
	}
	start = (to + cloneAlign - 1) / cloneAlign * cloneAlign
	end = (to + n) / cloneAlign * cloneAlign
	if end <= start {
		return to, to
	}
	err := unix.IoctlFileCloneRange(int(dst.Fd()), &unix.FileCloneRange{
		Src_fd:      int64(src.Fd()),
		Src_offset:  uint64(from + start - to),
		Src_length:  uint64(end - start),
		Dest_offset: uint64(start),
	})
	if err != nil {
		return to, to
	}
	return start, end
}
