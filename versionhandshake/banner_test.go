package versionhandshake

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

// vectors are byte-exact: other implementations send and expect them.
var vectors = []struct {
	name   string
	banner banner
	wire   string
}{
	{
		"base protocol", banner{7, nil},
		"0000000056 ZREPL_ZFS_REPLICATION PROTOVERSION=0007 EXTENSIONS=0000\n",
	},
	{
		"two extensions", banner{7, []string{"dualrepl.reuse", "dualrepl.sum=blake3"}},
		"0000000091 ZREPL_ZFS_REPLICATION PROTOVERSION=0007 EXTENSIONS=0002\ndualrepl.reuse\ndualrepl.sum=blake3\n",
	},
	{
		"empty and foreign lines", banner{1, []string{"", "ünï", ""}},
		"0000000064 ZREPL_ZFS_REPLICATION PROTOVERSION=0001 EXTENSIONS=0003\n\nünï\n\n",
	},
	{
		"highest version", banner{9999, nil},
		"0000000056 ZREPL_ZFS_REPLICATION PROTOVERSION=9999 EXTENSIONS=0000\n",
	},
}

func TestVectors(t *testing.T) {
	for _, v := range vectors {
		wire, err := encodeBanner(v.banner)
		if err != nil || string(wire) != v.wire {
			t.Errorf("%s: encoded %q, error %v, want %q", v.name, wire, err, v.wire)
		}
		rest := strings.NewReader(v.wire + "what follows")
		got, err := readBanner(iotest.OneByteReader(rest))
		if err != nil || got.version != v.banner.version || !slices.Equal(got.extensions, v.banner.extensions) {
			t.Errorf("%s: read %v, error %v, want %v", v.name, got, err, v.banner)
		}
		if rest.Len() != len("what follows") {
			t.Errorf("%s: %d bytes are left, not what follows the banner", v.name, rest.Len())
		}
	}
}

// withLength puts the right length before a body.
func withLength(body string) string { return fmt.Sprintf("%010d %s", len(body), body) }

func TestMalformedBanners(t *testing.T) {
	const first = "ZREPL_ZFS_REPLICATION PROTOVERSION=0007 EXTENSIONS=0000\n"
	for _, wire := range []string{
		"GET / HTTP/1.1\r\n\r\n",
		"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
		"         56 " + first,
		"+000000056 " + first,
		"0000000056\t" + first,
		"0000065537 ",
		"9999999999 ",
		withLength(""),
		withLength("\n"),
		withLength(strings.TrimSuffix(first, "\n")),
		withLength(first + "x"),
		withLength(first + "\n"),
		withLength(strings.ToLower(first)),
		withLength(strings.Replace(first, "0007", "0000", 1)),
		withLength(strings.Replace(first, "0007", "-007", 1)),
		withLength(strings.Replace(first, "0007", "7", 1)),
		withLength(strings.Replace(first, "0007", "00007", 1)),
		withLength(strings.Replace(first, "=0000", "=00000", 1)),
		withLength(strings.Replace(first, "=0000", "=0001", 1)),
		withLength(strings.Replace(first, "=0000", "=0001", 1) + "no end of line"),
		withLength(strings.Replace(first, "=0000", "=0001", 1) + "one\ntwo\n"),
		withLength(strings.Replace(first, "=0000", "=0001", 1) + "\xff\n"),
		withLength(strings.Replace(first, "=0000", "=9999", 1) + "a\n"),
	} {
		if b, err := readBanner(strings.NewReader(wire)); !errors.Is(err, ErrBanner) {
			t.Errorf("banner %q reads as %v, error %v, want ErrBanner", wire, b, err)
		}
	}
}

func TestLongestBanner(t *testing.T) {
	long := banner{7, []string{strings.Repeat("x", maxBody-57)}}
	wire, err := encodeBanner(long)
	if err != nil || len(wire) != maxBody+11 {
		t.Fatalf("encoded %d bytes, error %v", len(wire), err)
	}
	if got, err := readBanner(bytes.NewReader(wire)); err != nil || !slices.Equal(got.extensions, long.extensions) {
		t.Errorf("the longest banner is not read: %v", err)
	}
}

func TestEncodeRefuses(t *testing.T) {
	for name, extensions := range map[string][]string{
		"newline":   {"a\nb"},
		"not UTF-8": {"\xff"},
		"too long":  {strings.Repeat("x", maxBody)},
		"too many":  make([]string, maxNumber+1),
	} {
		if wire, err := encodeBanner(banner{7, extensions}); err == nil {
			t.Errorf("%s: encoded %d bytes", name, len(wire))
		}
	}
}

// FuzzBanner: what is accepted is exactly what we would send, and not a byte more is read.
func FuzzBanner(f *testing.F) {
	for _, v := range vectors {
		f.Add([]byte(v.wire))
	}
	f.Fuzz(func(t *testing.T, wire []byte) {
		r := bytes.NewReader(wire)
		b, err := readBanner(r)
		if err != nil {
			if !errors.Is(err, ErrBanner) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("error %v is neither ErrBanner nor io.ErrUnexpectedEOF", err)
			}
			return
		}
		again, err := encodeBanner(b)
		if read := wire[:len(wire)-r.Len()]; err != nil || !bytes.Equal(again, read) {
			t.Errorf("read %q, which encodes to %q, error %v", read, again, err)
		}
	})
}
