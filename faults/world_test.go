package faults

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"

	toxiproxy "github.com/Shopify/toxiproxy/v2/client"

	"github.com/dualrepl/dualrepl/rpc"
	"github.com/dualrepl/dualrepl/transport"
	"github.com/dualrepl/dualrepl/transport/tcp"
	"github.com/dualrepl/dualrepl/transport/tls"
	"github.com/dualrepl/dualrepl/transport/transporttest"
)

// alice is the client identity.
const alice = "alice"

// transports make a listener, and a way to make connecters to it through the address of
// a proxy.
var transports = map[string]func(*testing.T) (transport.Listener, func(address string) transport.Connecter){
	"tcp": listenTCP, "tls": listenTLS,
}

func listenTCP(t *testing.T) (transport.Listener, func(string) transport.Connecter) {
	clients, err := tcp.ParseClientMap(map[string]string{"127.0.0.1": alice})
	check(t, err)
	l, err := tcp.Listen(t.Context(), "127.0.0.1:0", clients)
	check(t, err)
	return l, func(address string) transport.Connecter { return tcp.NewConnecter(address) }
}

func listenTLS(t *testing.T) (transport.Listener, func(string) transport.Connecter) {
	authority := transporttest.NewAuthority(t)
	files := func(name string) (f tls.Files) {
		f.CA, f.Cert, f.Key = authority.Issue(t, t.TempDir(), name)
		return f
	}
	l, err := tls.Listen(t.Context(), "127.0.0.1:0", files("passive"), []string{alice})
	check(t, err)
	own := files(alice)
	return l, func(address string) transport.Connecter {
		c, err := tls.NewConnecter(address, "passive", own)
		check(t, err)
		return c
	}
}

// features are what the two ends offer one another.
type features struct {
	client      rpc.ClientOptions
	reversed    bool  // the side that answers is the one that dials
	connections int32 // for a control call and two data requests, after one another
}

var featureSets = map[string]features{
	"base":           {rpc.ClientOptions{BaseProtocol: true}, false, 3},
	"reuse":          {rpc.ClientOptions{Checksum: rpc.ChecksumNever}, false, 2},
	"sum":            {rpc.ClientOptions{Checksum: rpc.ChecksumAlways}, false, 2},
	"zstd":           {rpc.ClientOptions{Checksum: rpc.ChecksumNever, Level: 1}, false, 2},
	"mux":            {rpc.ClientOptions{Mux: true}, false, 1},
	"mux, sum, zstd": {rpc.ClientOptions{Mux: true, Checksum: rpc.ChecksumAlways, Level: 1}, false, 1},
	"reversed":       {rpc.ClientOptions{Mux: true, PeerIdentity: alice}, true, 1},
}

// world is a client and the oracle that it calls, with a proxy between them.
type world struct {
	t      *testing.T
	proxy  *toxiproxy.Proxy
	client *rpc.Client
	oracle *oracle
	gate   *gate     // the one that all calls pass
	rounds []*round  // of calls so far
	dialed io.Closer // the client of the side that dials, if it is not the one that calls

	listener *countingListener
	stop     context.CancelFunc // ends the servers
	serving  []chan error       // what they return
}

func newWorld(t *testing.T, f features, transport string) *world {
	t.Helper()
	l, connecter := transports[transport](t)
	proxy, err := proxies.CreateProxy(strings.ReplaceAll(t.Name(), "/", "_"), nextHost()+":0", l.Addr().String())
	check(t, err)
	t.Cleanup(func() { check(t, proxy.Delete()) })
	counting := &countingListener{Listener: l}
	w := &world{t: t, proxy: proxy, gate: newGate(), listener: counting}
	w.oracle = newOracle(t, w.gate)
	server := rpc.NewServer(w.oracle, rpc.ServerOptions{Checksum: f.client.Checksum})
	check(t, w.oracle.service().Register(server))
	dialing, err := rpc.NewClient(connecter(proxy.Listen), f.client)
	check(t, err)
	ctx, stop := context.WithCancel(context.Background())
	w.stop = stop
	if f.reversed {
		w.reverse(ctx, counting, server, dialing)
	} else {
		w.client = dialing
		w.serve(func() error { return server.Serve(ctx, counting) })
	}
	w.connect()
	return w
}

// countingListener counts the connections that it accepts.
type countingListener struct {
	transport.Listener
	accepted atomic.Int32
}

func (l *countingListener) Accept(ctx context.Context) (transport.Pending, error) {
	pending, err := l.Listener.Accept(ctx)
	if err == nil {
		l.accepted.Add(1)
	}
	return pending, err
}

var hosts atomic.Uint32

// nextHost is an address of this machine that nothing else uses: a proxy that was down
// has to find its port free.
func nextHost() string {
	n := hosts.Add(1)
	return fmt.Sprintf("127.1.%d.%d", n/250, 1+n%250)
}

// reverse makes server answer over the connection that dialing opens, to whoever
// listens.
func (w *world) reverse(ctx context.Context, l transport.Listener, server *rpc.Server, dialing *rpc.Client) {
	listening := rpc.NewServer(nil, rpc.ServerOptions{})
	listening.Handle("", rpc.Route{Clients: []string{alice}})
	w.serve(func() error { return listening.Serve(ctx, l) })
	w.serve(func() error { return server.ServeOver(ctx, dialing) })
	var err error
	w.client, err = listening.Peer("", alice, rpc.ClientOptions{})
	check(w.t, err)
	w.dialed = dialing
}

func (w *world) serve(serve func() error) {
	served := make(chan error, 1)
	go func() { served <- serve() }()
	w.serving = append(w.serving, served)
}

// connect waits until the client's calls are answered.
func (w *world) connect() {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), hangs)
	defer cancel()
	check(w.t, w.client.WaitForConnectivity(ctx))
}

// startGated starts calls and waits until those that can are in their midst.
func (w *world) startGated() *round {
	w.t.Helper()
	r := w.start("calls on the network that turns bad", 2)
	ends(w.t, "coming to the gate", func() error {
		for range r.gated {
			select {
			case <-w.gate.arrived:
			case err := <-r.early:
				return err
			}
		}
		return nil
	})
	return r
}

// poison adds toxics to all connections, those that there are and those to come.
func (w *world) poison(toxics []toxic) {
	w.t.Helper()
	for i, tx := range toxics {
		if tx.kind == down {
			check(w.t, w.proxy.Disable())
			continue
		}
		for _, stream := range tx.streams {
			_, err := w.proxy.AddToxic(fmt.Sprint(stream, i), tx.kind, stream, 1, tx.attributes)
			check(w.t, err)
		}
	}
}

// heal takes all toxics away.
func (w *world) heal() {
	w.t.Helper()
	check(w.t, w.proxy.Enable())
	toxics, err := w.proxy.Toxics()
	check(w.t, err)
	for _, tx := range toxics {
		check(w.t, w.proxy.RemoveToxic(tx.Name))
	}
}

// recover waits until every kind of call succeeds again.
func (w *world) recover() {
	w.t.Helper()
	w.connect()
	// A connection from before may be there still, and break under a call.
	err := errors.New("not tried")
	for i := 0; i < 3 && err != nil; i++ {
		err = w.start("calls after the break", 1).wait()
	}
	check(w.t, err)
}

// close ends both sides, which have to end whatever the network is like. Then no
// handler can see a call that was not sent any more.
func (w *world) close() {
	w.t.Helper()
	ends(w.t, "closing the client", w.client.Close)
	w.stop()
	for _, served := range w.serving {
		ends(w.t, "stopping a server", func() error { return <-served })
	}
	if w.dialed != nil {
		ends(w.t, "closing the side that dials", w.dialed.Close)
	}
	for _, r := range w.rounds {
		_ = r.wait() // its errors are its own test's
		for _, guid := range r.notSent {
			if w.oracle.hasSeen(guid) {
				w.t.Errorf("%s: a call that was 'not sent' came to its handler", r.name)
			}
		}
	}
}
