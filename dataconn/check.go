package dataconn

import (
	"encoding/binary"

	"github.com/minio/crc64nvme"
)

// sumHeaderSize is the size of a header with Features.Sum, in bytes: the check lies
// behind type and length.
const sumHeaderSize = headerSize + 8

// A runningSum is the checksum over one direction of a connection, from its first byte
// to its last. Each header carries what it is up to there. The zero value is that of a
// connection without Features.Sum: it computes nothing, and headers carry no check.
type runningSum struct {
	on  bool
	crc uint64 // CRC-64/NVME of all bytes but the checks
}

// headerSize is the size of this direction's headers.
func (s *runningSum) headerSize() int {
	if s.on {
		return sumHeaderSize
	}
	return headerSize
}

// add counts bytes in: a payload's.
func (s *runningSum) add(p []byte) {
	if s.on {
		s.crc = crc64nvme.Update(s.crc, p)
	}
}

// putHeader fills b, of headerSize bytes, with the next header.
func (s *runningSum) putHeader(b []byte, typ frameType, length int) {
	putHeader(b, typ, length)
	if s.on {
		s.add(b[:headerSize])
		binary.BigEndian.PutUint64(b[headerSize:], s.crc)
	}
}

// verify counts in a header, of headerSize bytes, that came in.
func (s *runningSum) verify(header []byte) error {
	if !s.on {
		return nil
	}
	s.add(header[:headerSize])
	if s.crc != binary.BigEndian.Uint64(header[headerSize:]) {
		return errCorrupt
	}
	return nil
}

// seal returns whole frames as they go out next: as they are, or copied with their
// checks. Who lays out a message need not know the connection that it will be sent on.
func (s *runningSum) seal(frames []byte) []byte {
	if !s.on {
		return frames
	}
	sealed := make([]byte, 0, len(frames)+64) // a message and its header have few frames
	for len(frames) > 0 {
		n := headerSize + int(binary.BigEndian.Uint32(frames[4:]))
		s.add(frames[:headerSize])
		sealed = append(sealed, frames[:headerSize]...)
		sealed = binary.BigEndian.AppendUint64(sealed, s.crc)
		s.add(frames[headerSize:n])
		sealed = append(sealed, frames[headerSize:n]...)
		frames = frames[n:]
	}
	return sealed
}
