package dataconn

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/dualrepl/dualrepl/pdu"
	"github.com/dualrepl/dualrepl/transport"
)

func listenTCP(t testing.TB) *net.TCPListener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.(*net.TCPListener)
}

// testTimeout ends what a failing test would wait for.
const testTimeout = time.Minute

func dialer(addr net.Addr) Dialer {
	return func(ctx context.Context) (transport.Wire, Features, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, addr.Network(), addr.String())
		if err != nil {
			return nil, Features{}, err
		}
		return conn.(*net.TCPConn), Features{}, conn.SetDeadline(time.Now().Add(testTimeout))
	}
}

// dialTCP returns a client with one connection, and the peer's end of it.
func dialTCP(t *testing.T) (*Client, *net.TCPConn) {
	t.Helper()
	wire, peer := tcpPair(t)
	return NewClient(func(context.Context) (transport.Wire, Features, error) { return wire, Features{}, nil }, ClientOptions{}), peer
}

// connectTCP returns a client of a server on loopback.
func connectTCP(t testing.TB, h Handler) *Client {
	t.Helper()
	return connectTCPWith(t, h, Features{}, asItIs)
}

func asItIs(w transport.Wire) transport.Wire { return w }

// connectTCPWith does so with features, and with what over makes of the client's wires.
func connectTCPWith(t testing.TB, h Handler, f Features, over func(transport.Wire) transport.Wire) *Client {
	t.Helper()
	l := listenTCP(t)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.AcceptTCP()
			if err != nil {
				return
			}
			wg.Go(func() { ServeConn(context.Background(), conn, h, ServeOptions{Features: f}) })
		}
	})
	dial := dialer(l.Addr())
	cl := NewClient(func(ctx context.Context) (transport.Wire, Features, error) {
		wire, _, err := dial(ctx)
		if err != nil {
			return nil, Features{}, err
		}
		return over(wire), f, nil
	}, ClientOptions{})
	t.Cleanup(func() {
		cl.Close()
		l.Close()
		wg.Wait()
	})
	return cl
}

// Many requests of all kinds at once: whole ones, broken ones, and ones that either
// side breaks off.
func TestStress(t *testing.T) {
	data := pattern(2*frameSize + 777)
	cl := connectTCP(t, handler{
		ping: handlePing(nil).Ping,
		send: func(context.Context, *pdu.SendReq) (*pdu.SendRes, io.ReadCloser, error) {
			return sendRes, io.NopCloser(bytes.NewReader(data)), nil
		},
		recv: func(_ context.Context, req *pdu.ReceiveReq, r io.Reader) (*pdu.ReceiveRes, error) {
			if req.ClearResumeToken {
				_, err := io.CopyN(io.Discard, r, 100_000)
				return nil, errors.Join(errDied, err)
			}
			got, err := io.ReadAll(r)
			if err == nil && !bytes.Equal(got, data) {
				err = errors.New("received something else")
			}
			return new(pdu.ReceiveRes), err
		},
	})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 25 {
				if err := oneOfMany(t.Context(), cl, data, (i+j)%6); err != nil {
					t.Errorf("request %d.%d of kind %d: %v", i, j, (i+j)%6, err)
				}
			}
		})
	}
	wg.Wait()
}

func oneOfMany(ctx context.Context, cl *Client, data []byte, kind int) error {
	switch kind {
	case 0:
		_, err := callPing(ctx, cl)
		return err
	case 1:
		got, err := callSend(ctx, cl)
		if got != string(data) {
			err = errors.Join(err, errors.New("received something else"))
		}
		return err
	case 2:
		_, err := cl.Receive(ctx, new(pdu.ReceiveReq), bytes.NewReader(data))
		return err
	case 3: // the handler fails early
		_, err := cl.Receive(ctx, recvReq, bytes.NewReader(data))
		return wantError[*RemoteError](err)
	case 4: // closed early
		_, r, err := cl.Send(ctx, sendReq)
		if err != nil {
			return err
		}
		_, err = io.CopyN(io.Discard, r, rand.Int64N(int64(len(data))))
		return errors.Join(err, r.Close())
	default: // cancelled in the middle
		ctx, cancel := context.WithCancel(ctx)
		_, err := cl.Receive(ctx, new(pdu.ReceiveReq), readerFunc(func(p []byte) (int, error) { cancel(); return len(p), nil }))
		if !errors.Is(err, context.Canceled) {
			return fmt.Errorf("error %w, want that of the context", err)
		}
		return nil
	}
}

func wantError[T error](err error) error {
	var want T
	if !errors.As(err, &want) {
		return fmt.Errorf("error %w, want a %T", err, want)
	}
	return nil
}

// The way of a frame allocates nothing: not when it is sent, not when it is received. Only
// the library that compresses makes one small header a frame.
func TestNoAllocations(t *testing.T) {
	for _, tt := range []struct {
		Features
		want float64
	}{
		{Features{}, 0},
		{Features{Sum: true}, 0},
		{Features{Zstd: true, Level: 1}, 1},
		{Features{Sum: true, Zstd: true, Level: 3}, 1},
	} {
		t.Run(fmt.Sprintf("%+v", tt.Features), func(t *testing.T) { countAllocations(t, tt.Features, tt.want) })
	}
}

func countAllocations(t *testing.T, f Features, want float64) {
	a, b := tcpPair(t)
	sender, receiver := newConn(t.Context(), a, f, false), newConn(t.Context(), b, f, false)
	in := inStream{c: receiver}
	sender.out.buf, sender.out.packer = new(buffer), newPacker(f)
	payload, buf := make([]byte, minFrameSize/2), make([]byte, minFrameSize)
	src := bytes.NewReader(nil)
	send := func() {
		src.Reset(payload)
		if err := sender.gather(src); err != io.EOF {
			t.Fatal(err)
		}
		if err := sender.flush(); err != nil {
			t.Fatal(err)
		}
	}
	read := func() {
		send()
		if _, err := io.ReadFull(&in, buf[:len(payload)]); err != nil {
			t.Fatal(err)
		}
	}
	writeTo := func() {
		send()
		for left := len(payload); left > 0; {
			b, err := receiver.in.chunk(typeStream)
			if left -= len(b); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := testing.AllocsPerRun(100, read); n > want {
		t.Errorf("Read: %v allocations a frame", n)
	}
	receiver.in.bulk = buf
	if n := testing.AllocsPerRun(100, writeTo); n > want {
		t.Errorf("WriteTo: %v allocations a frame", n)
	}
}

func tcpPair(t testing.TB) (a, b *net.TCPConn) {
	t.Helper()
	l := listenTCP(t)
	wire, _, err := dialer(l.Addr())(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	b, err = l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	a = wire.(*net.TCPConn)
	t.Cleanup(func() { a.Close(); b.Close() })
	if err := b.SetDeadline(time.Now().Add(testTimeout)); err != nil {
		t.Fatal(err)
	}
	return a, b
}
