// Package service makes gRPC services of Go functions, without generated code: a
// [Service] is registered on any grpc.ServiceRegistrar (a *rpc.Server, a *grpc.Server)
// and called through any grpc.ClientConnInterface.
//
// What the functions take and return are Protobuf messages, and on the wire there is
// nothing but gRPC: a client that was generated from a .proto file calls a Service,
// and the callers here call any gRPC service. The handlers have the signatures that
// generated code gives them, and the streams are gRPC's own types, with its rules: a
// stream that its caller does not read to its end has to be ended by its context.
//
// Who has no messages of their own sends bytes: as google.protobuf.BytesValue, which
// every Protobuf library knows. [UnaryBytes] and [CallBytes] do so for []byte; streams
// are of wrapperspb.BytesValue.
//
// # Errors
//
// An error that a handler returns reaches the caller as gRPC carries it: an error of
// package status with its code, text and details, the end of a context with its code,
// any other as codes.Unknown and text, unless the server has interceptors that know
// better (an rpc.Server's do). A method that the peer does not have is
// codes.Unimplemented, and bytes that are no message of the handler's type are
// codes.Internal, without the handler being called. Protobuf does not tell one type
// from another whose fields are encoded alike: both ends have to agree on them.
//
// Handlers run as the server runs them. A panic is the server's to recover, deadlines
// and cancellation come with the context, and so does the caller's identity.
package service
