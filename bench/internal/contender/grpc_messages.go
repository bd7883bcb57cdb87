package contender

import (
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// messages is a way of putting a stream's bytes into gRPC's messages.
type messages struct {
	about string
	codec encoding.CodecV2 // nil: gRPC's own, protobuf
	// write sends src. It returns io.EOF if the peer has ended the stream.
	write func(stream messageStream, src io.Reader, size int) error
	// read writes what comes until the stream's end to dst.
	read func(stream messageStream, dst io.Writer) error
	// empty is a message of nothing, to send or to receive into.
	empty func() any
}

// messageStream is what both ends of both directions have.
type messageStream interface {
	SendMsg(m any) error
	RecvMsg(m any) error
}

// protoMessages are what gRPC's users have: a protobuf message with a field of bytes.
// The sender fills one buffer again and again; the receiver gets a new message each
// time, as generated code does.
var protoMessages = messages{
	about: "protobuf messages",
	write: func(stream messageStream, src io.Reader, size int) error {
		buf := make([]byte, size)
		return inPieces(src, func() []byte { return buf }, func(piece []byte) error {
			return stream.SendMsg(&wrapperspb.BytesValue{Value: piece})
		})
	},
	read: func(stream messageStream, dst io.Writer) error {
		return untilEOF(func() error {
			message := new(wrapperspb.BytesValue)
			if err := stream.RecvMsg(message); err != nil {
				return err
			}
			_, err := dst.Write(message.GetValue())
			return err
		})
	},
	empty: func() any { return new(wrapperspb.BytesValue) },
}

// rawMessages are gRPC at its best for bulk data: bytes in gRPC's own pooled buffers,
// which no codec copies.
var rawMessages = messages{
	about: "messages without protobuf, pooled and not copied,",
	codec: bytesCodec{},
	write: func(stream messageStream, src io.Reader, size int) error {
		pool := mem.DefaultBufferPool()
		var buf *[]byte
		next := func() []byte { buf = pool.Get(size); return *buf }
		return inPieces(src, next, func(piece []byte) error {
			*buf = piece
			return stream.SendMsg(&mem.BufferSlice{mem.NewBuffer(buf, pool)})
		})
	},
	read: func(stream messageStream, dst io.Writer) error {
		return untilEOF(func() error {
			var message mem.BufferSlice
			if err := stream.RecvMsg(&message); err != nil {
				return err
			}
			defer message.Free()
			for _, b := range message {
				if _, err := dst.Write(b.ReadOnlyData()); err != nil {
					return err
				}
			}
			return nil
		})
	},
	empty: func() any { return new(mem.BufferSlice) },
}

// inPieces reads src to its end, into a buffer from next each time.
func inPieces(src io.Reader, next func() []byte, do func([]byte) error) error {
	for {
		buf := next()
		n, err := io.ReadFull(src, buf)
		if n > 0 {
			if err := do(buf[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// untilEOF repeats until io.EOF.
func untilEOF(do func() error) error {
	for {
		if err := do(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// bytesCodec passes a mem.BufferSlice through: gRPC at its best for bulk data.
type bytesCodec struct{}

// Marshal implements encoding.CodecV2. The message is gRPC's from then on.
func (bytesCodec) Marshal(v any) (mem.BufferSlice, error) {
	b, ok := v.(*mem.BufferSlice)
	if !ok {
		return nil, fmt.Errorf("%T is no message of bytes", v)
	}
	return *b, nil
}

// Unmarshal implements encoding.CodecV2. The receiver frees the message.
func (bytesCodec) Unmarshal(data mem.BufferSlice, v any) error {
	b, ok := v.(*mem.BufferSlice)
	if !ok {
		return fmt.Errorf("%T is no message of bytes", v)
	}
	data.Ref()
	*b = data
	return nil
}

// Name implements encoding.CodecV2.
func (bytesCodec) Name() string { return "bytes" }
