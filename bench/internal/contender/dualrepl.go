package contender

import (
	"context"
	"errors"
	"io"
	"net"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
	"github.com/dualrepl/dualrepl/rpc"
	"github.com/dualrepl/dualrepl/transport"
	"github.com/dualrepl/dualrepl/transport/tcp"
	dualtls "github.com/dualrepl/dualrepl/transport/tls"
)

// dual is dualrepl in one of its ways.
type dual struct {
	name, about string
	opts        rpc.ClientOptions
}

// duals are those that tables show, the defaults first.
var duals = []dual{
	{"", "rpc.Client and rpc.Server with their defaults: checksums over TCP, data connections used again", rpc.ClientOptions{}},
	{" base", "the base protocol, without extensions: no checksum, a connection a stream", rpc.ClientOptions{BaseProtocol: true}},
	{" mux", "one connection for all (yamux inside)", rpc.ClientOptions{Mux: true}},
	{" zstd", "compressed at level 1; generated content would be next to nothing: give a --source", rpc.ClientOptions{Level: 1}},
}

func (d dual) overTCP() Contender {
	return Contender{
		Name:  "dualrepl" + d.name,
		About: d.about,
		Serve: func(ctx context.Context, ends Ends, ready func(net.Addr)) error {
			clients, err := tcp.ParseClientMap(map[string]string{"127.0.0.1": clientName})
			if err != nil {
				return err
			}
			l, err := tcp.Listen(ctx, loopback, clients)
			if err != nil {
				return err
			}
			return serveDual(ctx, l, ends, ready)
		},
		Dial: func(_ context.Context, address string) (Client, error) {
			return newDualClient(tcp.NewConnecter(address), d.opts)
		},
	}
}

func (d dual) overTLS(certificates string) Contender {
	return Contender{
		Name:  "dualrepl tls" + d.name,
		About: "as dualrepl" + d.name + ", over TLS 1.3 (both sides authenticated)",
		Serve: func(ctx context.Context, ends Ends, ready func(net.Addr)) error {
			l, err := dualtls.Listen(ctx, loopback, tlsFiles(certificates, serverName), []string{clientName})
			if err != nil {
				return err
			}
			return serveDual(ctx, l, ends, ready)
		},
		Dial: func(_ context.Context, address string) (Client, error) {
			c, err := dualtls.NewConnecter(address, serverName, tlsFiles(certificates, clientName))
			if err != nil {
				return nil, err
			}
			return newDualClient(c, d.opts)
		},
	}
}

// allDuals are duals over TCP and then over TLS.
func allDuals(certificates string) (plain, encrypted []Contender) {
	for _, d := range duals {
		plain = append(plain, d.overTCP())
		encrypted = append(encrypted, d.overTLS(certificates))
	}
	return plain, encrypted
}

func serveDual(ctx context.Context, l transport.Listener, ends Ends, ready func(net.Addr)) error {
	ready(l.Addr())
	return rpc.NewServer(dualEndpoint{ends: ends}, rpc.ServerOptions{}).Serve(ctx, l)
}

// dualEndpoint sends the source and receives into the sink; the benchmark needs
// nothing else of an endpoint.
type dualEndpoint struct {
	endpoint.Sender // nil: what the benchmark never calls
	ends            Ends
}

// Send implements endpoint.Sender.
func (e dualEndpoint) Send(context.Context, *pdu.SendReq) (*pdu.SendRes, io.ReadCloser, error) {
	source, err := e.ends.Source()
	return &pdu.SendRes{}, source, err
}

// Receive implements endpoint.Receiver.
func (e dualEndpoint) Receive(_ context.Context, _ *pdu.ReceiveReq, stream io.Reader) (*pdu.ReceiveRes, error) {
	sink, err := e.ends.Sink()
	if err != nil {
		return nil, err
	}
	_, err = io.Copy(sink, stream) // the stream's own way, as any endpoint would
	return &pdu.ReceiveRes{}, errors.Join(err, sink.Close())
}

type dualClient struct{ *rpc.Client }

func newDualClient(c transport.Connecter, opts rpc.ClientOptions) (dualClient, error) {
	client, err := rpc.NewClient(c, opts)
	return dualClient{client}, err
}

// version is the one that all streams are of.
var version = &pdu.FilesystemVersion{Name: "v", Guid: 1, CreateTXG: 1, Creation: "2026-01-01T00:00:00Z"}

// protection is what requests must carry.
var protection = &pdu.ReplicationConfig{Protection: &pdu.ReplicationConfigProtection{
	Initial:     pdu.ReplicationGuaranteeKind_GuaranteeNothing,
	Incremental: pdu.ReplicationGuaranteeKind_GuaranteeNothing,
}}

// Send implements Client.
func (c dualClient) Send(ctx context.Context, src io.Reader) error {
	_, err := c.Client.Receive(ctx, &pdu.ReceiveReq{Filesystem: "bench", To: version, ReplicationConfig: protection}, src)
	return err
}

// Receive implements Client.
func (c dualClient) Receive(ctx context.Context, dst io.Writer) error {
	_, stream, err := c.Client.Send(ctx, &pdu.SendReq{Filesystem: "bench", To: version, ReplicationConfig: protection})
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, stream)
	return errors.Join(err, stream.Close())
}
