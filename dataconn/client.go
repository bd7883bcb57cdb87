package dataconn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/dualrepl/dualrepl/pdu"
	"github.com/dualrepl/dualrepl/transport"
)

// The endpoint names of requests.
const (
	endpointPing = "/v1/ping"
	endpointSend = "/v1/send"
	endpointRecv = "/v1/recv"
)

// A Dialer opens a connection and tells what both ends agreed on. The caller of Dialer
// closes the wire.
type Dialer func(ctx context.Context) (transport.Wire, Features, error)

// A Client makes requests, each on a connection of its own. Its methods may be
// called concurrently. They return the Dialer's error as it is, a RemoteError for
// what the peer's handler said, a ConnError if the connection broke, ErrProtocol, or
// the context's cause.
type Client struct {
	dial Dialer
	opts ClientOptions

	mu     sync.Mutex
	closed bool
	calls  map[*call]struct{} // until their connections have ended
	ended  sync.WaitGroup     // counts calls
}

// call is one entry of Client.calls.
type call struct {
	cancel context.CancelCauseFunc
}

// NewClient returns a client that dials its connections with dial.
func NewClient(dial Dialer, opts ClientOptions) *Client {
	return &Client{dial: dial, opts: opts, calls: map[*call]struct{}{}}
}

// Ping returns what the peer echoes.
func (cl *Client) Ping(ctx context.Context, req *pdu.PingReq) (*pdu.PingRes, error) {
	res := new(pdu.PingRes)
	c, err := cl.do(ctx, endpointPing, req, res, nil)
	if err != nil {
		return nil, err
	}
	c.beginClose()
	return res, nil
}

// Send asks the peer to send. The stream ends as its reader at the peer does: with
// io.EOF or a RemoteError. Until then it ends early with ctx. The caller closes it;
// closing it before its end breaks the request off. It is also an io.WriterTo.
func (cl *Client) Send(ctx context.Context, req *pdu.SendReq) (*pdu.SendRes, io.ReadCloser, error) {
	res := new(pdu.SendRes)
	c, err := cl.do(ctx, endpointSend, req, res, nil)
	if err != nil {
		return nil, nil, err
	}
	return res, &receivedStream{inStream{c: c, atEnd: c.beginClose}}, nil
}

// Receive has the peer receive stream, which it reads to its end but does not
// close. If stream fails, its error is in the chain of the error returned; one that
// returns neither bytes nor an error a hundred times in a row is io.ErrNoProgress. If
// the peer's handler fails, Receive stops sending and returns that RemoteError.
//
// Receive returns after the last Read of stream has. Only if it fails while a Read
// blocks for more than a second, it leaves that Read behind: nobody waits for it, what
// it reads is lost, and it is for the stream's owner, who closes it, to end it.
func (cl *Client) Receive(ctx context.Context, req *pdu.ReceiveReq, stream io.Reader) (*pdu.ReceiveRes, error) {
	res := new(pdu.ReceiveRes)
	c, err := cl.do(ctx, endpointRecv, req, res, stream)
	if err != nil {
		return nil, err
	}
	c.beginClose()
	return res, nil
}

// Close breaks off what runs, waits for the end of its connections, and makes later
// calls fail with net.ErrClosed. It does not wait for a caller's stream that blocks in
// Read. It always succeeds.
func (cl *Client) Close() error {
	cl.mu.Lock()
	cl.closed = true
	for k := range cl.calls {
		k.cancel(errClientClosed)
	}
	cl.mu.Unlock()
	cl.ended.Wait()
	return nil
}

// begin registers a call, so that Close ends its context, until the function that
// it returns is called.
func (cl *Client) begin(ctx context.Context) (context.Context, func(), error) {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	if cl.closed {
		return nil, nil, errClientClosed
	}
	ctx, cancel := context.WithCancelCause(ctx)
	k := &call{cancel}
	cl.calls[k] = struct{}{}
	cl.ended.Add(1)
	return ctx, func() {
		cl.mu.Lock()
		delete(cl.calls, k)
		cl.mu.Unlock()
		cancel(errDone)
		cl.ended.Done()
	}, nil
}

// do makes a request and fills res. The connection that it returns has only the
// response's stream, if any, still to come in.
func (cl *Client) do(caller context.Context, endpoint string, req, res proto.Message, stream io.Reader) (*conn, error) {
	u, err := newUpload(endpoint, req, stream)
	if err != nil {
		return nil, err
	}
	ctx, end, err := cl.begin(caller)
	if err != nil {
		return nil, err
	}
	wire, _, err := cl.dial(ctx)
	if err != nil {
		end()
		return nil, err
	}
	c := newConn(ctx, wire, false)
	c.atEnd = end
	c.start()
	go u.run(caller, c)
	if err := u.settle(ctx, c, c.readResponse(res)); err != nil {
		return nil, err
	}
	return c, nil
}

// readResponse reads the response up to its stream.
func (c *conn) readResponse(res proto.Message) error {
	header, err := c.in.message(typeResponseHeader, maxResponseHeader)
	if err != nil {
		return err
	}
	if text, failed := strings.CutPrefix(string(header), headerError); failed {
		return remoteError([]byte(text))
	}
	if string(header) != headerOK {
		return protocolError("response header %.40q", header)
	}
	body, err := c.in.message(typeResponse, maxResponse)
	if err != nil {
		return err
	}
	if err := proto.Unmarshal(body, res); err != nil {
		return protocolError("response message: %v", err)
	}
	return nil
}

// An upload sends a client's half of a request, while the client waits for the answer.
type upload struct {
	request []byte
	stream  io.Reader     // nil: none
	readErr chan error    // holds the stream's error, from before it is sent
	done    chan struct{} // closed when run has ended
	err     error         // the connection's; valid after done
}

func newUpload(endpoint string, req proto.Message, stream io.Reader) (*upload, error) {
	body, err := encode("request", req, maxRequest)
	if err != nil {
		return nil, err
	}
	request := appendMessage(nil, typeRequestHeader, endpoint)
	request = appendMessage(request, typeRequest, body)
	return &upload{request: request, stream: stream, readErr: make(chan error, 1), done: make(chan struct{})}, nil
}

// run sends the request. The caller's context ends before those derived from it: the
// stream may notice it first.
func (u *upload) run(caller context.Context, c *conn) {
	defer close(u.done)
	u.err = c.write(u.request)
	if u.err == nil && u.stream != nil {
		u.err = c.sendStream(caller, u.stream, func(err error) { u.readErr <- err })
	}
	if u.err != nil { // what the server said before it went is still worth reading
		_ = c.wire.SetReadDeadline(time.Now().Add(shutdownTimeout))
	}
}

// settle waits until the upload is over, given what the server answered, and
// returns why the request failed. The connection of a failed request is ended.
func (u *upload) settle(ctx context.Context, c *conn, answer error) error {
	err := answer
	if err == nil {
		err = u.finish()
	}
	select {
	case readErr := <-u.readErr:
		err = fmt.Errorf("read the stream to send: %w", readErr)
	default:
	}
	// What the server answers to our own end explains nothing.
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(cause, errDone) {
		err = cause
	}
	if err != nil {
		u.abandon(c, err)
	}
	return err
}

// finish waits for an upload that the server has answered with success, which it
// does after the end.
func (u *upload) finish() error {
	if !u.wait(shutdownTimeout) {
		return protocolError("success before the end of the stream")
	}
	return u.err
}

// abandon ends the connection and so the upload, but for a Read that blocks.
func (u *upload) abandon(c *conn, err error) {
	c.cancel(err)
	u.wait(readerGrace)
	<-c.ended
}

func (u *upload) wait(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-u.done:
		return true
	case <-timer.C:
		return false
	}
}
