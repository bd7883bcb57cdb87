package synth_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/endpoint/endpointtest"
	"github.com/dualrepl/dualrepl/endpoint/synth"
	"github.com/dualrepl/dualrepl/pdu"
)

func TestConformance(t *testing.T) {
	newSender := func(*testing.T) endpointtest.Sender {
		source := &synth.Source{}
		source.AddFilesystem("data/docs")
		return endpointtest.Sender{
			Sender: source, Filesystem: "data/docs",
			Snapshot: func(_ *testing.T, name string) { source.Snapshot("data/docs", name, 300_000) },
		}
	}
	endpointtest.TestSender(t, newSender)
	endpointtest.TestReceiver(t, func(t *testing.T) (endpointtest.Sender, endpointtest.Receiver) {
		return newSender(t), endpointtest.Receiver{Receiver: &synth.Sink{}}
	})
}

var errInjected = errors.New("injected")

func TestStream(t *testing.T) {
	tests := []struct {
		name string
		spec synth.Spec
		want int64
		err  error
	}{
		{"empty", synth.Spec{Seed: 1}, 0, nil},
		{"one byte", synth.Spec{Seed: 1, Size: 1}, 1, nil},
		{"many blocks", synth.Spec{Seed: 1 << 63, Size: 1 << 20}, 1 << 20, nil},
		{"from an offset", synth.Spec{Seed: 7, Size: 1 << 20, Offset: 999_999}, 1<<20 - 999_999, nil},
		{"offset at the end", synth.Spec{Seed: 7, Size: 10, Offset: 10}, 0, nil},
		{"fails at 0", synth.Spec{Seed: 7, Size: 10, Fail: errInjected}, 0, errInjected},
		{"fails inside", synth.Spec{Seed: 7, Size: 1 << 20, FailAt: 500_000, Fail: errInjected}, 500_000, errInjected},
		{"fails at the end", synth.Spec{Seed: 7, Size: 10, FailAt: 10, Fail: errInjected}, 10, errInjected},
		{"fails before its offset", synth.Spec{Seed: 7, Size: 10, Offset: 5, FailAt: 1, Fail: errInjected}, 0, errInjected},
		{"fault beyond the end", synth.Spec{Seed: 7, Size: 10, FailAt: 11, Fail: errInjected}, 10, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			readers := map[string]io.Reader{
				"WriteTo":   synth.NewStream(tt.spec),
				"Read":      onlyReader{synth.NewStream(tt.spec)},
				"small":     onlyReader{iotest.HalfReader(synth.NewStream(tt.spec))},
				"byte-wise": onlyReader{iotest.OneByteReader(synth.NewStream(tt.spec))},
			}
			for how, r := range readers {
				check := synth.NewChecker(tt.spec.Seed, tt.spec.Offset)
				n, err := io.Copy(check, r)
				if n != tt.want || !errors.Is(err, tt.err) {
					t.Errorf("%s: %d bytes, %v, want %d, %v", how, n, err, tt.want, tt.err)
				}
				if check.Offset() != tt.spec.Offset+tt.want {
					t.Errorf("%s: verified up to %d", how, check.Offset())
				}
			}
		})
	}
}

type onlyReader struct{ io.Reader }

func TestStreamAfterClose(t *testing.T) {
	s := synth.NewStream(synth.Spec{Seed: 1, Size: 10})
	s.Close()
	if _, err := s.Read(make([]byte, 1)); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Read after Close: %v", err)
	}
	if _, err := s.WriteTo(io.Discard); !errors.Is(err, os.ErrClosed) {
		t.Errorf("WriteTo after Close: %v", err)
	}
}

func TestStreamDoesNotAllocate(t *testing.T) {
	s := synth.NewStream(synth.Spec{Seed: 1, Size: 1 << 40})
	buf := make([]byte, 1<<16)
	if n := testing.AllocsPerRun(100, func() { s.Read(buf) }); n != 0 {
		t.Errorf("Read allocates %v times", n)
	}
}

func TestCheckerFindsDamage(t *testing.T) {
	good, _ := io.ReadAll(synth.NewStream(synth.Spec{Seed: 3, Size: 400_000}))
	damage := map[string]func([]byte) ([]byte, int64){
		"flipped bit":     func(b []byte) ([]byte, int64) { b[200_000] ^= 1; return b, 200_000 },
		"lost buffer":     func(b []byte) ([]byte, int64) { return append(b[:65536:65536], b[2*65536:]...), 65536 },
		"doubled buffer":  func(b []byte) ([]byte, int64) { return append(b[:4096:4096], b...), 4096 },
		"other seed":      func(b []byte) ([]byte, int64) { return b[1:], 0 },
		"nothing damaged": func(b []byte) ([]byte, int64) { return b, -1 },
	}
	for name, inflict := range damage {
		b, at := inflict(bytes.Clone(good))
		check := synth.NewChecker(3, 0)
		n, err := check.Write(b)
		if at < 0 && (err != nil || n != len(b)) {
			t.Errorf("%s: %d, %v", name, n, err)
		}
		// Neighbouring bytes may be equal by chance, so a shift can show a little later.
		if at >= 0 && (!errors.Is(err, synth.ErrMismatch) || int64(n) < at || int64(n) > at+8 || check.Offset() != int64(n)) {
			t.Errorf("%s: stopped at %d with %v, want about %d", name, n, err, at)
		}
	}
}

// transfer does one step from source to sink with the token that sink has.
func transfer(t *testing.T, source *synth.Source, sink *synth.Sink, to *pdu.FilesystemVersion) error {
	t.Helper()
	req := &pdu.SendReq{Filesystem: "docs", To: to}
	list, err := sink.ListFilesystems(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, fs := range list.Filesystems {
		req.ResumeToken = fs.ResumeToken
	}
	res, stream, err := source.Send(t.Context(), req)
	if err != nil {
		return err
	}
	defer stream.Close()
	_, err = sink.Receive(t.Context(), &pdu.ReceiveReq{Filesystem: "docs", To: to, ClearResumeToken: !res.UsedResumeToken}, stream)
	return err
}

func TestFailAtAndResume(t *testing.T) {
	source, sink := &synth.Source{}, &synth.Sink{}
	to := source.Snapshot("docs", "one", 1_000_000)
	source.FailAt("docs", 300_000, errInjected)
	if err := transfer(t, source, sink, to); !errors.Is(err, errInjected) {
		t.Fatalf("source fails: %v", err)
	}
	sink.FailAt("docs", 700_000, errInjected)
	if err := transfer(t, source, sink, to); !errors.Is(err, errInjected) {
		t.Fatalf("sink fails: %v", err)
	}
	list, err := sink.ListFilesystems(t.Context(), nil)
	if want := fmt.Sprintf(":%x", 700_000); err != nil || len(list.Filesystems) != 1 || !strings.HasSuffix(list.Filesystems[0].ResumeToken, want) {
		t.Errorf("the list is %v, %v, want a token that ends in %s", list, err, want)
	}
	if err := transfer(t, source, sink, to); err != nil {
		t.Fatalf("resumed: %v", err)
	}
}

func TestSinkVerifies(t *testing.T) {
	source := &synth.Source{}
	to := source.Snapshot("docs", "one", 100_000)
	_, stream, err := source.Send(t.Context(), &pdu.SendReq{Filesystem: "docs", To: to})
	if err != nil {
		t.Fatal(err)
	}
	good, _ := io.ReadAll(stream)
	flipped := bytes.Clone(good)
	flipped[50_000] ^= 1
	tests := []struct {
		name   string
		stream []byte
		sink   *synth.Sink
		want   error
	}{
		{"good", good, &synth.Sink{}, nil},
		{"damaged", flipped, &synth.Sink{}, synth.ErrMismatch},
		{"too long", append(bytes.Clone(good), 0), &synth.Sink{}, synth.ErrMismatch},
		{"too short", good[:len(good)-1], &synth.Sink{}, io.ErrUnexpectedEOF},
		{"damaged and discarded", flipped, &synth.Sink{Discard: true}, nil},
	}
	for _, tt := range tests {
		_, err := tt.sink.Receive(t.Context(), &pdu.ReceiveReq{Filesystem: "docs", To: to}, bytes.NewReader(tt.stream))
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
}

func TestReceiveRefusesForeignContinuation(t *testing.T) {
	source, sink := &synth.Source{}, &synth.Sink{}
	to := source.Snapshot("docs", "one", 1000)
	token := fmt.Sprintf("synth1:0:%x:%x:%x", to.Guid, 1000, 500)
	_, stream, err := source.Send(t.Context(), &pdu.SendReq{Filesystem: "docs", To: to, ResumeToken: token})
	if err != nil {
		t.Fatal(err)
	}
	_, err = sink.Receive(t.Context(), &pdu.ReceiveReq{Filesystem: "docs", To: to}, stream)
	if !errors.Is(err, endpoint.ErrStaleToken) {
		t.Errorf("Receive: %v", err)
	}
}

// FuzzReceive: whatever arrives, a version is made only by the one stream that is it.
func FuzzReceive(f *testing.F) {
	source := &synth.Source{}
	to := source.Snapshot("docs", "one", 64)
	to.Guid = 42
	_, stream, err := source.Send(context.Background(), &pdu.SendReq{Filesystem: "docs", To: to})
	if err != nil {
		f.Fatal(err)
	}
	good, _ := io.ReadAll(stream)
	f.Add(good)
	f.Add(good[:50])
	f.Fuzz(func(t *testing.T, b []byte) {
		sink := &synth.Sink{}
		_, err := sink.Receive(t.Context(), &pdu.ReceiveReq{Filesystem: "docs", To: to}, bytes.NewReader(b))
		list, listErr := sink.ListFilesystemVersions(t.Context(), &pdu.ListFilesystemVersionsReq{Filesystem: "docs"})
		if made := listErr == nil && len(list.Versions) > 0; made != (err == nil) {
			t.Errorf("Receive: %v, versions %v, %v", err, list, listErr)
		}
	})
}

// FuzzResumeToken: any text is a token or ErrStaleToken.
func FuzzResumeToken(f *testing.F) {
	f.Add("synth1:0:2a:40:20")
	f.Add("synth1:0:2a:20:40")
	f.Fuzz(func(t *testing.T, token string) {
		step, err := (&synth.Source{}).ReadResumeToken(t.Context(), token)
		if err != nil && !errors.Is(err, endpoint.ErrStaleToken) {
			t.Errorf("error is %v", err)
		}
		if err == nil && step.ToGUID == 0 {
			t.Error("a token for no version")
		}
	})
}

func BenchmarkStream(b *testing.B) {
	s := synth.NewStream(synth.Spec{Seed: 1, Size: 1 << 62})
	buf := make([]byte, 1<<17)
	b.SetBytes(int64(len(buf)))
	for b.Loop() {
		s.Read(buf)
	}
}
