// Custom-endpoint serves endpoints of our own (endpoint.go) behind two routes of one
// port, and uses them from another process:
//
//	go run ./examples/custom-endpoint serve 127.0.0.1:8888 &
//	go run ./examples/custom-endpoint read 127.0.0.1:8888 home
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
	"github.com/dualrepl/dualrepl/rpc"
	"github.com/dualrepl/dualrepl/transport/tcp"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "custom-endpoint:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	switch {
	case len(args) == 2 && args[0] == "serve":
		return serve(ctx, args[1], out)
	case len(args) == 3 && args[0] == "read":
		return read(ctx, args[1], args[2], out)
	}
	return fmt.Errorf("usage: custom-endpoint serve ADDRESS | read ADDRESS ROUTE")
}

// serve is the passive side: it answers until ctx ends.
func serve(ctx context.Context, address string, out io.Writer) error {
	clients, err := tcp.ParseClientMap(map[string]string{"127.0.0.1": "reader"})
	if err != nil {
		return err
	}
	listener, err := tcp.Listen(ctx, address, clients)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(out, "listening on", listener.Addr()); err != nil {
		return errors.Join(err, listener.Close())
	}
	server := rpc.NewServer(nil, rpc.ServerOptions{}) // no default route
	readOnly := []rpc.Verb{rpc.VerbList, rpc.VerbSend}
	server.Handle("home", rpc.Route{Endpoint: notebook{"buy paper", "feed the cat", "write the other end"}, Verbs: readOnly})
	server.Handle("work", rpc.Route{Endpoint: notebook{"not for readers"}, Clients: []string{"boss"}})
	return server.Serve(ctx, listener)
}

// read is the active side: it lists over the control channel, and takes one full and
// then incremental steps over the data channel.
func read(ctx context.Context, address, route string, out io.Writer) error {
	client, err := rpc.NewClient(tcp.NewConnecter(address), rpc.ClientOptions{Route: route})
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	list, err := client.ListFilesystemVersions(ctx, &pdu.ListFilesystemVersionsReq{Filesystem: "notes"})
	if err != nil {
		return err
	}
	var from *pdu.FilesystemVersion
	for _, to := range list.Versions {
		req := &pdu.SendReq{Filesystem: "notes", From: from, To: to, ReplicationConfig: nothingHeld}
		if err := readStep(ctx, client, req, out); err != nil {
			return err
		}
		from = to
	}
	return nil
}

// nothingHeld asks the sender to guarantee nothing beyond the request itself.
var nothingHeld = &pdu.ReplicationConfig{Protection: &pdu.ReplicationConfigProtection{
	Initial:     pdu.ReplicationGuaranteeKind_GuaranteeNothing,
	Incremental: pdu.ReplicationGuaranteeKind_GuaranteeNothing,
}}

func readStep(ctx context.Context, sender endpoint.Sender, req *pdu.SendReq, out io.Writer) error {
	_, stream, err := sender.Send(ctx, req)
	if err != nil {
		return err
	}
	defer stream.Close()
	if _, err := fmt.Fprintf(out, "%s: ", req.To.Name); err != nil {
		return err
	}
	_, err = io.Copy(out, stream)
	return err
}
