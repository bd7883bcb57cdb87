package dir

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

// streamMagic opens a stream.
const streamMagic = "DRSTRM2\n"

// streamHeaderLen is the length of an encoded streamHeader in bytes.
const streamHeaderLen = 8 + 8 + 32 + 8 + 32 + 8 + 8

// deltaPrefixLen is the length in bytes of what opens the body: the delta's length,
// big-endian. The delta and the literals follow.
const deltaPrefixLen = 8

// streamHeader opens a stream.
type streamHeader struct {
	FromGUID   uint64 // 0: a full step
	FromDigest Digest // zero for a full step
	ToGUID     uint64
	ToDigest   Digest
	BodyLength int64 // bytes of the whole body, from offset 0
	Offset     int64 // where in the body this stream begins
}

// encode returns the header's streamHeaderLen bytes.
func (h streamHeader) encode() []byte {
	b := make([]byte, 0, streamHeaderLen)
	b = append(b, streamMagic...)
	b = binary.BigEndian.AppendUint64(b, h.FromGUID)
	b = append(b, h.FromDigest[:]...)
	b = binary.BigEndian.AppendUint64(b, h.ToGUID)
	b = append(b, h.ToDigest[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(h.BodyLength))
	return binary.BigEndian.AppendUint64(b, uint64(h.Offset))
}

// parseStreamHeader decodes streamHeaderLen bytes and checks what can be checked
// without the manifests.
func parseStreamHeader(b []byte) (streamHeader, error) {
	if len(b) != streamHeaderLen || string(b[:8]) != streamMagic {
		return streamHeader{}, errors.New("not a stream of this format version")
	}
	h := streamHeader{
		FromGUID:   binary.BigEndian.Uint64(b[8:]),
		FromDigest: Digest(b[16:48]),
		ToGUID:     binary.BigEndian.Uint64(b[48:]),
		ToDigest:   Digest(b[56:88]),
	}
	length, offset := binary.BigEndian.Uint64(b[88:]), binary.BigEndian.Uint64(b[96:])
	if length > math.MaxInt64 || offset > length || length < deltaPrefixLen {
		return streamHeader{}, errors.New("stream header: its lengths make no sense")
	}
	if h.ToGUID == 0 || h.FromGUID == h.ToGUID || (h.FromGUID == 0) != (h.FromDigest == Digest{}) {
		return streamHeader{}, errors.New("stream header: it describes no step")
	}
	h.BodyLength, h.Offset = int64(length), int64(offset)
	return h, nil
}

// streamReader reads a stream at the receiver: the header at once, then body bytes
// from Header.Offset on. All of the body is under digests of its own: that of the
// manifest, and those of the files.
type streamReader struct {
	Header streamHeader
	src    io.Reader
	left   int64 // bytes of the body
}

// newStreamReader reads the header. Errors of r are wrapped, an early end is
// io.ErrUnexpectedEOF.
func newStreamReader(r io.Reader) (*streamReader, error) {
	b := make([]byte, streamHeaderLen)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, fmt.Errorf("stream header: %w", noEOF(err))
	}
	h, err := parseStreamHeader(b)
	if err != nil {
		return nil, err
	}
	return &streamReader{Header: h, src: r, left: h.BodyLength - h.Offset}, nil
}

// Read returns body bytes; io.EOF at the end of the body.
func (s *streamReader) Read(p []byte) (int, error) {
	if s.left == 0 {
		return 0, io.EOF
	}
	n, err := s.src.Read(p[:min(int64(len(p)), s.left)])
	if s.left -= int64(n); s.left == 0 && err == io.EOF {
		return n, nil
	}
	return n, noEOF(err)
}

// finish, called at the end of the body, checks that the stream ends there.
func (s *streamReader) finish() error {
	n, err := io.ReadFull(s.src, make([]byte, 1))
	if n > 0 {
		return errors.New("stream: more follows its end")
	}
	if err != io.EOF {
		return fmt.Errorf("end of stream: %w", err)
	}
	return nil
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
