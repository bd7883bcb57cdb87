package rpc

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/dualrepl/dualrepl/dataconn"
	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/endpoint/synth"
	"github.com/dualrepl/dualrepl/pdu"
	"github.com/dualrepl/dualrepl/transport/tcp"
	"github.com/dualrepl/dualrepl/transportmux"
	"github.com/dualrepl/dualrepl/versionhandshake"
)

// A sender does not receive and a receiver does not send; what they share works.
func TestUnimplemented(t *testing.T) {
	source, sink := &synth.Source{}, &synth.Sink{}
	for _, c := range []struct {
		handler endpoint.Endpoint
		missing []string
	}{
		{source, []string{"Receive"}},
		{sink, []string{"Send", "SendDry", "ReplicationCursor"}},
	} {
		client := connect(t, localPair, c.handler)
		for _, r := range requests() {
			_, err := r.do(t.Context(), client, strings.NewReader(""))
			want := contains(c.missing, r.method)
			if got := isUnimplemented(err, r); got != want {
				t.Errorf("%T: %s unimplemented: %v, error %v", c.handler, r.method, got, err)
			}
		}
	}
}

func contains(list []string, s string) bool {
	for _, e := range list {
		if e == s {
			return true
		}
	}
	return false
}

func isUnimplemented(err error, r request) bool {
	var remote *dataconn.RemoteError
	if r.onData() {
		return errors.As(err, &remote) && strings.Contains(remote.Text, endpoint.ErrUnimplemented.Error())
	}
	return errors.Is(err, endpoint.ErrUnimplemented) && status.Code(err) == codes.Unimplemented
}

// buffer is a log that may be read while it is written.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

// String returns what was logged.
func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// take returns what was logged, and forgets it.
func (b *buffer) take() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.b.Reset()
	return b.b.String()
}

// checkPanicLogged wants the panic, its stack and the client in the log.
func (b *buffer) checkPanicLogged(t *testing.T) {
	t.Helper()
	log := b.take()
	for _, want := range []string{"level=ERROR", "handler fell over", "server_test.go", alice} {
		if !strings.Contains(log, want) {
			t.Errorf("no %q in the log: %s", want, log)
		}
	}
}

func TestHandlerPanics(t *testing.T) {
	log := &buffer{}
	l, c := localPair(t)
	serve(t, l, &fake{hook: func(context.Context, string, proto.Message) error { panic("handler fell over") }},
		ServerOptions{Logger: slog.New(slog.NewTextHandler(log, nil))})
	client := newClient(t, c, ClientOptions{})
	for _, r := range requests() {
		_, err := r.do(t.Context(), client, strings.NewReader(""))
		if r.onData() {
			checkRemote(t, err, errPanic.Error())
		} else if status.Code(err) != codes.Internal {
			t.Errorf("%s: %v", r.method, err)
		}
		log.checkPanicLogged(t)
	}
	check(t, client.WaitForConnectivity(t.Context()))
}

// panicking is a stream of an endpoint that goes wrong after some content.
type panicking struct {
	*synth.Stream
	inRead bool
}

func (p *panicking) Read(b []byte) (int, error) {
	n, err := p.Stream.Read(b)
	if errors.Is(err, io.EOF) && p.inRead {
		panic("handler fell over")
	}
	return n, err
}

func (p *panicking) Close() error { panic("handler fell over") }

func TestHandlerStreamPanics(t *testing.T) {
	for _, inRead := range []bool{true, false} {
		log := &buffer{}
		l, c := localPair(t)
		stream := &panicking{synth.NewStream(synth.Spec{Seed: version().Guid, Size: megabyte}), inRead}
		server := serve(t, l, &fake{stream: stream}, ServerOptions{Logger: slog.New(slog.NewTextHandler(log, nil))})
		client := newClient(t, c, ClientOptions{})
		_, err := send(t.Context(), client, sendReq())
		if inRead {
			checkRemote(t, err, errPanic.Error())
		} else {
			check(t, err) // every byte was there before
		}
		check(t, client.WaitForConnectivity(t.Context()))
		server.stop()
		<-server.done
		log.checkPanicLogged(t)
	}
}

// noStream is a sender that breaks its contract.
type noStream struct{ *fake }

func (noStream) Send(context.Context, *pdu.SendReq) (*pdu.SendRes, io.ReadCloser, error) {
	return &pdu.SendRes{}, nil, nil
}

func TestHandlerWithoutStream(t *testing.T) {
	client := connect(t, localPair, noStream{&fake{}})
	_, _, err := client.Send(t.Context(), sendReq())
	checkRemote(t, err, "no stream")
}

// gate is a step's stream that stops in its middle until it is opened, which the
// test's end does at the latest.
type gate struct {
	first, rest *synth.Stream
	opened      chan struct{}
	open        func()
}

func newGate(t *testing.T) *gate {
	seed := version().Guid
	g := &gate{
		first:  synth.NewStream(synth.Spec{Seed: seed, Size: megabyte}),
		rest:   synth.NewStream(synth.Spec{Seed: seed, Size: 2 * megabyte, Offset: megabyte}),
		opened: make(chan struct{}),
	}
	g.open = sync.OnceFunc(func() { close(g.opened) })
	t.Cleanup(g.open)
	return g
}

func (g *gate) Read(p []byte) (int, error) {
	if n, err := g.first.Read(p); !errors.Is(err, io.EOF) {
		return n, err
	}
	<-g.opened
	return g.rest.Read(p)
}

// receiveThrough starts a step through g and returns, once the handler has it, what
// will become of it.
func (g *gate) receiveThrough(t *testing.T, client *Client, h *fake) <-chan error {
	result, begun := make(chan error, 1), make(chan struct{})
	h.hook = func(_ context.Context, method string, _ proto.Message) error {
		if method == "Receive" {
			close(begun)
		}
		return nil
	}
	go func() {
		_, err := client.Receive(t.Context(), receiveReq(), g)
		result <- err
	}()
	<-begun
	return result
}

// A step that runs when the server is told to stop finishes; no other begins.
func TestServeGraceLetsStepsFinish(t *testing.T) {
	for name, p := range transports {
		t.Run(name, func(t *testing.T) {
			l, c := p(t)
			h := &fake{size: megabyte}
			server := serve(t, l, h, ServerOptions{Grace: time.Hour})
			client := newClient(t, c, ClientOptions{})
			check(t, client.WaitForConnectivity(t.Context()))
			stream := newGate(t)
			result := stream.receiveThrough(t, client, h)
			server.stop()
			waitUntilRefused(t, client)
			_, err := client.SendCompleted(t.Context(), &pdu.SendCompletedReq{OriginalReq: sendReq()})
			check(t, err)
			stream.open()
			check(t, <-result)
			<-server.done
		})
	}
}

// waitUntilRefused sends until the server begins no request any more. It must tell
// the client so by the connection's end: an answer would be for good.
func waitUntilRefused(t *testing.T, client *Client) {
	t.Helper()
	for {
		_, err := send(t.Context(), client, sendReq())
		var remote *dataconn.RemoteError
		if errors.As(err, &remote) {
			t.Fatalf("the server answered %v", err)
		}
		if err != nil {
			return
		}
	}
}

// What outlives the grace is ended: its handler's context first. Time is virtual.
func TestServeGraceEnds(t *testing.T) {
	for _, r := range requests() {
		synctest.Test(t, func(t *testing.T) {
			begun := make(chan struct{})
			l, c := localPair(t)
			server := serve(t, l, &fake{hook: func(ctx context.Context, _ string, _ proto.Message) error {
				close(begun)
				<-ctx.Done()
				return context.Cause(ctx)
			}}, ServerOptions{Grace: 30 * time.Second})
			client := newClient(t, c, ClientOptions{})
			result := make(chan error)
			go func() {
				_, err := r.do(t.Context(), client, neverRead{t.Context()})
				result <- err
			}()
			<-begun
			start := time.Now()
			server.stop()
			var remote *dataconn.RemoteError
			if err := <-result; err == nil || errors.As(err, &remote) {
				t.Errorf("%s: error is %v, not the connection's", r.method, err)
			}
			<-server.done
			if took := time.Since(start); took < 30*time.Second || took > 45*time.Second {
				t.Errorf("%s: the server took %v to stop", r.method, took)
			}
		})
	}
}

// Connections that have not asked for anything don't hold a stopping server up.
func TestServeStopsWithIdleConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, c := localPair(t)
		server := serve(t, l, &fake{}, ServerOptions{})
		for _, label := range []string{transportmux.LabelControl, transportmux.LabelData} {
			conn, err := transportmux.Dial(t.Context(), c, label, nil)
			check(t, err)
			defer conn.Close()
		}
		client := newClient(t, c, ClientOptions{})
		check(t, client.WaitForConnectivity(t.Context()))
		synctest.Wait()
		start := time.Now()
		server.stop()
		<-server.done
		if took := time.Since(start); took > preambleTimeout {
			t.Errorf("the server took %v to stop", took)
		}
	})
}

// Serve returns although a request runs that would go on for ever.
func TestServeReturnsTheListenersError(t *testing.T) {
	l, c := localPair(t)
	h, stream := &fake{size: megabyte}, newGate(t)
	result := make(chan error)
	go func() { result <- NewServer(h, ServerOptions{}).Serve(t.Context(), l) }()
	client := newClient(t, c, ClientOptions{})
	check(t, client.WaitForConnectivity(t.Context()))
	received := stream.receiveThrough(t, client, h)
	check(t, l.Close())
	if err := <-result; !errors.Is(err, net.ErrClosed) {
		t.Errorf("error is %v", err)
	}
	stream.open()
	if err := <-received; err == nil {
		t.Error("the request that ran went unharmed")
	}
}

// A stream that panics while the client sends it does not take the process along.
func TestSentStreamPanics(t *testing.T) {
	client := connect(t, tcpPair, &fake{size: megabyte})
	stream := &panicking{synth.NewStream(synth.Spec{Seed: version().Guid, Size: megabyte}), true}
	if _, err := client.Receive(t.Context(), receiveReq(), stream); !errors.Is(err, errPanic) {
		t.Errorf("error is %v", err)
	}
}

// A server that is stopped amid calls and streams leaves nothing behind; TestMain
// looks for goroutines.
func TestServeStopsUnderLoad(t *testing.T) {
	for name, p := range transports {
		t.Run(name, func(t *testing.T) {
			l, c := p(t)
			server := serve(t, l, &fake{size: megabyte}, ServerOptions{})
			client := newClient(t, c, ClientOptions{})
			var workers, first sync.WaitGroup
			for _, r := range requests() {
				first.Add(1)
				workers.Go(func() { callUntilItFails(client, r, first.Done) })
			}
			first.Wait()
			server.stop()
			<-server.done
			workers.Wait()
		})
	}
}

// callUntilItFails reports once that the first call is over.
func callUntilItFails(client *Client, r request, first func()) {
	var once sync.Once
	for {
		_, err := r.do(context.Background(), client, synth.NewStream(synth.Spec{Seed: version().Guid, Size: megabyte}))
		once.Do(first)
		if err != nil {
			return
		}
	}
}

// After the peer was restarted the same client works on.
func TestClientOutlivesServer(t *testing.T) {
	l, _ := tcpPair(t)
	address := l.Addr().String()
	client := newClient(t, tcp.NewConnecter(address), ClientOptions{})
	for range 3 {
		server := serve(t, l, &fake{}, ServerOptions{})
		check(t, client.WaitForConnectivity(t.Context()))
		server.stop()
		<-server.done
		clients, err := tcp.ParseClientMap(map[string]string{"127.0.0.1": alice})
		check(t, err)
		l, err = tcp.Listen(t.Context(), address, clients)
		check(t, err)
	}
	check(t, l.Close())
}

// hostile opens a connection that is no client's: one of several kinds of wrong.
func hostile(t *testing.T, address string, kind int) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	check(t, err)
	garbage := bytes.Repeat([]byte{0xa5, 0, 0xff, '\n'}, 64)
	switch kind % 5 {
	case 0: // nothing
	case 1:
		conn.Write(garbage)
	case 2:
		io.WriteString(conn, "0000000049 ZREPL_ZFS_REPLI")
	case 3, 4: // garbage behind a good label
		_, err := versionhandshake.Do(t.Context(), conn, nil)
		if err != nil {
			return conn // made room for another
		}
		label := make([]byte, 64)
		copy(label, []string{transportmux.LabelControl, transportmux.LabelData}[kind%5-3])
		conn.Write(append(label, garbage...))
	}
	return conn
}

func openDescriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	check(t, err)
	return len(entries)
}

// 1,000 connections that send garbage, half a banner or nothing, beside a running
// step: it completes, and nothing is left. TestMain looks for goroutines.
func TestHostileConnections(t *testing.T) {
	before := openDescriptors(t)
	l, c := tcpPair(t)
	h := &fake{}
	server := serve(t, l, h, ServerOptions{})
	client := newClient(t, c, ClientOptions{})
	stream := newGate(t)
	result := stream.receiveThrough(t, client, h)

	conns := make([]net.Conn, 1000)
	var opened sync.WaitGroup
	for first := range 10 {
		opened.Go(func() {
			for i := first; i < len(conns); i += 10 {
				conns[i] = hostile(t, l.Addr().String(), i)
			}
		})
	}
	opened.Wait()
	_, err := client.ListFilesystems(t.Context(), &pdu.ListFilesystemReq{})
	check(t, err)
	_, err = send(t.Context(), client, sendReq())
	check(t, err)
	stream.open()
	check(t, <-result)

	check(t, client.Close())
	server.stop()
	<-server.done
	for _, conn := range conns {
		check(t, conn.Close())
	}
	if after := openDescriptors(t); after > before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}
