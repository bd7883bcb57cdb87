package dir

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"
	"testing/synctest"
)

func TestReadAhead(t *testing.T) {
	want := random(1, 2*aheadBlocks*aheadBlock+5)
	for name, src := range map[string]io.Reader{
		"whole":              bytes.NewReader(want),
		"half":               iotest.HalfReader(bytes.NewReader(want)),
		"EOF with last byte": iotest.DataErrReader(bytes.NewReader(want)),
	} {
		for _, n := range []int64{999, aheadBlock, 1 << 40} {
			r := &readAhead{}
			r.start(src)
			var got []byte
			for len(got) < len(want) {
				p, err := r.next(n)
				if err != nil || len(p) == 0 || int64(len(p)) > n {
					t.Fatalf("%s: %d of %d bytes, error %v", name, len(p), n, err)
				}
				got = append(got, p...)
			}
			if _, err := r.next(n); !bytes.Equal(got, want) || err != io.ErrUnexpectedEOF {
				t.Errorf("%s: other bytes, or error %v behind the end", name, err)
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
			src = bytes.NewReader(want)
		}
	}
}

// What came before an error comes out before it.
func TestReadAheadBroken(t *testing.T) {
	for _, size := range []int{0, 1, aheadBlock, 3*aheadBlock + 1} {
		r := &readAhead{}
		r.start(cut(make([]byte, size), size))
		got := 0
		for {
			p, err := r.next(1 << 20)
			if got += len(p); err == nil {
				continue
			}
			if _, again := r.next(1); got != size || !errors.Is(err, errCut) || again != err {
				t.Errorf("%d of %d bytes, error %v, then %v", got, size, err, again)
			}
			break
		}
		r.Close()
	}
}

// Close waits for the read that runs, and reads no further than the blocks there are.
func TestReadAheadCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, feed := io.Pipe()
		r, closed := &readAhead{}, make(chan error, 1)
		r.start(src)
		synctest.Wait()
		go func() { closed <- r.Close() }()
		synctest.Wait()
		if len(closed) > 0 {
			t.Error("closed while it reads")
		}
		feed.CloseWithError(errCut)
		if err := <-closed; err != nil {
			t.Error(err)
		}
	})
	endless := &counter{Reader: zeroes{}}
	r := &readAhead{}
	r.start(endless)
	_, err := r.next(1)
	if err := errors.Join(err, r.Close()); err != nil || endless.n > (aheadBlocks+1)*aheadBlock {
		t.Errorf("%d bytes read, error %v", endless.n, err)
	}
}

type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) { clear(p); return len(p), nil }
