package contender

import (
	"context"
	"errors"
	"io"
	"net"

	"github.com/hashicorp/yamux"
)

var yamuxPlain = Contender{
	Name:  "yamux",
	About: "hashicorp/yamux over one TCP connection, 16 MiB windows, 1 MiB buffers",
	Serve: onListener(serveYamux),
	Dial:  dialYamux,
}

func yamuxConfig() *yamux.Config {
	c := yamux.DefaultConfig()
	c.MaxStreamWindowSize = window
	c.LogOutput = io.Discard
	return c
}

func serveYamux(ctx context.Context, l net.Listener, ends Ends) error {
	return serveConns(ctx, l, func(conn net.Conn) error {
		session, err := yamux.Server(conn, yamuxConfig())
		if err != nil {
			return err
		}
		for {
			stream, err := session.AcceptStream()
			if err != nil {
				return nil // the client has gone
			}
			if err := answerYamux(stream, ends); err != nil {
				return err
			}
		}
	})
}

// answerYamux knows no half-closed connection but Close: it ends one's own direction.
func answerYamux(stream *yamux.Stream, ends Ends) error {
	return errors.Join(answerRaw(yamuxStream{stream}, ends, bufferSize), stream.Close())
}

// yamuxStream ends its direction with Close, and reads on.
type yamuxStream struct{ *yamux.Stream }

// CloseWrite implements halfCloser.
func (s yamuxStream) CloseWrite() error { return s.Stream.Close() }

// yamuxClient opens a stream for each transfer on its one connection.
type yamuxClient struct {
	rawClient
	session *yamux.Session
}

func dialYamux(ctx context.Context, address string) (Client, error) {
	conn, err := dialTCP(ctx, address)
	if err != nil {
		return nil, err
	}
	session, err := yamux.Client(conn, yamuxConfig())
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	open := func(context.Context) (halfCloser, error) {
		stream, err := session.OpenStream()
		return yamuxStream{stream}, err
	}
	return &yamuxClient{rawClient{bufferSize, open}, session}, nil
}

// Close implements Client.
func (c *yamuxClient) Close() error { return c.session.Close() }
