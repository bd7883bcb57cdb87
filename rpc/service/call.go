package service

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Call calls a method that answers one message with one. A method's name is that of
// the wire, "/acme.Notes/Add", here and in the functions below.
func Call[Res any, PRes Message[Res]](ctx context.Context, cc grpc.ClientConnInterface, method string, req proto.Message, opts ...grpc.CallOption) (*Res, error) {
	res := new(Res)
	if err := cc.Invoke(ctx, method, req, res, opts...); err != nil {
		return nil, err
	}
	return res, nil
}

// CallBytes is Call with bytes, which cross as google.protobuf.BytesValue.
func CallBytes(ctx context.Context, cc grpc.ClientConnInterface, method string, req []byte, opts ...grpc.CallOption) ([]byte, error) {
	res, err := Call[wrapperspb.BytesValue](ctx, cc, method, wrapperspb.Bytes(req), opts...)
	return res.GetValue(), err
}

// OpenServerStream calls a method that answers one message with a stream. Read it to
// io.EOF or another error, or end ctx: it lasts until then.
func OpenServerStream[Res any, PRes Message[Res]](ctx context.Context, cc grpc.ClientConnInterface, method string, req proto.Message, opts ...grpc.CallOption) (grpc.ServerStreamingClient[Res], error) {
	stream, err := cc.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, method, opts...)
	if err != nil {
		return nil, err
	}
	if err := stream.SendMsg(req); err != nil {
		return nil, err
	}
	if err := stream.CloseSend(); err != nil {
		return nil, err
	}
	return &grpc.GenericClientStream[Res, Res]{ClientStream: stream}, nil
}

// OpenClientStream calls a method that answers a stream with one message. The stream
// lasts until CloseAndRecv has returned, or ctx ends.
func OpenClientStream[Req, Res any, PReq Message[Req], PRes Message[Res]](ctx context.Context, cc grpc.ClientConnInterface, method string, opts ...grpc.CallOption) (grpc.ClientStreamingClient[Req, Res], error) {
	stream, err := cc.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, method, opts...)
	if err != nil {
		return nil, err
	}
	return &grpc.GenericClientStream[Req, Res]{ClientStream: stream}, nil
}

// OpenBidiStream calls a method with a stream in each direction. They last until Recv
// has returned io.EOF or another error, or ctx ends.
func OpenBidiStream[Req, Res any, PReq Message[Req], PRes Message[Res]](ctx context.Context, cc grpc.ClientConnInterface, method string, opts ...grpc.CallOption) (grpc.BidiStreamingClient[Req, Res], error) {
	stream, err := cc.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method, opts...)
	if err != nil {
		return nil, err
	}
	return &grpc.GenericClientStream[Req, Res]{ClientStream: stream}, nil
}
