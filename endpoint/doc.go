// Package endpoint defines where data comes from and where it goes: the
// contracts of Endpoint, Sender and Receiver, and the errors by which a caller
// decides what to do next.
//
// The same interfaces are met by what holds data (endpoint/dir, endpoint/synth,
// your own) and by a connection to a peer (rpc.Client), so that replication does
// not know which of its two sides is remote. Package endpointtest checks an
// implementation against these contracts.
//
// Requests reach an endpoint from a peer: an implementation validates every name
// (ValidateFilesystem, ValidateVersionName) before it uses it, and answers a nil
// version or an unknown type with ErrInvalid.
package endpoint
