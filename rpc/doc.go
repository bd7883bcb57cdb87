// Package rpc puts both channels behind one door: a [Client] is an
// endpoint.Sender and an endpoint.Receiver whose work is done by the endpoint
// that a [Server] serves on the passive side.
//
// Planning and coordination are gRPC calls on the control channel; Send and
// Receive are requests on the data channel. Both channels are labelled connections
// (package transportmux) over any transport, which carry one data request after another,
// or with ClientOptions.Mux streams of one connection. Both give the handler's context
// the client identity (transport.ClientIdentityFromContext) and the route
// (RouteFromContext).
//
// What goes beyond the base protocol is negotiated as each connection is made: a peer that
// offers nothing gets the base protocol, and so does every peer of a side with
// BaseProtocol.
//
// # Errors
//
// An error that the peer's endpoint returned keeps its gRPC code (status.Code), on both
// channels, and the sentinels of package endpoint satisfy errors.Is on both sides.
// [OutcomeOf] tells whether a call that failed was not sent, may have run, or was answered.
//
//   - There was no connection, and none came about: [ErrDisconnected], codes.Unavailable,
//     with the transport's error in the chain if an attempt was made.
//   - The connection broke: codes.Unavailable on the control channel, a dataconn.ConnError
//     on the data channel.
//   - A call took longer than ClientOptions.CallTimeout, or its context ended: the context's
//     cause is in the chain.
//
// Base peers send no more than the text of an error on the data channel: a
// dataconn.RemoteError, as everything is that a peer answers there.
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
// # Peers
//
// Over one connection (Mux) both sides call each other, whoever dialled: the side that
// dials answers with Server.ServeOver, and the side that listens calls it with
// Server.Peer, by its identity. Without a connection a Peer's calls fail at once, unless
// their context is of [WaitForReady]. Client.State tells, and WaitForStateChange watches.
//
// # What the server keeps from its handler
//
// A request that no endpoint could serve (no To, an unknown version type, a GUID
// of 0, a name that is no name, no protection) is refused as endpoint.ErrInvalid
// before the handler sees it. A handler's panic is answered as codes.Internal
// (to base peers on the data channel: as an error text) and logged with its stack; the process
// lives. What the handler does not implement is endpoint.ErrUnimplemented.
package rpc
