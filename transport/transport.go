package transport

import (
	"context"
	"errors"
	"net"
)

// A Wire is a connected full-duplex byte stream whose two directions close
// independently: after the peer's CloseWrite and the last byte, Read returns
// io.EOF, and our own direction keeps working. When a Write fails, the peer does not get
// all of it: so what did not go out can be sent again elsewhere. As for any net.Conn, one
// reader, one writer and Close may run concurrently.
type Wire interface {
	net.Conn

	// CloseWrite ends our direction. The peer reads what was written, then io.EOF.
	CloseWrite() error
}

// ChecksIntegrity reports whether w itself notices when bytes were changed on their way,
// as TLS does and TCP, with its 16 bits, does not. A Wire says so by a method of the
// name ChecksIntegrity, without parameters, that returns true.
func ChecksIntegrity(w Wire) bool {
	c, ok := w.(interface{ ChecksIntegrity() bool })
	return ok && c.ChecksIntegrity()
}

// A Connecter opens connections to one peer. Connect may be called concurrently.
type Connecter interface {
	// Connect returns a Wire that the transport has authenticated (a TLS
	// handshake included). It ends early when ctx does. The caller closes the Wire.
	Connect(ctx context.Context) (Wire, error)
}

// A Listener accepts connections. Accept and Close may be called concurrently.
type Listener interface {
	// Accept waits for the next connection. It exchanges no byte with the peer,
	// so that a silent peer cannot keep it from the next one. After Close, or when
	// ctx ends, it returns an error; net.ErrClosed is in the chain after Close.
	Accept(ctx context.Context) (Pending, error)

	// Addr is the address that peers connect to.
	Addr() net.Addr

	// Close stops listening. Wires that were accepted live on.
	Close() error
}

// Pending is an accepted connection whose peer is not known yet. Its owner calls
// Authenticate once, or Close.
type Pending interface {
	// Authenticate does what the transport needs to know its peer (a TLS
	// handshake, a look-up of the address) and returns the client identity, which
	// has passed ValidateClientIdentity. An error has closed the connection;
	// ErrPermission is in the chain if the peer is known not to be allowed.
	Authenticate(ctx context.Context) (Wire, string, error)

	// RemoteAddr names the peer in logs.
	RemoteAddr() net.Addr

	// Close drops the connection unauthenticated.
	Close() error
}

// ErrPermission: the peer proved who it is (or has no way to), and is not allowed to connect.
var ErrPermission = errors.New("peer is not permitted")
