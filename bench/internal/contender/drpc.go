package contender

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"storj.io/drpc"
	"storj.io/drpc/drpcconn"
	"storj.io/drpc/drpcmanager"
	"storj.io/drpc/drpcserver"
	"storj.io/drpc/drpcstream"
)

// drpcMessage is the size of a message, in bytes.
const drpcMessage = 256 << 10

var drpcPlain = Contender{
	Name:  "drpc",
	About: "storj.io/drpc streaming, messages of 256 KiB as bytes (no protobuf), one frame and one write each",
	Serve: onListener(serveDRPC),
	Dial: func(ctx context.Context, address string) (Client, error) {
		conn, err := dialTCP(ctx, address)
		if err != nil {
			return nil, err
		}
		return &drpcClient{drpcconn.NewWithOptions(conn, drpcconn.Options{Manager: drpcOptions()})}, nil
	},
}

func drpcOptions() drpcmanager.Options {
	return drpcmanager.Options{
		WriterBufferSize: bufferSize,
		Stream:           drpcstream.Options{SplitSize: bufferSize},
	}
}

// drpcBytes is the encoding of messages that are bytes already.
type drpcBytes struct{}

// Marshal implements drpc.Encoding. DRPC has copied the bytes when MsgSend returns.
func (drpcBytes) Marshal(msg drpc.Message) ([]byte, error) {
	b, ok := msg.([]byte)
	if !ok {
		return nil, fmt.Errorf("%T is no message of bytes", msg)
	}
	return b, nil
}

// Unmarshal implements drpc.Encoding. It gives the bytes to a sink: they are DRPC's
// again when it returns.
func (drpcBytes) Unmarshal(buf []byte, msg drpc.Message) error {
	sink, ok := msg.(io.Writer)
	if !ok {
		return fmt.Errorf("%T is no writer", msg)
	}
	_, err := sink.Write(buf)
	return err
}

const (
	drpcSend    = "send"
	drpcReceive = "receive"
)

func serveDRPC(ctx context.Context, l net.Listener, ends Ends) error {
	err := drpcserver.NewWithOptions(drpcHandler{ends}, drpcserver.Options{Manager: drpcOptions()}).Serve(ctx, l)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

type drpcHandler struct{ ends Ends }

// HandleRPC implements drpc.Handler.
func (h drpcHandler) HandleRPC(stream drpc.Stream, rpc string) error {
	if rpc == drpcSend {
		sink, err := h.ends.Sink()
		if err != nil {
			return err
		}
		if err := errors.Join(readDRPC(stream, sink), sink.Close()); err != nil {
			return err
		}
		return stream.MsgSend([]byte{}, drpcBytes{})
	}
	source, err := h.ends.Source()
	if err != nil {
		return err
	}
	defer source.Close() // it was only read
	if err := stream.MsgRecv(io.Discard, drpcBytes{}); err != nil {
		return err
	}
	return writeDRPC(stream, source)
}

func readDRPC(stream drpc.Stream, dst io.Writer) error {
	for {
		if err := stream.MsgRecv(dst, drpcBytes{}); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// drpcWriter makes each Write a message.
type drpcWriter struct{ stream drpc.Stream }

// Write implements io.Writer.
func (w drpcWriter) Write(p []byte) (int, error) {
	return len(p), w.stream.MsgSend(p, drpcBytes{})
}

func writeDRPC(stream drpc.Stream, src io.Reader) error {
	_, err := io.CopyBuffer(drpcWriter{stream}, struct{ io.Reader }{src}, make([]byte, drpcMessage))
	return err
}

type drpcClient struct{ conn *drpcconn.Conn }

// Send implements Client.
func (c *drpcClient) Send(ctx context.Context, src io.Reader) error {
	stream, err := c.conn.NewStream(ctx, drpcSend, drpcBytes{})
	if err != nil {
		return err
	}
	if err := errors.Join(writeDRPC(stream, src), stream.CloseSend()); err != nil {
		return err
	}
	return errors.Join(stream.MsgRecv(io.Discard, drpcBytes{}), stream.Close())
}

// Receive implements Client.
func (c *drpcClient) Receive(ctx context.Context, dst io.Writer) error {
	stream, err := c.conn.NewStream(ctx, drpcReceive, drpcBytes{})
	if err != nil {
		return err
	}
	if err := errors.Join(stream.MsgSend([]byte{}, drpcBytes{}), stream.CloseSend()); err != nil {
		return err
	}
	return errors.Join(readDRPC(stream, dst), stream.Close())
}

// Close implements Client.
func (c *drpcClient) Close() error { return c.conn.Close() }
