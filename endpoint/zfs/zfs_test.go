package zfs

import (
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		sharedPool.destroy()
		os.Exit(code)
	}))
}

// testPool is a pool in a file, mounted below that file's directory.
type testPool struct {
	once sync.Once
	name string
	dir  string
	err  error
}

var (
	sharedPool testPool
	datasets   atomic.Uint64
)

func (p *testPool) create(name, dir string, size int64) error {
	p.name, p.dir = name, dir
	file := filepath.Join(dir, "disk")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		return err
	}
	if err := os.Truncate(file, size); err != nil {
		return err
	}
	out, err := exec.Command("zpool", "create", "-O", "mountpoint="+filepath.Join(dir, "mnt"), "-O", "atime=off", name, file).CombinedOutput()
	if err != nil {
		return fmt.Errorf("zpool create: %w: %s", err, out)
	}
	return nil
}

func (p *testPool) destroy() {
	if p.name == "" {
		return
	}
	if out, err := exec.Command("zpool", "destroy", "-f", p.name).CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "zpool destroy: %v: %s\n", err, out)
	}
	os.RemoveAll(p.dir)
}

func needZFS(t *testing.T) {
	t.Helper()
	if _, err := os.Stat("/dev/zfs"); err != nil || os.Geteuid() != 0 {
		t.Skip("needs root and ZFS: run make test-zfs")
	}
}

// pool makes an empty dataset of the test's own, mounted, on a pool that the tests share, or
// skips the test where there is no ZFS.
func pool(t *testing.T) string {
	t.Helper()
	needZFS(t)
	sharedPool.once.Do(func() {
		dir, err := os.MkdirTemp("", "dualrepl-zfs")
		if err == nil {
			err = sharedPool.create(fmt.Sprintf("drtest%d", os.Getpid()), dir, 2<<30)
		}
		sharedPool.err = err
	})
	if sharedPool.err != nil {
		t.Fatal(sharedPool.err)
	}
	name := fmt.Sprintf("%s/%d", sharedPool.name, datasets.Add(1))
	zfs(t, "create", name)
	return name
}

// ownPool makes a pool for the test alone, of that many bytes (at least 64 MiB), or
// skips the test where there is no ZFS.
func ownPool(t *testing.T, size int64) string {
	t.Helper()
	needZFS(t)
	dir, err := os.MkdirTemp("", "dualrepl-zfs")
	if err != nil {
		t.Fatal(err)
	}
	p := &testPool{}
	t.Cleanup(p.destroy)
	if err := p.create(fmt.Sprintf("drtest%d-%d", os.Getpid(), datasets.Add(1)), dir, size); err != nil {
		t.Fatal(err)
	}
	return p.name
}

// zfs runs zfs, which must succeed, and returns its output without the last line break.
func zfs(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("zfs", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("zfs %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSuffix(string(out), "\n")
}

// property returns the value of a property of a dataset, snapshot or bookmark.
func property(t *testing.T, name, property string) string {
	t.Helper()
	return zfs(t, "get", "-H", "-p", "-o", "value", property, name)
}

// fill writes a file of random bytes into a mounted filesystem.
func fill(t *testing.T, dataset, name string, size int) {
	t.Helper()
	data := make([]byte, size)
	rand.Read(data)
	if err := os.WriteFile(filepath.Join(property(t, dataset, "mountpoint"), name), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// fake makes a program of a shell script, for answers that a real zfs gives rarely.
func fake(t *testing.T, script string) *program {
	t.Helper()
	path := filepath.Join(t.TempDir(), "zfs")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
	return newProgram(path, nil)
}

// asNobody is a zfs that runs without root.
func asNobody(t *testing.T) string {
	t.Helper()
	needZFS(t)
	if err := os.Chmod("/dev/zfs", 0o666); err != nil { // as udev does
		t.Fatal(err)
	}
	return fake(t, `exec setpriv --reuid=65534 --regid=65534 --clear-groups zfs "$@"`).path
}
