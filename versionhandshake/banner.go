package versionhandshake

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	lengthDigits = 10   // of the number that opens the banner
	maxNumber    = 9999 // version and count of extensions have four digits

	// maxBody is the most bytes that may follow the length and its space. It bounds
	// what a peer can make us allocate; the protocol's other implementation has the
	// same bound.
	maxBody = 65536
)

var (
	lengthFormat    = regexp.MustCompile(`\A([0-9]{10}) \z`)
	firstLineFormat = regexp.MustCompile(`\AZREPL_ZFS_REPLICATION PROTOVERSION=([0-9]{4}) EXTENSIONS=([0-9]{4})\z`)
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
	fmt.Fprintf(&body, "ZREPL_ZFS_REPLICATION PROTOVERSION=%04d EXTENSIONS=%04d\n", b.version, len(b.extensions))
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
	match := lengthFormat.FindSubmatch(head[:])
	if match == nil {
		return banner{}, fmt.Errorf("%w: it starts with %q", ErrBanner, head[:])
	}
	length := number(match[1])
	if length > maxBody {
		return banner{}, fmt.Errorf("%w: %d bytes, more than %d", ErrBanner, length, maxBody)
	}
	body := make([]byte, length)
	if err := readFull(r, body); err != nil {
		return banner{}, err
	}
	return parseBody(body)
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

func parseBody(body []byte) (banner, error) {
	first, lines, ended := bytes.Cut(body, []byte{'\n'})
	match := firstLineFormat.FindSubmatch(first)
	if match == nil || number(match[1]) == 0 || !ended {
		return banner{}, fmt.Errorf("%w: its first line is %q", ErrBanner, first)
	}
	extensions, err := parseExtensions(string(lines), number(match[2]))
	return banner{version: int(number(match[1])), extensions: extensions}, err
}

func parseExtensions(lines string, count int64) ([]string, error) {
	if !utf8.ValidString(lines) {
		return nil, fmt.Errorf("%w: its extensions are not UTF-8", ErrBanner)
	}
	extensions := strings.Split(lines, "\n")
	last := len(extensions) - 1 // what follows the last newline: nothing, if all is well
	if extensions[last] != "" || int64(last) != count {
		return nil, fmt.Errorf("%w: not the %d lines of extensions that it announces", ErrBanner, count)
	}
	return extensions[:last], nil
}

// number is for what one of the formats has found to be at most ten digits.
func number(digits []byte) int64 {
	n, _ := strconv.ParseInt(string(digits), 10, 64) // cannot fail, see above
	return n
}
