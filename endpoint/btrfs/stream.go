package btrfs

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"

	"github.com/dualrepl/dualrepl/endpoint"
)

// A stream is a header (BTRFS_SEND_STREAM_MAGIC and a version) and commands. A command is
// the length of what follows its header, its kind and a checksum of all of it, little-endian,
// and attributes: kind, length, value. In version 2 the data comes last and has no length.
// The first command names the subvolume that the stream makes, the last one ends it.
const (
	streamHeaderBytes  = 17
	commandHeaderBytes = 10
	// maxCommandBytes is that of version 2 with pages of 64 KiB: 16 KiB and the most that is
	// compressed as one, 128 KiB, rounded up.
	maxCommandBytes = 192 << 10
	// maxPathBytes is PATH_MAX, without the zero byte.
	maxPathBytes = 4095
)

// Kinds of commands: enum btrfs_send_cmd of fs/btrfs/send.h.
const (
	cmdSubvol       = 1
	cmdSnapshot     = 2
	cmdMknod        = 5
	cmdLink         = 10
	cmdClone        = 16
	cmdEnd          = 21
	cmdUpdateExtent = 22
	cmdLastV1       = 22
	cmdEncodedWrite = 25
	cmdLastV2       = 25
)

// Kinds of attributes: the enum after it.
const (
	attrUUID            = 1
	attrCtransid        = 2
	attrSize            = 4
	attrRdev            = 8
	attrPath            = 15
	attrPathTo          = 16
	attrPathLink        = 17
	attrData            = 19
	attrCloneUUID       = 20
	attrCloneCtransid   = 21
	attrClonePath       = 22
	attrUnencodedPart   = 27 // how much of the decompressed data is written
	attrUnencodedLen    = 28 // how long that data is
	attrUnencodedOffset = 29 // where in it the part begins
	attrCompression     = 30
	attrLast            = 31
)

// errStream: no program would have made this stream.
var errStream = fmt.Errorf("%w: malformed btrfs stream", endpoint.ErrInvalid)

// command is one command, header included. Its bytes are the reader's.
type command struct {
	kind uint16
	data []byte
}

// commandReader splits what follows a stream's header.
type commandReader struct {
	buf     *bufio.Reader
	version int
	last    int // bytes of the command before, which are still in buf
}

func newCommandReader(stream io.Reader, version int) *commandReader {
	return &commandReader{buf: bufio.NewReaderSize(stream, 2*maxCommandBytes), version: version}
}

// next returns the next command, until the call after it. Its checksum is not checked. Where
// the stream ends between two, the error is io.EOF.
func (r *commandReader) next() (command, error) {
	_, _ = r.buf.Discard(r.last) // they are there
	r.last = 0
	head, err := r.buf.Peek(commandHeaderBytes)
	if err != nil {
		if len(head) > 0 {
			err = unexpectedEOF(err)
		}
		return command{}, err
	}
	size := int64(binary.LittleEndian.Uint32(head)) + commandHeaderBytes
	if size > maxCommandBytes {
		return command{}, fmt.Errorf("%w: a command of %d bytes", errStream, size)
	}
	data, err := r.buf.Peek(int(size))
	if err != nil {
		return command{}, unexpectedEOF(err)
	}
	r.last = len(data)
	return command{binary.LittleEndian.Uint16(data[4:]), data}, nil
}

func unexpectedEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// attributes are a command's values by their kinds; nil: absent.
type attributes [attrLast + 1][]byte

// attributes takes a command apart. None may be there twice: which one counts is up to who
// reads it.
func (c command) attributes(version int) (*attributes, error) {
	a := &attributes{}
	for p := c.data[commandHeaderBytes:]; len(p) > 0; {
		if len(p) < 2 {
			return nil, fmt.Errorf("%w: half an attribute", errStream)
		}
		kind, size := binary.LittleEndian.Uint16(p), 0
		p = p[2:]
		if kind == 0 || kind > attrLast || a[kind] != nil {
			return nil, fmt.Errorf("%w: attribute %d in command %d", errStream, kind, c.kind)
		}
		if version >= 2 && kind == attrData {
			size = len(p)
		} else {
			if len(p) < 2 || len(p)-2 < int(binary.LittleEndian.Uint16(p)) {
				return nil, fmt.Errorf("%w: attribute %d is longer than command %d", errStream, kind, c.kind)
			}
			size = int(binary.LittleEndian.Uint16(p))
			p = p[2:]
		}
		a[kind], p = p[:size:size], p[size:]
	}
	return a, nil
}

// id returns a UUID; zero if it is absent.
func (a *attributes) id(kind int) (uuid, error) {
	switch v := a[kind]; {
	case v == nil:
		return uuid{}, nil
	case len(v) == len(uuid{}):
		return uuid(v), nil
	default:
		return uuid{}, fmt.Errorf("%w: a UUID of %d bytes", errStream, len(v))
	}
}

// number returns an integer; 0 if it is absent.
func (a *attributes) number(kind int) (uint64, error) {
	switch v := a[kind]; {
	case v == nil:
		return 0, nil
	case len(v) == 8:
		return binary.LittleEndian.Uint64(v), nil
	default:
		return 0, fmt.Errorf("%w: a number of %d bytes", errStream, len(v))
	}
}

// checkPath refuses what leads out of the subvolume. The empty path is its root.
func checkPath(p []byte) error {
	bad := len(p) > maxPathBytes || bytes.IndexByte(p, 0) >= 0
	if len(p) > 0 {
		for part := range bytes.SplitSeq(p, []byte("/")) {
			bad = bad || len(part) == 0 || string(part) == "." || string(part) == ".."
		}
	}
	if bad {
		return fmt.Errorf("%w: path %.100q", errStream, p)
	}
	return nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sum is the checksum of a command as btrfs computes it: from 0, without inversions, with
// zeros in its own place.
func (c command) sum() uint32 {
	sum := crc32.Update(^uint32(0), castagnoli, c.data[:6])
	sum = crc32.Update(sum, castagnoli, make([]byte, 4))
	return ^crc32.Update(sum, castagnoli, c.data[commandHeaderBytes:])
}

// checkSum checks a command that is to be changed: what is not, the program checks.
func (c command) checkSum() error {
	if want := binary.LittleEndian.Uint32(c.data[6:]); c.sum() != want {
		return fmt.Errorf("%w: checksum of command %d", errStream, c.kind)
	}
	return nil
}

// seal sets length and checksum of a command.
func (c command) seal() {
	binary.LittleEndian.PutUint32(c.data, uint32(len(c.data)-commandHeaderBytes))
	binary.LittleEndian.PutUint16(c.data[4:], c.kind)
	binary.LittleEndian.PutUint32(c.data[6:], c.sum())
}

// extentBytes is how much data a command of a stream without data stands for.
func (c command) extentBytes() uint64 {
	if c.kind != cmdUpdateExtent {
		return 0
	}
	a, err := c.attributes(1)
	if err != nil {
		return 0
	}
	n, _ := a.number(attrSize)
	return n
}

// beginning is a stream's first command.
type beginning struct {
	id       uuid // of the version
	ctransid uint64
	from     uuid // of what the step starts from; zero: a full step
	fromCtid uint64
}

// readBeginning reads and checks the first command. The name in it, which says where a
// program would put the subvolume, has to be one.
func readBeginning(r *commandReader) (b beginning, err error) {
	c, err := r.next()
	if err != nil {
		return b, unexpectedEOF(err)
	}
	if err := c.checkSum(); err != nil {
		return b, err
	}
	a, err := c.attributes(r.version)
	if err != nil {
		return b, err
	}
	if c.kind != cmdSubvol && c.kind != cmdSnapshot {
		return b, fmt.Errorf("%w: it begins with command %d", errStream, c.kind)
	}
	if p := a[attrPath]; len(p) == 0 || len(p) > maxNameBytes || checkPath(p) != nil || strings.Contains(string(p), "/") {
		return b, fmt.Errorf("%w: the name of its subvolume is %.100q", errStream, p)
	}
	return b, b.parse(a, c.kind == cmdSnapshot)
}

func (b *beginning) parse(a *attributes, incremental bool) error {
	var errs [4]error
	b.id, errs[0] = a.id(attrUUID)
	b.ctransid, errs[1] = a.number(attrCtransid)
	if incremental {
		b.from, errs[2] = a.id(attrCloneUUID)
		b.fromCtid, errs[3] = a.number(attrCloneCtransid)
	}
	if err := errors.Join(errs[:]...); err != nil {
		return err
	}
	if b.id == (uuid{}) || incremental == (b.from == uuid{}) {
		return fmt.Errorf("%w: it does not say which version it is of", errStream)
	}
	return nil
}

// encode makes a first command that has a subvolume of this name made, from base if it is an
// incremental step.
func (b beginning) encode(name string, base uuid) []byte {
	c := command{cmdSubvol, make([]byte, commandHeaderBytes)}
	c.add(attrPath, []byte(name))
	c.add(attrUUID, b.id[:])
	c.add(attrCtransid, binary.LittleEndian.AppendUint64(nil, b.ctransid))
	if b.from != (uuid{}) {
		c.kind = cmdSnapshot
		c.add(attrCloneUUID, base[:])
		c.add(attrCloneCtransid, binary.LittleEndian.AppendUint64(nil, b.fromCtid))
	}
	c.seal()
	return c.data
}

func (c *command) add(kind uint16, value []byte) {
	c.data = binary.LittleEndian.AppendUint16(c.data, kind)
	c.data = binary.LittleEndian.AppendUint16(c.data, uint16(len(value)))
	c.data = append(c.data, value...)
}

// A filter lets the commands of one stream pass that do what a version's stream has to.
type filter struct {
	commands *commandReader
	begin    beginning
	base     uuid // stands for begin.from where the program looks for it
	devices  bool // may be made: nobody can open them
}

// copy passes commands to w until the stream's end, which has to come after the last
// one. The two errors tell apart whose they are.
func (f *filter) copy(w io.Writer) (streamErr, writeErr error) {
	out := bufio.NewWriterSize(w, 64<<10)
	for {
		c, err := f.commands.next()
		if err == nil {
			err = f.check(c)
		}
		if err != nil {
			return unexpectedEOF(err), nil
		}
		if _, err := out.Write(c.data); err != nil {
			return nil, err
		}
		if c.kind == cmdEnd {
			break
		}
	}
	if err := out.Flush(); err != nil {
		return nil, err
	}
	switch _, err := f.commands.next(); err {
	case io.EOF:
		return nil, nil
	case nil:
		return fmt.Errorf("%w: it goes on after its end", errStream), nil
	default:
		return err, nil
	}
}

// check refuses commands that are not for this one subvolume, and points those that share
// data with what the step starts from to where that is.
func (f *filter) check(c command) error {
	last := uint16(cmdLastV1)
	if f.commands.version >= 2 {
		last = cmdLastV2
	}
	if c.kind <= cmdSnapshot || c.kind > last {
		return fmt.Errorf("%w: command %d", errStream, c.kind)
	}
	a, err := c.attributes(f.commands.version)
	if err != nil {
		return err
	}
	if err := checkPaths(c.kind, a); err != nil {
		return err
	}
	switch c.kind {
	case cmdMknod:
		return f.checkDevice(a)
	case cmdClone:
		return f.redirect(c, a)
	case cmdEncodedWrite:
		return checkEncoded(c, a)
	}
	return nil
}

func checkPaths(kind uint16, a *attributes) error {
	paths := [][]byte{a[attrPath], a[attrPathTo], a[attrClonePath]}
	if kind == cmdLink { // else it is what a symbolic link says
		paths = append(paths, a[attrPathLink])
	}
	for _, p := range paths {
		if err := checkPath(p); err != nil {
			return err
		}
	}
	return nil
}

// errDevice: later commands could write to the device itself.
var errDevice = fmt.Errorf("%w: the version has a device file, which is received only on a file system that is mounted with nodev",
	endpoint.ErrFailedPrecondition)

// checkDevice lets device 0:0 pass, which none is: overlays use it.
func (f *filter) checkDevice(a *attributes) error {
	n, err := a.number(attrRdev)
	if err == nil && n != 0 && !f.devices {
		err = errDevice
	}
	return err
}

// redirect changes where a clone comes from.
func (f *filter) redirect(c command, a *attributes) error {
	id, err := a.id(attrCloneUUID)
	if err != nil || id == f.begin.id {
		return err
	}
	if id != f.begin.from || id == (uuid{}) {
		return fmt.Errorf("%w: it shares data with subvolume %v, which is not what the step starts from", errStream, id)
	}
	if err := c.checkSum(); err != nil {
		return err
	}
	copy(a[attrCloneUUID], f.base[:])
	c.seal()
	return nil
}

const (
	maxDecompressed = 128 << 10 // BTRFS_MAX_UNCOMPRESSED
	lzo4K, lzo64K   = 3, 7      // BTRFS_ENCODED_IO_COMPRESSION_LZO_4K, _64K: a power of two each
)

// checkEncoded refuses compressed data that takes more memory than it says. Where the kernel
// does not take it as it is, the program decompresses it, and believes what the command says.
func checkEncoded(c command, a *attributes) error {
	var sizes [3]uint64
	for i, kind := range []int{attrUnencodedLen, attrUnencodedOffset, attrUnencodedPart} {
		var err error
		if sizes[i], err = a.number(kind); err != nil {
			return err
		}
	}
	whole, offset, part := sizes[0], sizes[1], sizes[2]
	if whole > maxDecompressed || offset > whole || part > whole-offset {
		return fmt.Errorf("%w: %d bytes from %d of %d decompressed ones", errStream, part, offset, whole)
	}
	if method := a[attrCompression]; len(method) == 4 {
		if n := binary.LittleEndian.Uint32(method); n >= lzo4K && n <= lzo64K {
			return checkLZO(c, a, int(whole), 4<<10<<(n-lzo4K))
		}
	}
	return nil
}

// checkLZO refuses data with more segments than there is room for: the program lets each one
// take a sector, wherever its memory ends. That ends with a sector here, as it does in the
// kernel: the data of a small file has a length of its own.
func checkLZO(c command, a *attributes, whole, sector int) error {
	room := (whole + sector - 1) / sector
	if n := lzoSegments(a[attrData], sector); n > room {
		return fmt.Errorf("%w: LZO data of %d segments for %d bytes", errStream, n, whole)
	}
	if room*sector == whole {
		return nil
	}
	if err := c.checkSum(); err != nil {
		return err
	}
	binary.LittleEndian.PutUint64(a[attrUnencodedLen], uint64(room*sector))
	c.seal()
	return nil
}

// lzoSegments counts the segments that the program would find: the length of all is before the
// first one, that of each before it, and never across the end of a sector.
func lzoSegments(data []byte, sector int) (n int) {
	if len(data) < 4 {
		return 0
	}
	end := min(int64(binary.LittleEndian.Uint32(data)), int64(len(data)))
	for at := int64(4); ; n++ {
		if left := -at & int64(sector-1); left < 4 {
			at += left
		}
		if end-at < 4 {
			return n
		}
		at += 4 + int64(binary.LittleEndian.Uint32(data[at:]))
	}
}
