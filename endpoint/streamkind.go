package endpoint

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// A StreamKind is a format of streams: which receivers understand what a sender
// sends. A receiver tells which kinds it takes when it lists its filesystems.
type StreamKind string

// The kinds of streams of this module's endpoints.
const (
	StreamDir    StreamKind = "dir"
	StreamZFS    StreamKind = "zfs"
	StreamBtrfs  StreamKind = "btrfs"  // protocol version 1
	StreamBtrfs2 StreamKind = "btrfs2" // protocol version 2: may hold compressed data
	StreamSynth  StreamKind = "synth"
)

// streamStart is how streams of a kind begin: magic stands offset bytes into them.
type streamStart struct {
	kind   StreamKind
	offset int
	magic  string
}

// streamStarts begin with the ends of the respective formats: ZFS has
// DMU_BACKUP_MAGIC in its first record, in the byte order of the sending machine,
// and btrfs BTRFS_SEND_STREAM_MAGIC and a version.
var streamStarts = []streamStart{
	{StreamDir, 0, "DRSTRM2\n"},
	{StreamZFS, 8, "\xac\xcb\xba\xf5\x02\x00\x00\x00"},
	{StreamZFS, 8, "\x00\x00\x00\x02\xf5\xba\xcb\xac"},
	{StreamBtrfs, 0, "btrfs-stream\x00\x01\x00\x00\x00"},
	{StreamBtrfs2, 0, "btrfs-stream\x00\x02\x00\x00\x00"},
	{StreamSynth, 0, "DRSYNTH1"},
}

// streamStartSize is how much of a stream tells its kind, in bytes.
const streamStartSize = 17

// streamKindOf is "" for the start of a stream of no known kind.
func streamKindOf(start []byte) StreamKind {
	for _, s := range streamStarts {
		if len(start) >= s.offset && bytes.HasPrefix(start[s.offset:], []byte(s.magic)) {
			return s.kind
		}
	}
	return ""
}

// ExpectStream looks at the start of a stream before a receiver writes anything. It
// returns a reader of the whole stream, that start included, or ErrInvalid if the
// stream is of no kind that is wanted. An error of stream.Read is in the chain of
// its error; a stream that ends before it is one is io.ErrUnexpectedEOF.
func ExpectStream(stream io.Reader, wanted ...StreamKind) (io.Reader, error) {
	start := make([]byte, streamStartSize)
	n, err := io.ReadFull(stream, start)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, fmt.Errorf("read the stream: %w", err)
	}
	kind := streamKindOf(start[:n])
	if err != nil && kind == "" {
		return nil, fmt.Errorf("read the stream: %w after %d bytes", io.ErrUnexpectedEOF, n)
	}
	if !slices.Contains(wanted, kind) {
		return nil, fmt.Errorf("%w: this is %s; the receiver takes %s; use the same type of endpoint on both sides",
			ErrInvalid, describeStream(kind), joinKinds(wanted))
	}
	return &startedStream{start: start[:n], rest: stream}, nil
}

// MatchStreamKind is for a sender: it returns the first kind in its order of
// preference that the receiver takes. A receiver that did not tell gets the sender's
// last one, which is the plainest. The error is ErrInvalid.
func MatchStreamKind(receiver []string, sender ...StreamKind) (StreamKind, error) {
	if len(receiver) == 0 {
		return sender[len(sender)-1], nil
	}
	for _, kind := range sender {
		if slices.Contains(receiver, string(kind)) {
			return kind, nil
		}
	}
	return "", fmt.Errorf("%w: the receiver takes %s; this sender has %s; use the same type of endpoint on both sides",
		ErrInvalid, strings.Join(receiver, " and ")+" streams", joinKinds(sender))
}

func describeStream(kind StreamKind) string {
	if kind == "" {
		return "no stream of a known kind"
	}
	return "a " + string(kind) + " stream"
}

func joinKinds(kinds []StreamKind) string {
	words := make([]string, len(kinds))
	for i, k := range kinds {
		words[i] = string(k)
	}
	return strings.Join(words, " and ") + " streams"
}

// startedStream is a stream with its start put back.
type startedStream struct {
	start []byte
	rest  io.Reader
}

// Read implements io.Reader.
func (s *startedStream) Read(p []byte) (int, error) {
	if len(s.start) == 0 {
		return s.rest.Read(p)
	}
	n := copy(p, s.start)
	s.start = s.start[n:]
	return n, nil
}

// WriteTo implements io.WriterTo, so that the way of the rest of the stream is as
// short as without the look at its start.
func (s *startedStream) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(s.start)
	if s.start = s.start[n:]; err != nil {
		return int64(n), err
	}
	more, err := io.Copy(w, s.rest)
	return int64(n) + more, err
}
