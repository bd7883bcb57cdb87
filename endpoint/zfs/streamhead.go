package zfs

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
)

// The form of a stream, from ZFS's zfs_ioctl.h: records of one size, each with its
// payload behind it; the first is a BEGIN record. Offsets are in bytes.
const (
	recordSize        = 312
	offRecordType     = 0
	offPayloadLength  = 4
	offMagic          = 8
	offVersionInfo    = 16 // 2 bits: what kind of stream; then 30 bits of features
	offDatasetType    = 32
	offToGUID         = 40
	offFromGUID       = 48
	streamMagic       = 0x2F5bacbac
	recordBegin       = 0
	recordEnd         = 5
	streamPlain       = 1
	streamPackage     = 2 // properties, then one plain stream (of zfs send -p) or several (of -R)
	featureShift      = 2
	featureResuming   = 1 << 20
	featureRaw        = 1 << 24
	datasetTypeVolume = 3
)

// maxPackageHeader bounds the properties of a dataset, in bytes.
const maxPackageHeader = 4 << 20

// streamHead is what a stream says about itself before its data.
type streamHead struct {
	bytes            []byte // the part of the stream that was read to know
	toGUID, fromGUID uint64 // fromGUID 0: a full step
	resumed          bool   // continues a broken step
	raw              bool   // encrypted as it lies on the sender's disks
	volume           bool
	properties       bool // has the sender's properties
}

// record is a record without its payload.
type record struct {
	bytes []byte
	order binary.ByteOrder // of the machine that made it
}

func (r *record) uint32(offset int) uint32 { return r.order.Uint32(r.bytes[offset:]) }
func (r *record) uint64(offset int) uint64 { return r.order.Uint64(r.bytes[offset:]) }

// readHead reads a stream up to the point where its step is known. The error of a
// stream that is no such thing is endpoint.ErrInvalid.
func readHead(stream io.Reader) (*streamHead, error) {
	h := &streamHead{}
	begin, err := h.readBegin(stream)
	if err != nil {
		return nil, err
	}
	if begin.uint64(offVersionInfo)&3 == streamPackage {
		if begin, err = h.skipPackage(stream, begin); err != nil {
			return nil, err
		}
	}
	if begin.uint64(offVersionInfo)&3 != streamPlain {
		return nil, fmt.Errorf("%w: a stream of an unknown kind", endpoint.ErrInvalid)
	}
	features := begin.uint64(offVersionInfo) >> featureShift
	h.resumed, h.raw = features&featureResuming != 0, features&featureRaw != 0
	h.toGUID, h.fromGUID = begin.uint64(offToGUID), begin.uint64(offFromGUID)
	h.volume = begin.uint32(offDatasetType) == datasetTypeVolume
	return h, nil
}

// skipPackage reads the properties, the record after them, and the next BEGIN.
func (h *streamHead) skipPackage(stream io.Reader, begin *record) (*record, error) {
	h.properties = true
	length := begin.uint32(offPayloadLength)
	if length > maxPackageHeader {
		return nil, fmt.Errorf("%w: properties of %d bytes, at most %d", endpoint.ErrInvalid, length, maxPackageHeader)
	}
	if _, err := h.read(stream, int64(length)); err != nil {
		return nil, err
	}
	end, err := h.read(stream, recordSize)
	if err != nil {
		return nil, err
	}
	if begin.order.Uint32(end[offRecordType:]) != recordEnd {
		return nil, fmt.Errorf("%w: the stream's properties do not end", endpoint.ErrInvalid)
	}
	return h.readBegin(stream)
}

func (h *streamHead) readBegin(stream io.Reader) (*record, error) {
	bytes, err := h.read(stream, recordSize)
	if err != nil {
		return nil, err
	}
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		r := &record{bytes, order}
		if r.uint64(offMagic) == streamMagic && r.uint32(offRecordType) == recordBegin {
			return r, nil
		}
	}
	return nil, fmt.Errorf("%w: the stream does not begin as one of zfs does", endpoint.ErrInvalid)
}

// read reads the next n bytes. What a peer claims to send takes memory only as it comes.
func (h *streamHead) read(stream io.Reader, n int64) ([]byte, error) {
	before := len(h.bytes)
	more, err := io.ReadAll(io.LimitReader(stream, n))
	h.bytes = append(h.bytes, more...)
	if err == nil && int64(len(more)) < n {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, fmt.Errorf("read the stream: %w", err)
	}
	return h.bytes[before:], nil
}

// check tells whether the stream is one of the version to.
func (h *streamHead) check(to *pdu.FilesystemVersion) error {
	if h.toGUID != to.GetGuid() {
		return fmt.Errorf("%w: the stream is of the version with GUID %#x, not %#x", endpoint.ErrInvalid, h.toGUID, to.GetGuid())
	}
	return nil
}
