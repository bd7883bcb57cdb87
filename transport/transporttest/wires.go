package transporttest

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"testing"
	"time"

	"github.com/dualrepl/dualrepl/transport"
)

// testBytes is more than the buffers of a connection hold.
var testBytes = func() []byte {
	b := make([]byte, 4<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(b) // never fails
	return b
}()

// send writes testBytes in the background and ends the direction.
func send(wire transport.Wire) <-chan error {
	result := make(chan error, 1)
	go func() {
		_, err := wire.Write(testBytes)
		result <- errors.Join(err, wire.CloseWrite())
	}()
	return result
}

// transfer sends testBytes one way and expects them, then io.EOF.
func transfer(t *testing.T, from, to transport.Wire) {
	t.Helper()
	sent := send(from)
	got, err := io.ReadAll(to)
	if err != nil || !bytes.Equal(got, testBytes) {
		t.Errorf("received %d bytes of %d, equal: %t, error: %v", len(got), len(testBytes), bytes.Equal(got, testBytes), err)
	}
	if err := <-sent; err != nil {
		t.Errorf("send: %v", err)
	}
}

// pass sends a few bytes one way.
func pass(t *testing.T, from, to transport.Wire) {
	t.Helper()
	const text = "still here"
	if _, err := io.WriteString(from, text); err != nil {
		t.Errorf("Write: %v", err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(to, got); err != nil || string(got) != text {
		t.Errorf("read %q, error %v", got, err)
	}
}

func testBothDirections(t *testing.T, p *pair) {
	client, server := p.wires(t)
	sent := send(client)
	transfer(t, server, client)
	got, err := io.ReadAll(server)
	if err != nil || !bytes.Equal(got, testBytes) {
		t.Errorf("received %d bytes of %d, error %v", len(got), len(testBytes), err)
	}
	if err := <-sent; err != nil {
		t.Errorf("send: %v", err)
	}
}

func testCloseWriteByClient(t *testing.T, p *pair) {
	client, server := p.wires(t)
	testCloseWrite(t, client, server)
}

func testCloseWriteByServer(t *testing.T, p *pair) {
	client, server := p.wires(t)
	testCloseWrite(t, server, client)
}

// testCloseWrite ends one direction, then uses the other.
func testCloseWrite(t *testing.T, first, second transport.Wire) {
	pass(t, first, second)
	if err := first.CloseWrite(); err != nil {
		t.Fatalf("CloseWrite: %v", err)
	}
	for range 2 { // it stays that way
		if n, err := second.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("Read after the peer's CloseWrite: %d, %v, want 0, EOF", n, err)
		}
	}
	if _, err := first.Write([]byte{1}); err == nil {
		t.Error("Write succeeds after CloseWrite")
	}
	transfer(t, second, first)
}

func testCloseIsEOF(t *testing.T, p *pair) {
	client, server := p.wires(t)
	if _, err := client.Write([]byte("bye")); err != nil {
		t.Fatalf("Write: %v", err)
	}
	if err := client.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	if got, err := io.ReadAll(server); err != nil || string(got) != "bye" {
		t.Errorf("read %q, error %v, want %q", got, err, "bye")
	}
}

func testCloseUnblocksRead(t *testing.T, p *pair) {
	client, _ := p.wires(t)
	read := readOne(client)
	if err := client.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	if err := <-read; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Read is ended by Close with %v, want net.ErrClosed", err)
	}
}

// readOne reads one byte in the background.
func readOne(wire transport.Wire) <-chan error {
	result := make(chan error, 1)
	go func() {
		_, err := wire.Read(make([]byte, 1))
		result <- err
	}()
	return result
}

func testReadDeadline(t *testing.T, p *pair) {
	client, server := p.wires(t)
	for _, deadline := range []time.Time{time.Now().Add(-time.Second), time.Now().Add(10 * time.Millisecond)} {
		setDeadline(t, client.SetReadDeadline, deadline)
		_, err := client.Read(make([]byte, 1))
		wantTimeout(t, err)
	}
	pass(t, client, server) // the other direction has no deadline
	setDeadline(t, client.SetReadDeadline, time.Time{})
	pass(t, server, client)
}

func testReadDeadlineUnblocks(t *testing.T, p *pair) {
	client, server := p.wires(t)
	read := readOne(client)
	setDeadline(t, client.SetDeadline, time.Now())
	wantTimeout(t, <-read)
	setDeadline(t, client.SetDeadline, time.Time{})
	pass(t, server, client)
}

// testWriteDeadline does not write again afterwards: TLS cannot, as half a record
// may be under way.
func testWriteDeadline(t *testing.T, p *pair) {
	client, server := p.wires(t)
	setDeadline(t, client.SetWriteDeadline, time.Now().Add(10*time.Millisecond))
	var err error
	for err == nil { // until the buffers are full, as nobody reads
		_, err = client.Write(testBytes)
	}
	wantTimeout(t, err)
	pass(t, server, client) // the other direction has no deadline
}

func setDeadline(t *testing.T, set func(time.Time) error, deadline time.Time) {
	t.Helper()
	if err := set(deadline); err != nil {
		t.Fatalf("set deadline: %v", err)
	}
}

func wantTimeout(t *testing.T, err error) {
	t.Helper()
	var netErr net.Error
	if !errors.As(err, &netErr) || !netErr.Timeout() || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("error is %v, want a timeout", err)
	}
}
