package process

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The children of these tests are this program again.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "child" {
		if err := child(); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// child says its argument, and once its input has ended what it took.
func child() error {
	before, err := Now()
	if err != nil {
		return err
	}
	if err := Say(os.Args[2]); err != nil {
		return err
	}
	<-Stopped(context.Background()).Done()
	after, err := Now()
	return errors.Join(err, Say(after.Since(before)))
}

func TestChild(t *testing.T) {
	c, err := Start(t.Context(), "child", "hello")
	if err != nil {
		t.Fatal(err)
	}
	var said string
	if err := c.Read(&said); err != nil || said != "hello" {
		t.Errorf("the child said %q; %v", said, err)
	}
	var u Usage
	if err := c.Stop(&u); err != nil {
		t.Fatal(err)
	}
	if u.PeakBytes < 1<<20 || u.CPUSeconds < 0 || u.CPUSeconds > 60 {
		t.Errorf("usage is %+v", u)
	}
}

func TestChildThatSaysNothing(t *testing.T) {
	c, err := Start(t.Context(), "child", "hello")
	if err != nil {
		t.Fatal(err)
	}
	var number int
	if err := c.Read(&number); err == nil || !strings.Contains(err.Error(), "child") {
		t.Errorf("error is %v, want one that names the command", err)
	}
	_ = c.Stop(nil)
}

func TestRun(t *testing.T) {
	u, err := Run(t.Context(), "sh", "-c", "exit 0")
	if err != nil || u.PeakBytes == 0 {
		t.Errorf("usage is %+v; %v", u, err)
	}
	if _, err := Run(t.Context(), "sh", "-c", "echo reason >&2; exit 3"); err == nil || !strings.Contains(err.Error(), "reason") {
		t.Errorf("error is %v, want one with the program's", err)
	}
}

func TestDaemon(t *testing.T) {
	d, err := StartDaemon(filepath.Join(t.TempDir(), "log"), "sleep", "1000")
	if err != nil {
		t.Fatal(err)
	}
	u, err := d.Usage(t.Context())
	if err != nil || u.PeakBytes == 0 {
		t.Errorf("usage is %+v; %v", u, err)
	}
	if err := d.Stop(); err != nil {
		t.Error(err)
	}
}

// What a daemon's child took counts once the child has ended.
func TestDaemonUsageAwaitsChildren(t *testing.T) {
	d, err := StartDaemon(filepath.Join(t.TempDir(), "log"), "sh", "-c", "sleep 0.2; exec sleep 1000")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Stop()
	if _, err := d.Usage(t.Context()); err != nil {
		t.Error(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	busy, err := StartDaemon(filepath.Join(t.TempDir(), "log"), "sh", "-c", "sleep 5 & wait")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Stop()
	for err == nil { // until the shell has its child
		_, err = busy.Usage(ended)
	}
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v, want Canceled", err)
	}
}

func TestCPUOf(t *testing.T) {
	got, err := cpuOf([]byte("7 (a) b) S 1 7 7 0 -1 0 0 0 0 0 10 20 300 4000 20 0"))
	if want := 4330 * clockTick; got != want || err != nil {
		t.Errorf("cpuOf = %v, %v; want %v", got, err, want)
	}
	for _, bad := range []string{"", "7 (a) S 1", "7 (a) S 1 7 7 0 -1 0 0 0 0 0 x 20 300 4000 20 0"} {
		if _, err := cpuOf([]byte(bad)); err == nil {
			t.Errorf("cpuOf(%q) finds something", bad)
		}
	}
}

var kept []byte

func TestSinceCountsMemory(t *testing.T) {
	before, err := Now()
	if err != nil {
		t.Fatal(err)
	}
	kept = make([]byte, 64<<20)
	for i := 0; i < len(kept); i += 4096 {
		kept[i] = 1
	}
	after, err := Now()
	if err != nil {
		t.Fatal(err)
	}
	u := after.Since(before)
	if u.GrownBytes < 60<<20 || u.GrownBytes > 200<<20 {
		t.Errorf("grown by %d bytes, want about %d", u.GrownBytes, len(kept))
	}
	if u.Allocations < 1 {
		t.Error("no allocation was counted")
	}
}

func TestCountersGrow(t *testing.T) {
	opened, err := ConnectionsOpened()
	if err != nil || opened < 0 {
		t.Errorf("%d connections; %v", opened, err)
	}
	n, err := LoopbackBytes()
	if err != nil || n < 0 {
		t.Errorf("%d bytes; %v", n, err)
	}
}

func TestDiskUsed(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	before, err := DiskUsed(dir, dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), f.Close(), os.Link(file, file+".link")); err != nil {
		t.Fatal(err)
	}
	after, err := DiskUsed(dir, dir)
	if err != nil {
		t.Fatal(err)
	}
	// Not twice, and about so much: a file system may compress or add blocks of its own.
	if used := after - before; used > 3<<19 {
		t.Errorf("a file of 1 MiB with two names takes %d bytes", used)
	}
	if _, err := DiskUsed(filepath.Join(dir, "missing"), dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error is %v, want ErrNotExist", err)
	}
	if free, err := DiskFree(dir); err != nil || free <= 0 {
		t.Errorf("%d bytes are free; %v", free, err)
	}
}

func TestReadTwice(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "holes"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := readTwice(f, 3<<20+1); err != nil {
		t.Fatal(err)
	}
	info, err := f.Stat()
	if err != nil || info.Size() != 3<<20+1 {
		t.Errorf("the file is %v; %v", info, err)
	}
}
