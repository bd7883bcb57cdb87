package dir

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/zeebo/blake3"
)

// testManifest has an entry of every type.
func testManifest() *Manifest {
	content := Digest(blake3.Sum256([]byte("content")))
	holes := []Hole{{0, 1 << 20}, {2 << 20, 1 << 20}}
	chunks := []Chunk{{512 << 10, [16]byte{1}}, {512 << 10, [16]byte{2}}}
	return &Manifest{
		Name: "dr_1", GUID: 1 << 63, CreateTXG: 7, Creation: -5,
		Entries: []Entry{
			{Path: "", Type: TypeDir, Mode: 0o1777, UID: 1, GID: maxOwner},
			{Path: "a", Type: TypeFile, Mode: 0o4755, Size: 7, Hash: content, LinkGroup: 3, MtimeSec: -1, MtimeNsec: 999_999_999},
			{Path: "b", Type: TypeDir, Mode: 0o700, Xattrs: []Xattr{{"user.a", []byte{0}}, {"user.b", []byte{}}}},
			{Path: "b/a\xff\n", Type: TypeFile, Mode: 0o4755, Size: 7, Hash: content, LinkGroup: 3, MtimeSec: -1, MtimeNsec: 999_999_999},
			{Path: "b/c", Type: TypeSymlink, Target: "../\xfe"},
			{Path: "b.c", Type: TypeFIFO},
			{Path: "large", Type: TypeFile, Size: 3 << 20, Hash: layoutDigest(holes, chunks), Inconsistent: true, Holes: holes, Chunks: chunks},
			{Path: "null", Type: TypeCharDevice, Rdev: 259},
			{Path: "sda", Type: TypeBlockDevice, Rdev: 2048},
		},
	}
}

func TestComparePaths(t *testing.T) {
	paths := []string{"", "\x01", "a", "a/b", "a/b/c", "a/c", "a\x01", "a b", "a-b", "a.b", "a0", "aa", "b", "\xff"}
	if !slices.IsSortedFunc(paths, ComparePaths) {
		t.Error("directories do not come right before their content")
	}
	for i, a := range paths {
		for j, b := range paths {
			if c := ComparePaths(a, b); (c < 0) != (i < j) || (c == 0) != (i == j) {
				t.Errorf("ComparePaths(%q, %q) = %d", a, b, c)
			}
		}
	}
}

func TestManifestEncoding(t *testing.T) {
	m := testManifest()
	data := m.Encode()
	if m.Files != 3 || m.Bytes != 3<<20+14 {
		t.Errorf("counts %d files, %d bytes", m.Files, m.Bytes)
	}
	got, err := DecodeManifest(data)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, m) {
		t.Errorf("decoded\n%+v\nwant\n%+v", got, m)
	}
	if !bytes.Equal(got.Encode(), data) {
		t.Error("encoding what was decoded makes other bytes")
	}
	header, err := readManifestHeader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	want := *m
	want.Entries, want.Digest = nil, Digest{}
	if !reflect.DeepEqual(header, &want) {
		t.Errorf("header %+v, want %+v", header, &want)
	}
}

// The format is written down in docs/protocol.md: these bytes must not change.
func TestManifestVector(t *testing.T) {
	m := &Manifest{Name: "v", GUID: 2, CreateTXG: 3, Creation: 4, Entries: []Entry{
		{Type: TypeDir, Mode: 0o755, UID: 5, GID: 6, MtimeSec: -1, MtimeNsec: 7},
		{Path: "f", Type: TypeFile, Size: 1, Hash: Digest{8}},
		{Path: "fg", Type: TypeFile, Size: 1 << 20, Holes: []Hole{{0, 1<<20 - 2}}, Chunks: []Chunk{{2, [16]byte{9}}}},
	}}
	layout := "\x01" + "\x00" + "\xfe\xff\x3f" + "\x01" + "\x02" + "\x09" + strings.Repeat("\x00", 15)
	want := "DRMANI2\n" + "\x01v" + "\x02" + "\x03" + "\x08" + "\x00" + "\x02" + "\x81\x80\x40" + "\x03" +
		"\x00\x00" + "\x02" + "\xed\x03" + "\x05\x06" + "\x01\x07" + "\x00" + "\x00" +
		"\x00\x01f" + "\x01" + "\x00" + "\x00\x00" + "\x00\x00" + "\x00" + "\x00" + "\x01" + "\x08" + strings.Repeat("\x00", 31) + "\x00" +
		"\x01\x01g" + "\x01" + "\x00" + "\x00\x00" + "\x00\x00" + "\x00" + "\x00" + "\x80\x80\x40" + layout
	sum := blake3.Sum256([]byte(want))
	if got := m.Encode(); string(got) != want+string(sum[:]) {
		t.Errorf("encoded %q\nwant    %q", got, want)
	}
	var digest Digest
	blake3.DeriveKey("dualrepl manifest 2: holes and chunks of a file", []byte(layout), digest[:])
	got, err := DecodeManifest([]byte(want + string(sum[:])))
	if err != nil || got.Entries[2].Hash != digest || layoutDigest(m.Entries[2].Holes, m.Entries[2].Chunks) != digest {
		t.Errorf("of a large file the digest is %x, not %x; error %v", got.Entries[2].Hash, digest, err)
	}
	if blake3.Sum256([]byte(layout)) == digest {
		t.Error("a file can have the digest of another one's layout")
	}
}

func TestManifestCorruption(t *testing.T) {
	data := testManifest().Encode()
	for i := range data {
		data[i] ^= 0x20
		if _, err := DecodeManifest(data); err == nil {
			t.Errorf("byte %d changed, and no error", i)
		}
		data[i] ^= 0x20
		if _, err := DecodeManifest(data[:i]); err == nil {
			t.Errorf("cut off at %d, and no error", i)
		}
	}
}

// Damage under a digest that is right, as a hostile peer would make it.
func TestManifestHostile(t *testing.T) {
	data := testManifest().Encode()
	body := data[:len(data)-32]
	for i := range body {
		for _, flip := range []byte{0xff, 0x80, 0x01} {
			hostile := bytes.Clone(body)
			hostile[i] ^= flip
			m, err := DecodeManifest(sealed(hostile))
			if err == nil && !bytes.Equal(m.Encode(), sealed(hostile)) {
				t.Errorf("byte %d: accepted bytes that are not canonical", i)
			}
		}
		if _, err := DecodeManifest(sealed(bytes.Clone(body[:i]))); err == nil {
			t.Errorf("cut off at %d, and no error", i)
		}
	}
}

// sealed closes a manifest with its digest.
func sealed(body []byte) []byte {
	sum := blake3.Sum256(body)
	return append(body, sum[:]...)
}

func TestManifestValidation(t *testing.T) {
	const large, half = MinChunkedSize, MaxChunkBytes
	long := strings.Repeat(strings.Repeat("x", 200)+"/", 21) + "x"
	file := func(e Entry) func(*Manifest) {
		e.Path, e.Type = "z", TypeFile
		return func(m *Manifest) { m.Entries = append(m.Entries, e) }
	}
	files := func(n int, e Entry) func(*Manifest) {
		e.Type = TypeFile
		return func(m *Manifest) {
			for i := range n {
				e.Path = fmt.Sprintf("z%06d", i)
				m.Entries = append(m.Entries, e)
			}
		}
	}
	path := func(p string) func(*Manifest) {
		return func(m *Manifest) { m.Entries = append(m.Entries[:1], Entry{Path: p, Type: TypeFIFO}) }
	}
	tests := map[string]func(*Manifest){
		"no GUID":             func(m *Manifest) { m.GUID = 0 },
		"no CreateTXG":        func(m *Manifest) { m.CreateTXG = 0 },
		"last CreateTXG":      func(m *Manifest) { m.CreateTXG = math.MaxUint64 },
		"name":                func(m *Manifest) { m.Name = "../x" },
		"no entries":          func(m *Manifest) { m.Entries = nil },
		"no root":             func(m *Manifest) { m.Entries = m.Entries[1:] },
		"root is a file":      func(m *Manifest) { m.Entries[0].Type = TypeFile },
		"order":               func(m *Manifest) { m.Entries[1], m.Entries[5] = m.Entries[5], m.Entries[1] },
		"twice":               func(m *Manifest) { m.Entries[2] = m.Entries[1] },
		"parent is missing":   func(m *Manifest) { m.Entries = slices.Delete(m.Entries, 2, 3) },
		"parent is a file":    func(m *Manifest) { m.Entries[2] = Entry{Path: "b", Type: TypeFile} },
		"parent is a link":    func(m *Manifest) { m.Entries[2] = Entry{Path: "b", Type: TypeSymlink, Target: "/etc"} },
		"absolute":            path("/etc"),
		"dot dot":             path(".."),
		"dot dot within":      path("b/../../x"),
		"dot":                 path("."),
		"empty component":     path("b//c"),
		"slash at the end":    path("b/"),
		"NUL":                 path("a\x00b"),
		"long name":           path(strings.Repeat("x", 256)),
		"long path":           path(long),
		"root twice":          path(""),
		"no type":             func(m *Manifest) { m.Entries[5].Type = 0 },
		"unknown type":        func(m *Manifest) { m.Entries[5].Type = 7 },
		"mode":                func(m *Manifest) { m.Entries[1].Mode = 0o10000 },
		"no uid":              func(m *Manifest) { m.Entries[1].UID, m.Entries[3].UID = math.MaxUint32, math.MaxUint32 },
		"no gid":              func(m *Manifest) { m.Entries[5].GID = math.MaxUint32 },
		"nanoseconds":         func(m *Manifest) { m.Entries[1].MtimeNsec = 1e9 },
		"directory in a link": func(m *Manifest) { m.Entries[2].LinkGroup = 1 },
		"link differs":        func(m *Manifest) { m.Entries[3].Mode = 0o644 },
		"link of two types":   func(m *Manifest) { m.Entries[5].LinkGroup = 3 },
		"fifo with content":   func(m *Manifest) { m.Entries[5].Size = 1 },
		"no target":           func(m *Manifest) { m.Entries[4].Target = "" },
		"NUL in target":       func(m *Manifest) { m.Entries[4].Target = "a\x00" },
		"xattr order":         func(m *Manifest) { slices.Reverse(m.Entries[2].Xattrs) },
		"xattr without name":  func(m *Manifest) { m.Entries[2].Xattrs[0].Name = "" },
		"xattr too long":      func(m *Manifest) { m.Entries[2].Xattrs[0].Value = make([]byte, MaxXattrBytes+1) },
		"negative size":       file(Entry{Size: -1}),
		"hole behind the end": file(Entry{Size: 10, Holes: []Hole{{5, 6}}}),
		"hole overflows":      file(Entry{Size: 10, Holes: []Hole{{5, math.MaxInt64}}}),
		"hole of nothing":     file(Entry{Size: 10, Holes: []Hole{{5, 0}}}),
		"holes touch":         file(Entry{Size: 10, Holes: []Hole{{0, 5}, {5, 5}}}),
		"holes overlap":       file(Entry{Size: 10, Holes: []Hole{{0, 6}, {5, 5}}}),
		"negative hole":       file(Entry{Size: 10, Holes: []Hole{{-1, 5}}}),
		"no chunks":           file(Entry{Size: large}),
		"too few chunks":      file(Entry{Size: large, Chunks: []Chunk{{Len: half}, {Len: half - 1}}}),
		"too many chunks":     file(Entry{Size: large, Chunks: []Chunk{{Len: half}, {Len: half}, {Len: 1}}}),
		"chunks of a hole":    file(Entry{Size: large, Holes: []Hole{{0, large}}, Chunks: []Chunk{{Len: 1}}}),
		"empty chunk":         file(Entry{Size: large, Chunks: []Chunk{{Len: half}, {Len: 0}, {Len: half}}}),
		"long chunk":          file(Entry{Size: large, Chunks: []Chunk{{Len: half + 1}, {Len: half - 1}}}),
		"chunk over a hole":   file(Entry{Size: large, Holes: []Hole{{4, large - 8}}, Chunks: []Chunk{{Len: 8}}}),
		"small with chunks":   file(Entry{Size: large - 1, Chunks: []Chunk{{Len: half}, {Len: half - 1}}}),
		"8 EiB of holes":      file(Entry{Size: math.MaxInt64, Holes: []Hole{{0, math.MaxInt64}}}),
		"larger than a file":  file(Entry{Size: MaxFileBytes + 1}),
		"too many bytes":      files(maxVersionBytes/MaxFileBytes+1, Entry{Size: MaxFileBytes, Holes: []Hole{{0, MaxFileBytes}}}),
	}
	if err := testManifest().validate(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range tests {
		t.Run(name, func(t *testing.T) {
			m := testManifest()
			spoil(m)
			if err := m.validate(); err == nil {
				t.Error("is valid")
			}
		})
	}
}

func TestManifestCountsAreChecked(t *testing.T) {
	m := testManifest()
	m.Encode()
	e := encoder{buf: []byte(manifestMagic)}
	m.Files++
	e.header(m)
	e.uint(uint64(len(m.Entries)))
	for i := range m.Entries {
		e.entry(&m.Entries[i])
	}
	if _, err := DecodeManifest(sealed(e.buf)); err == nil {
		t.Error("a wrong number of files is accepted")
	}
	if _, _, err := rebuild(nil, encodeDelta(nil, m)); err == nil {
		t.Error("a wrong number of files is accepted in a delta")
	}
}

// A few bytes that announce a lot must not make it be allocated.
func TestManifestAnnouncesMoreThanItHas(t *testing.T) {
	e := encoder{buf: []byte(manifestMagic)}
	e.header(&Manifest{Name: "v", GUID: 1})
	e.uint(math.MaxInt64)
	if _, err := DecodeManifest(sealed(e.buf)); !errors.Is(err, errMalformed) {
		t.Errorf("error %v", err)
	}
}

// deepManifest has n small files in a directory with a very long path.
func deepManifest(n int) *Manifest {
	m := &Manifest{Name: "v", GUID: 1, CreateTXG: 1, Entries: []Entry{{Type: TypeDir}}}
	dir := ""
	for range 15 {
		dir = joinPath(dir, strings.Repeat("d", 250))
		m.Entries = append(m.Entries, Entry{Path: dir, Type: TypeDir})
	}
	for i := range n {
		m.Entries = append(m.Entries, Entry{Path: fmt.Sprintf("%s/%07d", dir, i), Type: TypeFIFO})
	}
	return m
}

// headed is a delta of the n entries that write appends. They have so many files and
// bytes.
func headed(n int, files, bytes int64, write func(e *encoder, i int)) []byte {
	e := &encoder{}
	e.header(&Manifest{Name: "v", GUID: 1, CreateTXG: 1, Files: files, Bytes: bytes})
	e.uint(0) // removed
	e.uint(uint64(n))
	for i := range n {
		write(e, i)
	}
	return e.buf
}

// allocated is how many bytes do allocates, whether or not they become garbage.
func allocated(do func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	do()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// TestDecodingIsBounded: what decoding takes is bounded by the length of the input.
func TestDecodingIsBounded(t *testing.T) {
	const n = 1 << 16
	from, long := deepManifest(10), deepManifest(n).Entries
	from.Encode()
	tests := map[string][]byte{
		"long paths":        headed(n, 0, 0, func(e *encoder, i int) { e.entry(&long[i]) }),
		"small directories": headed(n, 0, 0, func(e *encoder, i int) { e.entry(&Entry{Path: strconv.Itoa(n + i), Type: TypeDir}) }),
		"holes": headed(1, 1, 4*n, func(e *encoder, _ int) {
			e.entry(&Entry{Path: "f", Type: TypeFile, Size: 4 * n, Holes: make([]Hole, 4*n)})
		}),
		"attributes": headed(1, 0, 0, func(e *encoder, _ int) {
			e.entry(&Entry{Path: "f", Type: TypeFIFO, Xattrs: slices.Repeat([]Xattr{{Name: "x"}}, n)})
		}),
	}
	removed := &encoder{}
	removed.header(from)
	removed.uint(n)
	for i := range n {
		removed.path(long[i+1].Path)
	}
	tests["removed paths"] = removed.buf
	for name, delta := range tests {
		t.Run(name, func(t *testing.T) {
			var err error
			n := allocated(func() { _, _, err = rebuild(from, delta) })
			if limit := costFloor + 2*costFactor*len(delta); n > uint64(limit) {
				t.Errorf("%d bytes make it allocate %d, more than %d; error %v", len(delta), n, limit, err)
			}
		})
	}
}

// TestEncodeLimited: what has been encoded can be decoded, and nothing else is kept.
func TestEncodeLimited(t *testing.T) {
	for _, n := range []int{1000, 15_000, 18_000} {
		data, err := deepManifest(n).encodeLimited()
		if _, decodeErr := DecodeManifest(data); (err == nil) != (decodeErr == nil) || (n < 16_000) != (err == nil) {
			t.Errorf("%d long paths: encoding %v, decoding %v", n, err, decodeErr)
		}
	}
	if err := testManifest().checkSize(MaxManifestBytes + 1); err == nil {
		t.Error("a manifest may be too long")
	}
}

func TestLookup(t *testing.T) {
	m := testManifest()
	for i, e := range m.Entries {
		if j, ok := m.lookup(e.Path); !ok || j != i {
			t.Errorf("lookup(%q) = %d, %v", e.Path, j, ok)
		}
	}
	if _, ok := m.lookup("b/b"); ok {
		t.Error("found what is not there")
	}
}

// randomManifest has up to 60 entries of a small world, so that two of them have
// much in common.
func randomManifest(rnd *rand.Rand) *Manifest {
	m := &Manifest{Name: "v", GUID: rnd.Uint64() | 1, CreateTXG: 1, Entries: []Entry{{Type: TypeDir}}}
	var fill func(dir string, depth int)
	fill = func(dir string, depth int) {
		for _, name := range []string{"a", "a.b", "ab", "b"} {
			e := Entry{Path: joinPath(dir, name), Mode: rnd.Uint32N(2), Type: TypeFIFO}
			switch rnd.IntN(5) {
			case 0:
				continue
			case 1:
				e.Type = TypeDir
			case 2, 3:
				e.Type = TypeFile
				setRandomContent(&e, rnd)
			}
			m.Entries = append(m.Entries, e)
			if e.Type == TypeDir && depth < 3 {
				fill(e.Path, depth+1)
			}
		}
	}
	fill("", 0)
	return m
}

func setRandomContent(e *Entry, rnd *rand.Rand) {
	const unit = MaxChunkBytes / 2
	var id []byte
	off := int64(0)
	for range rnd.IntN(8) {
		length := unit * (1 + rnd.Uint32N(2))
		if rnd.IntN(3) == 0 && (len(e.Holes) == 0 || e.Holes[len(e.Holes)-1].Off+e.Holes[len(e.Holes)-1].Len < off) {
			e.Holes = append(e.Holes, Hole{off, int64(length)})
		} else {
			e.Chunks = append(e.Chunks, Chunk{length, [16]byte{byte(rnd.IntN(4))}})
		}
		off += int64(length)
		id = fmt.Append(id, e.Holes, e.Chunks)
	}
	e.Size, e.Hash = off, layoutDigest(e.Holes, e.Chunks)
	if off < MinChunkedSize {
		e.Chunks, e.Hash = nil, blake3.Sum256(id)
	}
}

func TestDelta(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		from, to := randomManifest(rnd), randomManifest(rnd)
		from.Encode()
		to.Encode()
		if rnd.IntN(5) == 0 {
			from = nil
		}
		delta := encodeDelta(from, to)
		if !bytes.Equal(delta, encodeDelta(from, to)) {
			t.Fatal("the delta is not deterministic")
		}
		got, encoded, err := applyDelta(from, delta, to.Digest)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, to) || !bytes.Equal(encoded, to.Encode()) {
			t.Fatalf("got %+v\nwant %+v", got, to)
		}
		if _, _, err := applyDelta(from, delta, Digest{1}); err == nil {
			t.Fatal("another digest is accepted")
		}
	}
}

func TestDeltaCarriesOnlyWhatChanged(t *testing.T) {
	from, to := testManifest(), testManifest()
	to.Name, to.GUID = "dr_2", 2
	to.Entries[2].Mode = 0o755
	from.Encode()
	to.Encode()
	if n := len(encodeDelta(from, to)); n > 80 {
		t.Errorf("the delta of a chmod has %d bytes", n)
	}
}

func TestDeltaHostile(t *testing.T) {
	from, to := testManifest(), testManifest()
	to.Entries = slices.Delete(to.Entries, 3, 6)
	to.Entries[1].Size = 9
	from.Encode()
	to.Encode()
	delta := encodeDelta(from, to)
	for i := range delta {
		hostile := bytes.Clone(delta)
		hostile[i] ^= 0x41
		if got, _, err := rebuild(from, hostile); err == nil && got.validate() != nil {
			t.Errorf("byte %d: made a manifest that is not valid", i)
		}
		if _, _, err := rebuild(from, delta[:i]); err == nil {
			t.Errorf("cut off at %d, and no error", i)
		}
	}
}

// FuzzManifest gets manifests without their digest.
func FuzzManifest(f *testing.F) {
	f.Fuzz(func(t *testing.T, body []byte) {
		data := sealed(body)
		m, err := DecodeManifest(data)
		if err != nil {
			return
		}
		if !bytes.Equal(m.Encode(), data) {
			t.Error("accepted bytes that are not canonical")
		}
		to := testManifest()
		to.Encode()
		if _, _, err := applyDelta(m, encodeDelta(m, to), to.Digest); err != nil {
			t.Error(err)
		}
		if p := NewPlan(m, to); p.Literal < 0 {
			t.Error("negative plan")
		}
	})
}
