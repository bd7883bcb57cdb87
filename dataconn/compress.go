package dataconn

import (
	"cmp"
	"runtime"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"
)

const (
	// minPacked is what a frame must hold to be worth compressing, in bytes.
	minPacked = 4 << 10
	// sampleSize is how much of a frame is compressed to see whether the rest is worth
	// it: 8 microseconds of work if not.
	sampleSize = 16 << 10
	// sampleParts is how many pieces of a frame make a sample.
	sampleParts = 4
	// minSkip and maxSkip bound how much of a stream goes out as it is after data that
	// did not shrink; then a sample is tried again.
	minSkip, maxSkip = 512 << 10, 16 << 20
)

// A packer compresses what a stream sends, if that helps. The zero value does not.
type packer struct {
	level   zstd.EncoderLevel // 0: none
	shrinks bool              // the data tried last did
	skip    int               // bytes that are not tried
	backOff int               // what skip began with the last time
}

func newPacker(f Features) packer {
	if !f.Zstd || f.Level <= 0 {
		return packer{}
	}
	return packer{level: zstd.EncoderLevelFromZstd(f.Level)}
}

// enough is how much of a stream makes the next frame, in bytes: a full one compresses best.
func (p *packer) enough() int {
	if p.level == 0 || p.skip > 0 {
		return minFrameSize
	}
	return frameSize
}

// pack returns data compressed, with its size, behind the headroom of a buffer that the
// caller puts back; nil if the data is to be sent as it is.
func (p *packer) pack(data []byte) (*buffer, int) {
	if p.level == 0 || len(data) < minPacked {
		return nil, 0
	}
	if p.skip > 0 {
		p.skip -= len(data)
		return nil, 0
	}
	b := buffers.Get().(*buffer)
	if size := p.try(b, data); size < len(data) {
		return b, size
	}
	buffers.Put(b)
	return nil, 0
}

// try compresses data into b, and returns its new size. After data that did not shrink
// it compresses only a sample, unless that does.
func (p *packer) try(b *buffer, data []byte) int {
	if !p.shrinks && len(data) > 2*sampleSize {
		s := sample(b, data)
		if !p.judge(len(s), len(compress(zstd.SpeedFastest, s, b[sampleSize:sampleSize]))) {
			return len(data)
		}
	}
	size := len(compress(p.level, data, b[headroom:headroom]))
	p.judge(len(data), size)
	return size
}

// judge tells whether data shrank by a tenth, and decides how much is skipped if not.
func (p *packer) judge(size, packed int) bool {
	if p.shrinks = packed <= size-size/10; p.shrinks {
		p.backOff = 0
		return true
	}
	p.backOff = min(max(minSkip, 2*p.backOff), maxSkip)
	p.skip = p.backOff
	return false
}

// sample copies pieces from all over data to the beginning of b.
func sample(b *buffer, data []byte) []byte {
	const piece = sampleSize / sampleParts
	for i := range sampleParts {
		copy(b[i*piece:][:piece], data[(len(data)-piece)/(sampleParts-1)*i:])
	}
	return b[:sampleSize]
}

// compressing holds a value for each encoder at work: more than there are processors
// would only take memory.
var compressing = make(chan struct{}, runtime.GOMAXPROCS(0))

// beginCompressing reports whether the processors have time for another encoder. It does
// not wait for long, since the connection's heartbeats wait meanwhile.
func beginCompressing() bool {
	select {
	case compressing <- struct{}{}:
		return true
	default:
	}
	timer := time.NewTimer(tick)
	defer timer.Stop()
	select {
	case compressing <- struct{}{}:
		return true
	case <-timer.C:
		return false
	}
}

// compress appends data to dst, as one zstd frame that says how large its content is. It
// returns data if there is no time for it, or if it fails, which it has no reason for.
func compress(level zstd.EncoderLevel, data, dst []byte) []byte {
	if !beginCompressing() {
		return data
	}
	defer func() { <-compressing }()
	pool := &encoders[level]
	e := pool.get(level)
	defer pool.put(e)
	return e.encode(data, dst)
}

// An encoder makes one zstd frame after another. It uses the library's encoder as a
// stream, which needs no channels: those belong to the synctest bubble that made them, and
// encoders pass from stream to stream.
type encoder struct {
	zstd *zstd.Encoder
	out  appender
}

type appender []byte

func (a *appender) Write(p []byte) (int, error) {
	*a = append(*a, p...)
	return len(p), nil
}

// newEncoder has its levels compress also what has no repetitions, as hexadecimal digits:
// the sample keeps data from them for which that is in vain.
func newEncoder(level zstd.EncoderLevel) *encoder {
	z, _ := zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false),
		zstd.WithWindowSize(maxContent), zstd.WithAllLitEntropyCompression(true)) // fails only for options that there are not
	return &encoder{zstd: z}
}

func (e *encoder) encode(data, dst []byte) []byte {
	e.out = dst
	e.zstd.ResetContentSize(&e.out, int64(len(data)))
	if _, err := e.zstd.Write(data); err != nil {
		return data
	}
	if err := e.zstd.Close(); err != nil {
		return data
	}
	return e.out
}

// encoders are the ones that are not at work, by level. Each takes 1 to 37 MiB, and is
// made when there is none.
var encoders [zstd.SpeedBestCompression + 1]encoderPool

type encoderPool struct {
	mu   sync.Mutex
	idle []*encoder
}

func (p *encoderPool) get(level zstd.EncoderLevel) *encoder {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.idle) - 1
	if n < 0 {
		return newEncoder(level)
	}
	e := p.idle[n]
	p.idle = p.idle[:n]
	return e
}

func (p *encoderPool) put(e *encoder) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.idle = append(p.idle, e)
}

// decoder is shared by all streams. It decodes as much at once as there are processors.
var decoder, _ = zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(maxContent),
	zstd.WithDecodeAllCapLimit(true)) // fails only for options that there are not

// decompress returns the content of packed, which must be one zstd frame that says how large
// it is, in b's memory.
func decompress(packed []byte, b *buffer) ([]byte, error) {
	var h zstd.Header
	if err := h.Decode(packed); err != nil {
		return nil, protocolError("compressed frame: %v", err)
	}
	if !h.HasFCS || h.FrameContentSize == 0 || h.FrameContentSize > maxContent {
		return nil, protocolError("compressed frame with a content of %d bytes", h.FrameContentSize)
	}
	content, err := decoder.DecodeAll(packed, b[headroom:headroom])
	if err != nil {
		return nil, protocolError("compressed frame: %v", err)
	}
	if uint64(len(content)) != h.FrameContentSize {
		return nil, protocolError("compressed frame of more than one")
	}
	return content, nil
}

// unpack reads the current frame, which is compressed, and makes plain of it.
func (r *frameReader) unpack() error {
	if r.left > maxContent {
		return protocolError("compressed frame of %d bytes", r.left)
	}
	packed := buffers.Get().(*buffer)
	defer buffers.Put(packed)
	size := r.left
	for r.left > 0 {
		if _, err := r.payload(packed[size-r.left:]); err != nil {
			return err
		}
	}
	if r.unpacked == nil {
		r.unpacked = buffers.Get().(*buffer)
	}
	var err error
	if r.plain, err = decompress(packed[:size], r.unpacked); err != nil && r.sum.on {
		// Was it damaged on its way? The next header tells, and a live peer sends one soon.
		return cmp.Or(r.header(), err)
	}
	return err
}

// dropUnpacked is for the end of a stream.
func (r *frameReader) dropUnpacked() {
	if r.unpacked != nil {
		buffers.Put(r.unpacked)
		r.unpacked, r.plain = nil, nil
	}
}
