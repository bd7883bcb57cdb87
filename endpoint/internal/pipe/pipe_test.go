package pipe

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func size(t *testing.T, end any) (n int) {
	t.Helper()
	conn, err := end.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if controlErr := conn.Control(func(fd uintptr) { n, err = unix.FcntlInt(fd, unix.F_GETPIPE_SZ, 0) }); controlErr != nil || err != nil {
		t.Fatal(controlErr, err)
	}
	return n
}

// TestEnlarge is for the ends that package exec gives, too.
func TestEnlarge(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	cmd := exec.Command("true")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	defer stdout.Close()
	for name, end := range map[string]any{"pipe": r, "stdin": stdin, "stdout": stdout} {
		before := size(t, end)
		if Enlarge(end); size(t, end) < max(before, Size) {
			t.Errorf("%s: %d bytes, %d before", name, size(t, end), before)
		}
	}
	Enlarge(strings.NewReader("")) // and nothing happens
}
