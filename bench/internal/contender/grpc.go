package contender

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

var (
	grpc1M     = grpcContender("grpc 1 MiB", 1<<20, protoMessages)
	grpc64K    = grpcContender("grpc 64 KiB", 64<<10, protoMessages)
	grpc1MRaw  = grpcContender("grpc raw 1 MiB", 1<<20, rawMessages)
	grpc64KRaw = grpcContender("grpc raw 64 KiB", 64<<10, rawMessages)
)

func grpcContender(name string, size int, messages messages) Contender {
	g := grpcSettings{size, messages}
	return Contender{
		Name:  name,
		About: fmt.Sprintf("gRPC streaming, %s of %d KiB, 16 MiB windows, 1 MiB socket buffers", messages.about, size>>10),
		Serve: onListener(g.serve),
		Dial: func(_ context.Context, address string) (Client, error) {
			conn, err := grpc.NewClient("passthrough:///"+address, g.dialOptions()...)
			return &grpcClient{conn, g}, err
		},
	}
}

// grpcSettings are what both ends have.
type grpcSettings struct {
	size     int // of a message, in bytes
	messages messages
}

// messageRoom is what a message has around its bytes, at most.
const messageRoom = 16

func (g grpcSettings) dialOptions() []grpc.DialOption {
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithInitialWindowSize(window), grpc.WithInitialConnWindowSize(window),
		grpc.WithReadBufferSize(bufferSize), grpc.WithWriteBufferSize(bufferSize),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(g.size + messageRoom)),
	}
	if g.messages.codec != nil {
		options = append(options, grpc.WithDefaultCallOptions(grpc.ForceCodecV2(g.messages.codec)))
	}
	return options
}

func (g grpcSettings) serverOptions() []grpc.ServerOption {
	options := []grpc.ServerOption{
		grpc.InitialWindowSize(window), grpc.InitialConnWindowSize(window),
		grpc.ReadBufferSize(bufferSize), grpc.WriteBufferSize(bufferSize), grpc.MaxRecvMsgSize(g.size + messageRoom),
	}
	if g.messages.codec != nil {
		options = append(options, grpc.ForceServerCodecV2(g.messages.codec))
	}
	return options
}

// The one service, written out: what generated code would say.
const (
	grpcSend    = "/bench/Send"
	grpcReceive = "/bench/Receive"
)

type grpcService struct {
	grpcSettings
	ends Ends
}

func (s grpcService) send(_ any, stream grpc.ServerStream) error {
	sink, err := s.ends.Sink()
	if err != nil {
		return err
	}
	if err := errors.Join(s.messages.read(stream, sink), sink.Close()); err != nil {
		return err
	}
	return stream.SendMsg(s.messages.empty())
}

func (s grpcService) receive(_ any, stream grpc.ServerStream) error {
	source, err := s.ends.Source()
	if err != nil {
		return err
	}
	defer source.Close() // it was only read
	return s.messages.write(stream, source, s.size)
}

func (g grpcSettings) serve(ctx context.Context, l net.Listener, ends Ends) error {
	s := grpc.NewServer(g.serverOptions()...)
	service := grpcService{g, ends}
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: "bench",
		HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{
			{StreamName: "Send", Handler: service.send, ClientStreams: true},
			{StreamName: "Receive", Handler: service.receive, ServerStreams: true},
		},
	}, service)
	stop := context.AfterFunc(ctx, s.Stop)
	defer stop()
	return s.Serve(l)
}

type grpcClient struct {
	conn *grpc.ClientConn
	grpcSettings
}

// Send implements Client.
func (c *grpcClient) Send(ctx context.Context, src io.Reader) error {
	stream, err := c.conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, grpcSend)
	if err != nil {
		return err
	}
	if err := c.messages.write(stream, src, c.size); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	return stream.RecvMsg(c.messages.empty())
}

// Receive implements Client.
func (c *grpcClient) Receive(ctx context.Context, dst io.Writer) error {
	stream, err := c.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, grpcReceive)
	if err != nil {
		return err
	}
	if err := errors.Join(stream.SendMsg(c.messages.empty()), stream.CloseSend()); err != nil {
		return err
	}
	return c.messages.read(stream, dst)
}

// Close implements Client.
func (c *grpcClient) Close() error { return c.conn.Close() }
