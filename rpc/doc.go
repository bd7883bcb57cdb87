// Package rpc puts both channels behind one door: a [Client] is an
// endpoint.Sender and an endpoint.Receiver whose work is done by the endpoint
// that a [Server] serves on the passive side.
//
// Planning and coordination are gRPC calls on the control channel; Send and
// Receive are requests on the data channel, a connection each. Both channels are
// labelled connections (package transportmux) over any transport, and both give
// the handler's context the client identity (transport.ClientIdentityFromContext).
//
// # Errors
//
// An error of a control call keeps its gRPC code (status.Code), and the
// sentinels of package endpoint satisfy errors.Is on both sides. What broke a
// connection, a failed attempt to connect among it, is codes.Unavailable with
// the transport's error in the chain; a call that took longer than
// ClientOptions.CallTimeout is codes.DeadlineExceeded. On the data channel only
// an error's text crosses: a dataconn.RemoteError is what the peer's endpoint
// answered, anything else is the connection's.
//
// # Long lists
//
// A list of versions goes in pages, of which neither end's endpoint knows: a Client
// asks for them one after another and returns the whole list, a Server cuts up what its
// endpoint returned. Versions that come or go meanwhile never make it skip or repeat
// another. A peer that does not page answers with one message of at most 64 MiB;
// beyond that, and beyond 2,000,000 versions or 256 MiB of pages, the error is
// [ErrTooLarge].
//
// # Routes, limits, interceptors
//
// A Server has several handlers behind one listener (Handle): a client names its [Route],
// which says who may use it and, by [Verb], for what. [Limits] bound what each client may
// have of the server; Usage tells what it has. An [Interceptor] stands around each request
// of both channels, custom services' (RegisterService) included. What a route or a limit
// refuses is answered at once, before an interceptor or the handler sees it.
//
// # What the server keeps from its handler
//
// A request that no endpoint could serve (no To, an unknown version type, a GUID
// of 0, a name that is no name, no protection) is refused as endpoint.ErrInvalid
// before the handler sees it. A handler's panic is answered as codes.Internal (on
// the data channel: as an error text) and logged with its stack; the process
// lives. What the handler does not implement is endpoint.ErrUnimplemented.
package rpc
