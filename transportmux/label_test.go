package transportmux

import (
	"bytes"
	"strings"
	"testing"
)

// vectors are byte-exact: other implementations send and expect them.
var vectors = []struct{ label, wire string }{
	{LabelControl, "zrepl_control" + strings.Repeat("\x00", 51)},
	{LabelData, "zrepl_data" + strings.Repeat("\x00", 54)},
	{"0123456789012345678901234567890123456789012345678901234567890123",
		"0123456789012345678901234567890123456789012345678901234567890123"},
}

func TestVectors(t *testing.T) {
	for _, v := range vectors {
		wire, err := encodeLabel(v.label)
		if err != nil || string(wire) != v.wire {
			t.Errorf("label %q encodes to %q, error %v, want %q", v.label, wire, err, v.wire)
		}
		if got, err := decodeLabel([labelSize]byte([]byte(v.wire))); err != nil || got != v.label {
			t.Errorf("%q decodes to %q, error %v, want %q", v.wire, got, err, v.label)
		}
	}
}

func TestMalformedLabels(t *testing.T) {
	for _, label := range []string{"", strings.Repeat("x", labelSize+1), "a\x00b", "a\nb", "zoë"} {
		if wire, err := encodeLabel(label); err == nil {
			t.Errorf("label %q encodes to %q", label, wire)
		}
	}
	for _, start := range []string{"", "a\x00b", "a\n", "\x00a", "\xff", strings.Repeat("a", 62) + "\x00a"} {
		var wire [labelSize]byte
		copy(wire[:], start)
		if label, err := decodeLabel(wire); err == nil {
			t.Errorf("%q decodes to %q", wire, label)
		}
	}
}

// FuzzLabel: what is accepted is exactly what we would send.
func FuzzLabel(f *testing.F) {
	for _, v := range vectors {
		f.Add([]byte(v.wire))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var wire [labelSize]byte
		copy(wire[:], b)
		label, err := decodeLabel(wire)
		if err != nil {
			return
		}
		if again, err := encodeLabel(label); err != nil || !bytes.Equal(again, wire[:]) {
			t.Errorf("%q decodes to %q, which encodes to %q, error %v", wire, label, again, err)
		}
	})
}
