// Dial-in replicates a directory to a passive side that nobody can connect to: it is the
// one that dials, and the active side replicates as soon as it is there.
//
//	go run ./examples/dial-in offer 127.0.0.1:8888 /usr/share/doc /tmp/store &
//	go run ./examples/dial-in keep 127.0.0.1:8888 /tmp/received
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"github.com/dualrepl/dualrepl/endpoint/dir"
	"github.com/dualrepl/dualrepl/replication"
	"github.com/dualrepl/dualrepl/rpc"
	"github.com/dualrepl/dualrepl/transport/tcp"
)

// cellar is who dials in.
const cellar = "cellar"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "dial-in:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	switch {
	case len(args) == 4 && args[0] == "offer":
		return offer(ctx, args[1], args[2], args[3], out)
	case len(args) == 3 && args[0] == "keep":
		return keep(ctx, args[1], args[2], out)
	}
	return errors.New("usage: dial-in offer ADDRESS DIRECTORY STORE | keep ADDRESS ROOT")
}

// offer is the active side: it takes a snapshot of the directory and replicates it once,
// when the passive side has dialled in.
func offer(ctx context.Context, address, directory, store string, out io.Writer) error {
	sender, err := dir.NewSender(dir.SenderOptions{Store: store, Directories: map[string]string{"data": directory}, Job: "offer"})
	if err != nil {
		return err
	}
	version := time.Now().UTC().Format("2006-01-02_15-04-05.000")
	if _, err := sender.Snapshot(ctx, "data", version, dir.SnapshotOptions{}); err != nil {
		return err
	}
	clients, err := tcp.ParseClientMap(map[string]string{"127.0.0.1": cellar})
	if err != nil {
		return err
	}
	listener, err := tcp.Listen(ctx, address, clients)
	if err != nil {
		return err
	}
	server := rpc.NewServer(nil, rpc.ServerOptions{})
	server.Handle("", rpc.Route{Clients: []string{cellar}}) // nothing to call, but it may dial in
	serving, stop := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() { served <- server.Serve(serving, listener) }()
	_, err = fmt.Fprintln(out, "listening on", listener.Addr())
	if err == nil {
		err = replicate(ctx, sender, server, out)
	}
	stop()
	return errors.Join(err, <-served)
}

func replicate(ctx context.Context, sender *dir.Sender, server *rpc.Server, out io.Writer) error {
	receiver, err := server.Peer("", cellar, rpc.ClientOptions{})
	if err != nil {
		return err
	}
	defer func() { _ = receiver.Close() }()
	report, err := replication.Run(rpc.WaitForReady(ctx), sender, receiver, replication.Options{Tokens: sender})
	if err != nil {
		return err
	}
	for _, fs := range report.Filesystems {
		if _, err := fmt.Fprintf(out, "%s: %s\n", fs.Filesystem, fs.State); err != nil {
			return err
		}
	}
	return nil
}

// keep is the passive side: it keeps a connection to the active side for ever, and
// receives what comes over it.
func keep(ctx context.Context, address, root string, out io.Writer) error {
	receiver, err := dir.NewReceiver(dir.ReceiverOptions{Root: root, Job: "keep"})
	if err != nil {
		return err
	}
	client, err := rpc.NewClient(tcp.NewConnecter(address), rpc.ClientOptions{Mux: true, PeerIdentity: "attic"})
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	if _, err := fmt.Fprintln(out, "dialling", address); err != nil {
		return err
	}
	return rpc.NewServer(receiver, rpc.ServerOptions{}).ServeOver(ctx, client)
}
