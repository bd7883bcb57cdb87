package dir

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/zeebo/blake3"
)

// manifestMagic opens an encoded manifest.
const manifestMagic = "DRMANI2\n"

// maxHeaderBytes is more than the longest header of a manifest: magic, five
// integers, a name, flags, the number of entries.
const maxHeaderBytes = 512

// The shortest encodings of repeated parts: what is left of the input bounds their
// number.
const (
	minEntryBytes = 10
	minPathBytes  = 2
	minXattrBytes = 3 // a name has at least one byte
	minHoleBytes  = 2
	chunkBytes    = 1 + 16
)

// What a manifest or delta may cost in memory, in bytes: costFloor and costFactor times
// its encoded length. Paths that share their beginning are written out in memory, and
// small entries and holes become large structs there: without a bound, few bytes of a
// peer would take it all. What else is decoded comes to less than 16 times its encoding
// by itself. A million empty directories with paths of 180 bytes are within.
const (
	costFloor  = 64 << 20
	costFactor = 16
	entryCost  = 256 // beside its path
	holeCost   = 64  // in the entry and in a plan
)

const flagInconsistent = 1

// An encoder appends integers as varints, everything else with its length. Paths
// share their beginning with the path before.
type encoder struct {
	buf  []byte
	last string // path
}

func (e *encoder) uint(v uint64) { e.buf = binary.AppendUvarint(e.buf, v) }
func (e *encoder) int(v int64)   { e.buf = binary.AppendVarint(e.buf, v) }

func (e *encoder) string(s string) {
	e.uint(uint64(len(s)))
	e.buf = append(e.buf, s...)
}

func (e *encoder) path(path string) {
	n := 0
	for n < min(len(path), len(e.last)) && path[n] == e.last[n] {
		n++
	}
	e.uint(uint64(n))
	e.string(path[n:])
	e.last = path
}

func (e *encoder) header(m *Manifest) {
	e.string(m.Name)
	e.uint(m.GUID)
	e.uint(m.CreateTXG)
	e.int(m.Creation)
	e.uint(flags(m.Inconsistent))
	e.uint(uint64(m.Files))
	e.uint(uint64(m.Bytes))
}

func flags(inconsistent bool) uint64 {
	if inconsistent {
		return flagInconsistent
	}
	return 0
}

func (e *encoder) entry(x *Entry) {
	e.path(x.Path)
	e.uint(flags(x.Inconsistent)<<3 | uint64(x.Type))
	e.uint(uint64(x.Mode))
	e.uint(uint64(x.UID))
	e.uint(uint64(x.GID))
	e.int(x.MtimeSec)
	e.uint(uint64(x.MtimeNsec))
	e.uint(x.LinkGroup)
	e.uint(uint64(len(x.Xattrs)))
	for _, a := range x.Xattrs {
		e.string(a.Name)
		e.string(string(a.Value))
	}
	switch x.Type {
	case TypeFile:
		e.content(x)
	case TypeSymlink:
		e.string(x.Target)
	case TypeCharDevice, TypeBlockDevice:
		e.uint(x.Rdev)
	}
}

func (e *encoder) content(x *Entry) {
	e.uint(uint64(x.Size))
	if x.Size >= MinChunkedSize {
		e.layout(x.Holes, x.Chunks)
		return
	}
	e.buf = append(e.buf, x.Hash[:]...)
	e.holes(x.Holes)
}

func (e *encoder) holes(holes []Hole) {
	e.uint(uint64(len(holes)))
	for _, h := range holes {
		e.uint(uint64(h.Off))
		e.uint(uint64(h.Len))
	}
}

// layout is all that is to be said of a large file: its digest follows from it.
func (e *encoder) layout(holes []Hole, chunks []Chunk) {
	e.holes(holes)
	e.uint(uint64(len(chunks)))
	for _, c := range chunks {
		e.uint(uint64(c.Len))
		e.buf = append(e.buf, c.Hash[:]...)
	}
}

// layoutDigest is the digest of a file of MinChunkedSize or more.
func layoutDigest(holes []Hole, chunks []Chunk) Digest {
	var e encoder
	e.layout(holes, chunks)
	return digestOfLayout(e.buf)
}

// layoutContext keeps apart the digest of a large file and that of a small one whose
// content is the large one's layout: else whoever can make files could make the two pass
// for each other.
const layoutContext = "dualrepl manifest 2: holes and chunks of a file"

// digestOfLayout is layoutDigest of an encoded layout.
func digestOfLayout(layout []byte) (d Digest) {
	blake3.DeriveKey(layoutContext, layout, d[:])
	return d
}

// encodeLimited is Encode for what must be decoded again: it refuses what no decoder
// takes.
func (m *Manifest) encodeLimited() ([]byte, error) {
	data := m.Encode()
	return data, m.checkSize(len(data) - len(m.Digest))
}

// checkSize checks the limits on a manifest that has so many bytes before its digest.
func (m *Manifest) checkSize(encoded int) error {
	cost := 0
	for i := range m.Entries {
		cost += m.Entries[i].cost()
	}
	return checkLimits("manifest", encoded, cost)
}

// cost is what an entry takes in memory, of what its encoding does not tell.
func (x *Entry) cost() int { return entryCost + len(x.Path) + holeCost*len(x.Holes) }

// checkLimits checks the limits on a manifest or delta.
func checkLimits(what string, encoded, cost int) error {
	if encoded > MaxManifestBytes {
		return fmt.Errorf("too many entries: the %s is longer than %d bytes", what, MaxManifestBytes)
	}
	if cost > costFloor+costFactor*encoded {
		return errCost
	}
	return nil
}

// Encode returns the canonical bytes of a manifest and sets its Digest, Files and Bytes.
func (m *Manifest) Encode() []byte {
	m.count()
	e := encoder{buf: make([]byte, 0, maxHeaderBytes+128*len(m.Entries))}
	e.buf = append(e.buf, manifestMagic...)
	e.header(m)
	e.uint(uint64(len(m.Entries)))
	for i := range m.Entries {
		e.entry(&m.Entries[i])
	}
	m.Digest = blake3.Sum256(e.buf)
	return append(e.buf, m.Digest[:]...)
}

var (
	errMalformed = errors.New("malformed")
	errCost      = errors.New("its paths, entries and holes take too much memory for its length")
)

// A decoder is the reverse of an encoder. Its first error sticks; after it
// everything reads as zero. It refuses what an encoder would not have written.
type decoder struct {
	rest   []byte
	last   string // path
	budget int    // bytes of memory that may still be taken
	err    error
}

func newDecoder(data []byte) *decoder {
	return &decoder{rest: data, budget: costFloor + costFactor*len(data)}
}

func (d *decoder) fail() { d.failWith(errMalformed) }

func (d *decoder) failWith(err error) {
	if d.err == nil {
		d.err = err
	}
	d.rest = nil
}

// end returns the first error, or that something is left.
func (d *decoder) end() error {
	if len(d.rest) > 0 {
		d.fail()
	}
	return d.err
}

// uint reads an integer of at most limit.
func (d *decoder) uint(limit uint64) uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 || v > limit || n > 1 && d.rest[n-1] == 0 {
		d.fail()
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) int() int64 {
	u := d.uint(math.MaxUint64)
	return int64(u>>1) ^ -int64(u&1)
}

// count reads the number of parts that follow, each of at least size bytes and taking
// cost bytes of memory.
func (d *decoder) count(size, cost int) int {
	n := int(d.uint(uint64(len(d.rest) / size)))
	d.spend(n * cost)
	if d.err != nil {
		return 0
	}
	return n
}

func (d *decoder) spend(n int) {
	if d.budget -= n; d.budget < 0 {
		d.failWith(errCost)
	}
}

func (d *decoder) take(n int) []byte {
	if n > len(d.rest) {
		d.fail()
		return nil
	}
	p := d.rest[:n]
	d.rest = d.rest[n:]
	return p
}

// string reads one of at most limit bytes.
func (d *decoder) string(limit int) string {
	return string(d.take(int(d.uint(uint64(limit)))))
}

func (d *decoder) path() string {
	n := int(d.uint(uint64(len(d.last))))
	suffix := d.string(MaxPathBytes)
	if d.err != nil {
		return ""
	}
	if n < len(d.last) && suffix != "" && suffix[0] == d.last[n] {
		d.fail() // could have shared more
	}
	if n+len(suffix) > MaxPathBytes {
		d.fail()
		return ""
	}
	d.last = d.last[:n] + suffix
	return d.last
}

func (d *decoder) header() *Manifest {
	return &Manifest{
		Name:         d.string(MaxNameBytes),
		GUID:         d.uint(math.MaxUint64),
		CreateTXG:    d.uint(math.MaxUint64),
		Creation:     d.int(),
		Inconsistent: d.uint(flagInconsistent) != 0,
		Files:        int64(d.uint(math.MaxInt64)),
		Bytes:        int64(d.uint(math.MaxInt64)),
	}
}

func (d *decoder) entries() []Entry {
	entries := make([]Entry, d.count(minEntryBytes, entryCost))
	for i := range entries {
		d.entry(&entries[i])
		if d.err != nil {
			return nil
		}
	}
	return entries
}

func (d *decoder) entry(x *Entry) {
	x.Path = d.path()
	d.spend(len(x.Path))
	tag := d.uint(flagInconsistent<<3 | 7)
	x.Type, x.Inconsistent = EntryType(tag&7), tag>>3 != 0
	x.Mode = uint32(d.uint(0o7777))
	x.UID = uint32(d.uint(math.MaxUint32))
	x.GID = uint32(d.uint(math.MaxUint32))
	x.MtimeSec = d.int()
	x.MtimeNsec = uint32(d.uint(1e9 - 1))
	x.LinkGroup = d.uint(math.MaxUint64)
	if n := d.count(minXattrBytes, 0); n > 0 {
		x.Xattrs = make([]Xattr, n)
	}
	for i := range x.Xattrs {
		x.Xattrs[i] = Xattr{Name: d.string(MaxNameBytes), Value: []byte(d.string(MaxXattrBytes))}
	}
	switch x.Type {
	case TypeFile:
		d.content(x)
	case TypeSymlink:
		x.Target = d.string(MaxPathBytes)
	case TypeCharDevice, TypeBlockDevice:
		x.Rdev = d.uint(math.MaxUint64)
	}
}

func (d *decoder) content(x *Entry) {
	x.Size = int64(d.uint(math.MaxInt64))
	if x.Size < MinChunkedSize {
		copy(x.Hash[:], d.take(len(x.Hash)))
		x.Holes = d.holes()
		return
	}
	layout := d.rest
	x.Holes, x.Chunks = d.holes(), d.chunks()
	x.Hash = digestOfLayout(layout[:len(layout)-len(d.rest)])
}

func (d *decoder) holes() (holes []Hole) {
	if n := d.count(minHoleBytes, holeCost); n > 0 {
		holes = make([]Hole, n)
	}
	for i := range holes {
		holes[i] = Hole{Off: int64(d.uint(math.MaxInt64)), Len: int64(d.uint(math.MaxInt64))}
	}
	return holes
}

func (d *decoder) chunks() (chunks []Chunk) {
	if n := d.count(chunkBytes, 0); n > 0 {
		chunks = make([]Chunk, n)
	}
	for i := range chunks {
		chunks[i].Len = uint32(d.uint(MaxChunkBytes))
		copy(chunks[i].Hash[:], d.take(len(chunks[i].Hash)))
	}
	return chunks
}

// DecodeManifest decodes and checks what Encode made.
func DecodeManifest(data []byte) (*Manifest, error) {
	m, err := decodeManifest(data)
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	return m, nil
}

func decodeManifest(data []byte) (*Manifest, error) {
	body, digest, err := splitManifest(data)
	if err != nil {
		return nil, err
	}
	d := newDecoder(body)
	m, err := d.manifestHeader()
	if err != nil {
		return nil, err
	}
	m.Entries, m.Digest = d.entries(), digest
	if err := d.end(); err != nil {
		return nil, err
	}
	if err := m.checkCounts(); err != nil {
		return nil, err
	}
	return m, m.validate()
}

// checkCounts checks the counts of a header that was decoded.
func (m *Manifest) checkCounts() error {
	files, size := m.Files, m.Bytes
	if m.count(); m.Files != files || m.Bytes != size {
		return errors.New("its counts do not match its entries")
	}
	return nil
}

// splitManifest checks an encoded manifest's digest, and parts it from what it is of.
func splitManifest(data []byte) (body []byte, digest Digest, err error) {
	n := len(data) - len(digest)
	if n < 0 || n > MaxManifestBytes {
		return nil, digest, errMalformed
	}
	digest = blake3.Sum256(data[:n])
	if digest != Digest(data[n:]) {
		return nil, digest, errors.New("the manifest's digest does not match")
	}
	return data[:n], digest, nil
}

func (d *decoder) manifestHeader() (*Manifest, error) {
	if string(d.take(len(manifestMagic))) != manifestMagic {
		return nil, errors.New("not a manifest of this format version")
	}
	m := d.header()
	return m, d.err
}

// readManifestHeader reads the beginning of a manifest, for its identity alone:
// everything but Entries and Digest. The digest is not checked.
func readManifestHeader(r io.Reader) (*Manifest, error) {
	buf := make([]byte, maxHeaderBytes)
	n, err := io.ReadFull(r, buf)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	d := newDecoder(buf[:n])
	m, err := d.manifestHeader()
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	return m, nil
}
