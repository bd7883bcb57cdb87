package dir

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/zeebo/blake3"
)

// A large file is compared chunk by chunk, however its bytes come in: the piece that
// completes a wrong chunk is wrong, and no other.
func TestContentCheck(t *testing.T) {
	const chunk = 300_000
	content := random(1, 5*chunk)
	e := &Entry{Type: TypeFile, Size: int64(len(content)), Chunks: slices.Collect(func(yield func(Chunk) bool) {
		for p := range slices.Chunk(content, chunk) {
			yield(chunkOf(p))
		}
	})}
	for _, wrong := range [][]int{nil, {0}, {2}, {4}, {1, 3}} {
		damaged := bytes.Clone(content)
		for _, i := range wrong {
			damaged[(i+1)*chunk-1] ^= 1
		}
		for _, piece := range []int{999, chunk, copyPiece, 2 * chunk, len(content)} {
			c, off := newContentCheck(e, blake3.New()), 0
			for p := range slices.Chunk(damaged, piece) {
				from := off / chunk
				off += len(p)
				ended := slices.ContainsFunc(wrong, func(i int) bool { return from <= i && i < off/chunk })
				if c.data(p) == ended {
					t.Errorf("chunks %v wrong, %d bytes at a time: up to %d right: %v", wrong, piece, off, !ended)
				}
			}
			if !c.end() {
				t.Error("the end of a large file is wrong")
			}
		}
	}
}

// What is skipped is not compared.
func TestContentCheckSkips(t *testing.T) {
	content := random(1, 3*MaxChunkBytes)
	e := &Entry{Type: TypeFile, Size: int64(len(content))}
	for p := range slices.Chunk(content, MaxChunkBytes) {
		e.Chunks = append(e.Chunks, chunkOf(p))
	}
	c := newContentCheck(e, blake3.New())
	if !c.data(content[:MaxChunkBytes]) || c.skip() != MaxChunkBytes || !c.data(content[2*MaxChunkBytes:]) || !c.end() {
		t.Error("a file that is right but for what was skipped is wrong")
	}
}

func TestContentCheckOfSmallFile(t *testing.T) {
	for _, want := range []bool{true, false} {
		e := &Entry{Type: TypeFile, Size: 200_003, Hash: blake3.Sum256(slices.Concat([]byte("abc"), make([]byte, 200_000)))}
		if !want {
			e.Hash[31]++
		}
		c := newContentCheck(e, blake3.New())
		if !c.data([]byte("ab")) || !c.data([]byte("c")) {
			t.Error("a small file is wrong before its end")
		}
		c.hole(200_000)
		if c.end() != want {
			t.Errorf("right: %v", !want)
		}
	}
}

// checkLayouts are files with and without chunks and holes.
var checkLayouts = map[string]layout{
	"empty":            {},
	"small":            {5000, []Hole{{0, 5000}}},
	"small, holes":     {128 << 10, []Hole{{16 << 10, 16 << 10}, {64 << 10, 16 << 10}}},
	"small, only hole": {128 << 10, nil},
	"just small":       {MinChunkedSize - 1, []Hole{{0, MinChunkedSize - 1}}},
	"large":            {copyBuffer + 300_000, []Hole{{0, copyBuffer + 300_000}}},
	"large, holes":     {3 << 20, []Hole{{256 << 10, 700 << 10}, {1 << 20, 64 << 10}, {2 << 20, 16 << 10}}},
	"large, only hole": {1 << 20, nil},
}

// damages change a file of a layout; none of them fits all.
var damages = map[string]func(l layout, f *os.File) error{
	"nothing":      func(layout, *os.File) error { return nil },
	"first byte":   func(l layout, f *os.File) error { return flipData(l, f, 0, 0) },
	"middle":       func(l layout, f *os.File) error { return flipData(l, f, len(l.data)/2, 1) },
	"last byte":    func(l layout, f *os.File) error { return flipData(l, f, len(l.data)-1, 2) },
	"no zeros":     func(l layout, f *os.File) error { return writeHole(l, f, "x") },
	"filled hole":  func(l layout, f *os.File) error { return writeHole(l, f, "\x00") },
	"one byte off": func(l layout, f *os.File) error { return f.Truncate(max(0, l.size-1)) },
	"cut":          func(l layout, f *os.File) error { return f.Truncate(l.size / 3) },
	"nothing left": func(_ layout, f *os.File) error { return f.Truncate(0) },
	"longer":       func(l layout, f *os.File) error { _, err := f.WriteAt([]byte("x"), l.size); return err },
}

// flipData changes a byte of one of a layout's data extents: its first, middle or last.
func flipData(l layout, f *os.File, extent, half int) error {
	if len(l.data) == 0 {
		return nil
	}
	x := l.data[extent]
	return flip(x.Off + min(x.Len*int64(half)/2, x.Len-1))(f)
}

// writeHole writes into the last hole of a layout that is not at its end.
func writeHole(l layout, f *os.File, s string) error {
	if len(l.data) == 0 || l.data[len(l.data)-1].Off == 0 {
		return nil
	}
	_, err := f.WriteAt([]byte(s), l.data[len(l.data)-1].Off-1)
	return err
}

func TestCopyChecked(t *testing.T) {
	for name, l := range checkLayouts {
		for how, damage := range damages {
			t.Run(name+"/"+how, func(t *testing.T) {
				src := l.create(t)
				e := entryOfFile(t, src)
				before := readAll(t, src)
				if err := damage(l, src); err != nil {
					t.Fatal(err)
				}
				after := readAll(t, src)
				var want error
				if !bytes.Equal(before, after) {
					want = errContent
				}
				dst := layout{}.create(t)
				for _, to := range []*os.File{nil, dst} {
					if err := copyChecked(t.Context(), src, to, e); !errors.Is(err, want) || want == nil && err != nil {
						t.Errorf("into %v: error %v, want %v", to, err, want)
					}
				}
				checkCopied(t, e, readAll(t, dst), after)
			})
		}
	}
}

// entryOfFile is what a manifest says of a file.
func entryOfFile(t *testing.T, f *os.File) *Entry {
	t.Helper()
	info, err := new(fileIO).describe(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	e := &Entry{Path: filepath.Base(f.Name()), Type: TypeFile}
	e.setContent(info)
	return e
}

func readAll(t *testing.T, f *os.File) []byte {
	t.Helper()
	data, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<62))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// checkCopied checks that a copy has all of the entry's data that there was, and zeros in
// its holes.
func checkCopied(t *testing.T, e *Entry, got, src []byte) {
	t.Helper()
	want := make([]byte, e.Size)
	end := int64(0)
	for _, x := range e.dataExtents() {
		n := copy(want[x.Off:x.Off+x.Len], src[min(x.Off, int64(len(src))):])
		if n > 0 {
			end = x.Off + int64(n)
		}
	}
	if len(e.Holes) == 0 {
		want = want[:end]
	}
	if !bytes.Equal(got, want) {
		t.Errorf("the copy has %d bytes, want %d; as it should be: %v", len(got), len(want), bytes.Equal(got, want))
	}
}

func TestCopyCheckedEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errCut)
	for _, name := range []string{"small", "large", "large, holes"} {
		src := checkLayouts[name].create(t)
		e := entryOfFile(t, src)
		if err := copyChecked(ctx, src, nil, e); !errors.Is(err, errCut) || errors.Is(err, errContent) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

// A file that fails to be read is not one with another content.
func TestCopyCheckedReadFails(t *testing.T) {
	for _, name := range []string{"small", "large"} {
		src := checkLayouts[name].create(t)
		e := entryOfFile(t, src)
		blind, err := os.OpenFile(src.Name(), os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer blind.Close()
		if err := copyChecked(t.Context(), blind, nil, e); err == nil || errors.Is(err, errContent) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}
