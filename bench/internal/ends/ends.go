// Package ends has what the benchmark's streams come from and go to: memory, a pipe
// from or to another process, a file, or content that is checked.
package ends

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/dualrepl/dualrepl/endpoint/synth"
)

// A Kind is written "generated", "random", "text", "pipe", "checked" or "file:PATH".
type Kind string

// The kinds without a path.
const (
	Generated Kind = "generated" // memory: costs almost nothing, and goes nowhere
	Random    Kind = "random"    // memory that no compression makes smaller
	Text      Kind = "text"      // memory that compression makes three times smaller
	Pipe      Kind = "pipe"      // another process, as `zfs send` and `zfs receive` would be
	Checked   Kind = "checked"   // content that differs everywhere; its sink compares each byte
)

const filePrefix = "file:"

// Check says whether k is a kind.
func (k Kind) Check() error {
	if slices.Contains([]Kind{Generated, Random, Text, Pipe, Checked}, k) || strings.HasPrefix(string(k), filePrefix) {
		return nil
	}
	return fmt.Errorf("%q is not generated, random, text, pipe, checked or file:PATH", k)
}

// Source opens a source of size bytes. A file is read from its start again where it
// is shorter; it must not be empty.
func (k Kind) Source(size int64) (io.ReadCloser, error) {
	switch k {
	case Generated:
		return io.NopCloser(io.LimitReader(generator{}, size)), nil
	case Random:
		return io.NopCloser(io.LimitReader(&cycle{content: random()}, size)), nil
	case Text:
		return io.NopCloser(io.LimitReader(&cycle{content: text()}, size)), nil
	case Pipe:
		return startSource(size)
	case Checked:
		return synth.NewStream(synth.Spec{Size: size}), nil
	default:
		f, err := os.Open(strings.TrimPrefix(string(k), filePrefix))
		if err != nil {
			return nil, err
		}
		return struct {
			io.Reader
			io.Closer
		}{io.LimitReader(repeater{f}, size), f}, nil
	}
}

// Sink opens a sink.
func (k Kind) Sink() (io.WriteCloser, error) {
	switch k {
	case Generated, Random, Text:
		return discard{}, nil
	case Pipe:
		return startSink()
	case Checked:
		return checked{synth.NewChecker(0, 0)}, nil
	default:
		return os.Create(strings.TrimPrefix(string(k), filePrefix))
	}
}

// generator is a source almost without cost: of its reader's buffer it writes a byte in
// each page, so that the buffer is memory of its own. A buffer that nobody has written
// to is one page of zeros again and again, and stays in the processor's fastest cache.
// No contender looks at the content, or compresses it.
type generator struct{}

const pageSize = 4096

// Read implements io.Reader.
func (generator) Read(p []byte) (int, error) {
	for i := 0; i < len(p); i += pageSize {
		p[i] = 1
	}
	return len(p), nil
}

// cycle reads the same content again and again.
type cycle struct {
	content []byte
	offset  int
}

// Read implements io.Reader.
func (c *cycle) Read(p []byte) (int, error) {
	n := copy(p, c.content[c.offset:])
	c.offset = (c.offset + n) % len(c.content)
	return n, nil
}

// contentSize is what cycles have, in bytes: far more than a compression looks back.
const contentSize = 16 << 20

var random = sync.OnceValue(func() []byte {
	content := make([]byte, contentSize)
	_, _ = rand.NewChaCha8([32]byte{}).Read(content) // never fails
	return content
})

// text is made of words that are as frequent as words are: the nth has a share of 1/n.
var text = sync.OnceValue(func() []byte {
	r := rand.New(rand.NewPCG(0, 0))
	words := rand.NewZipf(r, 1.1, 1, 20_000)
	content := make([]byte, 0, contentSize+16)
	for len(content) < contentSize {
		content = fmt.Appendf(content, "%x ", words.Uint64()*0x9E3779B97F4A7C15>>36)
	}
	return content[:contentSize]
})

// discard is io.Discard without a ReadFrom, which would choose the buffer's size.
type discard struct{}

// Write implements io.Writer.
func (discard) Write(p []byte) (int, error) { return len(p), nil }

// Close implements io.Closer.
func (discard) Close() error { return nil }

// checked is a sink that fails at the first byte that is not its source's.
type checked struct{ *synth.Checker }

// Close implements io.Closer.
func (checked) Close() error { return nil }

// repeater reads a file again and again.
type repeater struct{ file *os.File }

// Read implements io.Reader.
func (r repeater) Read(p []byte) (int, error) {
	n, err := r.file.Read(p)
	if !errors.Is(err, io.EOF) {
		return n, err
	}
	if _, err := r.file.Seek(0, io.SeekStart); err != nil {
		return 0, err
	}
	return r.file.Read(p)
}

// The arguments of this program that make it the other end of a pipe.
const (
	SourceCommand = "pipe-source" // and a size: writes to standard output
	SinkCommand   = "pipe-sink"   // reads standard input
)

// piped is one end of a pipe whose other end another process has.
type piped struct {
	*os.File
	process *exec.Cmd
}

// Close implements io.Closer.
func (p piped) Close() error { return errors.Join(p.File.Close(), p.process.Wait()) }

func startSource(size int64) (io.ReadCloser, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(os.Args[0], SourceCommand, strconv.FormatInt(size, 10)) //nolint:gosec // ourselves
	cmd.Stdout, cmd.Stderr = w, os.Stderr
	err = errors.Join(cmd.Start(), w.Close())
	return piped{r, cmd}, err
}

func startSink() (io.WriteCloser, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(os.Args[0], SinkCommand) //nolint:gosec // ourselves
	cmd.Stdin, cmd.Stderr = r, os.Stderr
	err = errors.Join(cmd.Start(), r.Close())
	return piped{w, cmd}, err
}

// pipeBuffer is what the other process writes and reads at once: what `zfs` does.
const pipeBuffer = 128 << 10

// WriteSource is the process behind a pipe source.
func WriteSource(size int64) error {
	_, err := io.CopyBuffer(struct{ io.Writer }{os.Stdout}, io.LimitReader(generator{}, size), make([]byte, pipeBuffer))
	return err
}

// ReadSink is the process behind a pipe sink.
func ReadSink() error {
	_, err := io.CopyBuffer(discard{}, struct{ io.Reader }{os.Stdin}, make([]byte, pipeBuffer))
	return err
}
