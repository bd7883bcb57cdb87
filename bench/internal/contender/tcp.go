package contender

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
)

var (
	rawTCP   = tcpContender(Reference, dataSize)
	rawTCP1M = tcpContender("tcp 1 MiB", bufferSize)
)

func tcpContender(name string, size int) Contender {
	return Contender{
		Name:  name,
		About: fmt.Sprintf("one TCP connection a stream, io.CopyBuffer with %d KiB at both ends, no protocol", size>>10),
		Serve: onListener(func(ctx context.Context, l net.Listener, ends Ends) error { return serveRaw(ctx, l, ends, size) }),
		Dial: func(_ context.Context, address string) (Client, error) {
			return rawClient{size, func(ctx context.Context) (halfCloser, error) { return dialTCP(ctx, address) }}, nil
		},
	}
}

// halfCloser is a TCP or TLS connection.
type halfCloser interface {
	net.Conn
	CloseWrite() error
}

// What a raw client opens a connection with, one byte.
const (
	verbSend    = 's'
	verbReceive = 'r'
)

func dialTCP(ctx context.Context, address string) (*net.TCPConn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil //nolint:forcetypeassert // as documented
}

// serveRaw answers each connection of l, which is a halfCloser, with answerRaw.
func serveRaw(ctx context.Context, l net.Listener, ends Ends, size int) error {
	return serveConns(ctx, l, func(conn net.Conn) error {
		defer conn.Close()                              // whoever sends has been answered
		return answerRaw(conn.(halfCloser), ends, size) //nolint:forcetypeassert // as documented
	})
}

// answerRaw copies with buffers of that size.
func answerRaw(conn halfCloser, ends Ends, size int) error {
	var verb [1]byte
	if _, err := io.ReadFull(conn, verb[:]); err != nil {
		return err
	}
	switch verb[0] {
	case verbSend:
		if err := drain(ends, conn, size); err != nil {
			return err
		}
	case verbReceive:
		if err := pour(ends, conn, size); err != nil {
			return err
		}
	default:
		return fmt.Errorf("unknown verb %q", verb)
	}
	return conn.CloseWrite() // what tells the client that all is well
}

// rawClient connects for each stream.
type rawClient struct {
	size int // of the buffer
	dial func(ctx context.Context) (halfCloser, error)
}

// Send implements Client.
func (c rawClient) Send(ctx context.Context, src io.Reader) error {
	return c.with(ctx, verbSend, func(conn halfCloser) error {
		if err := copyPlain(conn, src, c.size); err != nil {
			return err
		}
		if err := conn.CloseWrite(); err != nil {
			return err
		}
		n, err := io.Copy(io.Discard, conn) // the server's EOF says that it has everything
		if n > 0 {
			err = errors.Join(err, fmt.Errorf("%d bytes from a server that only receives", n))
		}
		return err
	})
}

// Receive implements Client.
func (c rawClient) Receive(ctx context.Context, dst io.Writer) error {
	return c.with(ctx, verbReceive, func(conn halfCloser) error { return copyPlain(dst, conn, c.size) })
}

func (c rawClient) with(ctx context.Context, verb byte, do func(halfCloser) error) error {
	conn, err := c.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close() // do has seen the server's end
	if _, err := conn.Write([]byte{verb}); err != nil {
		return err
	}
	return do(conn)
}

// Close implements Client.
func (rawClient) Close() error { return nil }

// serveConns answers the connections of l until ctx ends.
func serveConns(ctx context.Context, l net.Listener, answer func(net.Conn) error) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	failed := make(chan error, 1)
	for {
		conn, err := l.Accept()
		if err != nil {
			select {
			case err := <-failed:
				return err
			default:
			}
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		go func() {
			if err := answer(conn); err != nil {
				select {
				case failed <- err:
				default:
				}
				_ = l.Close() // a benchmark goes on for nobody once an end has failed
			}
		}()
	}
}
