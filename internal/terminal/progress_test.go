package terminal

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestProgressDrawsNothingIntoAPipe(t *testing.T) {
	var out bytes.Buffer
	p := NewProgress(&out)
	if p.Draws() {
		t.Error("takes a buffer for a terminal")
	}
	p.Set("docs", 1, 2)
	p.End("docs")
	if out.Len() != 0 {
		t.Errorf("wrote %q", out.String())
	}
	fmt.Fprintln(p, "a line")
	p.Close()
	if got := out.String(); got != "a line\n" {
		t.Errorf("wrote %q", got)
	}
}

func TestProgressDrawsOnATerminal(t *testing.T) {
	master, slave := openTerminal(t)
	p := NewProgress(slave)
	if !p.Draws() {
		t.Error("does not know a terminal")
	}
	p.Set("docs", 1<<20, 4<<20)
	p.Set("docs", 5<<20, 4<<20) // more than was expected
	p.End("docs")
	p.Set("docs", 7<<20, 9<<20) // once more, as after a broken step
	p.Set("photos", 512, 0)
	fmt.Fprintln(p, "a line above")
	p.Close()
	p.Set("docs", 1, 2) // after Close: nothing
	p.Close()
	fmt.Fprintln(p, "a line below")
	screen := readTerminal(t, master, slave)
	for _, want := range []string{"docs ", "5.00 MiB", "7.00 MiB of 9.00 MiB", "photos ", "512 B", "a line above", "a line below"} {
		if !strings.Contains(screen, want) {
			t.Errorf("screen lacks %q:\n%q", want, screen)
		}
	}
}

// openTerminal returns both ends of a new pseudo-terminal.
func openTerminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	t.Cleanup(func() { master.Close() })
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile("/dev/pts/"+strconv.Itoa(number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 120}); err != nil {
		t.Fatal(err)
	}
	return master, slave
}

// readTerminal closes slave and returns all that was written to it.
func readTerminal(t *testing.T, master, slave *os.File) string {
	t.Helper()
	slave.Close()
	screen, err := io.ReadAll(master)
	if err != nil && !strings.Contains(err.Error(), unix.EIO.Error()) { // EIO: the other end is closed
		t.Fatal(err)
	}
	return string(screen)
}
