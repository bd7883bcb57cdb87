// Package transportmux tells connections of one listener apart by a label.
//
// After the version handshake the client sends 64 bytes: an ASCII label padded
// with zero bytes. The server hands the connection to the label's handler, or
// closes it if there is none.
//
// Serve authenticates each connection, does its version handshake and reads its
// label off the accept loop, each with a deadline of its own and a bound on how
// many connections are that far: silent, slow and hostile clients delay nobody.
package transportmux
