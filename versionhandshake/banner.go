package versionhandshake

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	lengthDigits = 10 // of the number that opens the banner
	numberDigits = 4  // of the version and of the count of extensions
	maxNumber    = 9999

	beforeVersion    = "ZREPL_ZFS_REPLICATION PROTOVERSION="
	beforeExtensions = " EXTENSIONS="

	// maxBody is the most bytes that may follow the length and its space. It bounds
	// what a peer can make us allocate; the protocol's other implementation has the
	// same bound.
	maxBody = 65536
)

// ErrBanner: what the peer sent is not a banner of this protocol.
var ErrBanner = errors.New("not a banner of the replication protocol")

type banner struct {
	version    int // 1 to maxNumber
	extensions []string
}

func encodeBanner(b banner) ([]byte, error) {
	if len(b.extensions) > maxNumber {
		return nil, fmt.Errorf("%d extensions, more than %d", len(b.extensions), maxNumber)
	}
	var body strings.Builder
	fmt.Fprintf(&body, "%s%04d%s%04d\n", beforeVersion, b.version, beforeExtensions, len(b.extensions))
	for _, line := range b.extensions {
		if strings.Contains(line, "\n") || !utf8.ValidString(line) {
			return nil, fmt.Errorf("extension %q is not one line of UTF-8", line)
		}
		body.WriteString(line + "\n")
	}
	if body.Len() > maxBody {
		return nil, fmt.Errorf("banner of %d bytes, more than %d", body.Len(), maxBody)
	}
	return fmt.Appendf(nil, "%010d %s", body.Len(), &body), nil
}

// readBanner reads exactly one banner from r.
func readBanner(r io.Reader) (banner, error) {
	var head [lengthDigits + 1]byte
	if err := readFull(r, head[:]); err != nil {
		return banner{}, err
	}
	length, rest, err := cutNumber(string(head[:]), lengthDigits)
	if err != nil || rest != " " {
		return banner{}, fmt.Errorf("%w: it starts with %q", ErrBanner, head[:])
	}
	if length > maxBody {
		return banner{}, fmt.Errorf("%w: %d bytes, more than %d", ErrBanner, length, maxBody)
	}
	body := make([]byte, length)
	if err := readFull(r, body); err != nil {
		return banner{}, err
	}
	return parseBody(string(body))
}

// readFull never returns io.EOF: in a handshake every end of the connection is too early.
func readFull(r io.Reader, p []byte) error {
	_, err := io.ReadFull(r, p)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("read the peer's banner: %w", err)
	}
	return nil
}

func parseBody(body string) (banner, error) {
	first, lines, _ := strings.Cut(body, "\n")
	version, count, err := parseFirstLine(first)
	if err != nil {
		return banner{}, err
	}
	if !utf8.ValidString(lines) {
		return banner{}, fmt.Errorf("%w: its extensions are not UTF-8", ErrBanner)
	}
	extensions := strings.SplitAfter(lines, "\n")
	last := len(extensions) - 1
	if last != count || extensions[last] != "" || len(body) == len(first) {
		return banner{}, fmt.Errorf("%w: not the %d lines of extensions that it announces", ErrBanner, count)
	}
	b := banner{version: version}
	for _, line := range extensions[:last] {
		b.extensions = append(b.extensions, strings.TrimSuffix(line, "\n"))
	}
	return b, nil
}

func parseFirstLine(line string) (version, count int, err error) {
	malformed := fmt.Errorf("%w: its first line is %q", ErrBanner, line)
	rest, ok := strings.CutPrefix(line, beforeVersion)
	if !ok {
		return 0, 0, malformed
	}
	version, rest, err = cutNumber(rest, numberDigits)
	if err != nil || version == 0 {
		return 0, 0, malformed
	}
	rest, ok = strings.CutPrefix(rest, beforeExtensions)
	if !ok {
		return 0, 0, malformed
	}
	count, rest, err = cutNumber(rest, numberDigits)
	if err != nil || rest != "" {
		return 0, 0, malformed
	}
	return version, count, nil
}

// cutNumber parses the first n bytes of s, which must all be decimal digits, and
// returns what follows them.
func cutNumber(s string, n int) (number int, rest string, err error) {
	if len(s) < n {
		return 0, "", strconv.ErrSyntax
	}
	for _, c := range []byte(s[:n]) {
		if c < '0' || c > '9' {
			return 0, "", strconv.ErrSyntax
		}
	}
	number, err = strconv.Atoi(s[:n])
	return number, s[n:], err
}
