package rpc

import (
	"context"
	"io"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/dualrepl/dualrepl/transport"
)

// Stats tells what went over which channel since the client was made, pings of
// WaitForConnectivity included.
type Stats struct {
	ControlCalls    uint64 // begun
	ControlSent     uint64 // bytes as transported, HTTP/2 framing included
	ControlReceived uint64
	DataRequests    uint64 // begun
	DataConnections uint64 // opened for them; fewer, if they are used again
	DataSent        uint64 // bytes of streams, without frames and messages
	DataReceived    uint64
}

// counters is Stats while it changes.
type counters struct {
	controlCalls, controlSent, controlReceived atomic.Uint64
	dataRequests, dataConnections              atomic.Uint64
	dataSent, dataReceived                     atomic.Uint64
}

// Stats returns the client's figures. A stream that is read with WriteTo counts
// when that returns.
func (c *Client) Stats() Stats {
	return Stats{
		ControlCalls:    c.counters.controlCalls.Load(),
		ControlSent:     c.counters.controlSent.Load(),
		ControlReceived: c.counters.controlReceived.Load(),
		DataRequests:    c.counters.dataRequests.Load(),
		DataConnections: c.counters.dataConnections.Load(),
		DataSent:        c.counters.dataSent.Load(),
		DataReceived:    c.counters.dataReceived.Load(),
	}
}

// countedConn is the client's end of a control connection. It counts bytes, and
// ends a silent connection after controlSilence.
type countedConn struct {
	transport.Wire
	counters *counters
}

// Read implements net.Conn.
func (c *countedConn) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(controlSilence)); err != nil {
		return 0, err
	}
	n, err := c.Wire.Read(p)
	c.counters.controlReceived.Add(uint64(n))
	return n, err
}

// Write implements net.Conn.
func (c *countedConn) Write(p []byte) (int, error) {
	n, err := c.Wire.Write(p)
	c.counters.controlSent.Add(uint64(n))
	return n, err
}

// countedStream counts what the peer sends. The wire below stays as it is, so that
// what the data channel can do with it (writev, splice) is not lost.
type countedStream struct {
	io.ReadCloser
	ctx      context.Context // the caller's
	counters *counters
}

// Read implements io.Reader.
func (s *countedStream) Read(p []byte) (int, error) {
	n, err := s.ReadCloser.Read(p)
	s.counters.dataReceived.Add(uint64(n))
	return n, newDataError(s.ctx, methodSend, err)
}

// WriteTo implements io.WriterTo.
func (s *countedStream) WriteTo(w io.Writer) (int64, error) {
	n, err := io.Copy(w, s.ReadCloser)
	s.counters.dataReceived.Add(uint64(n))
	return n, newDataError(s.ctx, methodSend, err)
}

// countedReader counts what goes to the peer.
type countedReader struct {
	io.Reader
	counters *counters
	logger   *slog.Logger
}

// Read implements io.Reader.
func (r *countedReader) Read(p []byte) (n int, err error) {
	defer recoverPanic(r.logger, &err)
	n, err = r.Reader.Read(p)
	r.counters.dataSent.Add(uint64(n))
	return n, err
}
