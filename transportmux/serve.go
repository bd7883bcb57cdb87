package transportmux

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/dualrepl/dualrepl/transport"
	"github.com/dualrepl/dualrepl/versionhandshake"
)

// DefaultMaxPending is how many connections may be on their way to a handler at
// once: more than clients connect in one moment, few enough to cost nothing.
const DefaultMaxPending = 128

// A Handler owns conn and closes it. It runs in a goroutine of its own; ctx ends
// when Serve's does, and the handler returns soon after.
type Handler func(ctx context.Context, conn *Conn)

// ServeOptions may be the zero value.
type ServeOptions struct {
	MaxPending int           // connections on their way to a handler; 0: DefaultMaxPending
	Pending    *PendingCount // counts those; nil: nobody wants to know
	Offer      Offer         // extensions of our banners
	Logger     *slog.Logger  // gets a record for each connection that is refused; nil: none
}

// Serve accepts connections from l and hands each to its label's handler, until
// ctx ends (it returns nil) or l fails for good (it returns l's error). It has
// closed l and waited for all handlers when it returns. Errors that pass, such as
// no free file descriptor, are logged and tried again.
//
// When MaxPending connections are on their way to a handler, the next one takes
// the place of another: the oldest of the host that has the most of them. So
// neither silent clients nor a flood from one host keep others out.
func Serve(ctx context.Context, l transport.Listener, handlers map[string]Handler, opts ServeOptions) error {
	s := newServer(handlers, opts)
	s.pending.count.limit.Add(int64(s.pending.max))
	defer s.pending.count.limit.Add(-int64(s.pending.max))
	ctx, cancel := context.WithCancel(ctx)
	defer s.running.Wait()
	defer cancel()
	defer func() { _ = l.Close() }() // nothing is left to do if it fails
	for {
		p, err := s.accept(ctx, l)
		switch {
		case err == nil:
			s.start(ctx, p)
		case ctx.Err() != nil:
			return nil
		default:
			s.logger.Error("no longer accepting connections", "error", err) // handlers may run on for long
			return fmt.Errorf("accept: %w", err)
		}
	}
}

type server struct {
	handlers map[string]Handler
	offer    Offer
	logger   *slog.Logger
	pending  pendingSet
	running  sync.WaitGroup // one for each connection
}

func newServer(handlers map[string]Handler, opts ServeOptions) *server {
	s := &server{handlers: handlers, offer: opts.Offer, logger: opts.Logger}
	if s.logger == nil {
		s.logger = slog.New(slog.DiscardHandler)
	}
	s.pending.max, s.pending.count = opts.MaxPending, cmp.Or(opts.Pending, new(PendingCount))
	if s.pending.max <= 0 {
		s.pending.max = DefaultMaxPending
	}
	return s
}

// What accept waits after an error that passes, doubling from the first to the last.
const (
	minAcceptBackoff = 5 * time.Millisecond
	maxAcceptBackoff = time.Second
)

// accept returns the next connection. Errors that pass are retried until ctx ends.
func (s *server) accept(ctx context.Context, l transport.Listener) (transport.Pending, error) {
	for wait := minAcceptBackoff; ; wait = min(2*wait, maxAcceptBackoff) {
		p, err := l.Accept(ctx)
		if err == nil || ctx.Err() != nil || !passes(err) {
			return p, err
		}
		s.logger.Error("cannot accept connections", "error", err, "retry", wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

// passes tells the errors of accept(2) that say nothing about the listener: lack
// of resources, and connections that were gone before they were accepted.
func passes(err error) bool {
	for _, errno := range []syscall.Errno{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM,
		syscall.ECONNABORTED, syscall.EPROTO, syscall.ENETDOWN, syscall.EHOSTUNREACH,
	} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// start runs a connection in its own goroutine.
func (s *server) start(ctx context.Context, p transport.Pending) {
	setup, entry := s.pending.add(ctx, p.RemoteAddr())
	s.running.Go(func() {
		conn, handler, err := s.setUp(setup, p)
		if !s.pending.remove(entry) {
			err = context.Cause(setup) // what came of the set-up is a consequence
		}
		if err == nil {
			handler(ctx, conn)
			return
		}
		if conn != nil {
			_ = conn.Close() // the first error is what matters
		}
		s.logRefused(ctx, p, err)
	})
}

// setUp does everything before the handler. The caller closes conn, if there is one.
func (s *server) setUp(ctx context.Context, p transport.Pending) (conn *Conn, handler Handler, err error) {
	conn, err = authenticate(ctx, p, s.offer)
	if err != nil {
		return nil, nil, err
	}
	label, err := conn.receive(ctx)
	handler, known := s.handlers[label]
	if err == nil && !known {
		err = fmt.Errorf("unknown label %q", label)
	}
	return conn, handler, err
}

// logRefused warns of what somebody should look at: a client that is configured
// wrongly, or not at all. Everything else is what ports are used to.
func (s *server) logRefused(ctx context.Context, p transport.Pending, err error) {
	if ctx.Err() != nil {
		return // we are ending, the client is not to blame
	}
	client := p.RemoteAddr().String()
	switch hint := hintFor(err); {
	case isDistrust(err):
		s.logger.Warn("the client did not accept this side's certificate", "client", client, "error", err, "hint", "the client's own message says why")
	case hint != "":
		s.logger.Warn("client rejected", "client", client, "error", err, "hint", hint)
	default:
		s.logger.Info("connection refused", "client", client, "error", err)
	}
}

// The alerts (RFC 8446, section 6.2) about a certificate, but for that of an authority.
const (
	firstCertificateAlert tls.AlertError = 42 // bad_certificate
	lastCertificateAlert  tls.AlertError = 46 // certificate_unknown
	alertUnknownCA        tls.AlertError = 48
)

// isDistrust reports whether the client has refused this side's certificate. The type of
// an alert that came is crypto/tls's own: only its text can be compared.
func isDistrust(err error) bool {
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "remote error" {
		return false
	}
	for alert := firstCertificateAlert; alert <= lastCertificateAlert; alert++ {
		if op.Err.Error() == alert.Error() {
			return true
		}
	}
	return op.Err.Error() == alertUnknownCA.Error()
}

// hintFor is what to do if the client should have been let in; "" if there is nothing.
func hintFor(err error) string {
	var untrusted *tls.CertificateVerificationError
	switch {
	case errors.Is(err, transport.ErrPermission):
		return "if it may connect, add it to `clients` (tcp) or `client_cns` (tls) of the job that serves"
	case errors.As(err, &untrusted):
		return certificateHint(untrusted.Err)
	case errors.Is(err, versionhandshake.ErrVersion):
		return "update the older of the two sides"
	}
	return ""
}

// certificateHint is what to do about a client's certificate that is not accepted.
func certificateHint(err error) string {
	var (
		authority x509.UnknownAuthorityError
		invalid   x509.CertificateInvalidError
	)
	switch {
	case errors.As(err, &authority):
		return "if it may connect, its certificate has to be signed by the authority in `ca` of the job that serves"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "renew its certificate, unless a clock is wrong"
	case errors.As(err, &invalid) && invalid.Reason == x509.IncompatibleUsage:
		return "its certificate is not for clients (extendedKeyUsage)"
	}
	return "make its certificate anew"
}
