package endpoint

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// starts are the first bytes of a real stream of each kind.
var starts = map[StreamKind]string{
	StreamDir:    "DRSTRM2\n\x00\x00\x00\x00\x00\x00\x00\x00\x11",
	StreamZFS:    "\x00\x00\x00\x00\x00\x00\x00\x00\xac\xcb\xba\xf5\x02\x00\x00\x00\x11",
	StreamBtrfs:  "btrfs-stream\x00\x01\x00\x00\x00",
	StreamBtrfs2: "btrfs-stream\x00\x02\x00\x00\x00",
	StreamSynth:  "DRSYNTH1\x00\x00\x00\x00\x00\x00\x00\x00\x11",
}

func TestExpectStream(t *testing.T) {
	for kind, start := range starts {
		whole := start + strings.Repeat("data", 100)
		for _, one := range []bool{false, true} {
			var src io.Reader = strings.NewReader(whole)
			if one {
				src = iotest.OneByteReader(src)
			}
			stream, err := ExpectStream(src, StreamSynth, kind)
			if err != nil {
				t.Fatalf("%s: %v", kind, err)
			}
			got, err := io.ReadAll(stream)
			if err != nil || string(got) != whole {
				t.Errorf("%s: the stream is %q, %v", kind, got, err)
			}
		}
		stream, err := ExpectStream(strings.NewReader(whole), kind)
		var got bytes.Buffer
		if n, copyErr := io.Copy(&got, stream); err != nil || copyErr != nil || n != int64(len(whole)) || got.String() != whole {
			t.Errorf("%s: copied %d bytes, %v, %v", kind, n, err, copyErr)
		}
	}
}

func TestExpectStreamRefuses(t *testing.T) {
	for kind, start := range starts {
		_, err := ExpectStream(strings.NewReader(start), "other", "thing")
		if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "a "+string(kind)+" stream; the receiver takes other and thing streams") {
			t.Errorf("%s: %v", kind, err)
		}
	}
	_, err := ExpectStream(strings.NewReader(strings.Repeat("x", 100)), StreamDir)
	if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "no stream of a known kind") {
		t.Errorf("unknown: %v", err)
	}
	for _, short := range []string{"", "x", "DRSTRM"} {
		if _, err := ExpectStream(strings.NewReader(short), StreamDir); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%q: %v", short, err)
		}
	}
	broken := errors.New("broken")
	if _, err := ExpectStream(iotest.ErrReader(broken), StreamDir); !errors.Is(err, broken) {
		t.Errorf("broken: %v", err)
	}
}

func TestMatchStreamKind(t *testing.T) {
	tests := []struct {
		receiver []string
		sender   []StreamKind
		want     StreamKind
	}{
		{nil, []StreamKind{StreamBtrfs2, StreamBtrfs}, StreamBtrfs},
		{[]string{"btrfs", "btrfs2"}, []StreamKind{StreamBtrfs2, StreamBtrfs}, StreamBtrfs2},
		{[]string{"btrfs"}, []StreamKind{StreamBtrfs2, StreamBtrfs}, StreamBtrfs},
		{[]string{"dir"}, []StreamKind{StreamBtrfs2, StreamBtrfs}, ""},
	}
	for _, tt := range tests {
		kind, err := MatchStreamKind(tt.receiver, tt.sender...)
		if kind != tt.want || (err != nil) != (tt.want == "") || err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("%v, %v: %q, %v", tt.receiver, tt.sender, kind, err)
		}
	}
}
