package transportmux_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dualrepl/dualrepl/transport"
	"github.com/dualrepl/dualrepl/transport/local"
	"github.com/dualrepl/dualrepl/transport/tcp"
	"github.com/dualrepl/dualrepl/transport/tls"
	"github.com/dualrepl/dualrepl/transport/transporttest"
	"github.com/dualrepl/dualrepl/transportmux"
	"github.com/dualrepl/dualrepl/versionhandshake"
)

// refusals collects the reasons in the log.
type refusals struct {
	slog.Handler
	mu     sync.Mutex
	errors []error
}

func (r *refusals) Enabled(context.Context, slog.Level) bool { return true }

func (r *refusals) Handle(_ context.Context, record slog.Record) error {
	record.Attrs(func(a slog.Attr) bool {
		if err, ok := a.Value.Any().(error); ok {
			r.mu.Lock()
			r.errors = append(r.errors, err)
			r.mu.Unlock()
		}
		return true
	})
	return nil
}

func (r *refusals) all() []error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]error(nil), r.errors...)
}

// greet is a handler that says which one it is, and to whom.
func greet(text string) transportmux.Handler {
	return func(_ context.Context, conn *transportmux.Conn) {
		defer conn.Close()
		_, _ = fmt.Fprintf(conn, "%s, %s", text, conn.ClientIdentity) // the client notices
		_ = conn.CloseWrite()
		_, _ = io.Copy(io.Discard, conn) // until the client has read and closes
	}
}

var greeters = map[string]transportmux.Handler{
	transportmux.LabelControl: greet("control"),
	transportmux.LabelData:    greet("data"),
}

// serve runs Serve until the test ends, or stop is called, which returns its error.
func serve(t *testing.T, l transport.Listener, handlers map[string]transportmux.Handler, maxPending int) (log *refusals, stop func() error) {
	t.Helper()
	log = &refusals{}
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() {
		opts := transportmux.ServeOptions{MaxPending: maxPending, Logger: slog.New(log)}
		result <- transportmux.Serve(ctx, l, handlers, opts)
	}()
	stop = sync.OnceValue(func() error {
		cancel()
		return <-result
	})
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return log, stop
}

// wantGreeting dials a label.
func wantGreeting(t *testing.T, c transport.Connecter, label, want string) {
	t.Helper()
	conn, err := transportmux.Dial(t.Context(), c, label, nil)
	if err != nil {
		t.Errorf("Dial %s: %v", label, err)
		return
	}
	defer conn.Close()
	if got, err := io.ReadAll(conn); err != nil || string(got) != want {
		t.Errorf("label %s: %q, error %v, want %q", label, got, err, want)
	}
}

func TestLabelsReachTheirHandlers(t *testing.T) {
	tr := local.New("alice")
	serve(t, tr.Listener(), greeters, 0)
	wantGreeting(t, tr.Connecter(), transportmux.LabelControl, "control, alice")
	wantGreeting(t, tr.Connecter(), transportmux.LabelData, "data, alice")
}

func TestDialRefusesBadLabel(t *testing.T) {
	tr := local.New("alice")
	serve(t, tr.Listener(), greeters, 0)
	if conn, err := transportmux.Dial(t.Context(), tr.Connecter(), "two\nlines", nil); err == nil {
		conn.Close()
		t.Error("a label that is not printable is sent")
	}
}

// newTransport makes a listener, a good connecter, and a way to connect silently.
type newTransport func(t testing.TB) (transport.Listener, transport.Connecter, func() net.Conn)

var transports = map[string]newTransport{"local": newLocal, "tcp": newTCP, "tls": newTLS}

func newLocal(t testing.TB) (transport.Listener, transport.Connecter, func() net.Conn) {
	tr := local.New("alice")
	return tr.Listener(), tr.Connecter(), func() net.Conn {
		conn, err := tr.Connecter().Connect(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
}

func newTCP(t testing.TB) (transport.Listener, transport.Connecter, func() net.Conn) {
	l, c := listenTCP(t, "127.0.0.1")
	return l, c, dialer(t, l)
}

// listenTCP listens for alice, who connects from client.
func listenTCP(t testing.TB, client string) (transport.Listener, transport.Connecter) {
	clients, err := tcp.ParseClientMap(map[string]string{client: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	l, err := tcp.Listen(t.Context(), "127.0.0.1:0", clients)
	if err != nil {
		t.Fatal(err)
	}
	return l, tcp.NewConnecter(l.Addr().String())
}

func newTLS(t testing.TB) (transport.Listener, transport.Connecter, func() net.Conn) {
	dir, authority := t.TempDir(), transporttest.NewAuthority(t)
	var server, client tls.Files
	server.CA, server.Cert, server.Key = authority.Issue(t, dir, "server")
	client.CA, client.Cert, client.Key = authority.Issue(t, dir, "alice")
	l, err := tls.Listen(t.Context(), "127.0.0.1:0", server, []string{"alice"})
	if err != nil {
		t.Fatal(err)
	}
	c, err := tls.NewConnecter(l.Addr().String(), "server", client)
	if err != nil {
		t.Fatal(err)
	}
	return l, c, dialer(t, l)
}

func dialer(t testing.TB, l transport.Listener) func() net.Conn {
	return func() net.Conn {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
}

// TestFailure05SilentClientStallsAcceptLoop has 100 clients that say nothing, and
// more than may be pending at once: a good client is served before the first of
// the 100 is given up, and all the same when newer ones push older ones out.
func TestFailure05SilentClientStallsAcceptLoop(t *testing.T) {
	for name, newPair := range transports {
		for _, maxPending := range []int{0, 10} {
			t.Run(fmt.Sprintf("%s/MaxPending=%d", name, maxPending), func(t *testing.T) {
				l, c, dialSilent := newPair(t)
				log, stop := serve(t, l, greeters, maxPending)
				for range 100 {
					defer dialSilent().Close()
				}
				wantGreeting(t, c, transportmux.LabelControl, "control, alice")
				wantGreeting(t, c, transportmux.LabelData, "data, alice")
				if refused := log.all(); maxPending == 0 && len(refused) != 0 {
					t.Errorf("%d silent clients were given up first: %v", len(refused), refused[0])
				}
				if err := stop(); err != nil {
					t.Errorf("Serve: %v", err)
				}
			})
		}
	}
}

// TestSilentClientsTakeNoTime is the same in virtual time, which does not move
// before the good client is served; the silent ones are closed when theirs is up.
func TestSilentClientsTakeNoTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, c, dialSilent := newLocal(t)
		log, _ := serve(t, l, greeters, 0)
		start := time.Now()
		var silent []net.Conn
		for range 100 {
			silent = append(silent, dialSilent())
		}
		wantGreeting(t, c, transportmux.LabelControl, "control, alice")
		if took := time.Since(start); took != 0 {
			t.Errorf("the good client waited %v", took)
		}
		for _, conn := range silent {
			_, _ = io.Copy(io.Discard, conn) // the server's banner, then the end
			conn.Close()
		}
		if took := time.Since(start); took != versionhandshake.Timeout {
			t.Errorf("the silent clients were given up after %v, want %v", took, versionhandshake.Timeout)
		}
		synctest.Wait() // the server closes first and logs then
		if refused := log.all(); len(refused) != len(silent) {
			t.Errorf("%d records for %d silent clients", len(refused), len(silent))
		}
	})
}

func TestSilentAfterBanner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, _, dialSilent := newLocal(t)
		serve(t, l, greeters, 0)
		conn := dialSilent()
		defer conn.Close()
		if _, err := versionhandshake.Do(t.Context(), conn, nil); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if _, err := conn.Read(make([]byte, 1)); err != io.EOF || time.Since(start) != 10*time.Second {
			t.Errorf("Read ends after %v with %v, want EOF after 10 s", time.Since(start), err)
		}
	})
}

func TestRefusedClients(t *testing.T) {
	for name, test := range map[string]struct {
		say  func(conn net.Conn) error
		want string
	}{
		"garbage":       {say("GET / HTTP/1.1\r\n\r\n"), `it starts with "GET / HTTP/"`},
		"other version": {say("0000000056 ZREPL_ZFS_REPLICATION PROTOVERSION=0006 EXTENSIONS=0000\n"), "ours is 7, the peer's is 6"},
		"unknown label": {sayLabel("zrepl_other"), `unknown label "zrepl_other"`},
		"not a label":   {sayLabel("zrepl\n"), "not printable ASCII"},
	} {
		t.Run(name, func(t *testing.T) {
			l, c, dialSilent := newLocal(t)
			log, stop := serve(t, l, greeters, 0)
			conn := dialSilent()
			defer conn.Close()
			if err := test.say(conn); err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, conn) // until the server closes
			wantGreeting(t, c, transportmux.LabelData, "data, alice")
			if err := stop(); err != nil {
				t.Errorf("Serve: %v", err)
			}
			if refused := log.all(); len(refused) != 1 || !strings.Contains(refused[0].Error(), test.want) {
				t.Errorf("refused for %v, want one with %q", refused, test.want)
			}
		})
	}
}

// TestRejectedClients: the log names the client and what to configure; the client
// learns that somebody was there.
func TestRejectedClients(t *testing.T) {
	for name, test := range map[string]struct {
		newPair func(t *testing.T) (transport.Listener, transport.Connecter)
		want    []string
	}{
		"tcp":              {tcpStranger, []string{"client=127.0.0.1:", "no entry of the client map", "hint=", "`clients`"}},
		"tls, common name": {tlsStranger(false), []string{"client=127.0.0.1:", "mallory", "`client_cns`"}},
		"tls, authority":   {tlsStranger(true), []string{"client=127.0.0.1:", "x509", "`ca`"}},
	} {
		t.Run(name, func(t *testing.T) {
			l, c := test.newPair(t)
			log := make(records, 1)
			ctx, cancel := context.WithCancel(t.Context())
			served := make(chan error, 1)
			go func() {
				opts := transportmux.ServeOptions{Logger: slog.New(slog.NewTextHandler(log, nil))}
				served <- transportmux.Serve(ctx, l, greeters, opts)
			}()
			_, err := transportmux.Dial(t.Context(), c, transportmux.LabelData, nil)
			var dial *transportmux.DialError
			if !errors.As(err, &dial) || dial.Peer == nil {
				t.Errorf("Dial: %v, want a DialError with the peer", err)
			}
			record := <-log
			for _, want := range append(test.want, `level=WARN msg="client rejected"`) {
				if !strings.Contains(record, want) {
					t.Errorf("the log lacks %s:\n%s", want, record)
				}
			}
			cancel()
			if err := <-served; err != nil {
				t.Errorf("Serve: %v", err)
			}
		})
	}
}

// records gets the text of each log record.
type records chan string

func (r records) Write(p []byte) (int, error) {
	r <- string(p)
	return len(p), nil
}

func tcpStranger(t *testing.T) (transport.Listener, transport.Connecter) {
	return listenTCP(t, "127.0.0.2")
}

// tlsStranger is a client that is not on the list, or one of another authority.
func tlsStranger(foreign bool) func(t *testing.T) (transport.Listener, transport.Connecter) {
	return func(t *testing.T) (transport.Listener, transport.Connecter) {
		dir, authority := t.TempDir(), transporttest.NewAuthority(t)
		var server, client tls.Files
		server.CA, server.Cert, server.Key = authority.Issue(t, dir, "server")
		ca, issuer, name := server.CA, authority, "mallory"
		if foreign {
			issuer, name = transporttest.NewAuthority(t), "alice"
		}
		_, client.Cert, client.Key = issuer.Issue(t, t.TempDir(), name)
		client.CA = ca
		l, err := tls.Listen(t.Context(), "127.0.0.1:0", server, []string{"alice"})
		if err != nil {
			t.Fatal(err)
		}
		c, err := tls.NewConnecter(l.Addr().String(), "server", client)
		if err != nil {
			t.Fatal(err)
		}
		return l, c
	}
}

func say(text string) func(net.Conn) error {
	return func(conn net.Conn) error {
		_, err := io.WriteString(conn, text)
		return err
	}
}

func sayLabel(label string) func(net.Conn) error {
	return func(conn net.Conn) error {
		_, err := versionhandshake.Do(context.Background(), conn, nil)
		var wire [64]byte
		copy(wire[:], label)
		_, writeErr := conn.Write(wire[:])
		return errors.Join(err, writeErr)
	}
}

// TestServeEndsHandlers: the end of Serve's context reaches handlers, and Serve waits for them.
func TestServeEndsHandlers(t *testing.T) {
	l, c, _ := newTCP(t)
	started, ended := make(chan struct{}), false
	_, stop := serve(t, l, map[string]transportmux.Handler{"x": func(ctx context.Context, conn *transportmux.Conn) {
		defer conn.Close()
		close(started)
		<-ctx.Done()
		ended = true
	}}, 0)
	conn, err := transportmux.Dial(t.Context(), c, "x", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	<-started
	if err := stop(); err != nil || !ended {
		t.Errorf("Serve returned %v, handler ended: %t", err, ended)
	}
	if _, err := l.Accept(t.Context()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the listener is not closed: %v", err)
	}
}

func TestServeEndsPendingConnections(t *testing.T) {
	l, _, dialSilent := newLocal(t)
	_, stop := serve(t, l, greeters, 0)
	conn := dialSilent()
	defer conn.Close()
	if err := stop(); err != nil {
		t.Errorf("Serve: %v", err)
	}
	_, _ = io.Copy(io.Discard, conn) // ends
}

// failing is a listener whose Accept fails with the errors in turn, then works.
type failing struct {
	transport.Listener
	errors []error
}

func (f *failing) Accept(ctx context.Context) (transport.Pending, error) {
	if len(f.errors) == 0 {
		return f.Listener.Accept(ctx)
	}
	err := f.errors[0]
	f.errors = f.errors[1:]
	return nil, &net.OpError{Op: "accept", Err: err}
}

func TestAcceptErrorsThatPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, c, _ := newLocal(t)
		start := time.Now()
		serve(t, &failing{l, []error{syscall.EMFILE, syscall.ENFILE, syscall.ECONNABORTED}}, greeters, 0)
		wantGreeting(t, c, transportmux.LabelData, "data, alice")
		if took, want := time.Since(start), (5+10+20)*time.Millisecond; took != want {
			t.Errorf("served after %v, want %v", took, want)
		}
	})
}

func TestAcceptBackoffEndsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, _, _ := newLocal(t)
		errs := make([]error, 100)
		for i := range errs {
			errs[i] = syscall.EMFILE
		}
		_, stop := serve(t, &failing{l, errs}, greeters, 0)
		time.Sleep(10 * time.Second)
		start := time.Now()
		if err := stop(); err != nil || time.Since(start) != 0 {
			t.Errorf("Serve ends %v later with %v", time.Since(start), err)
		}
	})
}

func TestAcceptErrorForGood(t *testing.T) {
	l, c, _ := newLocal(t)
	err := transportmux.Serve(t.Context(), &failing{l, []error{syscall.EBADF}}, greeters, transportmux.ServeOptions{})
	if !errors.Is(err, syscall.EBADF) {
		t.Errorf("Serve: %v, want the listener's error", err)
	}
	if _, err := c.Connect(t.Context()); err == nil {
		t.Error("the listener is not closed")
	}
}

func TestDialEndsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := local.New("alice")
		accepted := make(chan transport.Pending, 1)
		go func() {
			server, _ := tr.Listener().Accept(context.Background()) // and nothing after that
			accepted <- server
		}()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := transportmux.Dial(ctx, tr.Connecter(), transportmux.LabelData, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Dial: %v, want context.DeadlineExceeded", err)
		}
		(<-accepted).Close()
	})
}

func TestDialFails(t *testing.T) {
	tr := local.New("alice")
	tr.Listener().Close()
	if _, err := transportmux.Dial(t.Context(), tr.Connecter(), transportmux.LabelData, nil); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("Dial: %v, want connection refused", err)
	}
}
