package dir

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
)

// makeStream is a whole stream with this body from the offset on.
func makeStream(h streamHeader, body string) []byte {
	h.BodyLength = h.Offset + int64(len(body))
	return append(h.encode(), body...)
}

var testHeader = streamHeader{FromGUID: 1, FromDigest: Digest{2}, ToGUID: 3, ToDigest: Digest{4}, Offset: 5}

// The format is written down in docs/protocol.md: these bytes must not change.
func TestStreamHeaderVector(t *testing.T) {
	h := testHeader
	h.BodyLength = 9
	want := "DRSTRM2\n" + "\x00\x00\x00\x00\x00\x00\x00\x01" + "\x02" + strings.Repeat("\x00", 31) +
		"\x00\x00\x00\x00\x00\x00\x00\x03" + "\x04" + strings.Repeat("\x00", 31) +
		"\x00\x00\x00\x00\x00\x00\x00\x09" + "\x00\x00\x00\x00\x00\x00\x00\x05"
	if got := h.encode(); string(got) != want || len(got) != streamHeaderLen {
		t.Errorf("encoded %q", got)
	}
	if got, err := parseStreamHeader([]byte(want)); err != nil || got != h {
		t.Errorf("parsed %+v, %v", got, err)
	}
}

func TestStreamHeaderRefused(t *testing.T) {
	tests := map[string]func(*streamHeader){
		"no To":              func(h *streamHeader) { h.ToGUID = 0 },
		"From is To":         func(h *streamHeader) { h.FromGUID = h.ToGUID },
		"digest of nothing":  func(h *streamHeader) { h.FromGUID = 0 },
		"From has no digest": func(h *streamHeader) { h.FromDigest = Digest{} },
		"offset behind body": func(h *streamHeader) { h.Offset = h.BodyLength + 1 },
		"negative offset":    func(h *streamHeader) { h.Offset = -1 },
		"negative body":      func(h *streamHeader) { h.BodyLength = -1 },
		"body without delta": func(h *streamHeader) { h.BodyLength, h.Offset = 7, 0 },
	}
	for name, spoil := range tests {
		h := testHeader
		h.BodyLength = 100
		spoil(&h)
		if _, err := parseStreamHeader(h.encode()); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := parseStreamHeader(make([]byte, streamHeaderLen)); err == nil {
		t.Error("zeros: accepted")
	}
}

// readStream reads a whole stream as a receiver does.
func readStream(r io.Reader) ([]byte, error) {
	s, err := newStreamReader(r)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(s)
	if err != nil {
		return body, err
	}
	return body, s.finish()
}

func TestStreamReader(t *testing.T) {
	data := makeStream(testHeader, "the body")
	for name, r := range map[string]io.Reader{
		"whole":              bytes.NewReader(data),
		"byte by byte":       iotest.OneByteReader(bytes.NewReader(data)),
		"EOF with last byte": iotest.DataErrReader(bytes.NewReader(data)),
	} {
		if body, err := readStream(r); string(body) != "the body" || err != nil {
			t.Errorf("%s: %q, %v", name, body, err)
		}
	}
	for i := range data {
		if _, err := readStream(bytes.NewReader(data[:i])); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut off at %d: %v", i, err)
		}
		broken := errors.New("broken")
		if _, err := readStream(io.MultiReader(bytes.NewReader(data[:i]), iotest.ErrReader(broken))); !errors.Is(err, broken) {
			t.Errorf("broken at %d: %v", i, err)
		}
	}
	if _, err := readStream(bytes.NewReader(append(bytes.Clone(data), 0))); err == nil {
		t.Error("bytes behind the end are accepted")
	}
}

func TestResumeToken(t *testing.T) {
	want := resumeToken{FromGUID: 1, ToGUID: 1<<64 - 1, ToDigest: Digest{3}, Offset: 4}
	text := want.encode()
	if got, err := parseResumeToken(text); err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	if step, err := readResumeToken(text); err != nil || step != (endpoint.ResumeStep{FromGUID: 1, ToGUID: 1<<64 - 1}) {
		t.Errorf("step %+v, %v", step, err)
	}
	noTo, negative := want, want
	noTo.ToGUID, negative.Offset = 0, -1
	for _, bad := range []string{"", "dr1.", text[1:], text + "A", text[:len(text)-1], text + "=", "dr2" + text[3:], noTo.encode(), negative.encode()} {
		if _, err := parseResumeToken(bad); !errors.Is(err, endpoint.ErrStaleToken) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// FuzzDirStream feeds a receiver manifests and literals under a header and digests
// that are right, as a hostile peer would send them.
func FuzzDirStream(f *testing.F) {
	f.Fuzz(func(t *testing.T, delta, literals []byte) {
		m, _, err := rebuild(nil, delta)
		if err != nil {
			return
		}
		dir := t.TempDir()
		r, err := NewReceiver(ReceiverOptions{Root: filepath.Join(dir, "root"), Job: "sink"})
		if err != nil {
			t.Fatal(err)
		}
		req := &pdu.ReceiveReq{Filesystem: "fs", To: &pdu.FilesystemVersion{Name: m.Name, Guid: m.GUID}}
		_, err = r.Receive(t.Context(), req, bytes.NewReader(fullStream(m, delta, literals)))
		list, listErr := r.ListFilesystemVersions(t.Context(), &pdu.ListFilesystemVersionsReq{Filesystem: "fs"})
		if listErr != nil || (len(list.GetVersions()) == 1) != (err == nil) {
			t.Errorf("Receive: %v, then versions %v, %v", err, list, listErr)
		}
		outside, err := os.ReadDir(dir)
		if err != nil || len(outside) != 1 {
			t.Errorf("beside the root lies %v, %v", outside, err)
		}
	})
}

// fullStream is the stream of a full step to m. Its literals need not be m's.
func fullStream(m *Manifest, delta, literals []byte) []byte {
	body := binary.BigEndian.AppendUint64(nil, uint64(len(delta)))
	body = append(append(body, delta...), literals...)
	return makeStream(streamHeader{ToGUID: m.GUID, ToDigest: m.Digest}, string(body))
}
