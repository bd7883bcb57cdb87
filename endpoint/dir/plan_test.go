package dir

import (
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/zeebo/blake3"
)

// piece is the length of the chunks here: of two a file can consist.
const piece = MaxChunkBytes

func chunks(letters string) (c []Chunk) {
	for _, l := range letters {
		c = append(c, Chunk{Len: piece, Hash: [16]byte{byte(l)}})
	}
	return c
}

// chunked is a file that consists of the chunks.
func chunked(path, letters string) Entry {
	c := chunks(letters)
	return Entry{Path: path, Type: TypeFile, Chunks: c, Size: int64(piece * len(c)), Hash: layoutDigest(nil, c)}
}

// small is a file of ten bytes a letter.
func small(path, letters string) Entry {
	return Entry{Path: path, Type: TypeFile, Size: int64(10 * len(letters)), Hash: blake3.Sum256([]byte(letters))}
}

func manifestOf(entries ...Entry) *Manifest {
	return &Manifest{Name: "v", GUID: 1, CreateTXG: 1, Entries: append([]Entry{{Type: TypeDir}}, entries...)}
}

func TestPlan(t *testing.T) {
	holes := small("f", "abc")
	holes.Holes = []Hole{{0, 5}, {10, 5}}
	allHole := small("f", "abc")
	allHole.Holes = []Hole{{0, 30}}
	tests := []struct {
		name     string
		from, to *Manifest
		want     []FilePlan
	}{
		{"full", nil, manifestOf(small("f", "ab")),
			[]FilePlan{{1, -1, -1, []Extent{{0, 20, true, 0}}, 20}}},
		{"unchanged", manifestOf(small("f", "ab")), manifestOf(small("f", "ab")),
			[]FilePlan{{1, 1, -1, nil, 0}}},
		{"unchanged, with a twin before it", manifestOf(small("e", "ab"), small("f", "ab")), manifestOf(small("f", "ab")),
			[]FilePlan{{1, 2, -1, nil, 0}}},
		{"renamed", manifestOf(small("old", "ab")), manifestOf(small("new", "ab")),
			[]FilePlan{{1, 1, -1, nil, 0}}},
		{"two alike", nil, manifestOf(small("f", "ab"), small("g", "ab")),
			[]FilePlan{{1, -1, -1, []Extent{{0, 20, true, 0}}, 20}, {2, -1, 1, nil, 0}}},
		{"empty", nil, manifestOf(small("f", "")), nil},
		{"all hole", nil, manifestOf(allHole), nil},
		{"holes", nil, manifestOf(holes),
			[]FilePlan{{1, -1, -1, []Extent{{5, 5, true, 0}, {15, 15, true, 0}}, 20}}},
		{"small file changed", manifestOf(small("f", "ab")), manifestOf(small("f", "ac")),
			[]FilePlan{{1, -1, -1, []Extent{{0, 20, true, 0}}, 20}}},
		{"became large", manifestOf(small("f", "ab")), manifestOf(chunked("f", "abc")),
			[]FilePlan{{1, -1, -1, []Extent{{0, 3 * piece, true, 0}}, 3 * piece}}},
		{"became small", manifestOf(chunked("f", "abc")), manifestOf(small("f", "ab")),
			[]FilePlan{{1, -1, -1, []Extent{{0, 20, true, 0}}, 20}}},
		{"was a directory", manifestOf(Entry{Path: "f", Type: TypeDir}), manifestOf(chunked("f", "abc")),
			[]FilePlan{{1, -1, -1, []Extent{{0, 3 * piece, true, 0}}, 3 * piece}}},
		{"inserted at the front", manifestOf(chunked("f", "abc")), manifestOf(chunked("f", "xabc")),
			[]FilePlan{{1, -1, -1, []Extent{{0, piece, true, 0}, {piece, 3 * piece, false, 0}}, piece}}},
		{"changed in the middle", manifestOf(chunked("f", "abcde")), manifestOf(chunked("f", "abxyde")),
			[]FilePlan{{1, -1, -1, []Extent{{0, 2 * piece, false, 0}, {2 * piece, 2 * piece, true, 0}, {4 * piece, 2 * piece, false, 3 * piece}}, 2 * piece}}},
		{"repeated chunks are copied in one", manifestOf(chunked("f", "aaab")), manifestOf(chunked("f", "aaac")),
			[]FilePlan{{1, -1, -1, []Extent{{0, 3 * piece, false, 0}, {3 * piece, piece, true, 0}}, piece}}},
		{"swapped", manifestOf(chunked("f", "ab")), manifestOf(chunked("f", "ba")),
			[]FilePlan{{1, -1, -1, []Extent{{0, piece, false, piece}, {piece, piece, false, 0}}, 0}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := NewPlan(tt.from, tt.to)
			if !reflect.DeepEqual(got.Files, tt.want) {
				t.Errorf("got  %+v\nwant %+v", got.Files, tt.want)
			}
		})
	}
}

// Whatever the two versions: a plan has each byte of data once, from a place that
// has it.
func TestPlanCoversAllData(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 500 {
		from, to := randomManifest(rnd), randomManifest(rnd)
		plan := NewPlan(from, to)
		if !reflect.DeepEqual(plan, NewPlan(from, to)) {
			t.Fatal("the plan is not deterministic")
		}
		planned, literal := map[int]bool{}, int64(0)
		for _, f := range plan.Files {
			planned[f.Entry] = true
			literal += f.Literal
			checkFilePlan(t, from, to, f)
		}
		if literal != plan.Literal {
			t.Fatalf("literals are %d bytes, the plan says %d", literal, plan.Literal)
		}
		for i := range to.Entries {
			if e := &to.Entries[i]; planned[i] != (e.Type == TypeFile && e.dataSize() > 0) {
				t.Fatalf("entry %+v: planned: %v", e, planned[i])
			}
		}
	}
}

func checkFilePlan(t *testing.T, from, to *Manifest, f FilePlan) {
	t.Helper()
	e := &to.Entries[f.Entry]
	switch {
	case f.FromFile >= 0:
		if from.Entries[f.FromFile].Hash != e.Hash || f.Literal != 0 || f.Extents != nil || f.ToFile >= 0 {
			t.Fatalf("plan %+v of %+v", f, e)
		}
		return
	case f.ToFile >= 0:
		if to.Entries[f.ToFile].Hash != e.Hash || f.ToFile >= f.Entry || f.Literal != 0 || f.Extents != nil {
			t.Fatalf("plan %+v of %+v", f, e)
		}
		return
	}
	got, want, old := map[int64]int{}, map[int64]int{}, map[int64]Chunk{}
	if i, ok := from.lookup(e.Path); ok {
		each(&from.Entries[i], func(off int64, c Chunk) { old[off] = c })
	}
	each(e, func(off int64, c Chunk) { want[off] = int(c.Len) })
	sum := int64(0)
	for _, x := range f.Extents {
		if x.Literal {
			sum += x.Len
		}
		each(e, func(off int64, c Chunk) {
			if off < x.Off || off >= x.Off+x.Len {
				return
			}
			got[off] += int(c.Len)
			if !x.Literal && old[off-x.Off+x.FromOff] != c {
				t.Fatalf("extent %+v of %+v copies something else", x, e)
			}
		})
	}
	if !reflect.DeepEqual(got, want) || sum != f.Literal {
		t.Fatalf("plan %+v of %+v", f, e)
	}
}

// each calls do for every chunk of a file with where it lies. What a file without chunks
// has between its holes counts as one.
func each(e *Entry, do func(off int64, c Chunk)) {
	rest := e.Chunks
	for _, x := range e.dataExtents() {
		if e.Size < MinChunkedSize {
			rest = []Chunk{{Len: uint32(x.Len)}}
		}
		for off := x.Off; off < x.Off+x.Len; {
			do(off, rest[0])
			off += int64(rest[0].Len)
			rest = rest[1:]
		}
	}
}
