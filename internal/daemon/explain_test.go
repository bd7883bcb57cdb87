package daemon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"

	"github.com/dualrepl/dualrepl/transportmux"
	"github.com/dualrepl/dualrepl/versionhandshake"
)

func newPushJob(t *testing.T) *Job {
	t.Helper()
	p := newPlace(t)
	job, err := Open(p.config(pushToSink), "docs", p.logger())
	if err != nil {
		t.Fatal(err)
	}
	return job
}

// TestExplain: an error names the job and the peer, and what several filesystems fail
// of is told once.
func TestExplain(t *testing.T) {
	job := newPushJob(t)
	stopped, cancel := context.WithCancel(t.Context())
	cancel()
	broken := errors.New("broken")
	refused := &transportmux.DialError{Err: &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}}
	for _, tc := range []struct {
		ctx  context.Context
		err  error
		want string
	}{
		{t.Context(), broken, "job docs: replication with listener here: broken"},
		{stopped, broken, "job docs: replication with listener here stopped, the next one goes on from there: broken"},
		{
			t.Context(), errors.Join(fmt.Errorf("a: %w", refused), fmt.Errorf("b: %w", refused), fmt.Errorf("c: %w", broken)),
			"job docs: cannot connect to listener here: connection refused; is the peer's daemon running there?\n" +
				"job docs: replication with listener here: c: broken",
		},
	} {
		if err := job.explain(tc.ctx, tc.err); err == nil || err.Error() != tc.want || !errors.Is(err, broken) {
			t.Errorf("%v, want %s", err, tc.want)
		}
	}
	for _, ctx := range []context.Context{t.Context(), stopped} {
		if err := job.explain(ctx, nil); err != nil {
			t.Error(err)
		}
	}
}

// rejected is a certificate that this side does not accept.
func rejected(why error) transportmux.DialError {
	return transportmux.DialError{Err: &tls.CertificateVerificationError{Err: why}}
}

// alert is what a passive side sends that does not accept this side's certificate.
func alert(text string) transportmux.DialError {
	return transportmux.DialError{
		Peer: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 8888},
		Err:  &net.OpError{Op: "remote error", Err: errors.New(text)},
	}
}

// TestDiagnose: why there is no connection, in plain words, with the way out.
func TestDiagnose(t *testing.T) {
	peer := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 8888}
	for _, tc := range []struct {
		err  transportmux.DialError
		want []string
	}{
		{transportmux.DialError{Err: &net.DNSError{IsNotFound: true}}, []string{"no such host", "connect.address"}},
		{transportmux.DialError{Err: syscall.ECONNREFUSED}, []string{"connection refused", "daemon running"}},
		{rejected(x509.UnknownAuthorityError{}), []string{"unknown authority; `connect.ca`"}},
		{rejected(x509.HostnameError{Certificate: &x509.Certificate{}}), []string{"; `connect.server_cn`"}},
		{rejected(x509.CertificateInvalidError{Reason: x509.Expired}), []string{"; renew the peer's certificate"}},
		{rejected(x509.CertificateInvalidError{Reason: x509.IncompatibleUsage}), []string{"; the peer's certificate is not for servers"}},
		{rejected(x509.CertificateInvalidError{Reason: x509.TooManyIntermediates}), []string{"too many intermediates"}},
		{transportmux.DialError{Err: tls.RecordHeaderError{}}, []string{"TLS", "type"}},
		{alert("tls: bad certificate"), []string{"rejected this client: tls: bad certificate; its `client_cns`", "extendedKeyUsage"}},
		{alert("tls: unknown certificate authority"), []string{"; its `ca`"}},
		{alert("tls: expired certificate"), []string{"; renew `connect.cert`"}},
		{alert("tls: internal error"), []string{"tls: internal error; its log tells more"}},
		{transportmux.DialError{Peer: peer, Err: versionhandshake.ErrBanner}, []string{"no daemon of this protocol", "connect"}},
		{transportmux.DialError{Peer: peer, Err: versionhandshake.ErrVersion}, []string{"192.0.2.1:8888", "versions differ"}},
		{transportmux.DialError{Peer: peer, Err: io.ErrUnexpectedEOF}, []string{"closed the connection during the handshake", "does not know this client"}},
		{transportmux.DialError{Peer: peer, Err: syscall.ECONNRESET}, []string{"closed the connection during the handshake", "does not know this client"}},
		{transportmux.DialError{Err: errors.New("tcp: i/o timeout")}, []string{"tcp: i/o timeout"}},
	} {
		why, wayOut := diagnose(&tc.err)
		for _, want := range tc.want {
			if !strings.Contains(why+"; "+wayOut, want) {
				t.Errorf("%v: %s; %s, want %q in it", &tc.err, why, wayOut, want)
			}
		}
	}
}
