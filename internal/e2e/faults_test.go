package e2e

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// repeatLimit is what a broken step may send again: the promise of resume tokens.
const repeatLimit = 8 << 20

// TestKillEitherSideAtRandomMoments kills the active and the passive side in turn,
// each time after a random number of bytes, and lets the replication go on.
func TestKillEitherSideAtRandomMoments(t *testing.T) {
	const kills, files, size = 20, 80, 4 << 20
	s := newSetup(t, t.TempDir())
	s.fill("file", 1, files, size)
	s.mustRun("snapshot", "--config", s.push, "docs")
	s.startPassive()

	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	done := 0
	for i := range kills {
		s.proxy.fireAfter(random.Int64N(2*files*size/kills-repeatLimit) + 1)
		if s.replicateUntilKilled(i%2 == 0) {
			done++
		}
	}
	s.mustRun("replicate", "--config", s.push, "docs")
	s.compare()

	t.Logf("%d of %d kills hit a running step; %d bytes sent for %d", done, kills, s.proxy.sent.Load(), files*size)
	if done < kills/2 {
		t.Errorf("only %d of %d kills hit: the test says too little", done, kills)
	}
	if limit := int64(files*size) + int64(done)*repeatLimit + repeatLimit; s.proxy.sent.Load() > limit {
		t.Errorf("sent %d bytes in all, over the limit of %d", s.proxy.sent.Load(), limit)
	}
}

// replicateUntilKilled runs the active side until the proxy's trigger, kills one
// side and reports true; false if the replication ended before that.
func (s *setup) replicateUntilKilled(active bool) bool {
	s.t.Helper()
	out := &logBuffer{}
	cmd := exec.Command(program, "replicate", "--config", s.push, "docs")
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		if err != nil {
			s.t.Fatalf("the active side failed before anything was killed: %v\n%s", err, out)
		}
		return false
	case <-s.proxy.trigger:
	}
	if !active {
		s.killPassive()
		defer s.startPassive()
	}
	cmd.Process.Kill()
	<-ended
	return true
}

// TestDiskFullThenResumed: the sender is told of the full disk, in words, and after
// space was made the step goes on where it stopped.
func TestDiskFullThenResumed(t *testing.T) {
	root := t.TempDir()
	if err := syscall.Mount("tmpfs", root, "tmpfs", 0, "size=24m"); err != nil {
		t.Skipf("SKIPPED: mounting a small tmpfs needs root: %v (run as root: make test)", err)
	}
	t.Cleanup(func() { syscall.Unmount(root, syscall.MNT_DETACH) })
	s := newSetup(t, root)
	s.fill("file", 2, 16, 4<<20)
	s.mustRun("snapshot", "--config", s.push, "docs")
	s.startPassive()

	out, err := s.run("replicate", "--config", s.push, "docs")
	if err == nil || !strings.Contains(out, "no space left") {
		t.Fatalf("want an error that says 'no space left', got %v\n%s", err, out)
	}
	if strings.Contains(out, "broken pipe") || strings.Contains(out, "connection reset") {
		t.Fatalf("the break of the connection hides the reason:\n%s", out)
	}
	before := s.proxy.sent.Load()
	if err := syscall.Mount("tmpfs", root, "tmpfs", syscall.MS_REMOUNT, "size=512m"); err != nil {
		t.Fatal(err)
	}
	s.mustRun("replicate", "--config", s.push, "docs")
	s.compare()
	if again := s.proxy.sent.Load() - before; again > 64<<20-24<<20+2*repeatLimit {
		t.Errorf("after space was made %d bytes were sent: the step did not resume", again)
	}
}

// TestThousandHostileConnections: garbage, half a banner or silence, a thousand
// times, beside a running replication, which completes; afterwards the passive side
// holds no more descriptors than before, and a second attack costs no more memory.
func TestThousandHostileConnections(t *testing.T) {
	s := newSetup(t, t.TempDir())
	s.fill("file", 3, 32, 4<<20)
	s.mustRun("snapshot", "--config", s.push, "docs")
	s.startPassive()
	s.mustRun("list", "--config", s.sink)
	before := descriptors(t, s.passive)

	hostile := make(chan error, 1)
	go func() { hostile <- attack(s.listen, 1000) }()
	s.mustRun("replicate", "--config", s.push, "docs")
	if err := <-hostile; err != nil {
		t.Fatal(err)
	}
	s.compare()
	quiet := func() {
		s.eventually(fmt.Sprintf("descriptors are back at %d", before), func() bool {
			return descriptors(t, s.passive) <= before
		})
	}
	quiet()
	memory := residentKiB(t, s.passive)
	if err := attack(s.listen, 1000); err != nil {
		t.Fatal(err)
	}
	quiet()
	grown := residentKiB(t, s.passive) - memory
	t.Logf("resident memory: %d KiB, then %d more", memory, grown)
	if grown > leakLimitKiB {
		t.Errorf("a thousand connections left %d KiB behind", grown)
	}
}

// leakLimitKiB is what a garbage collector may hold on to: 1,000 leaked connections
// with their goroutines and buffers would be several times as much.
const leakLimitKiB = 8 << 10

// attack opens n connections at once, writes something wrong or nothing, and closes them all.
func attack(address string, n int) error {
	texts := []string{"", "GET / HTTP/1.1\r\n\r\n", "0000000051 ZREPL_ZFS", "9999999999 x", "\x00\xff\x00\xff"}
	conns := make([]net.Conn, 0, n)
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for i := range n {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			return fmt.Errorf("connection %d of %d: %w", i, n, err)
		}
		conns = append(conns, conn)
		// The passive side may drop the connection at any moment: that is its right.
		_, _ = conn.Write([]byte(texts[i%len(texts)]))
	}
	return nil
}

// residentKiB is the memory that a process has.
func residentKiB(t *testing.T, cmd *exec.Cmd) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		t.Fatalf("no VmRSS in\n%s", status)
	}
	kib, err := strconv.Atoi(fields[0])
	if err != nil {
		t.Fatal(err)
	}
	return kib
}

func descriptors(t *testing.T, cmd *exec.Cmd) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
