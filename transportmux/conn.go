package transportmux

import (
	"context"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/dualrepl/dualrepl/transport"
	"github.com/dualrepl/dualrepl/versionhandshake"
)

// A Conn is a labelled connection. Hand on its Wire, not the Conn, to code that
// moves bulk data: the Wire's own type knows how to write several buffers at once.
type Conn struct {
	transport.Wire
	ClientIdentity string                // server side only
	Peer           versionhandshake.Peer // what the peer's banner said

	offered []string // what ours said
}

// An Offer says which extension lines a side's banner has on a wire. nil: none.
type Offer func(transport.Wire) []string

func (o Offer) on(w transport.Wire) []string {
	if o == nil {
		return nil
	}
	return o(w)
}

// On reports whether an extension is on: both banners carry it. The peer's value
// is returned as well, if there is one.
func (c *Conn) On(extension string) (value string, on bool) {
	if _, ours := versionhandshake.Find(c.offered, extension); !ours {
		return "", false
	}
	return versionhandshake.Find(c.Peer.Extensions, extension)
}

// A DialError is why Dial failed, with the error of the Connecter, of
// versionhandshake.Do or of the connection in its chain.
type DialError struct {
	Peer net.Addr // who answered; nil: there was no connection
	Err  error
}

// Error names the peer, if one answered.
func (e *DialError) Error() string {
	if e.Peer == nil {
		return e.Err.Error()
	}
	return fmt.Sprintf("%s: %v", e.Peer, e.Err)
}

// Unwrap is for errors.Is and errors.As.
func (e *DialError) Unwrap() error { return e.Err }

// Dial connects, does the version handshake with the extensions of offer and sends
// label. It ends early when ctx does. The caller closes the Conn. The error is a
// *DialError.
func Dial(ctx context.Context, c transport.Connecter, label string, offer Offer) (*Conn, error) {
	wire, err := c.Connect(ctx)
	if err != nil {
		return nil, &DialError{Err: err}
	}
	conn := &Conn{Wire: wire, offered: offer.on(wire)}
	if err := conn.introduce(ctx, label); err != nil {
		_ = wire.Close() // the first error is what matters
		return nil, &DialError{Peer: wire.RemoteAddr(), Err: err}
	}
	return conn, nil
}

// introduce is the client's side of the set-up.
func (c *Conn) introduce(ctx context.Context, label string) (err error) {
	encoded, err := encodeLabel(label)
	if err != nil {
		return err
	}
	c.Peer, err = versionhandshake.Do(ctx, c.Wire, c.offered)
	if err != nil {
		return err
	}
	if _, mux := c.On(versionhandshake.ExtensionMux); label == LabelMux && !mux {
		return ErrNoMux
	}
	err = transport.WithTimeout(ctx, c.Wire, labelTimeout, func() error {
		_, err := c.Wire.Write(encoded)
		return err
	})
	if err != nil {
		return fmt.Errorf("send label: %w", err)
	}
	return nil
}

// authTimeout bounds a transport's authentication (a TLS handshake), so that a
// silent client does not hold a connection.
const authTimeout = 10 * time.Second

// authenticate does what the transport needs to know its peer.
func authenticate(ctx context.Context, p transport.Pending, offer Offer) (*Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, authTimeout)
	defer cancel()
	wire, identity, err := p.Authenticate(ctx)
	if err != nil {
		return nil, err
	}
	return &Conn{Wire: wire, ClientIdentity: identity, offered: offer.on(wire)}, nil
}

// receive is the server's side of the set-up; it returns the label.
func (c *Conn) receive(ctx context.Context) (label string, err error) {
	c.Peer, err = versionhandshake.Do(ctx, c.Wire, c.offered)
	if err != nil {
		return "", err
	}
	return c.receiveLabel(ctx)
}

func (c *Conn) receiveLabel(ctx context.Context) (string, error) {
	var encoded [labelSize]byte
	err := transport.WithTimeout(ctx, c.Wire, labelTimeout, func() error {
		_, err := io.ReadFull(c.Wire, encoded[:])
		return err
	})
	if err != nil {
		return "", fmt.Errorf("receive label: %w", err)
	}
	return decodeLabel(encoded)
}
