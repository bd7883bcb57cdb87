package dir

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"
	"strings"
)

// Limits on a manifest. What a peer sends is checked against them before it is
// allocated.
const (
	// MaxPathBytes is the length of an entry's path, as Linux's PATH_MAX.
	MaxPathBytes = 4096
	// MaxNameBytes is the length of one component, as Linux's NAME_MAX.
	MaxNameBytes = 255
	// MaxXattrBytes is the length of one attribute's value, as Linux's XATTR_SIZE_MAX.
	MaxXattrBytes = 64 << 10
	// MinChunkedSize is the size in bytes from which on a file has chunks. Below it a
	// list of them costs about as much as it could save.
	MinChunkedSize = 1 << 20
	// MaxChunkBytes is the length of the longest chunk.
	MaxChunkBytes = 512 << 10
	// MaxManifestBytes is the length of an encoded manifest or manifest delta: some
	// five million files.
	MaxManifestBytes = 512 << 20
	// MaxFileBytes is the size of a file, several times what ext4 takes.
	MaxFileBytes = 64 << 40
	// maxOwner is the highest uid and gid: the next number tells chown to change nothing.
	maxOwner = math.MaxUint32 - 1
	// maxVersionBytes are all files of a version, their holes included; sums below it do
	// not overflow.
	maxVersionBytes = 1 << 60
)

// EntryType says what an entry of a manifest is. The values are stored.
type EntryType uint8

// The types of entries. Sockets have none: a snapshot leaves them out.
const (
	TypeFile EntryType = iota + 1
	TypeDir
	TypeSymlink
	TypeFIFO
	TypeCharDevice
	TypeBlockDevice
)

// Digest is a BLAKE3-256 hash.
type Digest [32]byte

// prefix is what chunks are known by.
func (d Digest) prefix() [16]byte { return [16]byte(d[:16]) }

// Hole is a range of a file without data; it reads as zeros.
type Hole struct {
	Off, Len int64 // bytes
}

// Chunk is a content-defined piece of a file's data. Chunks follow one another in
// the file, none crosses a hole.
type Chunk struct {
	Len  uint32   // bytes
	Hash [16]byte // prefix of the BLAKE3 of its bytes
}

// Xattr is an extended attribute; ACLs are such.
type Xattr struct {
	Name  string
	Value []byte
}

// Entry is one file, directory or other node of a version.
type Entry struct {
	// Path is relative and slash-separated; bytes, not text. "" is the
	// filesystem's directory itself.
	Path string
	Type EntryType
	// Mode holds the twelve bits of Unix permissions, set-id and sticky.
	Mode      uint32
	UID, GID  uint32
	MtimeSec  int64  // seconds since 1970, or before
	MtimeNsec uint32 // 0 to 999,999,999, always forward from MtimeSec
	// LinkGroup is 0, or a number that this entry shares with the other names of
	// the same file.
	LinkGroup    uint64
	Inconsistent bool    // a file that kept changing while it was read
	Xattrs       []Xattr // ascending by name
	Rdev         uint64  // devices: as in struct stat
	Target       string  // symlinks

	// Files only.
	Size   int64
	Holes  []Hole  // ascending, apart from each other
	Chunks []Chunk // from MinChunkedSize on: all data outside of holes
	// Hash is the digest of the content: below MinChunkedSize of its bytes, zeros in
	// holes, and from there on of the encoded Holes and Chunks.
	Hash Digest
}

// Manifest is the truth about one version: its identity and every entry.
type Manifest struct {
	Name      string
	GUID      uint64 // never 0
	CreateTXG uint64 // never 0; at most math.MaxInt64, so that there is always a next one
	Creation  int64  // nanoseconds since 1970
	// Inconsistent says that some entry is, or that something could not be read and
	// is left out.
	Inconsistent bool
	Files        int64 // entries that are files; Encode counts
	Bytes        int64 // the sum of their sizes, at most math.MaxInt64; Encode counts
	// Entries are in the order of ComparePaths, the root first.
	Entries []Entry
	// Digest identifies the encoded manifest. Encode and DecodeManifest set it.
	Digest Digest
}

// ComparePaths orders paths by components: a directory comes right before its
// content. It compares bytes, the slash as the lowest.
func ComparePaths(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		switch {
		case a[i] == b[i]:
		case a[i] == '/':
			return -1
		case b[i] == '/':
			return 1
		default:
			return int(a[i]) - int(b[i])
		}
	}
	return len(a) - len(b)
}

// lookup finds the index of the entry with this path.
func (m *Manifest) lookup(path string) (int, bool) {
	return sort.Find(len(m.Entries), func(i int) int {
		return ComparePaths(path, m.Entries[i].Path)
	})
}

// count sets Files and Bytes.
func (m *Manifest) count() {
	m.Files, m.Bytes = 0, 0
	for i := range m.Entries {
		if e := &m.Entries[i]; e.Type == TypeFile {
			m.Files++
			m.Bytes += min(e.Size, math.MaxInt64-m.Bytes)
		}
	}
}

// dataSize is how many bytes of a file entry are not in holes.
func (e *Entry) dataSize() int64 {
	size := e.Size
	for _, h := range e.Holes {
		size -= h.Len
	}
	return size
}

// dataExtents returns the ranges of a file entry that are not holes, as literals.
func (e *Entry) dataExtents() []Extent {
	var extents []Extent
	off := int64(0)
	for _, h := range append(slices.Clip(e.Holes), Hole{Off: e.Size}) {
		if h.Off > off {
			extents = append(extents, Extent{Off: off, Len: h.Off - off, Literal: true})
		}
		off = h.Off + h.Len
	}
	return extents
}

// sameNode says whether two entries are alike in everything but their paths.
func (e *Entry) sameNode(o *Entry) bool {
	return e.Type == o.Type && e.Mode == o.Mode && e.UID == o.UID && e.GID == o.GID &&
		e.MtimeSec == o.MtimeSec && e.MtimeNsec == o.MtimeNsec &&
		e.LinkGroup == o.LinkGroup && e.Inconsistent == o.Inconsistent &&
		e.Rdev == o.Rdev && e.Target == o.Target && e.Size == o.Size && e.Hash == o.Hash &&
		slices.Equal(e.Holes, o.Holes) && slices.Equal(e.Chunks, o.Chunks) &&
		slices.EqualFunc(e.Xattrs, o.Xattrs, Xattr.equal)
}

func (x Xattr) equal(o Xattr) bool {
	return x.Name == o.Name && bytes.Equal(x.Value, o.Value)
}

// validate checks everything that others rely on: that paths lead nowhere but
// into the tree, that lengths add up, that names of one file agree.
func (m *Manifest) validate() error {
	if m.GUID == 0 || m.CreateTXG == 0 || m.CreateTXG > math.MaxInt64 {
		return errors.New("GUID or CreateTXG out of range")
	}
	if err := ValidateVersion(m.Name); err != nil {
		return err
	}
	if len(m.Entries) == 0 || m.Entries[0].Path != "" || m.Entries[0].Type != TypeDir {
		return errors.New("the first entry is not the root directory")
	}
	c := checker{groups: map[uint64]*Entry{}}
	for i := range m.Entries {
		if err := c.check(&m.Entries[i]); err != nil {
			return fmt.Errorf("entry %q: %w", m.Entries[i].Path, err)
		}
	}
	return nil
}

// checker goes through the entries of one manifest in order.
type checker struct {
	last   string
	dirs   []string // the directories that may still get content, outermost first
	groups map[uint64]*Entry
	bytes  int64
}

func (c *checker) check(e *Entry) error {
	if err := c.place(e); err != nil {
		return err
	}
	if err := e.validate(); err != nil {
		return err
	}
	if c.bytes += e.Size; c.bytes > maxVersionBytes {
		return errors.New("too many bytes in one version")
	}
	if e.LinkGroup == 0 {
		return nil
	}
	first, ok := c.groups[e.LinkGroup]
	if !ok {
		c.groups[e.LinkGroup] = e
	} else if !first.sameNode(e) {
		return fmt.Errorf("differs from %q, which is the same file", first.Path)
	}
	return nil
}

// place checks the path, the order, and that the parent is a directory.
func (c *checker) place(e *Entry) error {
	if c.dirs == nil { // the root, checked by the caller
		c.dirs = []string{""}
		return nil
	}
	if err := validatePath(e.Path); err != nil {
		return err
	}
	if ComparePaths(c.last, e.Path) >= 0 {
		return errors.New("out of order")
	}
	c.last = e.Path
	parent, _ := splitPath(e.Path)
	for len(c.dirs) > 0 && c.dirs[len(c.dirs)-1] != parent {
		c.dirs = c.dirs[:len(c.dirs)-1]
	}
	if len(c.dirs) == 0 {
		return errors.New("its parent is no directory")
	}
	if e.Type == TypeDir {
		c.dirs = append(c.dirs, e.Path)
	}
	return nil
}

func validatePath(path string) error {
	if len(path) > MaxPathBytes {
		return fmt.Errorf("path longer than %d bytes", MaxPathBytes)
	}
	for name := range strings.SplitSeq(path, "/") {
		if name == "" || name == "." || name == ".." || len(name) > MaxNameBytes || strings.IndexByte(name, 0) >= 0 {
			return errors.New("not a path of a version")
		}
	}
	return nil
}

func (e *Entry) validate() error {
	if err := e.validateNode(); err != nil || e.Type != TypeFile {
		return err
	}
	return e.validateContent()
}

// validateNode checks all but a file's content.
func (e *Entry) validateNode() error {
	if e.Mode > 0o7777 || e.MtimeNsec >= 1e9 || max(e.UID, e.GID) > maxOwner {
		return errors.New("mode, owner or time out of range")
	}
	if e.Type == TypeDir && e.LinkGroup != 0 {
		return errors.New("a directory has one name only")
	}
	if e.Size < 0 || e.Size > MaxFileBytes {
		return fmt.Errorf("a size of %d bytes", e.Size)
	}
	if e.Type != TypeFile && (e.Size != 0 || e.Holes != nil || e.Chunks != nil || e.Inconsistent) {
		return errors.New("content that is no file's")
	}
	if err := validateXattrs(e.Xattrs); err != nil {
		return err
	}
	switch e.Type {
	case TypeSymlink:
		if e.Target == "" || len(e.Target) > MaxPathBytes || strings.IndexByte(e.Target, 0) >= 0 {
			return errors.New("not a target of a symbolic link")
		}
	case TypeFile, TypeDir, TypeFIFO, TypeCharDevice, TypeBlockDevice:
	default:
		return fmt.Errorf("unknown type %d", e.Type)
	}
	return nil
}

func validateXattrs(xattrs []Xattr) error {
	last := ""
	for _, x := range xattrs {
		if x.Name <= last || len(x.Name) > MaxNameBytes || len(x.Value) > MaxXattrBytes || strings.IndexByte(x.Name, 0) >= 0 {
			return errors.New("not a list of extended attributes")
		}
		last = x.Name
	}
	return nil
}

func (e *Entry) validateContent() error {
	end := int64(-1)
	for _, h := range e.Holes {
		if h.Len <= 0 || h.Off <= end || h.Off > e.Size || h.Len > e.Size-h.Off {
			return errors.New("holes overlap or lie outside of the file")
		}
		end = h.Off + h.Len
	}
	if e.Size >= MinChunkedSize {
		return e.validateChunks()
	}
	if len(e.Chunks) > 0 {
		return errors.New("chunks of a small file")
	}
	return nil
}

// validateChunks checks that the chunks are all of the data, and that none crosses a hole.
func (e *Entry) validateChunks() error {
	chunks := e.Chunks
	for _, x := range e.dataExtents() {
		for x.Len > 0 {
			if len(chunks) == 0 || chunks[0].Len == 0 || chunks[0].Len > MaxChunkBytes || int64(chunks[0].Len) > x.Len {
				return errors.New("chunks do not fit the data")
			}
			x.Len -= int64(chunks[0].Len)
			chunks = chunks[1:]
		}
	}
	if len(chunks) > 0 {
		return errors.New("more chunks than data")
	}
	return nil
}
