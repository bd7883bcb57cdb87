// Custom-service calls services of our own in both directions of one connection: clients
// post notes to a board, and the board shows each note on every client's screen.
//
//	go run ./examples/custom-service board 127.0.0.1:8888 &
//	go run ./examples/custom-service post 127.0.0.1:8888 "buy paper"
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/dualrepl/dualrepl/rpc"
	"github.com/dualrepl/dualrepl/rpc/service"
	"github.com/dualrepl/dualrepl/transport"
	"github.com/dualrepl/dualrepl/transport/tcp"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "custom-service:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	switch {
	case len(args) == 2 && args[0] == "board":
		return board(ctx, args[1], out)
	case len(args) == 3 && args[0] == "post":
		return post(ctx, args[1], args[2], out)
	}
	return errors.New("usage: custom-service board ADDRESS | post ADDRESS NOTE")
}

// board serves example.Board until ctx ends.
func board(ctx context.Context, address string, out io.Writer) error {
	clients, err := tcp.ParseClientMap(map[string]string{"127.0.0.1": "visitor"})
	if err != nil {
		return err
	}
	listener, err := tcp.Listen(ctx, address, clients)
	if err != nil {
		return err
	}
	server := rpc.NewServer(nil, rpc.ServerOptions{})
	server.Handle("", rpc.Route{}) // no endpoint: our services are all there is
	if err := addBoard(server); err != nil {
		return errors.Join(err, listener.Close())
	}
	if _, err := fmt.Fprintln(out, "listening on", listener.Addr()); err != nil {
		return errors.Join(err, listener.Close())
	}
	return server.Serve(ctx, listener)
}

// addBoard registers a service that calls its caller back, over the same connection.
func addBoard(server *rpc.Server) error {
	s := service.New("example.Board")
	service.UnaryBytes(s, "Post", func(ctx context.Context, note []byte) ([]byte, error) {
		visitor, _ := transport.ClientIdentityFromContext(ctx)
		peer, err := server.Peer("", visitor, rpc.ClientOptions{})
		if err != nil {
			return nil, err
		}
		defer func() { _ = peer.Close() }()
		return service.CallBytes(ctx, peer.Conn(), "/example.Screen/Show", fmt.Appendf(nil, "%s posted: %s", visitor, note))
	})
	return s.Register(server)
}

// post serves example.Screen over the connection that it dials, and posts a note.
func post(ctx context.Context, address, note string, out io.Writer) error {
	client, err := rpc.NewClient(tcp.NewConnecter(address), rpc.ClientOptions{Mux: true, PeerIdentity: "board"})
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	screen := rpc.NewServer(nil, rpc.ServerOptions{})
	screen.Handle("", rpc.Route{})
	s := service.New("example.Screen")
	service.UnaryBytes(s, "Show", func(_ context.Context, line []byte) ([]byte, error) {
		_, err := fmt.Fprintf(out, "%s\n", line)
		return []byte("seen"), err
	})
	if err := s.Register(screen); err != nil {
		return err
	}
	serving, stop := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() { served <- screen.ServeOver(serving, client) }()
	answer, err := service.CallBytes(rpc.WaitForReady(ctx), client.Conn(), "/example.Board/Post", []byte(note))
	if err == nil {
		_, err = fmt.Fprintf(out, "%s\n", answer)
	}
	stop()
	return errors.Join(err, <-served)
}
