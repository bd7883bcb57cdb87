package line

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// echo answers each connection with what it has read, after its end.
func echo(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			content, _ := io.ReadAll(conn)
			_, _ = conn.Write(content)
			conn.Close()
		}
	}()
	return listener.Addr().String()
}

func open(t *testing.T, to string) (*Line, net.Conn) {
	t.Helper()
	l, err := New(1 << 40)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	l.To(to)
	conn, err := net.Dial("tcp", l.Address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return l, conn
}

func TestCarriesBothWays(t *testing.T) {
	_, conn := open(t, echo(t))
	want := make([]byte, 3*packet+1)
	for i := range want {
		want[i] = byte(rand.Uint32())
	}
	if _, err := conn.Write(want); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(conn)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d of %d bytes came back: %v", len(got), len(want), err)
	}
}

func TestCloseEndsConnections(t *testing.T) {
	l, conn := open(t, echo(t))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("the connection goes on")
	}
}

func TestLeadsNowhere(t *testing.T) {
	_, conn := open(t, "127.0.0.1:1")
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("a connection to nobody goes on")
	}
}

// Two connections share the rate; a pause is lost.
func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &Line{rate: packet * 100}
		start := time.Now()
		carried := make(chan int)
		for range 2 {
			go func() {
				for range 100 {
					l.carry(packet)
				}
				carried <- 1
			}()
		}
		<-carried
		<-carried
		if took := time.Since(start); took < 2*time.Second-oversleep || took > 2*time.Second {
			t.Errorf("200 packets took %v, want 2s", took)
		}
		time.Sleep(time.Hour)
		start = time.Now()
		for range 100 {
			l.carry(packet)
		}
		if took := time.Since(start); took < time.Second-oversleep {
			t.Errorf("100 packets after a pause took %v, want 1s", took)
		}
	})
}
