package transportmux

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
)

// TestCertificateHint: what to do depends on what is wrong with a client's certificate.
func TestCertificateHint(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want string
	}{
		{x509.UnknownAuthorityError{}, "`ca`"},
		{x509.CertificateInvalidError{Reason: x509.Expired}, "renew"},
		{x509.CertificateInvalidError{Reason: x509.IncompatibleUsage}, "not for clients"},
		{x509.CertificateInvalidError{Reason: x509.TooManyIntermediates}, "anew"},
	} {
		err := fmt.Errorf("handshake: %w", &tls.CertificateVerificationError{Err: tc.err})
		if got := hintFor(err); !strings.Contains(got, tc.want) {
			t.Errorf("%v: %q, want %q in it", tc.err, got, tc.want)
		}
	}
}

// TestIsDistrust: only alerts about a certificate tell that this side's is not accepted.
func TestIsDistrust(t *testing.T) {
	for text, want := range map[string]bool{
		"tls: bad certificate":                true,
		"tls: expired certificate":            true,
		"tls: unknown certificate":            true,
		"tls: unknown certificate authority":  true,
		"tls: illegal parameter":              false,
		"tls: protocol version not supported": false,
	} {
		for op, remote := range map[string]bool{"remote error": true, "local error": false} {
			err := fmt.Errorf("handshake: %w", &net.OpError{Op: op, Err: errors.New(text)})
			if got := isDistrust(err); got != (want && remote) {
				t.Errorf("%s: %s: %v", op, text, got)
			}
		}
	}
	if isDistrust(errors.New("tls: bad certificate")) {
		t.Error("not an alert")
	}
}
