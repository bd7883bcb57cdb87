package synth

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	"github.com/dualrepl/dualrepl/endpoint"
)

// magic opens a step's stream; from, to, size and offset follow, 8 bytes each,
// big-endian, and then the content of seed `to` from offset on.
const magic = "DRSYNTH1"

const headerSize = len(magic) + 4*8

// step is one transfer: what its stream's header and its resume token say.
type step struct {
	from, to uint64 // GUIDs; from 0: full
	size     int64  // content bytes of the whole step
	offset   int64  // content bytes that the receiver has already
}

func (s step) header() []byte {
	b := append(make([]byte, 0, headerSize), magic...)
	for _, v := range []uint64{s.from, s.to, uint64(s.size), uint64(s.offset)} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return b
}

// readHeader reads a header. A stream that is none is ErrInvalid.
func readHeader(r io.Reader) (step, error) {
	b := make([]byte, headerSize)
	if _, err := io.ReadFull(r, b); err == io.EOF || err == io.ErrUnexpectedEOF {
		return step{}, fmt.Errorf("%w: stream is shorter than its header: %w", endpoint.ErrInvalid, io.ErrUnexpectedEOF)
	} else if err != nil {
		return step{}, fmt.Errorf("read stream header: %w", err)
	}
	fields, ok := bytes.CutPrefix(b, []byte(magic))
	if !ok {
		return step{}, fmt.Errorf("%w: not a generated stream", endpoint.ErrInvalid)
	}
	field := func(i int) uint64 { return binary.BigEndian.Uint64(fields[8*i:]) }
	size, offset := field(2), field(3)
	if size > math.MaxInt64 || offset > size {
		return step{}, fmt.Errorf("%w: stream of %d bytes from %d on", endpoint.ErrInvalid, size, offset)
	}
	return step{from: field(0), to: field(1), size: int64(size), offset: int64(offset)}, nil
}

const tokenPrefix = "synth1"

func (s step) token() string {
	return fmt.Sprintf("%s:%x:%x:%x:%x", tokenPrefix, s.from, s.to, s.size, s.offset)
}

// parseToken reads a token back. What no token of this package is, is ErrStaleToken.
func parseToken(token string) (step, error) {
	parts := strings.Split(token, ":")
	if len(parts) != 5 || parts[0] != tokenPrefix {
		return step{}, fmt.Errorf("%w: not a token of generated data", endpoint.ErrStaleToken)
	}
	var v [4]uint64
	for i, p := range parts[1:] {
		n, err := strconv.ParseUint(p, 16, 64)
		if err != nil {
			return step{}, fmt.Errorf("%w: %w", endpoint.ErrStaleToken, err)
		}
		v[i] = n
	}
	if v[1] == 0 || v[2] > math.MaxInt64 || v[3] > v[2] {
		return step{}, fmt.Errorf("%w: impossible values", endpoint.ErrStaleToken)
	}
	return step{from: v[0], to: v[1], size: int64(v[2]), offset: int64(v[3])}, nil
}
