package dataconn

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/dualrepl/dualrepl/pdu"
	"github.com/dualrepl/dualrepl/transport"
)

// random is n bytes that cannot be compressed.
func random(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{7}).Read(b)
	return b
}

// digits is n bytes that can be compressed to half their size.
func digits(n int) []byte { return []byte(hex.EncodeToString(random((n + 1) / 2)))[:n] }

// packed is one zstd frame with content.
func packed(content []byte) []byte {
	e, _ := zstd.NewWriter(nil, zstd.WithSingleSegment(true))
	return e.EncodeAll(content, nil)
}

// streamed is a zstd frame that does not say how large its content is.
func streamed(content []byte) []byte {
	var b bytes.Buffer
	e, _ := zstd.NewWriter(&b, zstd.WithEncoderConcurrency(1))
	_, _ = e.Write(content)
	_ = e.Flush()
	_ = e.Close()
	return b.Bytes()
}

// badPacked are payloads of compressed frames that must be refused.
func badPacked() map[string][]byte {
	whole := packed(pattern(5000))
	lies := bytes.Clone(whole)
	lies[5]++ // the content's size
	return map[string][]byte{
		"empty":                  {},
		"garbage":                pattern(100),
		"cut in the header":      whole[:5],
		"cut in a block":         whole[:len(whole)/2],
		"another size":           lies,
		"no content":             packed(nil),
		"size not said":          streamed(pattern(5000)),
		"two frames":             join(whole, whole),
		"something behind":       join(whole, []byte{1}),
		"skippable":              {0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 0},
		"content over 512 KiB":   packed(make([]byte, maxContent+1)),
		"a gigabyte of nothing":  {0x28, 0xb5, 0x2f, 0xfd, 0xa0, 0, 0, 0, 0x40, 3, 0, 0},
		"payload over 512 KiB":   packed(random(maxContent + 1)),
		"window over 512 KiB":    {0x28, 0xb5, 0x2f, 0xfd, 0x80, 10 << 3, 1, 0, 0, 0, 9, 0, 0, 'x'},
		"dictionary not known":   {0x28, 0xb5, 0x2f, 0xfd, 0x21, 9, 1, 9, 0, 0, 'x'},
		"blocks beyond the size": {0x28, 0xb5, 0x2f, 0xfd, 0x20, 1, 0xfb, 0xff, 0x3f, 'x'}, // repeats a byte
	}
}

// Each way to read a stream gets what was packed, or the error.
func readPacked(t *testing.T, frames []byte, sum bool) (string, error) {
	t.Helper()
	reader := func(src io.Reader) *frameReader {
		return &frameReader{src: src, zstd: true, sum: runningSum{on: sum}}
	}
	whole, err := readFrom(reader(bytes.NewReader(frames)), make([]byte, 4096))
	bytewise, err2 := readFrom(reader(iotest.OneByteReader(bytes.NewReader(frames))), make([]byte, 3))
	var written bytes.Buffer
	_, err3, _ := reader(bytes.NewReader(frames)).writeTo(&written, typeStream)
	if !bytes.Equal(whole, bytewise) || !bytes.Equal(whole, written.Bytes()) || fmt.Sprint(err) != fmt.Sprint(err2) || fmt.Sprint(err) != fmt.Sprint(err3) {
		t.Errorf("depends on how it is read: %d bytes, %v; %d, %v; %d, %v", len(whole), err, len(bytewise), err2, written.Len(), err3)
	}
	return string(whole), err
}

func TestCompressedFrames(t *testing.T) {
	for name, content := range map[string][]byte{
		"a byte": {1}, "short": pattern(5000), "largest": digits(maxContent), "zeros": make([]byte, maxContent), "random": random(100_000),
	} {
		for _, sum := range []bool{false, true} {
			s := runningSum{on: sum}
			frames := s.seal(join(frame(typeStream, "raw"), frame(typeCompressed, string(packed(content))), beatFrame, frame(typeCompressed, string(packed(content))), endFrame))
			got, err := readPacked(t, frames, sum)
			if want := "raw" + string(content) + string(content); got != want || err != io.EOF {
				t.Errorf("%s, sum %v: %d bytes, %v; want %d", name, sum, len(got), err, len(want))
			}
		}
	}
	for name, payload := range badPacked() {
		for _, sum := range []bool{false, true} {
			s := runningSum{on: sum}
			frames := s.seal(join(frame(typeStream, "raw"), frame(typeCompressed, string(payload)), endFrame))
			if got, err := readPacked(t, frames, sum); got != "raw" || !errors.Is(err, ErrProtocol) {
				t.Errorf("%s, sum %v: %d bytes, %v", name, sum, len(got), err)
			}
		}
	}
}

// Only streams have compressed frames, and only if that was agreed on.
func TestCompressedFrameMisplaced(t *testing.T) {
	whole := join(frame(typeCompressed, string(packed(pattern(5000)))), endFrame)
	if _, err := readAll(bytes.NewReader(whole), make([]byte, 4096)); !errors.Is(err, ErrProtocol) {
		t.Errorf("without the feature: %v", err)
	}
	r := frameReader{src: bytes.NewReader(whole), zstd: true}
	if _, err := r.message(typeRequest, maxRequest); !errors.Is(err, ErrProtocol) {
		t.Errorf("in a message: %v", err)
	}
}

// A compressed frame that was damaged on its way is no fault of the peer's.
func TestCompressedFrameDamaged(t *testing.T) {
	sealed := (&runningSum{on: true}).seal(join(frame(typeCompressed, string(packed(pattern(5000)))), endFrame))
	sealed[sumHeaderSize] ^= 1 // the magic number
	if _, err := readPacked(t, sealed, true); !errors.Is(err, ErrCorrupt) || errors.Is(err, ErrProtocol) {
		t.Errorf("error %v", err)
	}
}

// Sources of all kinds arrive, both ways, at every level.
func TestZstd(t *testing.T) {
	mixed := join(digits(700<<10), random(700<<10), make([]byte, 1<<20), random(100), digits(300<<10))
	for level, sum := range map[int]bool{1: false, 3: true, 6: false, 22: true} {
		t.Run(fmt.Sprintf("level %d, sum %v", level, sum), func(t *testing.T) {
			cl := connectTCPWith(t, handler{
				send: sending(bytes.NewReader(mixed)).send,
				recv: receiving(func(_ context.Context, r io.Reader) error { return isAll(r, mixed) }).recv,
			}, Features{Zstd: true, Level: level, Sum: sum}, asItIs)
			if _, err := cl.Receive(t.Context(), recvReq, bytes.NewReader(mixed)); err != nil {
				t.Errorf("receive: %v", err)
			}
			_, r, err := cl.Send(t.Context(), sendReq)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			if err := isAll(struct{ io.Reader }{r}, mixed); err != nil {
				t.Errorf("send: %v", err)
			}
		})
	}
}

func isAll(r io.Reader, want []byte) error {
	var got bytes.Buffer
	if _, err := io.Copy(&got, r); err != nil {
		return err
	}
	if !bytes.Equal(got.Bytes(), want) {
		return fmt.Errorf("%d bytes became %d", len(want), got.Len())
	}
	return nil
}

// framesOf returns the frames of a stream that a server sends.
func framesOf(t *testing.T, f Features, src io.Reader) (types []frameType, sizes []int) {
	server, peer := memPair()
	var wg sync.WaitGroup
	wg.Go(func() { ServeConn(t.Context(), server, handleSend(src, nil), ServeOptions{Features: f}) })
	if _, err := peer.Write(unhex(t, sendRequest)); err != nil {
		t.Fatal(err)
	}
	expect(t, peer, unhex(t, sendResponse))
	r := frameReader{src: peer}
	for r.typ != typeEnd {
		if err := r.next(); err != nil {
			t.Fatal(err)
		}
		types, sizes = append(types, r.typ), append(sizes, r.left)
		if _, err := r.appendPayload(nil, maxPayload); err != nil {
			t.Fatal(err)
		}
	}
	peer.Close()
	wg.Wait()
	return types, sizes
}

// countFrames returns how many frames are of a type, and their payloads' size.
func countFrames(types []frameType, sizes []int, typ frameType) (n, size int) {
	for i := range types {
		if types[i] == typ {
			n, size = n+1, size+sizes[i]
		}
	}
	return n, size
}

// What can be compressed is, in full frames; what cannot be goes out as it is, in the
// frames of a stream that is not tried.
func TestPacker(t *testing.T) {
	const level = 3
	for _, tt := range []struct {
		name      string
		level     int
		data      []byte
		raw, size int // frames that are not compressed, and the payload of all, in MiB at most
		packed    int // frames that are
	}{
		{"compressible", level, digits(8 * frameSize), 0, 3, 8},
		{"zeros", level, make([]byte, 8*frameSize), 0, 1, 8},
		{"not to be compressed", level, random(8 * frameSize), 8, 4, 0},
		{"no level", 0, digits(8 * frameSize), 8, 4, 0},
		{"short", level, digits(minPacked), 0, 1, 1},
		{"too short", level, digits(minPacked - 1), 1, 1, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				types, sizes := framesOf(t, Features{Zstd: true, Level: tt.level}, bytes.NewReader(tt.data))
				raw, rawSize := countFrames(types, sizes, typeStream)
				n, size := countFrames(types, sizes, typeCompressed)
				if raw != tt.raw || n != tt.packed || rawSize+size > tt.size<<20 {
					t.Errorf("%d frames of %d bytes as they are, %d of %d bytes compressed", raw, rawSize, n, size)
				}
			})
		})
	}
}

// After data that does not shrink the next try comes later and later, up to a limit, and
// after some that does at once.
func TestPackerBacksOff(t *testing.T) {
	p := newPacker(Features{Zstd: true, Level: 1})
	noise, text := random(minFrameSize), digits(minFrameSize)
	skipped := func() (n int) {
		if b, size := p.pack(noise); b != nil {
			t.Fatalf("noise became %d bytes", size)
		}
		for ; p.skip > 0; n += len(text) {
			if b, _ := p.pack(text); b != nil {
				t.Fatal("it was tried")
			}
		}
		return n
	}
	for _, want := range []int{1, 2, 4, 8, 16, 32, 32, 32} {
		if got := skipped(); got != want*minSkip {
			t.Errorf("%d bytes were skipped, want %d", got, want*minSkip)
		}
	}
	b, _ := p.pack(text)
	if b == nil {
		t.Fatal("text was not compressed")
	}
	buffers.Put(b)
	if got := skipped(); got != minSkip {
		t.Errorf("%d bytes were skipped after data that shrank", got)
	}
}

// While all encoders are at work for others, data goes out as it is: heartbeats wait for
// the frame, too.
func TestPackerDoesNotWaitForever(t *testing.T) {
	for range cap(compressing) {
		compressing <- struct{}{}
	}
	defer func() {
		for range cap(compressing) {
			<-compressing
		}
	}()
	p := newPacker(Features{Zstd: true, Level: 3})
	if b, size := p.pack(digits(frameSize)); b != nil {
		t.Errorf("compressed to %d bytes", size)
	}
}

// A pipe gives 64 KiB at once: what is not compressed goes out as soon as without zstd.
func TestPackerDoesNotWaitForMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		data := bytes.NewReader(random(2 << 20))
		pipe := readerFunc(func(p []byte) (int, error) { return data.Read(p[:min(len(p), minFrameSize)]) })
		_, sizes := framesOf(t, Features{Zstd: true, Level: 3}, pipe)
		if sizes[0] < frameSize || sizes[1] != minFrameSize {
			t.Errorf("frames of %d", sizes)
		}
	})
}

// What a source has given goes out while it pauses, also if it would be compressed.
func TestPausingSourceCompressed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		part := strings.Repeat("0123456789", 10_000)
		r, w := io.Pipe()
		client, server := memPair()
		f := Features{Zstd: true, Level: 3}
		var wg sync.WaitGroup
		wg.Go(func() { ServeConn(t.Context(), server, sending(r), ServeOptions{Features: f}) })
		cl := NewClient(func(context.Context) (transport.Wire, Features, error) { return client, f, nil }, ClientOptions{})
		_, in, err := cl.Send(t.Context(), new(pdu.SendReq))
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			begin := time.Now()
			_, _ = io.WriteString(w, part)
			got := make([]byte, len(part))
			if _, err := io.ReadFull(in, got); err != nil || string(got) != part {
				t.Errorf("received something else, or %v", err)
			}
			if d := time.Since(begin); d > 2*tick {
				t.Errorf("after %v", d)
			}
			time.Sleep(time.Minute)
		}
		w.Close()
		if n, err := io.Copy(io.Discard, in); n > 0 || err != nil {
			t.Errorf("%d more bytes, %v", n, err)
		}
		cl.Close()
		wg.Wait()
	})
}

// FuzzCompressed reads a frame that a peer made up.
func FuzzCompressed(f *testing.F) {
	for _, payload := range badPacked() {
		f.Add(payload[:min(len(payload), 1000)])
	}
	f.Add(packed(pattern(5000)))
	f.Fuzz(func(t *testing.T, payload []byte) {
		got, err := readPacked(t, join(frame(typeCompressed, string(payload)), endFrame), false)
		if len(got) > maxContent {
			t.Errorf("%d bytes", len(got))
		}
		if err != io.EOF && (got != "" || !errors.Is(err, ErrProtocol)) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	})
}

// FuzzCompress has data cross compressed.
func FuzzCompress(f *testing.F) {
	f.Add(pattern(1000), uint8(1), uint16(6))
	f.Add(digits(1000), uint8(7), uint16(10))
	f.Fuzz(func(t *testing.T, piece []byte, level uint8, times uint16) {
		data := bytes.Repeat(piece, int(times))
		data = data[:min(len(data), minFrameSize)]
		p := newPacker(Features{Zstd: true, Level: int(level % 10)}) // from there on it takes long to begin
		b, size := p.pack(data)
		if b == nil {
			return
		}
		defer buffers.Put(b)
		got, err := readPacked(t, join(frame(typeCompressed, string(b[headroom:][:size])), endFrame), false)
		if got != string(data) || err != io.EOF || size >= len(data) {
			t.Errorf("%d bytes became %d in %d, %v", len(data), len(got), size, err)
		}
	})
}
