package transportmux

import (
	"context"

	"github.com/dualrepl/dualrepl/transport"
)

// A Dialer opens labelled connections to one peer: each a transport connection of its
// own (NewDialer), or a stream of one that they all share (Session, Link).
type Dialer interface {
	// Dial ends early when ctx does. The caller closes the Conn. The error is a *DialError.
	Dial(ctx context.Context, label string) (*Conn, error)
}

// NewDialer opens a transport connection for each Dial, with the function Dial.
func NewDialer(c transport.Connecter, offer Offer) Dialer { return dialer{c, offer} }

type dialer struct {
	connecter transport.Connecter
	offer     Offer
}

func (d dialer) Dial(ctx context.Context, label string) (*Conn, error) {
	return Dial(ctx, d.connecter, label, d.offer)
}
