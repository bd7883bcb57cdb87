package local

import (
	"net"
	"time"
)

// wire is one end of a connection: it reads from one pipe and writes to another.
type wire struct {
	in, out       *pipe
	local, remote addr
}

// newPair makes the client's and the server's end.
func newPair(identity string) (client, server *wire) {
	up, down := newPipe(), newPipe()
	name, listener := addr(identity), addr("listener")
	client = &wire{in: down, out: up, local: name, remote: listener}
	server = &wire{in: up, out: down, local: listener, remote: name}
	return client, server
}

func (w *wire) Read(p []byte) (int, error)  { return w.in.read(p) }
func (w *wire) Write(p []byte) (int, error) { return w.out.write(p) }

func (w *wire) CloseWrite() error { return w.out.closeWrite() }

// ChecksIntegrity is for transport.ChecksIntegrity: it is all one process's memory.
func (w *wire) ChecksIntegrity() bool { return true }

// Close lets the peer read what was written; what the peer wrote is lost.
func (w *wire) Close() error {
	w.in.abandonRead()
	w.out.abandonWrite()
	return nil
}

func (w *wire) LocalAddr() net.Addr  { return w.local }
func (w *wire) RemoteAddr() net.Addr { return w.remote }

func (w *wire) SetReadDeadline(t time.Time) error {
	return w.in.setDeadline(&w.in.reader, t)
}

func (w *wire) SetWriteDeadline(t time.Time) error {
	return w.out.setDeadline(&w.out.writer, t)
}

func (w *wire) SetDeadline(t time.Time) error {
	if err := w.SetReadDeadline(t); err != nil {
		return err
	}
	return w.SetWriteDeadline(t)
}
