package dataconn

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
)

func TestAppendMessage(t *testing.T) {
	for _, tt := range []struct {
		message string
		frames  []int // payload lengths
	}{
		{"", nil},
		{"x", []int{1}},
		{strings.Repeat("x", frameSize), []int{frameSize}},
		{strings.Repeat("x", frameSize+1), []int{frameSize, 1}},
	} {
		b := appendMessage(nil, typeRequest, tt.message)
		for _, n := range tt.frames {
			if want := appendHeader(nil, typeRequest, n); !bytes.HasPrefix(b, want) {
				t.Fatalf("%d bytes: header % x, want % x", len(tt.message), b[:headerSize], want)
			}
			b = b[headerSize+n:]
		}
		if want := []byte{0, 2, 0, 0, 0, 0, 0, 0}; !bytes.Equal(b, want) {
			t.Errorf("%d bytes: ends with % x, want % x", len(tt.message), b, want)
		}
	}
}

var (
	endFrame  = frame(typeEnd, "")
	beatFrame = frame(typeHeartbeat, "")
	rstFrame  = frame(typeReset, "")
)

func TestMessage(t *testing.T) {
	const limit = 8
	var remote *RemoteError
	for _, tt := range []struct {
		name  string
		input []byte
		want  string
		err   any // an error for errors.Is, or a target for errors.As
	}{
		{"empty", endFrame, "", nil},
		{"one frame", join(frame(typeRequest, "ab"), endFrame), "ab", nil},
		{"heartbeats between", join(beatFrame, frame(typeRequest, "ab"), beatFrame, frame(typeRequest, "cd"), beatFrame, endFrame), "abcd", nil},
		{"empty frames", join(frame(typeRequest, ""), frame(typeRequest, "ab"), endFrame), "ab", nil},
		{"at the limit", join(frame(typeRequest, "12345678"), endFrame), "12345678", nil},
		{"over the limit", join(frame(typeRequest, "12345678"), frame(typeRequest, "9"), endFrame), "", ErrProtocol},
		{"other type", join(frame(typeStream, "ab"), endFrame), "", ErrProtocol},
		{"unknown type", join(frame(77, "ab"), endFrame), "", ErrProtocol},
		{"end with payload", frame(typeEnd, "x"), "", ErrProtocol},
		{"heartbeat with payload", frame(typeHeartbeat, "x"), "", ErrProtocol},
		{"over 16 MiB", appendHeader(nil, typeRequest, 16<<20+1), "", ErrProtocol},
		{"trailer", join(frame(typeRequest, "ab"), frame(typeTrailer, "bad "), beatFrame, frame(typeTrailer, "luck"), endFrame), "remote: bad luck", &remote},
		{"trailer without text", join(frame(typeTrailer, ""), endFrame), "remote: " + noErrorText, &remote},
		{"trailer that is not UTF-8", join(frame(typeTrailer, "\xff"), endFrame), "remote: \uFFFD", &remote},
		{"trailer, then more", join(frame(typeTrailer, "x"), frame(typeRequest, "ab")), "", ErrProtocol},
		{"reset", rstFrame, "", errReset},
		{"nothing", nil, "", io.ErrUnexpectedEOF},
		{"half a header", endFrame[:3], "", io.ErrUnexpectedEOF},
		{"half a payload", frame(typeRequest, "abcd")[:10], "", io.ErrUnexpectedEOF},
		{"no end", frame(typeRequest, "ab"), "", io.ErrUnexpectedEOF},
		{"half a trailer", frame(typeTrailer, "ab")[:9], "", io.ErrUnexpectedEOF},
	} {
		for chunks, src := range map[string]io.Reader{
			"whole": bytes.NewReader(tt.input), "bytewise": iotest.OneByteReader(bytes.NewReader(tt.input)),
			"error with data": iotest.DataErrReader(bytes.NewReader(tt.input)),
		} {
			t.Run(tt.name+"/"+chunks, func(t *testing.T) {
				r := frameReader{src: src}
				got, err := r.message(typeRequest, limit)
				checkMessage(t, string(got), err, tt.want, tt.err)
			})
		}
	}
}

func checkMessage(t *testing.T, got string, err error, want string, wantErr any) {
	t.Helper()
	switch wantErr := wantErr.(type) {
	case nil:
		if err != nil || got != want {
			t.Errorf("got %q, %v; want %q", got, err, want)
		}
	case error:
		if !errors.Is(err, wantErr) {
			t.Errorf("error %v, want %v", err, wantErr)
		}
	default:
		if !errors.As(err, wantErr) || err.Error() != want {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

// A base peer may send larger stream frames than ours, up to the bound.
func TestReadLargestFrame(t *testing.T) {
	payload := pattern(maxPayload)
	r := frameReader{src: bytes.NewReader(join(appendHeader(nil, typeStream, maxPayload), payload, endFrame))}
	got, err := io.ReadAll(readerFunc(func(p []byte) (int, error) { return r.read(typeStream, p) }))
	if err != nil || !bytes.Equal(got, payload) {
		t.Fatalf("got %d bytes, %v; want %d", len(got), err, maxPayload)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// A header may announce what it likes: memory is only spent on what arrives.
func TestFailure02HeaderDemandsAllocation(t *testing.T) {
	for _, length := range []uint32{1 << 20, maxRequest, maxPayload, 1 << 30, math.MaxUint32} {
		t.Run(fmt.Sprint(length), func(t *testing.T) {
			head := binary.BigEndian.AppendUint32([]byte{0, 0, 0, byte(typeRequest)}, length)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			r := frameReader{src: bytes.NewReader(head)}
			_, err := r.message(typeRequest, maxRequest)
			runtime.ReadMemStats(&after)
			if err == nil {
				t.Error("no error")
			}
			if used := after.TotalAlloc - before.TotalAlloc; used > 256<<10 {
				t.Errorf("allocated %d bytes for an 8-byte header", used)
			}
		})
	}
}

func TestErrorText(t *testing.T) {
	long := strings.Repeat("é", maxErrorText) // a character of two bytes would be cut in half
	for _, tt := range []struct{ text, want string }{
		{"", noErrorText},
		{"disk full", "disk full"},
		{"name \xff", "name \uFFFD"},
		{long, long[:maxErrorText/2*2]},
	} {
		if got := errorText(errors.New(tt.text)); got != tt.want {
			t.Errorf("%.20q (%d bytes) became %.20q (%d bytes)", tt.text, len(tt.text), got, len(got))
		}
	}
}

func FuzzFrames(f *testing.F) {
	f.Add(join(frame(typeStream, "abc"), beatFrame, endFrame))
	f.Add(join(frame(typeStream, "abc"), frame(typeTrailer, "broken"), endFrame))
	f.Add(join(frame(typeStream, ""), rstFrame))
	f.Add(appendHeader(nil, typeStream, math.MaxInt32))
	f.Fuzz(func(t *testing.T, input []byte) {
		whole, errWhole := readAll(bytes.NewReader(input), make([]byte, 4096))
		bytewise, errBytewise := readAll(iotest.OneByteReader(bytes.NewReader(input)), make([]byte, 3))
		if !bytes.Equal(whole, bytewise) || fmt.Sprint(errWhole) != fmt.Sprint(errBytewise) {
			t.Errorf("depends on how it arrives: %q, %v and %q, %v", whole, errWhole, bytewise, errBytewise)
		}
		var written bytes.Buffer
		r := frameReader{src: bytes.NewReader(input)}
		if _, err, _ := r.writeTo(&written, typeStream); !bytes.Equal(whole, written.Bytes()) || fmt.Sprint(errWhole) != fmt.Sprint(err) {
			t.Errorf("read %q, %v and written %q, %v", whole, errWhole, written.Bytes(), err)
		}
		if len(whole) > len(input) {
			t.Errorf("%d bytes out of %d", len(whole), len(input))
		}
	})
}

// readAll reads a stream's frames from src with a buffer of the given size.
func readAll(src io.Reader, buf []byte) ([]byte, error) {
	return readFrom(&frameReader{src: src}, buf)
}

func readFrom(r *frameReader, buf []byte) ([]byte, error) {
	var all []byte
	for {
		n, err := r.read(typeStream, buf)
		all = append(all, buf[:n]...)
		if err != nil {
			return all, err
		}
	}
}

func FuzzMessages(f *testing.F) {
	f.Add([]byte("/v1/ping"), uint32(typeRequestHeader), uint16(3))
	f.Add([]byte(""), uint32(typeResponse), uint16(0))
	f.Add(pattern(5000), uint32(typeRequest), uint16(999))
	f.Fuzz(func(t *testing.T, message []byte, typ uint32, limit uint16) {
		r := frameReader{src: bytes.NewReader(message)} // as frames: whatever they mean
		if got, err := r.message(frameType(typ), int(limit)); err == nil && len(got) > int(limit) {
			t.Errorf("%d bytes, over the limit of %d", len(got), limit)
		}
		typ = typ%5 + 1
		r = frameReader{src: bytes.NewReader(join(beatFrame, appendMessage(nil, frameType(typ), message)))}
		got, err := r.message(frameType(typ), int(limit))
		if fits := len(message) <= int(limit); fits && (err != nil || !bytes.Equal(got, message)) {
			t.Errorf("%q became %q, %v", message, got, err)
		} else if !fits && !errors.Is(err, ErrProtocol) {
			t.Errorf("%d bytes over a limit of %d: %v", len(message), limit, err)
		}
	})
}
