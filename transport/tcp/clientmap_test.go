package tcp

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/dualrepl/dualrepl/transport"
)

func TestClientMapIdentity(t *testing.T) {
	m, err := ParseClientMap(map[string]string{
		"10.0.0.0/8":         "net-*",
		"10.1.0.0/16":        "sub-*-x",
		"10.1.2.3":           "alice",
		"10.1.2.4":           "single-*",
		"2001:db8::/32":      "v6-*",
		"2001:db8::5":        "bob",
		"fe80::1%eth0":       "carol",
		"fe80::/10%eth1":     "link-*",
		"::ffff:172.16.0.1":  "mapped",
		"192.168.77.200/24":  "host-bits-*",
		"fd00::/8":           "*",
		"fd00::1234":         "dora",
		"2001:db8:0:0::/64":  "narrow-*",
		"2001:db8:0:0::6%e1": "zoned",
	})
	if err != nil {
		t.Fatal(err)
	}
	for peer, want := range map[string]string{
		"10.9.9.9":         "net-10.9.9.9",
		"10.1.9.9":         "sub-10.1.9.9-x",
		"10.1.2.3":         "alice",
		"::ffff:10.1.2.3":  "alice",
		"::ffff:10.9.9.9":  "net-10.9.9.9",
		"10.1.2.4":         "single-10.1.2.4",
		"11.0.0.1":         "",
		"2001:db8:1::1":    "v6-2001:db8:1::1",
		"2001:db8::7":      "narrow-2001:db8::7",
		"2001:db8::5":      "bob",
		"2001:db8::6%e1":   "zoned",
		"fe80::1%eth0":     "carol",
		"fe80::1":          "",
		"fe80::1%eth2":     "",
		"fe80::2%eth0":     "",
		"fe80::2%eth1":     "link-fe80::2-eth1",
		"172.16.0.1":       "mapped",
		"192.168.77.1":     "host-bits-192.168.77.1",
		"fd00::1234":       "dora",
		"fd00::1":          "fd00::1",
		"::a01:203":        "", // the bytes of 10.1.2.3, but not its address
		"2001:db8::7%eth0": "",
	} {
		got, err := m.identity(netip.MustParseAddr(peer))
		if got != want || (want == "") != errors.Is(err, transport.ErrPermission) {
			t.Errorf("identity of %s is %q, error %v, want %q", peer, got, err, want)
		}
	}
}

func TestEverybody(t *testing.T) {
	m, err := ParseClientMap(map[string]string{"0.0.0.0/0": "*", "::/0": "six-*"})
	if err != nil {
		t.Fatal(err)
	}
	for peer, want := range map[string]string{"10.1.2.3": "10.1.2.3", "2001:db8::1": "six-2001:db8::1"} {
		if got, err := m.identity(netip.MustParseAddr(peer)); got != want || err != nil {
			t.Errorf("identity of %s is %q, error %v, want %q", peer, got, err, want)
		}
	}
}

func TestParseClientMapErrors(t *testing.T) {
	for _, test := range []struct {
		clients map[string]string
		want    string // in the error, beside the entry's key
	}{
		{map[string]string{"10.0.0.0/8": "alice"}, "needs a '*'"},
		{map[string]string{"10.0.0.1/32": "alice"}, "needs a '*'"},
		{map[string]string{"fe80::/10%eth0": "alice"}, "needs a '*'"},
		{map[string]string{"host.example": "alice"}, "not an IP address"},
		{map[string]string{"": "alice"}, "not an IP address"},
		{map[string]string{"10.0.0.1:8888": "alice"}, "not an IP address"},
		{map[string]string{"10.0.0.0/33": "a-*"}, "not a prefix length"},
		{map[string]string{"10.0.0.0/": "a-*"}, "not a prefix length"},
		{map[string]string{"fe80::1%": "alice"}, "not a zone"},
		{map[string]string{"10.0.0.1%eth0": "alice"}, "zone"},
		{map[string]string{"10.0.0.1": ""}, "is empty"},
		{map[string]string{"10.0.0.1": "a/b"}, "contains"},
		{map[string]string{"10.0.0.0/8": "a@*"}, "contains"},
		{map[string]string{"fe80::%eth0/10": "x-*"}, "not a zone"},
		{map[string]string{"10.0.0.1": strings.Repeat("x", 300)}, "300 bytes"},
		{map[string]string{"10.0.0.0/8": "a-*", "10.1.0.0/8": "b-*"}, `same as "10.0.0.0/8"`},
		{map[string]string{"10.0.0.1": "a", "::ffff:10.0.0.1": "b"}, `same as "10.0.0.1"`},
	} {
		_, err := ParseClientMap(test.clients)
		if err == nil || !strings.Contains(err.Error(), test.want) || !namesAKey(err, test.clients) {
			t.Errorf("ParseClientMap(%v): %v, want an error with %q", test.clients, err, test.want)
		}
	}
}

func namesAKey(err error, clients map[string]string) bool {
	for key := range clients {
		if strings.Contains(err.Error(), key) {
			return true
		}
	}
	return false
}

func TestLongExpansionIsRefused(t *testing.T) {
	m, err := ParseClientMap(map[string]string{"2001:db8::/32": strings.Repeat("x", 240) + "*"})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := m.identity(netip.MustParseAddr("2001:db8:1111:2222:3333:4444:5555:6666")); err == nil {
		t.Errorf("identity %q of %d bytes", got, len(got))
	}
}
