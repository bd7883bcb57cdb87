// Package contender has the ways of moving bulk data from one process to another
// that the benchmark compares, each behind the same two functions and in the best
// configuration that we know of for it.
package contender

import (
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
)

// A Contender is one way of moving data. The process at one end calls Serve, the one
// at the other Dial.
type Contender struct {
	Name string
	// About says how it is configured, for the legend of a table.
	About string
	// Serve listens on a port of this machine, tells ready its address, and answers
	// clients until ctx ends.
	Serve func(ctx context.Context, ends Ends, ready func(net.Addr)) error
	// Dial connects to a server. A contender that connects for each transfer, as a
	// matter of course, may do so in the Client's methods.
	Dial func(ctx context.Context, address string) (Client, error)
}

// A Client moves one stream at a time.
type Client interface {
	// Send moves src to the server's sink. It returns after the server has said that
	// the sink has everything.
	Send(ctx context.Context, src io.Reader) error
	// Receive moves the server's source to dst.
	Receive(ctx context.Context, dst io.Writer) error
	// Close ends the connection.
	Close() error
}

// Ends is what a server's streams come from and go to.
type Ends interface {
	Source() (io.ReadCloser, error)
	Sink() (io.WriteCloser, error)
}

// Sizes of buffers, in bytes: the data channel's, for what it is compared with most
// closely, and what else copies with whose own figure we may choose.
const (
	dataSize   = 512 << 10
	bufferSize = 1 << 20
)

// All returns the contenders, the reference first. Those over TLS use what
// MakeCertificates has put into certificates.
func All(certificates string) []Contender {
	plain, encrypted := allDuals(certificates)
	return slices.Concat(
		[]Contender{rawTCP, rawTCP1M}, plain, []Contender{rawTLS(certificates)}, encrypted,
		[]Contender{grpc1M, grpc64K, grpc1MRaw, grpc64KRaw, http1, http2, yamuxPlain, drpcPlain},
	)
}

// The references that tables compare with.
const (
	Reference    = "tcp"        // of all
	ReferenceTLS = "crypto/tls" // of those over TLS
)

// OverTLS are the contenders over TLS.
var OverTLS = []string{ReferenceTLS, "dualrepl tls", "dualrepl tls base", "dualrepl tls mux", "dualrepl tls zstd"}

// Named returns the contenders of these names, in All's order; all if there are none.
func Named(names []string, certificates string) ([]Contender, error) {
	all := All(certificates)
	if len(names) == 0 {
		return all, nil
	}
	for _, name := range names {
		if !slices.ContainsFunc(all, func(c Contender) bool { return c.Name == name }) {
			return nil, fmt.Errorf("no contender %q: there are %s", name, strings.Join(Names(), ", "))
		}
	}
	return slices.DeleteFunc(all, func(c Contender) bool { return !slices.Contains(names, c.Name) }), nil
}

// Usual lists the names of those that do not look at the content, which may then be
// whatever costs least.
func Usual() []string {
	return slices.DeleteFunc(Names(), func(name string) bool { return strings.HasSuffix(name, " zstd") })
}

// Names lists All's names.
func Names() []string {
	var names []string
	for _, c := range All("") {
		names = append(names, c.Name)
	}
	return names
}

// Legend has a line about each of All.
func Legend() string {
	var b strings.Builder
	for _, c := range All("") {
		fmt.Fprintf(&b, "  %-17s %s\n", c.Name, c.About)
	}
	return b.String()
}

// onListener makes a Contender's Serve of one that takes a listener and closes it.
func onListener(serve func(context.Context, net.Listener, Ends) error) func(context.Context, Ends, func(net.Addr)) error {
	return func(ctx context.Context, ends Ends, ready func(net.Addr)) error {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", loopback)
		if err != nil {
			return err
		}
		ready(l.Addr())
		return serve(ctx, l, ends)
	}
}

// loopback is a free port of this machine.
const loopback = "127.0.0.1:0"

// buffers are what copyPlain uses: a new one for each stream would weigh on small ones.
var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// copyPlain copies with a plain buffer of that size, at most bufferSize: what io.Copy
// does where neither end has a way of its own.
func copyPlain(dst io.Writer, src io.Reader, size int) error {
	buf := buffers.Get().(*[bufferSize]byte) //nolint:forcetypeassert // see New
	defer buffers.Put(buf)
	_, err := io.CopyBuffer(struct{ io.Writer }{dst}, struct{ io.Reader }{src}, buf[:size])
	return err
}

// drain moves a stream into the sink of a server.
func drain(ends Ends, src io.Reader, size int) error {
	sink, err := ends.Sink()
	if err != nil {
		return err
	}
	if err := copyPlain(sink, src, size); err != nil {
		_ = sink.Close() // the first error is what matters
		return err
	}
	return sink.Close()
}

// pour moves the source of a server into a stream.
func pour(ends Ends, dst io.Writer, size int) error {
	source, err := ends.Source()
	if err != nil {
		return err
	}
	defer source.Close() // it was only read
	return copyPlain(dst, source, size)
}
