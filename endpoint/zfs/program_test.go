package zfs

import (
	"context"
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/dualrepl/dualrepl/endpoint"
)

// TestMeanings has what OpenZFS 2.1.11 says.
func TestMeanings(t *testing.T) {
	tests := []struct {
		stderr string
		want   error
	}{
		{"cannot open 'a/nope': dataset does not exist\n", endpoint.ErrNotFound},
		{"cannot hold snapshot 'a/fs@99': dataset does not exist\n", endpoint.ErrNotFound},
		{"bookmark 'a/fs#nope' does not exist.\n", endpoint.ErrNotFound},
		{"could not find any snapshots to destroy; check snapshot names.\n", endpoint.ErrNotFound},
		{"cannot destroy snapshot a/fs@3: dataset is busy\n", endpoint.ErrFailedPrecondition},
		{"cannot destroy 'a/fs@5': snapshot has dependent clones\nuse '-R' to destroy the following datasets:\na/clone\n", endpoint.ErrFailedPrecondition},
		{"warning: cannot send 'a/enc@1': dataset key must be loaded\n", endpoint.ErrFailedPrecondition},
		{"cannot send a/enc@1: encrypted dataset a/enc may not be sent with properties without the raw flag\nwarning: cannot send 'a/enc@1': backup failed\n", endpoint.ErrInvalid},
		{"cannot resume send: resume token is corrupt (incorrect checksum)\n", endpoint.ErrStaleToken},
		{"cannot resume send: 'a/fs@2' used in the initial send no longer exists\n", endpoint.ErrStaleToken},
		{"cannot resume send: 'a/fs@2' is no longer the same snapshot used in the initial send\n", endpoint.ErrStaleToken},
		{"Permission denied the ZFS utilities must be run as root.\n", endpoint.ErrPermission},
		{"cannot create snapshots : permission denied\n", endpoint.ErrPermission},
		{"cannot receive incremental stream: most recent snapshot of b/r does not\nmatch incremental source\n", endpoint.ErrFailedPrecondition},
		{"cannot receive incremental stream: destination b/r has been modified\nsince most recent snapshot\n", endpoint.ErrFailedPrecondition},
		{"cannot receive new filesystem stream: out of space\n", endpoint.ErrNoSpace},
		{"cannot create snapshot 'a/fs@1': dataset already exists\nno snapshots were created\n", nil},
		{"", nil},
	}
	for _, tt := range tests {
		if got := meaning(tt.stderr); got != tt.want {
			t.Errorf("meaning of %q is %v, want %v", tt.stderr, got, tt.want)
		}
	}
}

func TestCommandError(t *testing.T) {
	p := fake(t, `echo "cannot open '$3': dataset does not exist" >&2
printf 'usage:\n\tlist [-H] ...\n' >&2
exit 2`)
	_, err := p.run(t.Context(), "list", "-H", "a/b")
	const want = "zfs list -H a/b: exit status 2: cannot open 'a/b': dataset does not exist"
	if err == nil || err.Error() != want {
		t.Errorf("error is %v, want %s", err, want)
	}
	if !errors.Is(err, endpoint.ErrNotFound) || !errors.As(err, new(*exec.ExitError)) {
		t.Errorf("the chain of %v lacks what it means, or how the process ended", err)
	}
}

func TestCommandErrorBounded(t *testing.T) {
	p := fake(t, `i=0; while [ $i -lt 2000 ]; do echo "line $i" >&2; i=$((i+1)); done; exit 1`)
	_, err := p.run(t.Context(), strings.Repeat("x", 10000))
	if err == nil || len(err.Error()) > maxStderr+maxErrorArgs+100 || strings.Contains(err.Error(), "\n") {
		t.Fatalf("error is of %d bytes: %v", len(err.Error()), err)
	}
	if !strings.HasSuffix(err.Error(), "line 1999") {
		t.Errorf("the last line is not in %v", err)
	}
}

func TestProgramMissing(t *testing.T) {
	_, err := newProgram("/nonexistent/zfs", nil).run(t.Context(), "list")
	if err == nil || !strings.Contains(err.Error(), "/nonexistent/zfs") || !strings.Contains(err.Error(), "install it (zfsutils-linux)") {
		t.Errorf("error is %v", err)
	}
}

func TestProgramEnvironment(t *testing.T) {
	t.Setenv("LC_ALL", "de_DE.UTF-8")
	out, err := fake(t, `echo "$LC_ALL $TZ $#"`).run(t.Context(), "one", "two words", "$(three)")
	if err != nil || string(out) != "C UTC 3\n" {
		t.Errorf("output is %q, %v", out, err)
	}
}

func TestProgramOutputBounded(t *testing.T) {
	_, err := fake(t, `head -c 67108865 /dev/zero`).run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "longer than 67108864 bytes") {
		t.Errorf("error is %v", err)
	}
}

// TestProgramEnds has a process that does not mind SIGTERM.
func TestProgramEnds(t *testing.T) {
	for name, script := range map[string]string{
		"SIGTERM": `echo; exec sleep 600`,
		"SIGKILL": `trap '' TERM; echo; exec sleep 600`,
	} {
		t.Run(name, func(t *testing.T) {
			p := fake(t, script)
			p.grace = 10 * time.Millisecond
			ctx, cancel := context.WithCancelCause(t.Context())
			stream, err := p.openStream(ctx, []string{"send"}, func() {})
			if err != nil {
				t.Fatal(err)
			}
			defer stream.Close()
			if _, err := stream.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			why := errors.New("why")
			cancel(why)
			if _, err := stream.Read(make([]byte, 1)); !errors.Is(err, why) {
				t.Errorf("Read after the end of the context: %v", err)
			}
			<-stream.process.exited
		})
	}
}

func TestTail(t *testing.T) {
	var kept tail
	for range 3 {
		kept.Write([]byte(strings.Repeat("a", maxStderr-1)))
		kept.Write([]byte("bc"))
	}
	if s := kept.String(); len(s) != maxStderr || !strings.HasSuffix(s, "abc") {
		t.Errorf("%d bytes are kept: ...%s", len(s), s[len(s)-4:])
	}
}
