package transportmux

import "encoding/binary"

// A header is that of a yamux frame:
//
//	version u8 (0)   type u8   flags u16   stream u32   length u32
//
// The length is that of the body, which only frames of data have; of a window update
// it is the credit, of a ping an arbitrary number.
type header [headerSize]byte

const headerSize = 12

// The types of frames.
const (
	typeData   = 0
	typeWindow = 1
	typePing   = 2
	typeGoAway = 3
)

// Flags of frames. A ping that asks has flagSYN, its answer flagACK.
const (
	flagSYN = 1 << iota // opens the stream
	flagACK             // the stream was accepted
	flagFIN             // the last of this direction
	flagRST             // the stream is gone, in both directions
)

func newHeader(kind byte, flags uint16, stream, length uint32) (h header) {
	h[1] = kind
	binary.BigEndian.PutUint16(h[2:], flags)
	binary.BigEndian.PutUint32(h[4:], stream)
	binary.BigEndian.PutUint32(h[8:], length)
	return h
}

func (h *header) version() byte        { return h[0] }
func (h *header) kind() byte           { return h[1] }
func (h *header) has(flag uint16) bool { return binary.BigEndian.Uint16(h[2:])&flag != 0 }
func (h *header) stream() uint32       { return binary.BigEndian.Uint32(h[4:]) }
func (h *header) length() uint32       { return binary.BigEndian.Uint32(h[8:]) }

// body is how many bytes follow.
func (h *header) body() int {
	if h.kind() == typeData {
		return int(h.length())
	}
	return 0
}
