package dir

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math"
	"strings"

	"github.com/dualrepl/dualrepl/endpoint"
)

// tokenPrefix opens a resume token of this format version.
const tokenPrefix = "dr1."

// tokenBytes is the length of a resume token before base64.
const tokenBytes = 8 + 8 + 32 + 8

// resumeToken is a receiver's request to continue a broken step.
type resumeToken struct {
	FromGUID uint64 // 0: a full step
	ToGUID   uint64
	ToDigest Digest
	Offset   int64 // bytes of the body that the receiver has
}

func (t resumeToken) encode() string {
	b := make([]byte, 0, tokenBytes)
	b = binary.BigEndian.AppendUint64(b, t.FromGUID)
	b = binary.BigEndian.AppendUint64(b, t.ToGUID)
	b = append(b, t.ToDigest[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(t.Offset))
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(b)
}

// parseResumeToken returns endpoint.ErrStaleToken for what is no token.
func parseResumeToken(s string) (resumeToken, error) {
	text, ok := strings.CutPrefix(s, tokenPrefix)
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if !ok || err != nil || len(b) != tokenBytes {
		return resumeToken{}, fmt.Errorf("%w: it is none of this endpoint's", endpoint.ErrStaleToken)
	}
	t := resumeToken{
		FromGUID: binary.BigEndian.Uint64(b),
		ToGUID:   binary.BigEndian.Uint64(b[8:]),
		ToDigest: Digest(b[16:48]),
	}
	offset := binary.BigEndian.Uint64(b[48:])
	if t.ToGUID == 0 || offset > math.MaxInt64 {
		return resumeToken{}, fmt.Errorf("%w: it describes no step", endpoint.ErrStaleToken)
	}
	t.Offset = int64(offset)
	return t, nil
}

// readResumeToken implements endpoint.TokenReader for both sides.
func readResumeToken(s string) (endpoint.ResumeStep, error) {
	t, err := parseResumeToken(s)
	return endpoint.ResumeStep{FromGUID: t.FromGUID, ToGUID: t.ToGUID}, err
}
