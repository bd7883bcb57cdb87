package dataconn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/dualrepl/dualrepl/pdu"
	"github.com/dualrepl/dualrepl/transport"
)

// A Handler answers requests. The context ends when the request or its connection
// does: nobody waits for the answer any more. Of an error only the text reaches the
// client, or with Features.Status what ServeOptions.StatusOf makes of it.
type Handler interface {
	// Ping answers with the request's Message as Echo.
	Ping(context.Context, *pdu.PingReq) (*pdu.PingRes, error)

	// Send returns the stream to send, which must not be nil without an error. The
	// stream is read to its end or until the connection ends, and closed after its
	// last Read. A Read must end when the context does.
	Send(context.Context, *pdu.SendReq) (*pdu.SendRes, io.ReadCloser, error)

	// Receive reads the stream, which is also an io.WriterTo, to io.EOF. Any other
	// error of the stream means that it is not complete: a RemoteError if the client
	// could not read it. It must not be read after Receive has returned.
	Receive(context.Context, *pdu.ReceiveReq, io.Reader) (*pdu.ReceiveRes, error)
}

// errNoEndpoint has the text that base peers send.
var errNoEndpoint = errors.New("requested endpoint does not exist")

// ServeConn answers the requests on wire with h, one after another, and closes it. It
// returns when h's method has and the wire is closed. The handler's context is derived
// from ctx; the end of ctx ends the connection.
func ServeConn(ctx context.Context, wire transport.Wire, h Handler, opts ServeOptions) {
	opts = opts.withDefaults()
	c := newConn(ctx, wire, opts.Features, true)
	c.statusOf, c.drain = opts.StatusOf, opts.Drain
	c.start()
	defer context.AfterFunc(opts.Drain, c.retire)()
	if err := c.serve(h); err != nil {
		if !c.isClosing() {
			c.cancel(err)
		}
		opts.Logger.Info("data request failed", "peer", wire.RemoteAddr(), "err", err)
	}
	// A slow client may need longer than an orderly end may take for the rest of a
	// stream: it has all of it when it shuts the connection down.
	<-c.ended
}

// serve answers requests for as long as another may follow. It returns the error that
// broke one off; the handler's own is an answer like any other.
func (c *conn) serve(h Handler) error {
	late := time.AfterFunc(requestTimeout, func() { c.cancel(errRequestLate) })
	defer late.Stop()
	if err := c.await(); err != nil {
		return fmt.Errorf("wait for a request: %w", err)
	}
	for {
		if err := c.serveRequest(h, late); err != nil || !c.again {
			return err
		}
		if c.awaitNext(late) != nil {
			return nil // the connection ended without a request
		}
	}
}

// awaitNext waits for the beginning of the next request, and sets late for its end.
func (c *conn) awaitNext(late *time.Timer) error {
	if c.drain.Err() != nil {
		c.retire()
	}
	idle := time.AfterFunc(serverIdleTimeout, c.retire)
	defer idle.Stop()
	late.Reset(2 * serverIdleTimeout) // for a client that does not go when it is told to
	err := c.await()
	late.Reset(requestTimeout)
	return err
}

// serveRequest answers the request that has begun to come in, and stops late when all
// of it has.
func (c *conn) serveRequest(h Handler, late *time.Timer) error {
	c.again = false
	endpoint, request, err := c.readRequest()
	late.Stop()
	if errors.Is(err, ErrProtocol) {
		return errors.Join(err, c.answer(nil, err))
	}
	if err != nil {
		return err
	}
	if !c.begin() {
		c.beginClose() // the client knows, and whatever else it sends is dropped
		return nil
	}
	ctx, cancel := context.WithCancelCause(c.ctx)
	defer cancel(errDone)
	body, stream, err := c.handle(ctx, h, endpoint, request)
	if stream == nil {
		return c.answer(body, err)
	}
	defer stream.Close()
	return c.answerStream(body, stream)
}

func (c *conn) readRequest() (endpoint string, request []byte, err error) {
	header, err := c.in.message(typeRequestHeader, maxRequestHeader)
	if err != nil {
		return "", nil, fmt.Errorf("read request header: %w", err)
	}
	request, err = c.in.message(typeRequest, maxRequest)
	if err != nil {
		return "", nil, fmt.Errorf("read request: %w", err)
	}
	return string(header), request, nil
}

// handle calls the handler's method and encodes its response. The stream is nil for
// an endpoint that does not send, and when there is an error.
func (c *conn) handle(ctx context.Context, h Handler, endpoint string, request []byte) (body []byte, stream io.ReadCloser, err error) {
	switch endpoint {
	case endpointPing:
		c.requestEnds()
		body, err = unary(ctx, request, h.Ping)
	case endpointSend:
		c.requestEnds()
		body, stream, err = c.handleSend(ctx, h, request)
	case endpointRecv:
		body, err = c.handleReceive(ctx, h, request)
	default: // a stream may follow, which watch must not see before the answer has gone out
		err = errNoEndpoint
	}
	return body, stream, err
}

// requestEnds is for a request that no stream follows.
func (c *conn) requestEnds() {
	c.again = c.features.Reuse
	c.rest()
}

func (c *conn) handleReceive(ctx context.Context, h Handler, request []byte) ([]byte, error) {
	in := &inStream{c: c, atEnd: c.rest}
	body, err := unary(ctx, request, func(ctx context.Context, req *pdu.ReceiveReq) (*pdu.ReceiveRes, error) {
		return h.Receive(ctx, req, in)
	})
	if c.features.Reuse && err == nil {
		_, _ = in.Read(make([]byte, 1)) // a handler may stop right before the end frame
		c.again = !in.giveUp()
	}
	return body, err
}

func (c *conn) handleSend(ctx context.Context, h Handler, request []byte) ([]byte, io.ReadCloser, error) {
	var stream io.ReadCloser
	body, err := unary(ctx, request, func(ctx context.Context, req *pdu.SendReq) (res *pdu.SendRes, err error) {
		res, stream, err = h.Send(ctx, req)
		return res, err
	})
	if err == nil && stream == nil {
		err = errors.New("the handler returned no stream")
	}
	if err != nil && stream != nil {
		stream.Close()
		stream = nil
	}
	return body, stream, err
}

// unary decodes a request, calls a handler's method and encodes its response.
func unary[Req, Res any, ReqPtr message[Req], ResPtr message[Res]](
	ctx context.Context, request []byte, method func(context.Context, ReqPtr) (ResPtr, error),
) ([]byte, error) {
	req := ReqPtr(new(Req))
	if err := proto.Unmarshal(request, req); err != nil {
		return nil, fmt.Errorf("decode request: %w", err)
	}
	res, err := method(ctx, req)
	if err != nil {
		return nil, err
	}
	if res == nil {
		return nil, errors.New("the handler returned no response")
	}
	return encode("response", res, maxResponse)
}

// message is a generated message type's pointer.
type message[T any] interface {
	*T
	proto.Message
}

// encode refuses a message that the peer would have to refuse.
func encode(what string, m proto.Message, limit int) ([]byte, error) {
	b, err := proto.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", what, err)
	}
	if len(b) > limit {
		return nil, fmt.Errorf("%s of %d bytes is over the limit of %d", what, len(b), limit)
	}
	return b, nil
}

// answer sends an answer without a stream, and begins the connection's end unless
// another request may follow. Once the connection has ended there is none: what the
// handler says then is only that its context ended, which the client must not take for
// the handler's own error.
func (c *conn) answer(body []byte, err error) error {
	if cause := context.Cause(c.ctx); cause != nil {
		return cause
	}
	frames := success(body)
	if err != nil {
		frames = appendMessage(nil, typeResponseHeader, append([]byte(headerError), c.errorPayload(err)...))
	}
	if err := c.writeLast(frames); err != nil {
		return fmt.Errorf("send response: %w", err)
	}
	if !c.again {
		c.beginClose()
	}
	return nil
}

func (c *conn) answerStream(body []byte, stream io.Reader) error {
	if err := c.write(success(body)); err != nil {
		return fmt.Errorf("send response: %w", err)
	}
	if err := c.sendStream(c.ctx, stream, func(error) {}); err != nil {
		return fmt.Errorf("send stream: %w", err)
	}
	return nil
}

func success(body []byte) []byte {
	return appendMessage(appendMessage(nil, typeResponseHeader, headerOK), typeResponse, body)
}
