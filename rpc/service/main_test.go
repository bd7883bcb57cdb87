package service_test

import (
	"context"
	"io"
	"net"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/dualrepl/dualrepl/rpc/service"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start serves what register registers on a socket until the end of the test.
func start(t *testing.T, register func(grpc.ServiceRegistrar) error, opts ...grpc.ServerOption) *grpc.ClientConn {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	server := grpc.NewServer(append(opts, grpc.WaitForHandlers(true))...)
	check(t, register(server))
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Stop()
		check(t, <-served)
	})
	cc, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	check(t, err)
	t.Cleanup(func() { _ = cc.Close() }) // it may be closed
	return cc
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Types of the tests' service.
type (
	text  = wrapperspb.StringValue
	count = wrapperspb.Int64Value
)

// handler is what every method of the tests' service does once it runs; its error is
// the method's.
type handler func(context.Context) error

// newService has a method of each kind, which counts the bytes that it is sent, or
// sends text of as many bytes as it is told, and runs h in the end.
func newService(h handler) *service.Service {
	s := service.New("test.Service")
	service.Unary(s, "Unary", func(ctx context.Context, req *text) (*count, error) {
		return length(req), h(ctx)
	})
	service.UnaryBytes(s, "UnaryBytes", func(ctx context.Context, req []byte) ([]byte, error) {
		return req, h(ctx)
	})
	service.ServerStream(s, "ServerStream", func(req *count, stream grpc.ServerStreamingServer[text]) error {
		for range req.Value {
			if err := stream.Send(wrapperspb.String("x")); err != nil {
				return err
			}
		}
		return h(stream.Context())
	})
	service.ClientStream(s, "ClientStream", func(stream grpc.ClientStreamingServer[text, count]) error {
		return countAll(stream, h)
	})
	service.BidiStream(s, "BidiStream", func(stream grpc.BidiStreamingServer[text, count]) error {
		for {
			req, err := stream.Recv()
			if err == io.EOF {
				return h(stream.Context())
			}
			if err != nil {
				return err
			}
			if err := stream.Send(length(req)); err != nil {
				return err
			}
		}
	})
	return s
}

func countAll(stream grpc.ClientStreamingServer[text, count], h handler) error {
	sum := &count{}
	for {
		req, err := stream.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		sum.Value += length(req).Value
	}
	if err := h(stream.Context()); err != nil {
		return err
	}
	return stream.SendAndClose(sum)
}

func length(s *text) *count { return wrapperspb.Int64(int64(len(s.GetValue()))) }

func succeed(context.Context) error { return nil }

// kinds calls each method of the tests' service with n messages or bytes, and returns
// how many have been counted.
var kinds = map[string]func(ctx context.Context, cc grpc.ClientConnInterface, n int) (int, error){
	"Unary": func(ctx context.Context, cc grpc.ClientConnInterface, n int) (int, error) {
		res, err := service.Call[count](ctx, cc, "/test.Service/Unary", wrapperspb.String(letters(n)))
		return int(res.GetValue()), err
	},
	"UnaryBytes": func(ctx context.Context, cc grpc.ClientConnInterface, n int) (int, error) {
		res, err := service.CallBytes(ctx, cc, "/test.Service/UnaryBytes", []byte(letters(n)))
		return len(res), err
	},
	"ServerStream": func(ctx context.Context, cc grpc.ClientConnInterface, n int) (int, error) {
		stream, err := service.OpenServerStream[text](ctx, cc, "/test.Service/ServerStream", wrapperspb.Int64(int64(n)))
		if err != nil {
			return 0, err
		}
		return receive(stream.Recv)
	},
	"ClientStream": func(ctx context.Context, cc grpc.ClientConnInterface, n int) (int, error) {
		stream, err := service.OpenClientStream[text, count](ctx, cc, "/test.Service/ClientStream")
		if err != nil {
			return 0, err
		}
		if err := send(stream.Send, n); err != nil {
			return 0, err
		}
		res, err := stream.CloseAndRecv()
		return int(res.GetValue()), err
	},
	"BidiStream": func(ctx context.Context, cc grpc.ClientConnInterface, n int) (int, error) {
		stream, err := service.OpenBidiStream[text, count](ctx, cc, "/test.Service/BidiStream")
		if err != nil {
			return 0, err
		}
		if err := send(stream.Send, n); err != nil {
			return 0, err
		}
		if err := stream.CloseSend(); err != nil {
			return 0, err
		}
		return receive(stream.Recv)
	},
}

func letters(n int) string { return string(make([]byte, n)) }

// send sends n messages of a byte; that the peer has ended the stream is for its
// reader to say.
func send(to func(*text) error, n int) error {
	for range n {
		if err := to(wrapperspb.String("x")); err != nil && err != io.EOF {
			return err
		}
	}
	return nil
}

// receive counts messages.
func receive[T any](from func() (*T, error)) (n int, err error) {
	for {
		if _, err := from(); err == io.EOF {
			return n, nil
		} else if err != nil {
			return n, err
		}
		n++
	}
}
