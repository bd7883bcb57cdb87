// Package transport is the contract between the protocol and what carries it: a
// Wire is a connection, a Connecter opens them on the active side, a Listener
// accepts them on the passive side and attaches a client identity to each.
//
// Everything above (version handshake, labels, both channels) works with any
// transport that passes package transporttest. The ones that come along are in
// the directories tcp, tls and local.
//
// A client identity is the authenticated name of a connecting peer. The listener
// decides it, handlers find it in their context (ClientIdentityFromContext), and
// a receiver may use it as one component of a path (ValidateClientIdentity).
package transport
