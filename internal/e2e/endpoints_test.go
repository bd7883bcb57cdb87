package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// media are those that a test may find on a machine; each skips the test elsewhere.
var media = map[string]func(t *testing.T) medium{
	"Dir":   func(t *testing.T) medium { return newDirectories(t) },
	"Btrfs": func(t *testing.T) medium { return newSubvolumes(t) },
	"ZFS":   func(t *testing.T) medium { return newDatasets(t) },
}

func TestEndpointDir(t *testing.T)   { testEndpoint(t, "Dir") }
func TestEndpointBtrfs(t *testing.T) { testEndpoint(t, "Btrfs") }
func TestEndpointZFS(t *testing.T)   { testEndpoint(t, "ZFS") }

// testEndpoint pushes and pulls over TLS: in full, incrementally, and across a break.
func testEndpoint(t *testing.T, kind string) {
	for _, direction := range []string{"push", "pull"} {
		t.Run(direction, func(t *testing.T) {
			data := media[kind](t)
			dependOnProgram(t)
			newPair(t, builds{active: program, passive: program}, direction, "tls", data, data).replicate()
		})
	}
}

func TestMismatchBtrfs(t *testing.T) { testMismatch(t, "Btrfs") }
func TestMismatchZFS(t *testing.T)   { testMismatch(t, "ZFS") }

// testMismatch has directories at one end and another kind of endpoint at the other:
// nothing is sent, and nothing is written.
func testMismatch(t *testing.T, kind string) {
	for _, direction := range []string{"push", "pull"} {
		for _, kinds := range [][2]string{{"Dir", kind}, {kind, "Dir"}} {
			t.Run(fmt.Sprintf("%s from %s to %s", direction, kinds[0], kinds[1]), func(t *testing.T) {
				from, to := media[kinds[0]](t), media[kinds[1]](t)
				dependOnProgram(t)
				p := newPair(t, builds{active: program, passive: program}, direction, "tls", from, to)
				p.refuses(strings.ToLower(kinds[0]), strings.ToLower(kinds[1]))
			})
		}
	}
}

// refuses fails the test unless the pair's replication fails for its endpoints' types.
func (p *pair) refuses(sends, takes string) {
	p.t.Helper()
	p.fill("some", 1, 1, 1<<20)
	p.mustRunAt(p.sender, "snapshot", p.sender.job)
	out, err := p.runAt(p.active, "replicate", p.active.job)
	exit := (*exec.ExitError)(nil)
	if !errors.As(err, &exit) {
		p.t.Fatalf("replicate: %v\n%s", err, out)
	}
	for _, part := range []string{"the receiver takes " + takes, "use the same type of endpoint on both sides"} {
		if !strings.Contains(out, part) {
			p.t.Errorf("the error lacks %q:\n%s", part, out)
		}
	}
	if list := p.mustRunAt(p.receiver, "list", p.receiver.job, "--json"); strings.Contains(list, "docs") {
		p.t.Errorf("a %s receiver has %s", takes, list)
	}
}

// needsRoot skips a test that a make target runs.
func needsRoot(t *testing.T, target string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: needs root; make " + target + " runs it")
	}
}

// subvolumes is the medium of the btrfs endpoint: one subvolume below a root, and
// another root.
type subvolumes struct{ dir string }

func newSubvolumes(t *testing.T) subvolumes {
	t.Helper()
	needsRoot(t, "test-btrfs")
	s := subvolumes{t.TempDir()}
	var fs unix.Statfs_t
	if err := unix.Statfs(s.dir, &fs); err != nil || fs.Type != unix.BTRFS_SUPER_MAGIC {
		t.Skip("SKIPPED: the directory for temporary files is not on btrfs; make test-btrfs runs it")
	}
	t.Cleanup(func() { deleteSubvolumes(t, s.dir) })
	for _, dir := range []string{s.from(), s.root()} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	command(t, "btrfs", "subvolume", "create", s.source())
	return s
}

// deleteSubvolumes makes way for what removes the directory: a read-only subvolume is not
// removed like one.
func deleteSubvolumes(t *testing.T, dir string) {
	t.Helper()
	const subvolumeInode = 256 // BTRFS_FIRST_FREE_OBJECTID
	var found []string
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil {
			err = unix.Lstat(path, &st)
		}
		if err == nil && st.Ino == subvolumeInode {
			found = append([]string{path}, found...)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	for _, path := range found {
		command(t, "btrfs", "subvolume", "delete", path)
	}
}

func (s subvolumes) from() string   { return filepath.Join(s.dir, "from") }
func (s subvolumes) root() string   { return filepath.Join(s.dir, "to") }
func (s subvolumes) source() string { return filepath.Join(s.from(), "docs") }
func (subvolumes) resumes() bool    { return false }

func (s subvolumes) sending() string {
	return fmt.Sprintf(`
    endpoint: {type: btrfs, root: %q}
    filesystems: {"docs": true}`, s.from())
}

func (s subvolumes) receiving() string {
	return fmt.Sprintf(`
    endpoint: {type: btrfs, root: %q}`, s.root())
}

func (s subvolumes) compare(p *pair) {
	p.t.Helper()
	versions, err := filepath.Glob(filepath.Join(s.root(), p.client, "docs", "@*"))
	if err != nil || len(versions) == 0 {
		p.t.Fatalf("no version below %s: %v", s.root(), err)
	}
	sameTree(p.t, s.source(), versions[len(versions)-1]) // names have the time in them
}

// datasets is the medium of the zfs endpoint: two datasets of one pool.
type datasets struct {
	t    *testing.T
	pool string
	dir  string // mount points are below it
}

// poolSize is the size of a pool's file, in bytes, which is sparse.
const poolSize = 1 << 30

func newDatasets(t *testing.T) datasets {
	t.Helper()
	needsRoot(t, "test-zfs")
	if _, err := os.Stat("/dev/zfs"); err != nil {
		t.Skip("SKIPPED: this kernel has no ZFS; make test-zfs runs it")
	}
	d := datasets{t, fmt.Sprintf("dualrepl-e2e-%d", os.Getpid()), t.TempDir()}
	disk := filepath.Join(d.dir, "disk")
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(disk, poolSize); err != nil {
		t.Fatal(err)
	}
	command(t, "zpool", "create", "-O", "compression=off", "-m", d.from(), d.pool, disk)
	t.Cleanup(func() { command(t, "zpool", "destroy", "-f", d.pool) })
	command(t, "zfs", "create", d.pool+"/docs")
	command(t, "zfs", "create", "-o", "mountpoint=none", d.pool+"/backup")
	return d
}

func (d datasets) from() string   { return filepath.Join(d.dir, "from") }
func (d datasets) source() string { return filepath.Join(d.from(), "docs") }
func (datasets) resumes() bool    { return true }

func (d datasets) sending() string {
	return fmt.Sprintf(`
    endpoint: {type: zfs}
    filesystems: {"%s/docs": true}`, d.pool)
}

func (d datasets) receiving() string {
	return fmt.Sprintf(`
    endpoint: {type: zfs}
    root_fs: %s/backup`, d.pool)
}

// compare looks into the newest snapshot through a clone: what was received is not mounted.
func (d datasets) compare(p *pair) {
	p.t.Helper()
	received := fmt.Sprintf("%s/backup/%s%s/docs", d.pool, p.client, d.pool)
	snapshots := strings.Fields(command(p.t, "zfs", "list", "-H", "-t", "snapshot", "-d", "1", "-o", "name", "-s", "createtxg", received))
	if len(snapshots) == 0 {
		p.t.Fatalf("%s has no snapshot", received)
	}
	clone, at := d.pool+"/clone", filepath.Join(d.dir, "clone")
	command(p.t, "zfs", "clone", "-o", "mountpoint="+at, snapshots[len(snapshots)-1], clone)
	sameTree(p.t, d.source(), at)
	command(p.t, "zfs", "destroy", clone)
}

// command runs a program that must succeed and returns its output.
func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}
