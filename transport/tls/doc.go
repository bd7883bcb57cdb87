// Package tls is the transport over TLS 1.3 with certificates on both sides. The
// client identity is the common name of the client's certificate; it must be on
// the listener's list. The client checks the server's certificate against the
// name that it expects (a subject alternative name).
//
// The files of the certificates are read again for each connection, so that new
// ones (a renewal) count without a restart. Files that do not fit together, as in
// the middle of a renewal, leave the previous certificates in use and are reported
// once (Files.OnReloadError).
//
// In TLS 1.3 the client has finished its handshake before the server has looked
// at the client's certificate: a refusal reaches the client as the error of its
// first Read ("remote error: tls: bad certificate").
//
// The records of a Write go to the kernel together, about 256 KiB at once, which takes
// a quarter less processor time than crypto/tls alone. All of them are there when
// Write returns. Only a Write that runs has memory for it.
package tls
