package transport

import (
	"context"
	"errors"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

var errTest = errors.New("test")

// readByte blocks, as the peer is silent.
func readByte(conn net.Conn) func() error {
	return func() error {
		_, err := conn.Read(make([]byte, 1))
		return err
	}
}

func TestWithTimeoutExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, peer := net.Pipe()
		defer peer.Close()
		defer conn.Close()
		start := time.Now()
		err := WithTimeout(t.Context(), conn, time.Minute, readByte(conn))
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("error is %v, want a timeout", err)
		}
		if took := time.Since(start); took != time.Minute {
			t.Errorf("took %v, want a minute", took)
		}
	})
}

func TestWithTimeoutTellsWhyContextEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, peer := net.Pipe()
		defer peer.Close()
		defer conn.Close()
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(errTest) })
		if err := WithTimeout(ctx, conn, time.Minute, readByte(conn)); err != errTest {
			t.Errorf("error is %v, want the cause of the context's end", err)
		}
	})
}

func TestWithTimeoutClearsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, peer := net.Pipe()
		defer peer.Close()
		defer conn.Close()
		if err := WithTimeout(t.Context(), conn, time.Second, func() error { return nil }); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(time.Hour, func() { _, _ = peer.Write([]byte{1}) })
		if err := readByte(conn)(); err != nil {
			t.Errorf("the deadline is still there: %v", err)
		}
	})
}

func TestWithTimeoutReturnsError(t *testing.T) {
	conn, peer := net.Pipe()
	defer peer.Close()
	if err := WithTimeout(t.Context(), conn, time.Minute, func() error { return errTest }); err != errTest {
		t.Errorf("error is %v, want the function's", err)
	}
	conn.Close()
	if err := WithTimeout(t.Context(), conn, time.Minute, readByte(conn)); err == nil {
		t.Error("no error on a closed connection")
	}
}
