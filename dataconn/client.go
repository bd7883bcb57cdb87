package dataconn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
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

// A Client makes requests: each on a connection of its own, or with Features.Reuse on one
// that no other request needs at that time. Its methods may be called concurrently. They
// return the Dialer's error, a RemoteError for what the peer's handler said, a ConnError
// if the connection broke, ErrProtocol, a StreamError, or the context's cause: only its
// text, with context.Canceled, if that is the RemoteError or ErrNotSent of another request.
//
// A request that the peer had not begun when its connection ended is sent anew, on a
// fresh connection, with what was read of its stream; it fails if that is more than
// 64 KiB. ErrNotSent is in the chain of an error after which the request has not run and
// will not. After a RemoteError it has been answered. After any other error it may have
// run.
type Client struct {
	dial Dialer
	opts ClientOptions
	pool pool

	ctx    context.Context // of its connections; ends with Close
	cancel context.CancelCauseFunc

	mu      sync.Mutex
	running sync.WaitGroup // requests, until they are answered, and connections; none is added after Close
}

// NewClient returns a client that dials its connections with dial.
func NewClient(dial Dialer, opts ClientOptions) *Client {
	opts = opts.withDefaults()
	cl := &Client{dial: dial, opts: opts, pool: pool{size: opts.MaxIdle, timeout: opts.IdleTimeout}}
	cl.ctx, cl.cancel = context.WithCancelCause(context.Background())
	return cl
}

// Ping returns what the peer echoes.
func (cl *Client) Ping(ctx context.Context, req *pdu.PingReq) (*pdu.PingRes, error) {
	res := new(pdu.PingRes)
	a, err := cl.do(ctx, endpointPing, req, res, nil)
	if err != nil {
		return nil, err
	}
	a.done()
	return res, nil
}

// Send asks the peer to send. The stream ends as its reader at the peer does: with
// io.EOF or a RemoteError. Until then it ends early with ctx. The caller closes it;
// closing it before its end breaks the request off. It is also an io.WriterTo.
func (cl *Client) Send(ctx context.Context, req *pdu.SendReq) (*pdu.SendRes, io.ReadCloser, error) {
	res := new(pdu.SendRes)
	a, err := cl.do(ctx, endpointSend, req, res, nil)
	if err != nil {
		return nil, nil, err
	}
	return res, &receivedStream{inStream: inStream{c: a.c, atEnd: a.done}, attempt: a}, nil
}

// Receive has the peer receive stream, which it reads to its end but does not
// close. If stream fails, its error is in the chain of the error returned, a
// StreamError; one that returns neither bytes nor an error a hundred times in a row is
// io.ErrNoProgress. If the peer's handler fails, Receive stops sending and returns that
// RemoteError.
//
// Receive returns after the last Read of stream has. Only if it fails while a Read
// blocks for more than a second, it leaves that Read behind: nobody waits for it, what
// it reads is lost, and it is for the stream's owner, who closes it, to end it.
func (cl *Client) Receive(ctx context.Context, req *pdu.ReceiveReq, stream io.Reader) (*pdu.ReceiveRes, error) {
	res := new(pdu.ReceiveRes)
	a, err := cl.do(ctx, endpointRecv, req, res, stream)
	if err != nil {
		return nil, err
	}
	a.done()
	return res, nil
}

// Close breaks off what runs, closes idle connections, waits for the end of all
// connections, and makes later calls fail with net.ErrClosed. It does not wait for a
// caller's stream that blocks in Read. It always succeeds.
func (cl *Client) Close() error {
	cl.mu.Lock()
	cl.cancel(errClientClosed)
	cl.mu.Unlock()
	cl.running.Wait()
	return nil
}

// begin counts a request as running, unless the client is closed.
func (cl *Client) begin() error {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	if cl.ctx.Err() != nil {
		return errClientClosed
	}
	cl.running.Add(1)
	return nil
}

// do makes a request and fills res. The connection of the attempt that it returns has
// only the response's stream, if any, still to come in.
func (cl *Client) do(ctx context.Context, endpoint string, req, res proto.Message, stream io.Reader) (*attempt, error) {
	r, err := newRequest(endpoint, req, stream)
	if err != nil {
		return nil, notSentError{err}
	}
	if err := cl.begin(); err != nil {
		return nil, notSentError{err}
	}
	defer cl.running.Done()
	if ctx.Err() != nil {
		return nil, notSentError{context.Cause(ctx)}
	}
	c := cl.pool.take()
	for tries := 1; ; tries++ {
		if c == nil {
			if c, err = cl.connect(ctx); err != nil {
				return nil, notSentError{err}
			}
		}
		a := cl.attempt(ctx, c)
		if err = a.run(r, res); err == nil {
			return a, nil
		}
		if tries == maxTries {
			return nil, err
		}
		if err = a.awaitRepeat(r, err); err != nil {
			return nil, err
		}
		c = nil
	}
}

// connect makes a connection.
func (cl *Client) connect(caller context.Context) (*conn, error) {
	ctx, cancel := context.WithCancelCause(caller)
	defer cancel(errDone)
	defer context.AfterFunc(cl.ctx, func() { cancel(errClientClosed) })()
	wire, features, err := cl.dial(ctx)
	if err != nil {
		return nil, err
	}
	c := newConn(cl.ctx, wire, features, false)
	c.statusOf = cl.opts.StatusOf
	cl.running.Add(1)
	c.atEnd = func() {
		cl.pool.remove(c)
		cl.running.Done()
	}
	c.start()
	return c, nil
}

// readResponse reads the response up to its stream.
func (c *conn) readResponse(res proto.Message) error {
	if err := c.await(); err != nil {
		return err
	}
	header, err := c.in.message(typeResponseHeader, maxResponseHeader)
	if err != nil {
		return err
	}
	if text, failed := strings.CutPrefix(string(header), headerError); failed {
		return c.in.remoteError([]byte(text))
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

// A request is what a client sends, on as many connections as it takes.
type request struct {
	frames []byte  // header and message
	stream *replay // nil: none
}

func newRequest(endpoint string, req proto.Message, stream io.Reader) (*request, error) {
	body, err := encode("request", req, maxRequest)
	if err != nil {
		return nil, err
	}
	r := &request{frames: appendMessage(appendMessage(nil, typeRequestHeader, endpoint), typeRequest, body)}
	if stream != nil {
		r.stream = &replay{src: stream}
	}
	return r, nil
}

// isLost reports whether the request cannot be sent again. Its stream may be in use.
func (r *request) isLost() bool { return r.stream != nil && r.stream.lost.Load() }

// rewind reports whether the request can be sent again, from its stream's beginning on.
func (r *request) rewind() bool { return r.stream == nil || r.stream.rewind() }

// A replay reads a stream, and again from its beginning as long as that is short.
type replay struct {
	src  io.Reader
	head []byte      // what has been read
	at   int         // how much of head has been read since the beginning
	err  error       // what ended the stream behind head
	lost atomic.Bool // head does not have all that has been read
}

// Read implements io.Reader.
func (r *replay) Read(p []byte) (int, error) {
	if n := copy(p, r.head[r.at:]); n > 0 {
		r.at += n
		return n, nil
	}
	if r.err != nil {
		return 0, r.err
	}
	n, err := r.src.Read(p)
	r.remember(p[:n], err)
	return n, err
}

func (r *replay) remember(p []byte, err error) {
	if r.lost.Load() {
		return
	}
	if len(r.head)+len(p) > replayLimit {
		r.lost.Store(true)
		r.head, r.at = nil, 0
		return
	}
	r.head = append(r.head, p...)
	r.at, r.err = len(r.head), err
}

// rewind reports whether the stream can be read again, which it is next.
func (r *replay) rewind() bool {
	r.at = 0
	return !r.lost.Load()
}

// An attempt is a request on one connection.
type attempt struct {
	cl      *Client
	c       *conn
	caller  context.Context
	letGo   func() bool   // keeps the end of caller from ending the connection; false: it has
	readErr chan error    // holds the stream's error, from before it is sent
	sent    chan struct{} // closed when all has been sent, or no more can be
	sendErr error         // the connection's; valid after sent
	unsent  bool          // the peer has not begun the request and will not
}

func (cl *Client) attempt(caller context.Context, c *conn) *attempt {
	letGo := context.AfterFunc(caller, func() { c.cancel(causeOf(caller)) })
	return &attempt{cl: cl, c: c, caller: caller, letGo: letGo, readErr: make(chan error, 1), sent: make(chan struct{})}
}

// run makes the request. What it needed has ended if it fails.
func (a *attempt) run(r *request, res proto.Message) error {
	a.c.open.Store(true)
	a.unsent = a.send(r) != nil
	answer := a.c.readResponse(res)
	a.unsent = !isAnswer(answer) && (a.unsent || a.stopped() == nil && errors.Is(answer, errUnbegun))
	err := a.settle(answer)
	switch {
	case err == nil:
		return nil
	case isAnswer(answer) && r.stream == nil && a.sendErr == nil:
		a.done()
	default:
		a.abandon(err)
	}
	if a.unsent {
		return notSentError{err}
	}
	return err
}

// send sends the request, and its stream in a goroutine of its own. An error means that
// the server has not got the whole request.
func (a *attempt) send(r *request) error {
	err := context.Cause(a.c.ctx)
	if err == nil {
		err = a.c.write(r.frames)
	}
	if err == nil && r.stream != nil {
		go a.sendStream(r.stream)
	} else {
		a.endSend(err)
	}
	return err
}

// sendStream goes by the caller's context, which ends before those derived from it: the
// stream may notice it first.
func (a *attempt) sendStream(stream io.Reader) {
	a.endSend(a.c.sendStream(a.caller, stream, func(err error) { a.readErr <- err }))
}

func (a *attempt) endSend(err error) {
	if err != nil { // what the server said before it went is still worth reading
		_ = a.c.wire.SetReadDeadline(time.Now().Add(shutdownTimeout))
	}
	a.sendErr = err
	close(a.sent)
}

// settle returns why the request failed, given what the server answered, if it did.
func (a *attempt) settle(answer error) error {
	err := answer
	if err == nil {
		err = a.finish()
	}
	select {
	case readErr := <-a.readErr:
		err = &StreamError{readErr}
	default:
	}
	// What the server answers to our own end explains nothing.
	if cause := a.stopped(); err != nil && cause != nil {
		err = cause
	}
	return err
}

// finish waits for the end of a stream that the server has answered with success, which
// it does after the end.
func (a *attempt) finish() error {
	if !a.wait(shutdownTimeout) {
		return protocolError("success before the end of the stream")
	}
	return a.sendErr
}

// stopped is why the caller or the client wants no answer any more, or nil.
func (a *attempt) stopped() error {
	if a.caller.Err() != nil {
		return causeOf(a.caller)
	}
	return context.Cause(a.cl.ctx)
}

// causeOf is why ctx has ended. Of another request's error, which an errgroup makes the
// cause, only the text remains: what became of that one is not what became of this one.
func causeOf(ctx context.Context) error {
	cause := context.Cause(ctx)
	if errors.Is(cause, ErrNotSent) || errors.As(cause, new(*RemoteError)) {
		return fmt.Errorf("%w: %v", ctx.Err(), cause) //nolint:errorlint // its text only, see above
	}
	return cause
}

// done ends a request whose both directions came to their ends: others may use the
// connection.
func (a *attempt) done() {
	if !a.letGo() {
		return // the end of the caller's context is ending it
	}
	if !a.c.features.Reuse || !a.c.in.isEmpty() { // what follows the answer is no next one
		a.c.beginClose()
		return
	}
	a.c.rest()
	a.cl.pool.put(a.c)
}

// abandon ends the connection and so what is being sent, but for a Read that blocks.
func (a *attempt) abandon(err error) {
	a.c.cancel(err)
	a.wait(readerGrace)
	<-a.c.ended
	a.letGo()
}

// awaitRepeat waits until a request that failed with err can be sent anew, its stream
// included. It returns an error if it cannot.
func (a *attempt) awaitRepeat(r *request, err error) error {
	if !a.unsent || !a.c.features.Reuse || r.isLost() {
		return err
	}
	if cause := a.awaitRead(); cause != nil {
		return notSentError{cause}
	}
	if !r.rewind() {
		return err
	}
	return nil
}

// awaitRead waits for the end of the Read of the stream that may still run: the next
// attempt needs what it reads. An error is why nobody wants one any more.
func (a *attempt) awaitRead() error {
	select {
	case <-a.sent:
	case <-a.caller.Done():
	case <-a.cl.ctx.Done():
	}
	return a.stopped()
}

func (a *attempt) wait(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-a.sent:
		return true
	case <-timer.C:
		return false
	}
}

// isAnswer reports whether the server answered, given what reading its response
// returned.
func isAnswer(err error) bool {
	var remote *RemoteError
	return err == nil || errors.As(err, &remote)
}
