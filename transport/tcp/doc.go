// Package tcp is the transport over plain TCP. It neither encrypts nor proves
// anything: the client identity follows from the peer's address. Use it on
// networks that are trusted as a whole (a VPN, a cable, the loopback interface).
//
// The client map says which addresses may connect and what they are called. Its
// keys are addresses ("192.168.1.7", "2001:db8::1", "fe80::1%eth0") or networks
// ("10.0.0.0/8", "2001:db8::/32", "fe80::/10%eth0"); of several that match, the
// longest prefix counts. A '*' in the identity expands to the peer's address; an
// identity for a network must have one, so that two peers never share it. An entry
// with a zone matches peers of that zone only, one without only peers that have none.
package tcp
