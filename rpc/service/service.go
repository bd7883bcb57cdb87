package service

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// A Message is a pointer to a Protobuf message of type T. Wherever a function here
// has it among its type parameters, Go infers it.
type Message[T any] interface {
	*T
	proto.Message
}

// A Service is a set of methods under one name. Fill it from one goroutine, then
// Register it; its handlers are called concurrently.
type Service struct {
	desc    grpc.ServiceDesc
	methods map[string]bool
	err     error // what is wrong with the names
}

// New returns a Service without methods. Its name is one of Protobuf's: identifiers
// with dots between them, "acme.Notes".
func New(name string) *Service {
	s := &Service{methods: map[string]bool{}}
	s.desc.ServiceName, s.desc.HandlerType = name, (*any)(nil)
	if !protoreflect.FullName(name).IsValid() {
		s.err = fmt.Errorf("%q is not the name of a service", name)
	}
	return s
}

// Register adds the service, with the methods that it has by now, to r. It fails if
// the service's name or a method's is none of Protobuf's, or two methods have the same;
// r is then as it was.
func (s *Service) Register(r grpc.ServiceRegistrar) error {
	if s.err != nil {
		return fmt.Errorf("service %q: %w", s.desc.ServiceName, s.err)
	}
	desc := s.desc
	r.RegisterService(&desc, s)
	return nil
}

// add takes a method's name; false: it is none, which Register will say.
func (s *Service) add(method string) bool {
	var err error
	switch {
	case !protoreflect.Name(method).IsValid():
		err = fmt.Errorf("%q is not the name of a method", method)
	case s.methods[method]:
		err = fmt.Errorf("method %q is there twice", method)
	}
	s.methods[method] = true
	s.err = errors.Join(s.err, err)
	return err == nil
}

// addStream adds a method that has a stream in at least one direction.
func (s *Service) addStream(desc grpc.StreamDesc) {
	if s.add(desc.StreamName) {
		s.desc.Streams = append(s.desc.Streams, desc)
	}
}

// Unary adds a method that answers one message with one.
func Unary[Req, Res any, PReq Message[Req], PRes Message[Res]](s *Service, method string, h func(context.Context, PReq) (PRes, error)) {
	if !s.add(method) {
		return
	}
	info := grpc.UnaryServerInfo{Server: s, FullMethod: "/" + s.desc.ServiceName + "/" + method}
	s.desc.Methods = append(s.desc.Methods, grpc.MethodDesc{
		MethodName: method,
		Handler: func(_ any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
			req := PReq(new(Req))
			if err := decode(req); err != nil {
				return nil, err
			}
			if intercept == nil {
				return h(ctx, req)
			}
			return intercept(ctx, req, &info, untyped(h))
		},
	})
}

// untyped is h as an interceptor calls it.
func untyped[PReq, PRes any](h func(context.Context, PReq) (PRes, error)) grpc.UnaryHandler {
	return func(ctx context.Context, req any) (any, error) {
		r, ok := req.(PReq)
		if !ok {
			return nil, status.Errorf(codes.Internal, "an interceptor made a %T of the request", req)
		}
		return h(ctx, r)
	}
}

// UnaryBytes is Unary with a handler of bytes, which cross as
// google.protobuf.BytesValue.
func UnaryBytes(s *Service, method string, h func(context.Context, []byte) ([]byte, error)) {
	Unary(s, method, func(ctx context.Context, req *wrapperspb.BytesValue) (*wrapperspb.BytesValue, error) {
		res, err := h(ctx, req.GetValue())
		return wrapperspb.Bytes(res), err
	})
}

// ServerStream adds a method that answers one message with a stream of them.
func ServerStream[Req, Res any, PReq Message[Req], PRes Message[Res]](s *Service, method string, h func(PReq, grpc.ServerStreamingServer[Res]) error) {
	s.addStream(grpc.StreamDesc{StreamName: method, ServerStreams: true, Handler: func(_ any, stream grpc.ServerStream) error {
		req := PReq(new(Req))
		if err := stream.RecvMsg(req); err != nil {
			return err
		}
		return h(req, &grpc.GenericServerStream[Req, Res]{ServerStream: stream})
	}})
}

// ClientStream adds a method that answers a stream of messages with one.
func ClientStream[Req, Res any, PReq Message[Req], PRes Message[Res]](s *Service, method string, h func(grpc.ClientStreamingServer[Req, Res]) error) {
	s.addStream(grpc.StreamDesc{StreamName: method, ClientStreams: true, Handler: func(_ any, stream grpc.ServerStream) error {
		return h(&grpc.GenericServerStream[Req, Res]{ServerStream: stream})
	}})
}

// BidiStream adds a method with a stream of messages in each direction.
func BidiStream[Req, Res any, PReq Message[Req], PRes Message[Res]](s *Service, method string, h func(grpc.BidiStreamingServer[Req, Res]) error) {
	s.addStream(grpc.StreamDesc{StreamName: method, ClientStreams: true, ServerStreams: true, Handler: func(_ any, stream grpc.ServerStream) error {
		return h(&grpc.GenericServerStream[Req, Res]{ServerStream: stream})
	}})
}
