package contender

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/dualrepl/dualrepl/pdu"
	"github.com/dualrepl/dualrepl/rpc"
	"github.com/dualrepl/dualrepl/transport/tcp"
)

// A Control is a way of making small calls beside a stream of bulk data.
type Control struct {
	Name, About string
	// Serve is as Contender's. It may tell several addresses, with spaces between.
	Serve func(ctx context.Context, ends Ends, ready func(addresses string)) error
	Dial  func(addresses string) (Caller, error)
}

// A Caller may be used concurrently.
type Caller interface {
	// Call makes one small call.
	Call(ctx context.Context) error
	// Send moves bulk data to the server.
	Send(ctx context.Context, src io.Reader) error
	Close() error
}

// Controls are the contenders, the reference first.
var Controls = []Control{
	{
		Name: "grpc", About: "a bare gRPC connection; bulk: a raw TCP connection",
		Serve: serveBare, Dial: dialBare,
	},
	dualControl("dualrepl", "rpc.Client: control channel; bulk: data channel", rpc.ClientOptions{}),
	dualControl("dualrepl mux", "the same over one connection", rpc.ClientOptions{Mux: true}),
}

func dualControl(name, about string, opts rpc.ClientOptions) Control {
	return Control{
		Name: name, About: about,
		Serve: func(ctx context.Context, ends Ends, ready func(string)) error {
			return dual{}.overTCP().Serve(ctx, ends, func(a net.Addr) { ready(a.String()) })
		},
		Dial: func(address string) (Caller, error) {
			c, err := newDualClient(tcp.NewConnecter(address), opts)
			return dualCaller{c}, err
		},
	}
}

type dualCaller struct{ dualClient }

// Call implements Caller.
func (c dualCaller) Call(ctx context.Context) error {
	_, err := c.ReplicationCursor(ctx, &pdu.ReplicationCursorReq{Filesystem: "bench"})
	return err
}

// noCursor is the answer of all contenders to all calls.
func noCursor() *pdu.ReplicationCursorRes {
	return &pdu.ReplicationCursorRes{Result: &pdu.ReplicationCursorRes_Notexist{Notexist: true}}
}

// ReplicationCursor implements endpoint.Endpoint.
func (dualEndpoint) ReplicationCursor(context.Context, *pdu.ReplicationCursorReq) (*pdu.ReplicationCursorRes, error) {
	return noCursor(), nil
}

type bareService struct {
	pdu.UnimplementedReplicationServer
}

// ReplicationCursor implements pdu.ReplicationServer.
func (bareService) ReplicationCursor(context.Context, *pdu.ReplicationCursorReq) (*pdu.ReplicationCursorRes, error) {
	return noCursor(), nil
}

func serveBare(ctx context.Context, ends Ends, ready func(string)) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", loopback)
	if err != nil {
		return err
	}
	s := grpc.NewServer()
	pdu.RegisterReplicationServer(s, bareService{})
	stop := context.AfterFunc(ctx, s.Stop)
	defer stop()
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	err = rawTCP.Serve(ctx, ends, func(a net.Addr) { ready(l.Addr().String() + " " + a.String()) })
	return errors.Join(err, <-served)
}

type bareCaller struct {
	Client // raw TCP
	conn   *grpc.ClientConn
	client pdu.ReplicationClient
}

func dialBare(addresses string) (Caller, error) {
	control, bulk, _ := strings.Cut(addresses, " ")
	raw, err := rawTCP.Dial(context.Background(), bulk)
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient("passthrough:///"+control, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	return bareCaller{raw, conn, pdu.NewReplicationClient(conn)}, nil
}

// Call implements Caller.
func (c bareCaller) Call(ctx context.Context) error {
	_, err := c.client.ReplicationCursor(ctx, &pdu.ReplicationCursorReq{Filesystem: "bench"})
	return err
}

// Close implements Caller.
func (c bareCaller) Close() error { return errors.Join(c.conn.Close(), c.Client.Close()) }
