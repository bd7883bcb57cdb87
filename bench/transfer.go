package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/dualrepl/dualrepl/bench/internal/contender"
	"github.com/dualrepl/dualrepl/bench/internal/ends"
	"github.com/dualrepl/dualrepl/bench/internal/report"
)

// Directions of a stream, seen from the client.
const (
	directionSend    = "send"
	directionReceive = "receive"
)

// transfer is what contenders do in a round.
type transfer struct {
	Direction string
	Size      int64 // of each stream, in bytes
	Streams   int   // in all
	AtOnce    int   // at a time
	Together  bool  // no stream gets beyond its half before all have come so far
}

// kinds are those of a transfer's two ends.
type kinds struct{ source, sink ends.Kind }

var fromMemory = kinds{ends.Generated, ends.Generated}

func (k kinds) check() error { return errors.Join(k.source.Check(), k.sink.Check()) }

// server says which is the server's.
func (k kinds) server(direction string) ends.Kind {
	if direction == directionSend {
		return k.sink
	}
	return k.source
}

// client says which is the client's.
func (k kinds) client(direction string) ends.Kind {
	if direction == directionSend {
		return k.source
	}
	return k.sink
}

// field is the set of contenders of a run.
type field struct {
	names        []string
	certificates string // their directory
	profiles     string // where each end's CPU profile goes; "" if nowhere
}

// withField calls do with the contenders of these names, all if there are none, while
// the certificates that they need are there.
func withField(names []string, do func(field) error) (err error) {
	certificates, err := os.MkdirTemp("", "bench-certificates-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(certificates)) }()
	if err := contender.MakeCertificates(certificates); err != nil {
		return err
	}
	contenders, err := contender.Named(names, certificates)
	if err != nil {
		return err
	}
	f := field{certificates: certificates}
	for _, c := range contenders {
		f.names = append(f.names, c.Name)
	}
	return do(f)
}

// measure has all contenders do t in turns.
func (f field) measure(ctx context.Context, t transfer, k kinds, rounds int) ([]report.Series[measurement], error) {
	return inTurns(f.names, rounds, func(i int) (measurement, error) { return f.once(ctx, f.names[i], t, k) })
}

// once starts both ends of one contender, does t and stops them.
func (f field) once(ctx context.Context, name string, t transfer, k kinds) (m measurement, err error) {
	end := func(side string, kind ends.Kind, address string) any {
		return streamEnd{
			transfer: t, Contender: name, Certificates: f.certificates, Kind: kind, Address: address,
			Profile: f.profile(name, t.Direction, side),
		}
	}
	err = runEnds(ctx, "stream", end("server", k.server(t.Direction), ""), func(address string) any {
		return end("client", k.client(t.Direction), address)
	}, &m.clientResult, &m.Server)
	if err != nil {
		err = fmt.Errorf("%s: %w", t.Direction, err)
	}
	return m, err
}

// profile names a file. A later round writes it anew.
func (f field) profile(name, direction, side string) string {
	if f.profiles == "" {
		return ""
	}
	base := strings.Join([]string{name, direction, side}, "-") + ".pprof"
	return filepath.Join(f.profiles, strings.NewReplacer(" ", "-", "/", "-").Replace(base))
}
