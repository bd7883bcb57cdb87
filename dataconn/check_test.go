package dataconn

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/dualrepl/dualrepl/pdu"
	"github.com/dualrepl/dualrepl/transport"
)

// bitwise is CRC-64/NVME by its definition.
type bitwise uint64

func (c *bitwise) add(p []byte) {
	crc := ^uint64(*c)
	for _, b := range p {
		crc ^= uint64(b)
		for range 8 {
			low := crc & 1
			crc = crc>>1 ^ low*0x9a6c9329ac4bc9b5
		}
	}
	*c = bitwise(^crc)
}

// seal puts checks into whole frames.
func (c *bitwise) seal(frames []byte) []byte {
	var sealed []byte
	for len(frames) > 0 {
		n := headerSize + int(binary.BigEndian.Uint32(frames[4:]))
		c.add(frames[:headerSize])
		sealed = binary.BigEndian.AppendUint64(append(sealed, frames[:headerSize]...), uint64(*c))
		c.add(frames[headerSize:n])
		sealed = append(sealed, frames[headerSize:n]...)
		frames = frames[n:]
	}
	return sealed
}

func TestCheckValue(t *testing.T) {
	const want uint64 = 0xae8b14860a799888 // of the CRC catalogue
	var c bitwise
	c.add([]byte("123456789"))
	s := runningSum{on: true}
	s.add([]byte("1234"))
	s.add([]byte("56789"))
	if uint64(c) != want || s.crc != want {
		t.Errorf("%x and %x, want %x", c, s.crc, want)
	}
}

// TestSumVectors plays a peer with checks on either side of each exchange: the frames are
// those of the base protocol.
func TestSumVectors(t *testing.T) { playVectors(t, Features{Sum: true}) }

// A flip changes one bit of the bytes that pass; none if it is negative.
type flip struct{ bit, passed int }

func (f *flip) pass(p []byte) {
	if i := f.bit/8 - f.passed; f.bit >= 0 && i >= 0 && i < len(p) {
		p[i] ^= 1 << (f.bit % 8)
	}
	f.passed += len(p)
}

// A flippedWire is a wire on which one bit changes on its way, in either direction.
type flippedWire struct {
	transport.Wire
	in, out flip
}

func (w *flippedWire) Read(p []byte) (int, error) {
	n, err := w.Wire.Read(p)
	w.in.pass(p[:n])
	return n, err
}

func (w *flippedWire) Write(p []byte) (int, error) {
	p = bytes.Clone(p)
	w.out.pass(p)
	return w.Wire.Write(p)
}

// A talk is a request and what comes of it.
type talk struct {
	Features
	data string // the stream
	fail error  // its end
	call func(context.Context, *Client, *talk) (string, error)
	want string
}

// source is the stream: it pauses in the middle for as long as it takes to send heartbeats.
func (k *talk) source() io.Reader {
	half := len(k.data) / 2
	return io.MultiReader(strings.NewReader(k.data[:half]), &slowReader{strings.NewReader(k.data[half:]), 0, 9 * time.Second},
		readerFunc(func([]byte) (int, error) { return 0, k.fail }))
}

// handler tells t if it gets what was not sent.
func (k *talk) handler(t *testing.T) Handler {
	is := func(got, want proto.Message) {
		if !proto.Equal(got, want) {
			t.Errorf("request %v became %v", want, got)
		}
	}
	return handler{
		ping: func(_ context.Context, req *pdu.PingReq) (*pdu.PingRes, error) {
			is(req, pingReq)
			return &pdu.PingRes{Echo: req.Message}, nil
		},
		send: func(_ context.Context, req *pdu.SendReq) (*pdu.SendRes, io.ReadCloser, error) {
			is(req, sendReq)
			return sendRes, io.NopCloser(k.source()), nil
		},
		recv: func(_ context.Context, req *pdu.ReceiveReq, r io.Reader) (*pdu.ReceiveRes, error) {
			is(req, recvReq)
			got, err := io.ReadAll(r)
			if err == nil && string(got) != k.data {
				t.Errorf("%d bytes became %d others", len(k.data), len(got))
			}
			return new(pdu.ReceiveRes), err
		},
	}
}

// run makes the request over wires on which those bits change. It returns how many bytes
// went each way, and what the server logged.
func (k *talk) run(t *testing.T, inBit, outBit int) (got string, in, out int, log string, err error) {
	client, server := memPair()
	wire := &flippedWire{Wire: client, in: flip{bit: inBit}, out: flip{bit: outBit}}
	var logged bytes.Buffer
	var wg sync.WaitGroup
	wg.Go(func() {
		ServeConn(context.Background(), server, k.handler(t), ServeOptions{Features: k.Features, Logger: slog.New(slog.NewTextHandler(&logged, nil))})
	})
	cl := NewClient(func(context.Context) (transport.Wire, Features, error) { return wire, k.Features, nil }, ClientOptions{})
	begin := time.Now()
	got, err = k.call(t.Context(), cl, k)
	if d := time.Since(begin); d > 30*time.Second {
		t.Errorf("took %v", d)
	}
	time.Sleep(time.Minute) // to the connection's end, and to that of a Read that was left behind
	cl.Close()
	wg.Wait()
	return got, wire.in.passed, wire.out.passed, logged.String(), err
}

func talks() map[string]talk {
	zstd := Features{Sum: true, Zstd: true, Level: 3}
	long := strings.Repeat("abc", minPacked)
	ping := func(ctx context.Context, cl *Client, _ *talk) (string, error) { return callPing(ctx, cl) }
	send := func(ctx context.Context, cl *Client, _ *talk) (string, error) { return callSend(ctx, cl) }
	recv := func(ctx context.Context, cl *Client, k *talk) (string, error) {
		return callReceive(k.source())(ctx, cl)
	}
	return map[string]talk{
		"ping":         {Features{Sum: true}, "", io.EOF, ping, "hi"},
		"send":         {Features{Sum: true}, "abcdef", io.EOF, send, "abcdef"},
		"recv":         {Features{Sum: true}, "abcdef", io.EOF, recv, ""},
		"send, broken": {Features{Sum: true}, "abcdef", errDied, send, "remote: died"},
		"send, zstd":   {zstd, long, io.EOF, send, long},
		"recv, zstd":   {zstd, long, io.EOF, recv, ""},
	}
}

// Whichever bit changes on its way, in either direction, the request fails with a broken
// connection: at once, and never with wrong data. Only what is said after the request is
// done, the reset, may change.
func TestFlippedBit(t *testing.T) {
	for name, k := range talks() {
		t.Run(name, func(t *testing.T) {
			var in, out int
			synctest.Test(t, func(t *testing.T) {
				var got string
				var err error
				got, in, out, _, err = k.run(t, -1, -1)
				k.isWhole(t, got, err)
			})
			for bit := range 8 * in {
				synctest.Test(t, func(t *testing.T) {
					got, _, _, _, err := k.run(t, bit, -1)
					if bit/8 >= in-sumHeaderSize {
						k.isWhole(t, got, err)
					} else if checkBroken(t, err, ErrCorrupt); t.Failed() {
						t.Fatalf("bit %d of byte %d from the server", bit%8, bit/8)
					}
				})
			}
			for bit := range 8 * out {
				synctest.Test(t, func(t *testing.T) {
					got, _, _, log, err := k.run(t, -1, bit)
					if bit/8 >= out-sumHeaderSize {
						k.isWhole(t, got, err)
					} else if checkBroken(t, err, io.ErrUnexpectedEOF); t.Failed() || !strings.Contains(log, ErrCorrupt.Error()) {
						t.Fatalf("bit %d of byte %d from the client: %v, logged %s", bit%8, bit/8, err, log)
					}
				})
			}
		})
	}
}

// isWhole checks what a request returns on which nothing has changed.
func (k *talk) isWhole(t *testing.T, got string, err error) {
	t.Helper()
	var remote *RemoteError
	if errors.As(err, &remote) {
		got, err = err.Error(), nil
	}
	if got != k.want || err != nil {
		t.Errorf("got %.20q, %v; want %.20q", got, err, k.want)
	}
}

// A bit that changes anywhere in a large stream ends it with an error.
func TestFlippedBitOverTCP(t *testing.T) {
	noise := random(1<<20 + 5)
	for name, tt := range map[string]struct {
		data []byte
		Features
	}{
		"sum":                  {noise, Features{Sum: true}},
		"sum and zstd":         {[]byte(hex.EncodeToString(noise)), Features{Sum: true, Zstd: true, Level: 1}},
		"sum, zstd that skips": {noise, Features{Sum: true, Zstd: true, Level: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			for range 15 {
				bit := rand.IntN(8 * len(noise)) // hex digits don't take less
				sendFlipped(t, tt.Features, tt.data, bit)
				receiveFlipped(t, tt.Features, tt.data, bit)
			}
		})
	}
}

func sendFlipped(t *testing.T, f Features, data []byte, bit int) {
	cl := connectTCPWith(t, sending(bytes.NewReader(data)), f, func(w transport.Wire) transport.Wire {
		return &flippedWire{Wire: w, in: flip{bit: bit}, out: flip{bit: -1}}
	})
	_, r, err := cl.Send(t.Context(), sendReq)
	if err == nil {
		defer r.Close()
		_, err = io.Copy(io.Discard, r)
	}
	if !errors.Is(err, ErrCorrupt) {
		t.Errorf("bit %d from the server: %v", bit, err)
	}
}

func receiveFlipped(t *testing.T, f Features, data []byte, bit int) {
	seen := make(chan error, 1)
	cl := connectTCPWith(t, receiving(func(_ context.Context, r io.Reader) error {
		_, err := io.Copy(io.Discard, struct{ io.Reader }{r})
		seen <- err
		return err
	}), f, func(w transport.Wire) transport.Wire {
		return &flippedWire{Wire: w, in: flip{bit: -1}, out: flip{bit: bit + 1000}} // behind the request
	})
	if _, err := cl.Receive(t.Context(), recvReq, bytes.NewReader(data)); err == nil {
		t.Errorf("bit %d from the client: no error", bit)
	}
	if err := <-seen; !errors.Is(err, ErrCorrupt) {
		t.Errorf("bit %d from the client: %v", bit, err)
	}
}

// A message may not be believed before its end has been checked.
func TestSumOfMessages(t *testing.T) {
	var c bitwise
	whole := c.seal(join(beatFrame, appendMessage(nil, typeRequest, pattern(frameSize+1)), frame(typeTrailer, "x"), endFrame))
	r := frameReader{src: iotest.OneByteReader(bytes.NewReader(whole)), sum: runningSum{on: true}}
	if got, err := r.message(typeRequest, maxRequest); err != nil || !bytes.Equal(got, pattern(frameSize+1)) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	var remote *RemoteError
	if _, err := r.message(typeRequest, maxRequest); !errors.As(err, &remote) {
		t.Errorf("trailer: %v", err)
	}
}

// A length that was changed is noticed before it is believed.
func TestSumOfHeader(t *testing.T) {
	header := (&runningSum{on: true}).seal(appendHeader(nil, typeRequest, 0))
	header[4] ^= 0xff
	r := frameReader{src: bytes.NewReader(header), sum: runningSum{on: true}}
	if _, err := r.message(typeRequest, maxRequest); !errors.Is(err, ErrCorrupt) || errors.Is(err, ErrProtocol) {
		t.Errorf("error %v", err)
	}
}

// FuzzSum has a stream of two frames read back: whole, and with one bit flipped.
func FuzzSum(f *testing.F) {
	f.Add([]byte("abcdef"), uint16(3), uint32(0))
	f.Add([]byte(""), uint16(0), uint32(100))
	f.Add(pattern(1000), uint16(999), uint32(4000))
	f.Fuzz(func(t *testing.T, data []byte, cut uint16, bit uint32) {
		n := min(int(cut), len(data))
		sealed := (&runningSum{on: true}).seal(join(frame(typeStream, string(data[:n])), beatFrame, frame(typeStream, string(data[n:])), endFrame))
		if got := readSummed(t, sealed); got != fmt.Sprintf("%q, %v", data, io.EOF) {
			t.Errorf("%q became %s", data, got)
		}
		sealed[int(bit/8)%len(sealed)] ^= 1 << (bit % 8)
		if got := readSummed(t, sealed); !strings.HasSuffix(got, ErrCorrupt.Error()) {
			t.Errorf("%q became %s", data, got)
		}
		readSummed(t, data)
	})
}

// readSummed reads frames with checks in three ways, which must agree.
func readSummed(t *testing.T, frames []byte) string {
	read := func(src io.Reader, buf []byte) string {
		r := frameReader{src: src, sum: runningSum{on: true}}
		got, err := readFrom(&r, buf)
		return fmt.Sprintf("%q, %v", got, err)
	}
	whole, bytewise := read(bytes.NewReader(frames), make([]byte, 4096)), read(iotest.OneByteReader(bytes.NewReader(frames)), make([]byte, 3))
	var written bytes.Buffer
	r := frameReader{src: bytes.NewReader(frames), sum: runningSum{on: true}}
	_, err, _ := r.writeTo(&written, typeStream)
	if w := fmt.Sprintf("%q, %v", written.Bytes(), err); whole != bytewise || whole != w {
		t.Errorf("depends on how it is read: %s and %s and %s", whole, bytewise, w)
	}
	return whole
}
