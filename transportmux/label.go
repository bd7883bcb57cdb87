package transportmux

import (
	"bytes"
	"fmt"
	"time"
)

// The labels of the base protocol.
const (
	LabelControl = "zrepl_control" // gRPC
	LabelData    = "zrepl_data"    // package dataconn
)

// labelSize is what a label takes on the wire, in bytes.
const labelSize = 64

// labelTimeout bounds sending or receiving a label, so that a silent peer does not
// hold a connection.
const labelTimeout = 10 * time.Second

func encodeLabel(label string) ([]byte, error) {
	if err := checkLabel(label); err != nil {
		return nil, err
	}
	wire := make([]byte, labelSize)
	copy(wire, label)
	return wire, nil
}

func decodeLabel(wire [labelSize]byte) (string, error) {
	label, padding, _ := bytes.Cut(wire[:], []byte{0})
	if len(bytes.Trim(padding, "\x00")) > 0 {
		return "", fmt.Errorf("label %q is not padded with zero bytes", wire[:])
	}
	return string(label), checkLabel(string(label))
}

func checkLabel(label string) error {
	if label == "" || len(label) > labelSize {
		return fmt.Errorf("label %q has %d bytes, not 1 to %d", label, len(label), labelSize)
	}
	for _, c := range []byte(label) {
		if c < ' ' || c > '~' {
			return fmt.Errorf("label %q is not printable ASCII", label)
		}
	}
	return nil
}
