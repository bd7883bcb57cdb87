package dataconn

import (
	"bytes"
	"encoding/binary"
	"io"
	"slices"
)

// frameType tells what a frame carries. The four top bits belong to framing, the
// next four to heartbeats, the next four to streams.
type frameType uint32

const (
	typeRequestHeader  frameType = 1 // endpoint name
	typeRequest        frameType = 2 // protobuf
	typeResponseHeader frameType = 3 // headerOK, or headerError and a text
	typeResponse       frameType = 4 // protobuf
	typeStream         frameType = 5
	typeCompressed     frameType = 6 // of a stream, with Features.Zstd: a whole zstd frame

	typeTrailer   frameType = 1 << 16 // text of the error that ended a message or stream
	typeEnd       frameType = 1 << 17 // always empty
	typeHeartbeat frameType = 1 << 24 // always empty
	typeReset     frameType = 1 << 28 // always empty: its sender shuts the connection down
	typeUnbegun   frameType = 1 << 29 // always empty, with Features.Reuse: no request has begun that has no answer
)

const (
	headerOK    = "HANDLER OK\n"
	headerError = "HANDLER ERROR:\n"
)

// headerSize is the size of a frame's header in bytes: type and payload length. With
// Features.Sum it is sumHeaderSize.
const headerSize = 8

func putHeader(b []byte, typ frameType, length int) {
	binary.BigEndian.PutUint32(b, uint32(typ))
	binary.BigEndian.PutUint32(b[4:], uint32(length))
}

func appendHeader(b []byte, typ frameType, length int) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(typ))
	return binary.BigEndian.AppendUint32(b, uint32(length))
}

// appendMessage appends a whole message: its frames and the end frame.
func appendMessage[B ~[]byte | ~string](b []byte, typ frameType, message B) []byte {
	for len(message) > 0 {
		n := min(len(message), frameSize)
		b = appendHeader(b, typ, n)
		b = append(b, message[:n]...)
		message = message[n:]
	}
	return appendHeader(b, typeEnd, 0)
}

func parseHeader(b []byte) (frameType, int, error) {
	typ, length := frameType(binary.BigEndian.Uint32(b)), binary.BigEndian.Uint32(b[4:])
	if length > maxPayload {
		return 0, 0, protocolError("frame of type %#x announces %d bytes", typ, length)
	}
	if length > 0 && typ >= typeEnd {
		return 0, 0, protocolError("frame of type %#x has a payload", typ)
	}
	return typ, int(length), nil
}

// A frameReader cuts what it reads from src into frames. It is not safe for
// concurrent use. Errors of src are returned as they are, but for io.EOF, which is
// the end of a message or stream here and io.ErrUnexpectedEOF when it comes from src.
type frameReader struct {
	src   io.Reader
	bulk  []byte    // if not nil, headers are read into it with all that follows them
	ahead []byte    // what has been read with a header, and not been used
	small [512]byte // a bulk for messages, which are short

	sum  runningSum
	head [sumHeaderSize]byte // of the next frame
	have int                 // bytes of head that have been read
	typ  frameType           // of the current frame
	left int                 // payload bytes of the current frame that have not been read
	held bool                // the current frame is what next goes to

	status bool // errors come as google.rpc.Status

	zstd     bool    // a stream may have compressed frames
	unpacked *buffer // if not nil, that of a stream that has them
	plain    []byte  // in its memory: what has not been read of the current frame
}

// read reads from a stream of frames of type typ, at least one byte. It returns
// io.EOF at the end, and a RemoteError for an error trailer. It may use all of p,
// as an io.Reader may.
func (r *frameReader) read(typ frameType, p []byte) (int, error) {
	if err := r.more(typ); err != nil {
		return 0, err
	}
	if len(r.plain) > 0 {
		n := copy(p, r.plain)
		r.plain = r.plain[n:]
		return n, nil
	}
	return r.payload(p)
}

// more goes on until there are bytes of a stream to read, or to its end.
func (r *frameReader) more(typ frameType) error {
	for r.left == 0 && len(r.plain) == 0 {
		err := r.advance(typ)
		if err == nil && r.typ == typeCompressed {
			err = r.unpack()
		}
		if err != nil {
			r.dropUnpacked()
			return err
		}
	}
	return nil
}

// writeTo writes a stream of frames of type typ to w. It reads whatever has come in,
// headers and all, so that it makes as few system calls as an unframed copy.
func (r *frameReader) writeTo(w io.Writer, typ frameType) (total int64, readErr, writeErr error) {
	buf := buffers.Get().(*buffer)
	r.bulk = buf[:headroom+frameSize]
	defer func() {
		r.bulk, r.ahead = nil, bytes.Clone(r.ahead) // at the end of a stream, next to nothing
		buffers.Put(buf)
	}()
	for {
		b, err := r.chunk(typ)
		if err != nil {
			return total, err, nil
		}
		n, err := w.Write(b)
		total += int64(n)
		if err == nil && n < len(b) {
			err = io.ErrShortWrite
		}
		if err != nil {
			return total, nil, err
		}
	}
}

// chunk returns the next bytes of a stream, at least one, in memory that the next call
// may use again.
func (r *frameReader) chunk(typ frameType) ([]byte, error) {
	if err := r.more(typ); err != nil {
		return nil, err
	}
	if b := r.plain; len(b) > 0 {
		r.plain = nil
		return b, nil
	}
	b, err := r.take(r.left)
	r.left -= len(b)
	r.sum.add(b)
	return b, err
}

// message reads a whole message. It allocates no more than has arrived.
func (r *frameReader) message(typ frameType, limit int) ([]byte, error) {
	r.bulk = r.small[:]
	defer func() { r.bulk = nil }()
	var message []byte
	for {
		if err := r.advance(typ); err == io.EOF {
			return message, nil
		} else if err != nil {
			return nil, err
		}
		var err error
		if message, err = r.appendPayload(message, limit); err != nil {
			return nil, err
		}
	}
}

// advance goes to the next frame of a message or stream of type typ.
func (r *frameReader) advance(typ frameType) error {
	if err := r.next(); err != nil {
		return err
	}
	switch {
	case r.typ == typ, r.zstd && r.typ == typeCompressed && typ == typeStream:
		return nil
	case r.typ == typeEnd:
		return io.EOF
	case r.typ == typeTrailer:
		return r.trailer()
	default:
		return protocolError("frame of type %#x where %#x is expected", r.typ, typ)
	}
}

// trailer reads the rest of an error trailer, whose first frame is the current one.
func (r *frameReader) trailer() error {
	var text []byte
	for r.typ == typeTrailer {
		var err error
		if text, err = r.appendPayload(text, maxTrailer); err != nil {
			return err
		}
		if err = r.next(); err != nil {
			return err
		}
	}
	if r.typ != typeEnd {
		return protocolError("frame of type %#x in an error trailer", r.typ)
	}
	return r.remoteError(text)
}

// remoteError is the error that came in as payload.
func (r *frameReader) remoteError(payload []byte) error {
	if r.status {
		return remoteStatus(payload)
	}
	return remoteText(payload)
}

// hold goes to the next frame, and holds it for whoever reads on.
func (r *frameReader) hold() error {
	r.bulk = r.small[:] // a short message comes with its header
	defer func() { r.bulk = nil }()
	err := r.next()
	r.held = err == nil
	return err
}

// isEmpty reports whether nothing has been read beyond the current frame.
func (r *frameReader) isEmpty() bool { return len(r.ahead) == 0 && r.have == 0 }

// next goes to the next frame other than a heartbeat. A reset is an error.
func (r *frameReader) next() error {
	if r.held {
		r.held = false
		return nil
	}
	for {
		if err := r.header(); err != nil {
			return err
		}
		switch r.typ {
		case typeHeartbeat:
		case typeReset:
			return errReset
		default:
			return nil
		}
	}
}

func (r *frameReader) header() error {
	size := r.sum.headerSize()
	for r.have < size {
		b, err := r.take(size - r.have)
		if err != nil {
			return err
		}
		r.have += copy(r.head[r.have:], b)
	}
	r.have = 0
	err := r.sum.verify(r.head[:size])
	if err != nil {
		return err
	}
	r.typ, r.left, err = parseHeader(r.head[:])
	return err
}

// take returns the next bytes, 1 to n, in memory that the next call may use again.
func (r *frameReader) take(n int) ([]byte, error) {
	for len(r.ahead) == 0 {
		into := r.bulk
		if into == nil {
			into = r.small[:min(n, len(r.small))]
		}
		m, err := r.src.Read(into)
		if m == 0 && err != nil {
			return nil, noEOF(err)
		}
		r.ahead = into[:m]
	}
	b := r.ahead[:min(n, len(r.ahead))]
	r.ahead = r.ahead[len(b):]
	return b, nil
}

// payload reads once from the current frame, which must not be read up. Where p has
// room behind the payload, the next header is read with it and kept, which saves a
// system call a frame.
func (r *frameReader) payload(p []byte) (int, error) {
	if len(r.ahead) > 0 {
		b, _ := r.take(min(len(p), r.left))
		r.left -= len(b)
		r.sum.add(b)
		return copy(p, b), nil
	}
	n, err := r.src.Read(p[:min(len(p), r.left+r.sum.headerSize())])
	if n == 0 {
		return 0, noEOF(err)
	}
	if n > r.left {
		r.have = copy(r.head[:], p[r.left:n])
		n = r.left
	}
	r.left -= n
	r.sum.add(p[:n])
	return n, nil
}

// payloadStep is how far appendPayload trusts an announced length.
const payloadStep = 64 << 10

func (r *frameReader) appendPayload(b []byte, limit int) ([]byte, error) {
	if len(b)+r.left > limit {
		return nil, protocolError("message of type %#x is over its limit of %d bytes", r.typ, limit)
	}
	for r.left > 0 {
		b = slices.Grow(b, min(r.left, payloadStep)+r.sum.headerSize())
		n, err := r.payload(b[len(b):cap(b)])
		if err != nil {
			return nil, err
		}
		b = b[:len(b)+n]
	}
	return b, nil
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
