package btrfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/dualrepl/dualrepl/endpoint"
)

var (
	idTo    = uuid{1, 15: 1}
	idFrom  = uuid{2, 15: 2}
	idBase  = uuid{3, 15: 3}
	idOther = uuid{4, 15: 4}
)

// attr is an attribute of a command to build.
type attr struct {
	kind  uint16
	value []byte
}

func value(kind uint16, s string) attr  { return attr{kind, []byte(s)} }
func idAttr(kind uint16, id uuid) attr  { return attr{kind, id[:]} }
func number(kind uint16, n uint64) attr { return attr{kind, binary.LittleEndian.AppendUint64(nil, n)} }
func named(s string) attr               { return value(attrPath, s) }
func build(kind uint16, attrs ...attr) []byte {
	c := command{kind, make([]byte, commandHeaderBytes)}
	for _, a := range attrs {
		c.add(a.kind, a.value)
	}
	c.seal()
	return c.data
}

var (
	subvol   = build(cmdSubvol, named("@one"), idAttr(attrUUID, idTo), number(attrCtransid, 7))
	snapshot = build(cmdSnapshot, named("@two"), idAttr(attrUUID, idTo), number(attrCtransid, 8),
		idAttr(attrCloneUUID, idFrom), number(attrCloneCtransid, 7))
	end = build(cmdEnd)
)

// flip returns data with one bit of one byte changed.
func flip(data []byte, at int) []byte {
	data = bytes.Clone(data)
	data[at] ^= 1
	return data
}

func TestReadBeginning(t *testing.T) {
	full := beginning{id: idTo, ctransid: 7}
	tests := map[string]struct {
		data []byte
		want *beginning // nil: endpoint.ErrInvalid
	}{
		"full":              {subvol, &full},
		"incremental":       {snapshot, &beginning{idTo, 8, idFrom, 7}},
		"followed by more":  {append(bytes.Clone(subvol), end...), &full},
		"other command":     {build(cmdMknod, named("x")), nil},
		"end":               {end, nil},
		"damaged":           {flip(subvol, 20), nil},
		"too large":         {flip(subvol, 3), nil},
		"no name":           {build(cmdSubvol, idAttr(attrUUID, idTo)), nil},
		"empty name":        {build(cmdSubvol, named(""), idAttr(attrUUID, idTo)), nil},
		"name upwards":      {build(cmdSubvol, named(".."), idAttr(attrUUID, idTo)), nil},
		"name with a path":  {build(cmdSubvol, named("../../etc"), idAttr(attrUUID, idTo)), nil},
		"absolute name":     {build(cmdSubvol, named("/etc"), idAttr(attrUUID, idTo)), nil},
		"name with a zero":  {build(cmdSubvol, named("a\x00b"), idAttr(attrUUID, idTo)), nil},
		"long name":         {build(cmdSubvol, named(strings.Repeat("x", 256)), idAttr(attrUUID, idTo)), nil},
		"no UUID":           {build(cmdSubvol, named("x")), nil},
		"short UUID":        {build(cmdSubvol, named("x"), value(attrUUID, "short")), nil},
		"short number":      {build(cmdSubvol, named("x"), idAttr(attrUUID, idTo), value(attrCtransid, "x")), nil},
		"nothing to share":  {build(cmdSnapshot, named("x"), idAttr(attrUUID, idTo)), nil},
		"two names":         {build(cmdSubvol, named("x"), named("y"), idAttr(attrUUID, idTo)), nil},
		"unknown attribute": {build(cmdSubvol, named("x"), idAttr(attrUUID, idTo), value(attrLast+1, "x")), nil},
	}
	for name, tt := range tests {
		b, err := readBeginning(newCommandReader(bytes.NewReader(tt.data), 1))
		switch {
		case tt.want == nil && !errors.Is(err, endpoint.ErrInvalid):
			t.Errorf("%s: %+v, %v", name, b, err)
		case tt.want != nil && (err != nil || b != *tt.want):
			t.Errorf("%s: %+v, %v, want %+v", name, b, err, tt.want)
		}
	}
	for n := range len(subvol) {
		if _, err := readBeginning(newCommandReader(bytes.NewReader(subvol[:n]), 1)); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d bytes of %d: %v", n, len(subvol), err)
		}
	}
}

func TestBeginningEncode(t *testing.T) {
	for _, data := range [][]byte{subvol, snapshot} {
		b, err := readBeginning(newCommandReader(bytes.NewReader(data), 1))
		if err != nil {
			t.Fatal(err)
		}
		commands := newCommandReader(bytes.NewReader(b.encode(incomingName, idBase)), 1)
		got, err := readBeginning(commands)
		if b.from != (uuid{}) {
			b.from = idBase
		}
		if err != nil || got != b {
			t.Errorf("%+v, %v, want %+v", got, err, b)
		}
	}
}

// pass runs commands through a filter, as the rest of a stream.
func pass(version int, devices bool, commands ...[]byte) (got []byte, err error) {
	stream := iotest.OneByteReader(bytes.NewReader(bytes.Join(commands, nil)))
	f := &filter{
		commands: newCommandReader(stream, version), base: idBase, devices: devices,
		begin: beginning{id: idTo, from: idFrom},
	}
	var out bytes.Buffer
	err, writeErr := f.copy(&out)
	return out.Bytes(), errors.Join(err, writeErr)
}

func clone(id uuid, from string) []byte {
	return build(cmdClone, number(18, 0), number(24, 4096), named("to"), idAttr(attrCloneUUID, id), number(attrCloneCtransid, 7),
		value(attrClonePath, from), number(23, 0))
}

func TestFilter(t *testing.T) {
	write := build(15, named("dir/file"), number(18, 0), value(attrData, "content"))
	device := func(n uint64) []byte { return build(cmdMknod, named("dev"), number(6, 0o60600), number(attrRdev, n)) }
	link := func(kind uint16, to string) []byte { return build(kind, named("link"), value(attrPathLink, to)) }
	long := build(15, named("x"), value(attrData, strings.Repeat("x", 48<<10)))
	tests := map[string]struct {
		command []byte
		ok      bool
	}{
		"write":                     {write, true},
		"the root's times":          {build(20, named("")), true},
		"a long one":                {long, true},
		"not UTF-8":                 {build(4, named("\xff")), true},
		"a clone within":            {clone(idTo, "a"), true},
		"a clone of another":        {clone(idOther, "a"), false},
		"a clone of no UUID":        {clone(uuid{}, "a"), false},
		"a clone from above":        {clone(idFrom, "../../etc/shadow"), false},
		"a damaged clone":           {flip(clone(idFrom, "a"), 7), false},
		"upwards":                   {build(4, named("a/../b")), false},
		"absolute":                  {build(4, named("/a")), false},
		"a rename upwards":          {build(9, named("a"), value(attrPathTo, "..")), false},
		"a link upwards":            {link(cmdLink, "../a"), false},
		"a symbolic link":           {link(8, "../a"), true},
		"double slash":              {build(4, named("a//b")), false},
		"slash at the end":          {build(4, named("a/")), false},
		"dot":                       {build(4, named("./a")), false},
		"zero byte":                 {build(4, named("a\x00")), false},
		"too long a path":           {build(4, named(strings.Repeat("x", 4096))), false},
		"another subvolume":         {subvol, false},
		"another snapshot":          {snapshot, false},
		"a whiteout":                {device(0), true},
		"a device":                  {device(0x800), false},
		"a device of half a number": {build(cmdMknod, named("dev"), value(attrRdev, "xx")), false},
		"command 0":                 {build(0), false},
		"a command of version 2":    {build(24, named("a")), false},
		"two paths":                 {build(4, named("a"), named("b")), false},
		"half an attribute":         {append(build(4), 1), false},
	}
	for name, tt := range tests {
		got, err := pass(1, false, tt.command, end)
		if ok := err == nil; ok != tt.ok {
			t.Errorf("%s: %v", name, err)
		}
		if tt.ok && !bytes.Equal(got, append(bytes.Clone(tt.command), end...)) {
			t.Errorf("%s: it is changed", name)
		}
	}
	if _, err := pass(1, true, device(0x800), end); err != nil {
		t.Errorf("a device where none can be opened: %v", err)
	}
}

// TestFilterRedirects: what is shared with the version before comes from the snapshot of it.
func TestFilterRedirects(t *testing.T) {
	got, err := pass(1, false, clone(idFrom, "a/b"), end)
	if want := append(clone(idBase, "a/b"), end...); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%x, %v, want %x", got, err, want)
	}
}

// TestFilterVersion2: the data has no length, and may have any size.
func TestFilterVersion2(t *testing.T) {
	c := command{25, build(25, named("file"))}
	c.data = binary.LittleEndian.AppendUint16(c.data, attrData)
	c.data = append(c.data, random(1, 128<<10)...)
	c.seal()
	got, err := pass(2, false, c.data, build(24, named("file")), end)
	if err != nil || !bytes.HasPrefix(got, c.data) {
		t.Error(err)
	}
	if _, err := pass(2, false, build(26, named("file")), end); !errors.Is(err, endpoint.ErrInvalid) {
		t.Errorf("a command of version 3: %v", err)
	}
	huge := append(c.data, make([]byte, maxCommandBytes)...)
	command{25, huge}.seal()
	if _, err := pass(2, false, huge, end); !errors.Is(err, endpoint.ErrInvalid) {
		t.Errorf("a command of %d bytes: %v", len(huge), err)
	}
}

// lzo is data that LZO would decompress to segments of these sizes, all literals.
func lzo(sizes ...int) []byte {
	data := make([]byte, 4)
	for _, n := range sizes {
		length := bytes.Repeat([]byte{0}, 1+(n-19)/255) // then what is left of it, from 1 to 255
		segment := slices.Concat(length, []byte{byte((n-19)%255 + 1)}, bytes.Repeat([]byte{'A'}, n), []byte{0x11, 0, 0})
		data = append(binary.LittleEndian.AppendUint32(data, uint32(len(segment))), segment...)
	}
	binary.LittleEndian.PutUint32(data, uint32(len(data)))
	return data
}

// encoded writes compressed data, of which the command says how long it is without.
func encoded(method uint32, length, offset, part uint64, data []byte) []byte {
	c := command{cmdEncodedWrite, build(cmdEncodedWrite, named("file"), number(18, 1), number(attrUnencodedLen, length),
		number(attrUnencodedOffset, offset), number(attrUnencodedPart, part),
		attr{attrCompression, binary.LittleEndian.AppendUint32(nil, method)})}
	c.data = append(binary.LittleEndian.AppendUint16(c.data, attrData), data...)
	c.seal()
	return c.data
}

// TestFilterEncoded: compressed data is as the kernel makes it, so that the program has room for
// what it decompresses.
func TestFilterEncoded(t *testing.T) {
	const zstd, k = 2, 1 << 10
	half := lzo(4 * k)[:4*k]
	tests := map[string]struct {
		command []byte
		want    []byte // nil: endpoint.ErrInvalid
	}{
		"zstd":                   {encoded(zstd, 128*k, 4*k, 124*k, half), encoded(zstd, 128*k, 4*k, 124*k, half)},
		"a small file":           {encoded(zstd, 100, 0, 100, half), encoded(zstd, 100, 0, 100, half)},
		"LZO":                    {encoded(lzo4K, 8*k, 0, 8*k, lzo(4*k, 4*k)), encoded(lzo4K, 8*k, 0, 8*k, lzo(4*k, 4*k))},
		"LZO of a small file":    {encoded(lzo4K, 100, 0, 100, lzo(100)), encoded(lzo4K, 4*k, 0, 100, lzo(100))},
		"LZO of large sectors":   {encoded(lzo64K, 64*k+1, 0, 5, lzo(64*k, 100)), encoded(lzo64K, 128*k, 0, 5, lzo(64*k, 100))},
		"half of LZO data":       {encoded(lzo4K, 4*k, 0, 4*k, half), encoded(lzo4K, 4*k, 0, 4*k, half)},
		"no LZO data":            {encoded(lzo4K, 0, 0, 0, nil), encoded(lzo4K, 0, 0, 0, nil)},
		"too much":               {encoded(zstd, 128*k+1, 0, 4*k, half), nil},
		"from behind the end":    {encoded(zstd, 4*k, 4*k+1, 0, half), nil},
		"more than there is":     {encoded(zstd, 4*k, 1, 4*k, half), nil},
		"more than can be":       {encoded(zstd, 4*k, 4*k, 1<<63, half), nil},
		"LZO of more":            {encoded(lzo4K, 4*k, 0, 4*k, lzo(100, 100)), nil},
		"LZO of nothing":         {encoded(lzo4K, 0, 0, 0, lzo(100)), nil},
		"damaged, to be changed": {flip(encoded(lzo4K, 100, 0, 100, lzo(100)), 7), nil},
		"half a number":          {build(cmdEncodedWrite, named("file"), value(attrUnencodedLen, "x")), nil},
	}
	for name, tt := range tests {
		got, err := pass(2, false, tt.command, end)
		if tt.want == nil && !errors.Is(err, endpoint.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
		if tt.want != nil && (err != nil || !bytes.Equal(got, append(tt.want, end...))) {
			t.Errorf("%s: %v, or it is changed", name, err)
		}
	}
}

// TestFilterEnd: a stream is whole only with its last command, and nothing comes after it.
func TestFilterEnd(t *testing.T) {
	mkdir := build(4, named("dir"))
	for name, tt := range map[string]struct {
		stream []byte
		want   error
	}{
		"nothing":              {nil, io.ErrUnexpectedEOF},
		"between two":          {mkdir, io.ErrUnexpectedEOF},
		"within a header":      {mkdir[:4], io.ErrUnexpectedEOF},
		"within a command":     {mkdir[:len(mkdir)-1], io.ErrUnexpectedEOF},
		"a byte more":          {append(bytes.Clone(end), 0), io.ErrUnexpectedEOF},
		"another command":      {append(bytes.Clone(end), mkdir...), endpoint.ErrInvalid},
		"another end":          {append(bytes.Clone(end), end...), endpoint.ErrInvalid},
		"another whole stream": {append(bytes.Clone(end), "btrfs-stream\x00\x01\x00\x00\x00"...), endpoint.ErrInvalid},
	} {
		if _, err := pass(1, false, tt.stream); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
	broken := errors.New("broken")
	f := &filter{commands: newCommandReader(io.MultiReader(bytes.NewReader(end), iotest.ErrReader(broken)), 1)}
	if err, _ := f.copy(io.Discard); !errors.Is(err, broken) {
		t.Errorf("an error after the last command: %v", err)
	}
}

// FuzzStream feeds what follows a stream's header, with right checksums: nothing that
// passes names another subvolume or leads out of it.
func FuzzStream(f *testing.F) {
	f.Add(slices.Concat(subvol, encoded(lzo4K, 100, 0, 100, lzo(100)), end), byte(2))
	f.Fuzz(func(t *testing.T, data []byte, version byte) {
		resum(data)
		commands := newCommandReader(bytes.NewReader(data), int(version))
		b, err := readBeginning(commands)
		if err != nil {
			return
		}
		var out bytes.Buffer
		out.Write(b.encode(incomingName, idBase))
		if err, _ := (&filter{commands: commands, begin: b, base: idBase}).copy(&out); err != nil {
			return
		}
		checkPassed(t, out.Bytes(), int(version), b)
	})
}

// resum sets the checksums of commands.
func resum(data []byte) {
	for len(data) >= commandHeaderBytes {
		size := uint64(binary.LittleEndian.Uint32(data)) + commandHeaderBytes
		if size > uint64(len(data)) {
			return
		}
		command{binary.LittleEndian.Uint16(data[4:]), data[:size]}.seal()
		data = data[size:]
	}
}

// checkPassed looks at what would go to the program.
func checkPassed(t *testing.T, data []byte, version int, b beginning) {
	commands := newCommandReader(bytes.NewReader(data), version)
	for n := 0; ; n++ {
		c, err := commands.next()
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		a, err := c.attributes(version)
		if err != nil {
			t.Fatal(err)
		}
		if n > 0 && c.kind <= cmdSnapshot {
			t.Fatal("a second subvolume passes")
		}
		if p := "/" + string(a[attrPath]) + "/"; strings.Contains(p, "/../") {
			t.Fatalf("path %q passes", p)
		}
		if whole, _ := a.number(attrUnencodedLen); c.kind == cmdEncodedWrite && whole > maxDecompressed {
			t.Fatalf("%d bytes of compressed data pass", whole)
		}
		if id, err := a.id(attrCloneUUID); err != nil || id != (uuid{}) && c.kind == cmdClone && id != b.id && id != idBase {
			t.Fatalf("clone of %v passes, %v", id, err)
		}
	}
}
