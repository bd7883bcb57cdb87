package replication

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"

	"github.com/dualrepl/dualrepl/endpoint/synth"
)

type plainReader struct{ io.Reader }

type failingWriter struct{ err error }

func (w failingWriter) Write(p []byte) (int, error) { return len(p) / 2, w.err }

func TestCountStream(t *testing.T) {
	errRead, errWrite := errors.New("read"), errors.New("write")
	spec := synth.Spec{Seed: 1, Size: 1 << 20}
	broken := spec
	broken.FailAt, broken.Fail = 1000, errRead
	tests := []struct {
		name   string
		stream io.Reader
		to     io.Writer
		bytes  uint64
		err    error // of the copy
		record error
	}{
		{"whole, WriteTo", synth.NewStream(spec), io.Discard, 1 << 20, nil, nil},
		{"whole, Read", plainReader{synth.NewStream(spec)}, io.Discard, 1 << 20, nil, nil},
		{"data with io.EOF", plainReader{iotest.DataErrReader(strings.NewReader("hello"))}, io.Discard, 5, nil, nil},
		{"stream fails, WriteTo", synth.NewStream(broken), io.Discard, 1000, errRead, errRead},
		{"stream fails, Read", plainReader{synth.NewStream(broken)}, io.Discard, 1000, errRead, errRead},
		{"receiver fails", synth.NewStream(synth.Spec{Size: 1000}), failingWriter{errWrite}, 500, errWrite, nil},
	}
	for _, tt := range tests {
		var bytes atomic.Uint64
		r, record := countStream(tt.stream, &bytes)
		_, err := io.Copy(tt.to, r)
		if !errors.Is(err, tt.err) || !errors.Is(record.err(), tt.record) || bytes.Load() != tt.bytes {
			t.Errorf("%s: %v, recorded %v, %d bytes, want %v, %v, %d", tt.name, err, record.err(), bytes.Load(), tt.err, tt.record, tt.bytes)
		}
	}
}

func TestCountStreamKeepsWriterTo(t *testing.T) {
	var n atomic.Uint64
	if r, _ := countStream(bytes.NewReader(nil), &n); !isWriterTo(r) {
		t.Error("an io.WriterTo lost its WriteTo")
	}
	if r, _ := countStream(plainReader{bytes.NewReader(nil)}, &n); isWriterTo(r) {
		t.Error("a plain io.Reader got a WriteTo")
	}
}

func isWriterTo(r io.Reader) bool {
	_, ok := r.(io.WriterTo)
	return ok
}
