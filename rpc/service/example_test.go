package service_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/dualrepl/dualrepl/rpc/service"
)

// One method answers bytes with bytes, the other one message with a stream.
func Example() {
	notes := service.New("acme.Notes")
	service.UnaryBytes(notes, "Shout", func(_ context.Context, text []byte) ([]byte, error) {
		return bytes.ToUpper(text), nil
	})
	service.ServerStream(notes, "Hours", func(from *timestamppb.Timestamp, stream grpc.ServerStreamingServer[wrapperspb.StringValue]) error {
		for hour := from.AsTime().Hour(); hour < 24; hour++ {
			if err := stream.Send(wrapperspb.String(fmt.Sprintf("%d:00", hour))); err != nil {
				return err
			}
		}
		return nil
	})
	cc, stop := serve(notes)
	defer stop()

	ctx := context.Background()
	loud, err := service.CallBytes(ctx, cc, "/acme.Notes/Shout", []byte("buy paper"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(loud))

	evening := &timestamppb.Timestamp{Seconds: 22 * 3600}
	hours, err := service.OpenServerStream[wrapperspb.StringValue](ctx, cc, "/acme.Notes/Hours", evening)
	if err != nil {
		log.Fatal(err)
	}
	for {
		hour, err := hours.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(hour.GetValue())
	}
	// Output:
	// BUY PAPER
	// 22:00
	// 23:00
}

// A conversation: each message is answered before the next one is sent.
func ExampleBidiStream() {
	echo := service.New("acme.Echo")
	service.BidiStream(echo, "Talk", func(stream grpc.BidiStreamingServer[wrapperspb.StringValue, wrapperspb.StringValue]) error {
		for {
			said, err := stream.Recv()
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
			if err := stream.Send(wrapperspb.String(said.GetValue() + " to you too")); err != nil {
				return err
			}
		}
	})
	cc, stop := serve(echo)
	defer stop()

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel() // ends the conversation
	talk, err := service.OpenBidiStream[wrapperspb.StringValue, wrapperspb.StringValue](ctx, cc, "/acme.Echo/Talk")
	if err != nil {
		log.Fatal(err)
	}
	for _, say := range []string{"hello", "good night"} {
		if err := talk.Send(wrapperspb.String(say)); err != nil {
			log.Fatal(err)
		}
		answer, err := talk.Recv()
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(answer.GetValue())
	}
	// Output:
	// hello to you too
	// good night to you too
}

// serve serves s on a socket and connects to it. An rpc.Server and the connection of an
// rpc.Client take the place of gRPC's own in the same way.
func serve(s *service.Service) (cc *grpc.ClientConn, stop func()) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer()
	if err := s.Register(server); err != nil {
		log.Fatal(err)
	}
	go server.Serve(l)
	cc, err = grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	return cc, func() {
		cc.Close()
		server.Stop()
	}
}
