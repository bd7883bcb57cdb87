package e2e

import (
	"cmp"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// repeatLimit is what a broken step may send again: the promise of resume tokens.
const repeatLimit = 8 << 20

// TestKillEitherSideAtRandomMoments kills the active and the passive side in turn, at
// random offsets of one step, and only that side: a new active side goes on where the
// last one was, and a surviving one goes on by itself. No kill comes so late that what
// is on its way from a killed active side completes the step.
func TestKillEitherSideAtRandomMoments(t *testing.T) {
	const kills, files, size = 20, 80, 4 << 20
	s := newSetup(t, t.TempDir())
	s.fill("file", 1, files, size)
	s.mustRun("snapshot", "--config", s.push, "docs")
	s.startPassive()

	active := s.startActive()
	end := map[int]string{} // how transfers ended
	for i, offset := range randomOffsets(t, kills, files*size-repeatLimit) {
		s.proxy.fireAt(offset)
		if hit := active.awaitTrigger(); i%2 == 0 {
			end[hit] = "active side killed"
			active.kill()
			s.settle() // or else the receiver may be busy with what comes from the dead, and refuse
			active = s.startActive()
		} else {
			end[hit] = "passive side killed"
			s.passive.kill()
			s.startPassive()
		}
	}
	active.mustEnd()
	s.compare()
	s.checkRepeated(end)
}

// randomOffsets are n offsets up to limit, in order.
func randomOffsets(t *testing.T, n int, limit int64) []int64 {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	offsets := make([]int64, n)
	for i := range offsets {
		offsets[i] = 1 + random.Int64N(limit)
	}
	slices.Sort(offsets)
	return offsets
}

// checkRepeated compares how far each transfer came, as the active side saw it, with
// where the next one begins.
func (s *setup) checkRepeated(end map[int]string) {
	s.t.Helper()
	all := s.proxy.seen()
	for i, tr := range all[:len(all)-1] {
		repeated := tr.start + tr.sent - all[i+1].start
		s.t.Logf("%d to %d KiB, %s: %d KiB sent again", tr.start>>10, (tr.start+tr.sent)>>10, cmp.Or(end[i], "broken"), repeated>>10)
		if repeated > repeatLimit {
			s.t.Errorf("that is over the limit of %d KiB", repeatLimit>>10)
		}
	}
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
	before := s.proxy.sentBytes()
	if err := syscall.Mount("tmpfs", root, "tmpfs", syscall.MS_REMOUNT, "size=512m"); err != nil {
		t.Fatal(err)
	}
	s.mustRun("replicate", "--config", s.push, "docs")
	s.compare()
	if again := s.proxy.sentBytes() - before; again > 64<<20-24<<20+2*repeatLimit {
		t.Errorf("after space was made %d bytes were sent: the step did not resume", again)
	}
}

// TestThousandHostileConnections: garbage, half a banner or silence, a thousand
// times, from before a replication until after it, which completes; and four thousand
// more. In the end the passive side holds no more than after a replication that nobody
// disturbed.
func TestThousandHostileConnections(t *testing.T) {
	s := newSetup(t, t.TempDir())
	s.startPassive()
	s.snapshotOf("quiet", 3)
	s.mustRun("replicate", "--config", s.push, "docs")
	quiet := s.usageAtEnd()
	s.compare()

	s.snapshotOf("attacked", 4)
	s.startPassive()
	s.replicateUnderAttack()
	for range 4 {
		attack(t, s.listen, 1000)()
	}
	attacked := s.usageAtEnd()
	s.compare()

	t.Logf("without attacks %+v, after them %+v", quiet, attacked)
	if grown := attacked.memoryKiB - quiet.memoryKiB; grown > leakLimitKiB {
		t.Errorf("5000 connections left %d KiB behind", grown)
	}
	if grown := attacked.goroutines - quiet.goroutines; grown > leakLimitGoroutines {
		t.Errorf("5000 connections left %d goroutines behind", grown)
	}
}

// What may be left without being a leak: a goroutine, or 4 KiB, for each of 5,000
// connections would be more.
const (
	leakLimitKiB        = 12 << 10 // the heap that the pending ones needed, which a garbage collector keeps
	leakLimitGoroutines = 10       // those on their way out when the last descriptor is closed
)

// usage is what a process holds, beside descriptors.
type usage struct{ memoryKiB, goroutines int }

// usageAtEnd ends the passive side, once it is idle.
func (s *setup) usageAtEnd() usage {
	s.t.Helper()
	s.settle()
	return usage{s.passive.residentKiB(s.t), s.passive.quit(s.t)}
}

// hostileSize is what a replication beside hostile connections moves.
const hostileSize = 128 << 20

func (s *setup) snapshotOf(prefix string, seed uint64) {
	s.t.Helper()
	s.fill(prefix, seed, 32, hostileSize/32)
	s.mustRun("snapshot", "--config", s.push, "docs")
}

// replicateUnderAttack replicates while a thousand hostile connections are open: half
// of them before it begins, all of them before it is half done, and to its end.
func (s *setup) replicateUnderAttack() {
	s.t.Helper()
	s.proxy.fireAt(hostileSize / 2)
	defer attack(s.t, s.listen, 500)()
	active := s.startActive()
	defer attack(s.t, s.listen, 500)()
	active.awaitTrigger() // until now the transfer stood still at its mark
	active.mustEnd()
}

// attack opens n connections and writes something wrong or nothing. They stay open
// until end is called.
func attack(t *testing.T, address string, n int) (end func()) {
	t.Helper()
	texts := []string{"", "GET / HTTP/1.1\r\n\r\n", "0000000051 ZREPL_ZFS", "9999999999 x", "\x00\xff\x00\xff"}
	conns := make([]net.Conn, 0, n)
	end = sync.OnceFunc(func() {
		for _, c := range conns {
			c.Close()
		}
	})
	t.Cleanup(end)
	for i := range n {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatalf("connection %d of %d: %v", i, n, err)
		}
		conns = append(conns, conn)
		// The passive side may drop the connection at any moment: that is its right.
		_, _ = conn.Write([]byte(texts[i%len(texts)]))
	}
	return end
}
