package rpc

import (
	"context"
	"errors"
	"fmt"
	"reflect"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/dualrepl/dualrepl/pdu"
	"github.com/dualrepl/dualrepl/transportmux"
)

// registration is a custom service.
type registration struct {
	desc *grpc.ServiceDesc
	impl any
}

var _ grpc.ServiceRegistrar = (*Server)(nil)

// RegisterService implements grpc.ServiceRegistrar, for the Serve calls that follow. A
// custom service is on every route, for the route's clients; verbs do not concern it.
// A service that cannot be (its name is taken, impl is not what desc wants) is an error
// of Serve.
func (s *Server) RegisterService(desc *grpc.ServiceDesc, impl any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.checkService(desc, impl); err != nil {
		s.misuse = errors.Join(s.misuse, fmt.Errorf("service %q: %w", desc.ServiceName, err))
		return
	}
	s.services = append(s.services, registration{desc, impl})
}

// checkService finds what gRPC would end the process for.
func (s *Server) checkService(desc *grpc.ServiceDesc, impl any) error {
	if desc.ServiceName == pdu.Replication_ServiceDesc.ServiceName {
		return errors.New("the name is the base protocol's")
	}
	for _, other := range s.services {
		if other.desc.ServiceName == desc.ServiceName {
			return errors.New("is registered already")
		}
	}
	if desc.HandlerType == nil || impl == nil {
		return nil
	}
	want := reflect.TypeOf(desc.HandlerType).Elem()
	if got := reflect.TypeOf(impl); !got.Implements(want) {
		return fmt.Errorf("%v is not a %v", got, want)
	}
	return nil
}

// guardService returns desc with the guard around each method. Unary methods get
// interceptor inside of it.
func (s *Server) guardService(desc *grpc.ServiceDesc, interceptor grpc.UnaryServerInterceptor) *grpc.ServiceDesc {
	g := *desc
	g.HandlerType = (*any)(nil) // checked already
	g.Methods, g.Streams = nil, nil
	for _, m := range desc.Methods {
		m.Handler = s.guardUnary("/"+desc.ServiceName+"/"+m.MethodName, m.Handler, interceptor)
		g.Methods = append(g.Methods, m)
	}
	for _, m := range desc.Streams {
		m.Handler = s.guardStream("/"+desc.ServiceName+"/"+m.StreamName, m.Handler)
		g.Streams = append(g.Streams, m)
	}
	return &g
}

func (s *Server) guardUnary(method string, handle grpc.MethodHandler, interceptor grpc.UnaryServerInterceptor) grpc.MethodHandler {
	call := Call{Channel: transportmux.LabelControl, Method: method}
	return func(impl any, ctx context.Context, receive func(any) error, _ grpc.UnaryServerInterceptor) (res any, err error) {
		o := originOfCall(ctx)
		end, err := s.guard(ctx, o, call, func(ctx context.Context) (err error) {
			res, err = handle(impl, ctx, s.counting(o, receive), interceptor)
			return err
		})
		end()
		return res, toStatus(err)
	}
}

func (s *Server) guardStream(method string, handle grpc.StreamHandler) grpc.StreamHandler {
	call := Call{Channel: transportmux.LabelControl, Method: method}
	return func(impl any, stream grpc.ServerStream) error {
		o := originOfCall(stream.Context())
		end, err := s.guard(stream.Context(), o, call, func(ctx context.Context) error {
			return handle(impl, &serverStream{stream, ctx, s.counting(o, stream.RecvMsg)})
		})
		end()
		return toStatus(err)
	}
}

// counting counts the messages over the limit that receive refuses.
func (s *Server) counting(o *origin, receive func(any) error) func(any) error {
	return func(m any) error {
		err := receive(m)
		if status.Code(err) == codes.ResourceExhausted {
			s.usage.refuse(o.client, limitMessages)
		}
		return err
	}
}

// serverStream gives a handler the context that interceptors made.
type serverStream struct {
	grpc.ServerStream
	ctx     context.Context
	receive func(any) error
}

// Context implements grpc.ServerStream.
func (s *serverStream) Context() context.Context { return s.ctx }

// RecvMsg implements grpc.ServerStream.
func (s *serverStream) RecvMsg(m any) error { return s.receive(m) }

// unknownMethod answers calls of what is not registered.
func unknownMethod(_ any, stream grpc.ServerStream) error {
	if o := originOfCall(stream.Context()); o.refusal != nil {
		return toStatus(o.refusal)
	}
	method, _ := grpc.MethodFromServerStream(stream)
	return status.Errorf(codes.Unimplemented, "unknown method %.256q", method)
}
