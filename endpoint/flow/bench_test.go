package flow_test

import (
	"context"
	"io"
	"testing"

	"github.com/dualrepl/dualrepl/endpoint/flow"
	"github.com/dualrepl/dualrepl/endpoint/synth"
)

// What a buffer costs where nobody stalls: a stream of its own without one, beside
// the ways to read one with it.
func BenchmarkBuffer(b *testing.B) {
	for _, bench := range []struct {
		name   string
		buffer int64
		move   func(io.Reader)
	}{
		{"none/Read", 0, read},
		{"16MiB/Read", 16 * mib, read},
		{"16MiB/WriteTo", 16 * mib, func(r io.Reader) { _, _ = io.Copy(io.Discard, r) }},
	} {
		b.Run(bench.name, func(b *testing.B) {
			const size = 1 << 30
			b.SetBytes(size)
			b.ReportAllocs()
			for b.Loop() {
				s := flow.Sender(sender{open: func(context.Context) (io.ReadCloser, error) {
					return io.NopCloser(struct{ io.Reader }{synth.NewStream(synth.Spec{Size: size})}), nil
				}}, flow.Options{Buffer: bench.buffer})
				_, stream, err := s.Send(b.Context(), nil)
				if err != nil {
					b.Fatal(err)
				}
				bench.move(stream)
				stream.Close()
			}
		})
	}
}

// read reads as the data channel does.
func read(r io.Reader) {
	_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{r}, make([]byte, 512*kib))
}
