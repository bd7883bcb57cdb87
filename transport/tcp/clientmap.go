package tcp

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/dualrepl/dualrepl/transport"
)

// A ClientMap gives each permitted address its client identity. The zero value
// permits nobody.
type ClientMap struct {
	entries []entry // longest prefix first
}

type entry struct {
	key      string       // as the user wrote it
	prefix   netip.Prefix // of 16-byte addresses
	zone     string
	identity string // '*' stands for the address
}

// ParseClientMap reads addresses and networks (keys) and their identities. Errors
// name the entry.
func ParseClientMap(clients map[string]string) (ClientMap, error) {
	var m ClientMap
	for _, key := range slices.Sorted(maps.Keys(clients)) {
		e, err := parseEntry(key, clients[key])
		if err == nil {
			err = m.checkDistinct(e)
		}
		if err != nil {
			return ClientMap{}, fmt.Errorf("client map entry %q: %w", key, err)
		}
		m.entries = append(m.entries, e)
	}
	slices.SortStableFunc(m.entries, func(a, b entry) int {
		return cmp.Compare(b.prefix.Bits(), a.prefix.Bits())
	})
	return m, nil
}

func (m ClientMap) checkDistinct(e entry) error {
	for _, other := range m.entries {
		if other.prefix == e.prefix && other.zone == e.zone {
			return fmt.Errorf("is the same as %q", other.key)
		}
	}
	return nil
}

func parseEntry(key, identity string) (entry, error) {
	text, zone, zoned := strings.Cut(key, "%")
	if zoned && (zone == "" || strings.Contains(zone, "/")) {
		return entry{}, fmt.Errorf("%q is not a zone (a prefix length comes before it)", zone)
	}
	prefix, network, err := parsePrefix(text)
	if err != nil {
		return entry{}, err
	}
	if zoned && prefix.Addr().Is4In6() {
		return entry{}, errors.New("has a zone, which only IPv6 addresses have")
	}
	if network && !strings.Contains(identity, "*") {
		return entry{}, fmt.Errorf("identity %q needs a '*', as several addresses match", identity)
	}
	e := entry{key, prefix, zone, identity}
	return e, transport.ValidateClientIdentity(e.expand(prefix.Addr().WithZone(zone)))
}

// parsePrefix reads an address or a network. IPv4 becomes part of ::ffff:0:0/96,
// so that all prefixes compare with each other.
func parsePrefix(text string) (prefix netip.Prefix, network bool, err error) {
	address, length, network := strings.Cut(text, "/")
	ip, err := netip.ParseAddr(address)
	if err != nil {
		return netip.Prefix{}, network, fmt.Errorf("%q is not an IP address", address)
	}
	bits := ip.BitLen()
	if network {
		given, err := netip.ParsePrefix(text)
		if err != nil {
			return netip.Prefix{}, network, fmt.Errorf("%q is not a prefix length of %s", length, address)
		}
		bits = given.Bits()
	}
	bits += 128 - ip.BitLen()
	return netip.PrefixFrom(netip.AddrFrom16(ip.As16()), bits).Masked(), network, nil
}

// identity looks a peer's address up. An error says that it is not permitted.
func (m ClientMap) identity(peer netip.Addr) (string, error) {
	wide := netip.AddrFrom16(peer.As16())
	for _, e := range m.entries {
		if e.zone == peer.Zone() && e.prefix.Contains(wide) {
			identity := e.expand(peer)
			return identity, transport.ValidateClientIdentity(identity)
		}
	}
	return "", fmt.Errorf("%w: no entry of the client map matches the address", transport.ErrPermission)
}

// expand puts the address in place of '*'. A zone follows after '-', because ZFS
// does not take '%' in names.
func (e entry) expand(peer netip.Addr) string {
	text := peer.Unmap().WithZone("").String()
	if zone := peer.Zone(); zone != "" {
		text += "-" + zone
	}
	return strings.ReplaceAll(e.identity, "*", text)
}

func addressOf(conn *net.TCPConn) netip.Addr {
	return conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr() // what a TCPConn has
}
