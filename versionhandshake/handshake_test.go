package versionhandshake

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

var errTest = errors.New("test")

func TestBothSides(t *testing.T) {
	a, b := net.Pipe() // without a buffer: would deadlock if both wrote first
	defer a.Close()
	defer b.Close()
	ours, theirs := []string{"dualrepl.reuse", "dualrepl.sum=blake3"}, []string{"x"}
	done := make(chan error, 1)
	go func() {
		peer, err := Do(t.Context(), b, theirs)
		if !slices.Equal(peer.Extensions, ours) {
			t.Errorf("the peer got %q, want %q", peer.Extensions, ours)
		}
		done <- err
	}()
	peer, err := Do(t.Context(), a, ours)
	if err != nil || !slices.Equal(peer.Extensions, theirs) {
		t.Errorf("got %q, error %v, want %q", peer.Extensions, err, theirs)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// against does the handshake with a peer that sends wire and closes its side.
func against(t *testing.T, wire string) (Peer, error) {
	t.Helper()
	conn, peer := net.Pipe()
	defer conn.Close()
	done := make(chan struct{}, 2)
	go func() {
		_, _ = io.WriteString(peer, wire) // our side may close first
		_ = peer.Close()                  // a pipe's Close never fails
		done <- struct{}{}
	}()
	go func() {
		_, _ = io.Copy(io.Discard, peer) // to the end in whatever way
		done <- struct{}{}
	}()
	got, err := Do(t.Context(), conn, nil)
	conn.Close()
	<-done
	<-done
	return got, err
}

// TestCorruptEveryByte flips each bit of the base banner. No change may go unnoticed.
func TestCorruptEveryByte(t *testing.T) {
	good := vectors[0].wire
	for i := range good {
		for bit := range 8 {
			wire := []byte(good)
			wire[i] ^= 1 << bit
			_, err := against(t, string(wire))
			if !errors.Is(err, ErrBanner) && !errors.Is(err, ErrVersion) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("banner %q: error %v", wire, err)
			}
		}
	}
}

func TestTruncateEveryByte(t *testing.T) {
	good := vectors[1].wire
	for n := range good {
		if _, err := against(t, good[:n]); !errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
			t.Errorf("banner %q: error %v, want io.ErrUnexpectedEOF", good[:n], err)
		}
	}
}

func TestVersionsDiffer(t *testing.T) {
	_, err := against(t, strings.Replace(vectors[0].wire, "0007", "0006", 1))
	if !errors.Is(err, ErrVersion) || !strings.Contains(err.Error(), "ours is 7, the peer's is 6") {
		t.Errorf("error is %v, want ErrVersion with both versions", err)
	}
}

// TestSilentPeer has a peer that stops at each byte of its banner, and one that
// reads nothing.
func TestSilentPeer(t *testing.T) {
	good := vectors[0].wire
	for n := range len(good) + 1 {
		synctest.Test(t, func(t *testing.T) {
			conn, peer := net.Pipe()
			defer peer.Close()
			defer conn.Close()
			go func() { _, _ = io.WriteString(peer, good[:n]) }() // ends at the latest with the pipe
			start := time.Now()
			if _, err := Do(t.Context(), conn, nil); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%d bytes: error is %v, want a timeout", n, err)
			}
			if took := time.Since(start); took != Timeout {
				t.Errorf("%d bytes: gave up after %v, want %v", n, took, Timeout)
			}
		})
	}
}

// TestGarbageFromDeafPeer: the error does not wait until our banner is written.
func TestGarbageFromDeafPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, peer := net.Pipe()
		defer peer.Close()
		defer conn.Close()
		go func() { _, _ = io.WriteString(peer, "GET / HTTP/1.1\r\n") }() // ends with the pipe
		start := time.Now()
		if _, err := Do(t.Context(), conn, nil); !errors.Is(err, ErrBanner) || time.Since(start) != 0 {
			t.Errorf("error after %v: %v, want ErrBanner at once", time.Since(start), err)
		}
	})
}

func TestContextEndsHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, peer := net.Pipe()
		defer peer.Close()
		defer conn.Close()
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(errTest) })
		if _, err := Do(ctx, conn, nil); !errors.Is(err, errTest) {
			t.Errorf("error is %v, want the cause of the context's end", err)
		}
	})
}

func TestOurExtensionsAreChecked(t *testing.T) {
	conn, peer := net.Pipe()
	defer peer.Close()
	defer conn.Close()
	if _, err := Do(t.Context(), conn, []string{"two\nlines"}); err == nil {
		t.Error("an extension of two lines is sent")
	}
}

// TestDeadlineIsCleared uses the connection after far more than Timeout.
func TestDeadlineIsCleared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		defer a.Close()
		defer b.Close()
		go func() {
			if _, err := Do(t.Context(), b, nil); err == nil {
				time.Sleep(time.Hour)
				_, _ = b.Write([]byte{42}) // the reader below notices if it fails
			}
		}()
		if _, err := Do(t.Context(), a, nil); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 1)
		if _, err := a.Read(got); err != nil || got[0] != 42 {
			t.Errorf("read %v, error %v", got, err)
		}
	})
}
