package ends

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/dualrepl/dualrepl/endpoint/synth"
)

// The other ends of pipes are this program again.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case SourceCommand:
			exitWith(WriteSource(pipedSize))
		case SinkCommand:
			exitWith(ReadSink())
		}
	}
	os.Exit(m.Run())
}

const pipedSize = 3*pipeBuffer + 7

func exitWith(err error) {
	if err != nil {
		os.Exit(1)
	}
	os.Exit(0)
}

func TestCheck(t *testing.T) {
	for kind, ok := range map[Kind]bool{
		Generated: true, Pipe: true, Checked: true, "file:/tmp/x": true, "": false, "zfs": false, "file": false,
	} {
		if err := kind.Check(); (err == nil) != ok {
			t.Errorf("%q: %v", kind, err)
		}
	}
}

func TestSourceIntoSink(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, make([]byte, 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []Kind{Generated, Pipe, Checked, "file:" + Kind(path)} {
		t.Run(string(kind), func(t *testing.T) {
			src, err := kind.Source(pipedSize)
			if err != nil {
				t.Fatal(err)
			}
			into := kind
			if kind != Generated && kind != Pipe && kind != Checked {
				into += ".copy"
			}
			dst, err := into.Sink()
			if err != nil {
				t.Fatal(err)
			}
			n, err := io.Copy(dst, src)
			if err := errors.Join(err, src.Close(), dst.Close()); err != nil || n != pipedSize {
				t.Errorf("%d bytes, want %d; %v", n, pipedSize, err)
			}
		})
	}
}

func TestCheckedFindsDamage(t *testing.T) {
	sink, err := Checked.Sink()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sink.Write(make([]byte, 100)); !errors.Is(err, synth.ErrMismatch) {
		t.Errorf("error is %v, want ErrMismatch", err)
	}
}

func TestNoFile(t *testing.T) {
	missing := Kind(filePrefix + filepath.Join(t.TempDir(), "missing", "file"))
	if _, err := missing.Source(1); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Source: %v", err)
	}
	if _, err := missing.Sink(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Sink: %v", err)
	}
}
