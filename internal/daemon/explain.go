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

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/internal/config"
	"github.com/dualrepl/dualrepl/rpc"
	"github.com/dualrepl/dualrepl/transportmux"
	"github.com/dualrepl/dualrepl/versionhandshake"
)

// explained is an error in other words.
type explained struct {
	text  string
	cause error
}

func (e *explained) Error() string { return e.text }

func (e *explained) Unwrap() error { return e.cause }

// parts are the errors that errors.Join has joined, as replication.Run and Job.Snapshot
// do; none for nil.
func parts(err error) []error {
	if err == nil {
		return nil
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	return []error{err}
}

// explain adds to what went wrong whose it is, and the way out where there is one. What
// keeps several filesystems from the peer is told once.
func (j *Job) explain(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("job %s: replication with %s stopped, the next one goes on from there: %w", j.Name(), j.peerName(), err)
	}
	var all []error
	told := map[string]bool{}
	for _, part := range parts(err) {
		part = j.explainPart(part)
		if !told[part.Error()] {
			all = append(all, part)
		}
		told[part.Error()] = true
	}
	return errors.Join(all...)
}

// peer names the other side in messages.
func (j *Job) peerName() string {
	switch c := j.conf.Connect; {
	case c == nil:
		return "client " + j.conf.Peer
	case c.Type == config.TransportLocal:
		return "listener " + c.ListenerName
	default:
		return c.Address
	}
}

func (j *Job) explainPart(err error) error {
	var dial *transportmux.DialError
	switch {
	case errors.As(err, &dial):
		return &explained{fmt.Sprintf("job %s: cannot connect to %s: %s", j.Name(), j.peerName(), reason(dial)), err}
	case j.awaits() && errors.Is(err, rpc.ErrDisconnected):
		return &explained{fmt.Sprintf("job %s: %s is not connected; %s", j.Name(), j.peerName(), j.whenConnected()), err}
	}
	text := fmt.Sprintf("job %s: replication with %s: %v", j.Name(), j.peerName(), err)
	if wayOut := j.refusalHint(err); wayOut != "" {
		text += "; " + wayOut
	}
	return &explained{text, err}
}

// whenConnected is how a replication goes on whose passive side has to connect again.
func (j *Job) whenConnected() string {
	if j.peer == nil { // not in a daemon
		return "run it again to go on where it stopped"
	}
	return "the replication goes on as soon as it is"
}

// refusalHint is the way out where the other side has refused this one.
func (j *Job) refusalHint(err error) string {
	other := "the passive side's `serve`"
	if j.awaits() {
		other = "the passive side"
	}
	switch {
	case rpc.OutcomeOf(err) != rpc.Answered:
		return ""
	case errors.Is(err, endpoint.ErrNotFound) && strings.Contains(err.Error(), "named no route"):
		return "name one in `connect.route`, or give a job there `default: true`"
	case errors.Is(err, endpoint.ErrNotFound) && strings.Contains(err.Error(), endpoint.ErrNotFound.Error()+": route"):
		return "correct `connect.route`: it has to be the `route` of a job there, or that job's name"
	case errors.Is(err, endpoint.ErrPermission):
		return other + " has to permit it, in `clients` and `verbs`"
	case errors.Is(err, rpc.ErrLimit):
		return "raise `limits` in " + other + ", or lower `replication.concurrency.steps`"
	}
	return ""
}

// reason is why a connection did not come about, with the way out where there is one.
func reason(err *transportmux.DialError) string {
	why, wayOut := diagnose(err)
	if wayOut == "" {
		return why
	}
	return why + "; " + wayOut
}

// diagnose tells in plain words why a connection did not come about, and the way out
// where there is one.
func diagnose(err *transportmux.DialError) (why, wayOut string) {
	var (
		host        *net.DNSError
		certificate *tls.CertificateVerificationError
		notTLS      tls.RecordHeaderError
		op          *net.OpError
	)
	switch {
	case errors.As(err, &host) && host.IsNotFound:
		return "no such host", "correct `connect.address`"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused", "is the peer's daemon running there?"
	case errors.As(err, &certificate):
		return certificate.Error(), certificateHint(certificate.Err)
	case errors.As(err, &notTLS):
		return "what answers there does not speak TLS", "use the same `type` in `connect` as in the peer's `serve`"
	case errors.As(err, &op) && op.Op == "remote error": // an alert
		return "it rejected this client: " + op.Err.Error(), alertHint(op.Err.Error())
	case errors.Is(err, transportmux.ErrNoMux):
		return "it cannot share one connection", "update dualrepl there, or let the passive side be the one that has `serve`"
	case errors.Is(err, rpc.ErrNoRoutes):
		return "it knows no routes", "remove `connect.route`, or update dualrepl there"
	case errors.Is(err, versionhandshake.ErrBanner):
		return "what answers there is no daemon of this protocol", "correct `connect`"
	case err.Peer != nil && isClosed(err):
		return "it closed the connection during the handshake", "probably it does not know this client (its `clients` or `client_cns`), or it serves another `type` of transport; its log tells more"
	}
	return err.Error(), ""
}

// certificateHint is the way out where the peer's certificate is not accepted.
func certificateHint(err error) string {
	var (
		authority x509.UnknownAuthorityError
		name      x509.HostnameError
		invalid   x509.CertificateInvalidError
	)
	switch {
	case errors.As(err, &authority):
		return "`connect.ca` has to be the authority that signed the peer's certificate"
	case errors.As(err, &name):
		return "`connect.server_cn` has to be a name in the peer's certificate"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "renew the peer's certificate, unless a clock is wrong"
	case errors.As(err, &invalid) && invalid.Reason == x509.IncompatibleUsage:
		return "the peer's certificate is not for servers (extendedKeyUsage)"
	}
	return ""
}

// The alerts (RFC 8446, section 6.2) by which crypto/tls refuses a client's certificate.
// That of a name that is not on the list, or of a wrong purpose, is "bad".
const (
	alertBadCertificate     tls.AlertError = 42
	alertCertificateExpired tls.AlertError = 45
	alertUnknownCA          tls.AlertError = 48
)

// alertHint is the way out where the peer did not accept this one's certificate,
// by the text of the alert: its type is crypto/tls's own.
func alertHint(alert string) string {
	switch alert {
	case alertUnknownCA.Error():
		return "its `ca` has to be the authority that signed `connect.cert`; its log tells more"
	case alertBadCertificate.Error():
		return "its `client_cns` has to list the common name of `connect.cert`, which has to be for clients (extendedKeyUsage); its log tells more"
	case alertCertificateExpired.Error():
		return "renew `connect.cert`, unless a clock is wrong"
	}
	return "its log tells more"
}

// isClosed reports whether the peer closed the connection.
func isClosed(err error) bool {
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
