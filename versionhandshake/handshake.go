package versionhandshake

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/dualrepl/dualrepl/transport"
)

// ProtocolVersion is the version that both sides must speak.
const ProtocolVersion = 7

// Timeout bounds the whole handshake, so that a silent peer does not hold a connection.
const Timeout = 10 * time.Second

// ErrVersion: the peer speaks another version of the protocol. Retrying does not help.
var ErrVersion = errors.New("protocol versions differ")

// Peer is what the peer's banner says.
type Peer struct {
	Extensions []string // the extension lines in order, as sent
}

// Do sends our banner with the given extension lines and reads the peer's, both at
// once. It takes at most Timeout, ends early with the cause of ctx's end, and
// leaves conn without a deadline. Errors: ErrBanner and ErrVersion, else whatever
// broke the connection (io.ErrUnexpectedEOF if the peer closed it). The caller
// closes conn after an error.
func Do(ctx context.Context, conn net.Conn, extensions []string) (Peer, error) {
	peer, err := do(ctx, conn, extensions)
	if err != nil {
		return Peer{}, fmt.Errorf("version handshake: %w", err)
	}
	return peer, nil
}

func do(ctx context.Context, conn net.Conn, extensions []string) (Peer, error) {
	ours, err := encodeBanner(banner{ProtocolVersion, extensions})
	if err != nil {
		return Peer{}, err
	}
	var peer Peer
	err = transport.WithTimeout(ctx, conn, Timeout, func() error {
		peer, err = exchange(conn, ours)
		return err
	})
	return peer, err
}

// exchange writes ours while it reads the peer's banner. What the peer says counts
// more than whether we could write: one that refuses us says so (a TLS alert, its
// version) and closes, and then our write may fail for it.
func exchange(conn net.Conn, ours []byte) (Peer, error) {
	written := make(chan error, 1)
	go func() {
		_, err := conn.Write(ours)
		written <- err
	}()
	theirs, err := readBanner(conn)
	if err != nil {
		_ = conn.SetDeadline(time.Now()) // a peer that does not read must not hold the writer
	}
	writeErr := <-written
	switch {
	case err != nil:
		return Peer{}, err
	case theirs.version != ProtocolVersion:
		return Peer{}, fmt.Errorf("%w: ours is %d, the peer's is %d", ErrVersion, ProtocolVersion, theirs.version)
	case writeErr != nil:
		return Peer{}, fmt.Errorf("write our banner: %w", writeErr)
	}
	return Peer{Extensions: theirs.extensions}, nil
}
