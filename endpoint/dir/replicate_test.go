package dir

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
	"github.com/dualrepl/dualrepl/transport"
	"golang.org/x/sys/unix"
)

const testFS = "home/docs"

// rig is a sender and a receiver with one filesystem between them.
type rig struct {
	*testing.T
	source   string
	store    string // the sender's
	root     string // the receiver's
	sender   *Sender
	receiver *Receiver
}

func newRig(t *testing.T) *rig { return newRigAt(t, t.TempDir()) }

// newRigAt keeps everything below dir.
func newRigAt(t *testing.T, dir string) *rig {
	t.Helper()
	r := &rig{T: t, source: filepath.Join(dir, "source"), store: filepath.Join(dir, "store"), root: filepath.Join(dir, "root")}
	r.must(os.MkdirAll(r.source, 0o755))
	var err error
	r.sender, err = NewSender(SenderOptions{Store: r.store, Directories: map[string]string{testFS: r.source}, Job: "push"})
	r.must(err)
	r.receiver, err = NewReceiver(ReceiverOptions{Root: r.root, Job: "sink"})
	r.must(err)
	return r
}

func (r *rig) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

func (r *rig) path(name string) string { return filepath.Join(r.source, name) }

func (r *rig) write(name string, data []byte) {
	r.Helper()
	r.must(os.MkdirAll(filepath.Dir(r.path(name)), 0o755))
	r.must(os.WriteFile(r.path(name), data, 0o644))
}

func (r *rig) snapshot(name string) *pdu.FilesystemVersion {
	r.Helper()
	report, err := r.sender.Snapshot(r.Context(), testFS, name, SnapshotOptions{})
	r.must(err)
	return &pdu.FilesystemVersion{Name: name, Guid: report.GUID, CreateTXG: report.CreateTXG}
}

func (r *rig) open(from, to *pdu.FilesystemVersion, token string) (io.ReadCloser, error) {
	_, stream, err := r.sender.Send(r.Context(), &pdu.SendReq{Filesystem: testFS, From: from, To: to, ResumeToken: token})
	return stream, err
}

// stream returns all bytes of a step.
func (r *rig) stream(from, to *pdu.FilesystemVersion, token string) []byte {
	r.Helper()
	stream, err := r.open(from, to, token)
	r.must(err)
	defer stream.Close()
	data, err := io.ReadAll(stream)
	r.must(err)
	return data
}

func (r *rig) receive(to *pdu.FilesystemVersion, stream io.Reader) error {
	_, err := r.receiver.Receive(r.Context(), &pdu.ReceiveReq{Filesystem: testFS, To: to}, stream)
	return err
}

// counter counts what is read through it.
type counter struct {
	io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += int64(n)
	return n, err
}

// step replicates a step and returns the length of its stream.
func (r *rig) step(from, to *pdu.FilesystemVersion) int64 {
	r.Helper()
	stream, err := r.open(from, to, "")
	r.must(err)
	defer stream.Close()
	c := &counter{Reader: stream}
	r.must(r.receive(to, c))
	return c.n
}

// token returns the receiver's resume token.
func (r *rig) token() string {
	r.Helper()
	res, err := r.receiver.ListFilesystems(r.Context(), nil)
	r.must(err)
	for _, f := range res.Filesystems {
		if f.Path == testFS {
			return f.ResumeToken
		}
	}
	return ""
}

// versions returns the names of the receiver's versions.
func (r *rig) versions() (names []string) {
	r.Helper()
	res, err := r.receiver.ListFilesystemVersions(r.Context(), &pdu.ListFilesystemVersionsReq{Filesystem: testFS})
	if errors.Is(err, endpoint.ErrNotFound) {
		return nil // nothing was ever received
	}
	r.must(err)
	for _, v := range res.Versions {
		names = append(names, v.Name)
	}
	return names
}

// check verifies a version on the receiver, restores it, and compares that with the
// source as it is now.
func (r *rig) check(version string) {
	r.Helper()
	r.checkVerify(version)
	target := filepath.Join(r.TempDir(), "restored")
	report, err := Restore(r.Context(), r.root, testFS, version, target, RestoreOptions{})
	r.must(err)
	if os.Geteuid() == 0 && len(report.NotApplied) > 0 {
		r.Errorf("not restored: %v", report.NotApplied)
	}
	differences, err := Compare(r.Context(), r.source, target)
	r.must(err)
	for _, d := range differences {
		r.Errorf("restored %s differs: %q %s: %s, %s", version, d.Path, d.What, d.A, d.B)
	}
}

func (r *rig) checkVerify(version string) {
	r.Helper()
	report, err := Verify(r.Context(), r.root, testFS, version, VerifyOptions{})
	r.must(err)
	for _, m := range report.Mismatches {
		r.Errorf("verify %s: %q %s", version, m.Path, m.Problem)
	}
}

// random returns n bytes that the seed decides.
func random(seed uint64, n int) []byte {
	data := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(data)
	return data
}

// chtimes sets the times of a path, which may be a link.
func (r *rig) chtimes(name string, sec, nsec int64) {
	r.Helper()
	ts := []unix.Timespec{{Sec: sec, Nsec: nsec}, {Sec: sec, Nsec: nsec}}
	r.must(unix.UtimesNanoAt(unix.AT_FDCWD, r.path(name), ts, unix.AT_SYMLINK_NOFOLLOW))
}

// zoo fills the source with one of everything.
func (r *rig) zoo() {
	r.Helper()
	r.write("small", []byte("hello"))
	r.write("empty", nil)
	r.write("large", random(1, 3<<20))
	r.write("deep/er/and/deeper", random(2, 40_000))
	r.write("deep.er", []byte("sorts between"))
	r.must(os.MkdirAll(r.path("nothing/inside"), 0o750))
	r.write("\xff\xfe not text \x01", []byte("bytes"))
	r.write("e\u0301", []byte("decomposed"))
	r.write("\u00e9", []byte("composed"))
	r.must(os.Symlink("/no/where \xff", r.path("link")))
	r.must(os.Symlink("../..", r.path("deep/up")))
	r.must(os.Link(r.path("small"), r.path("deep/small again")))
	r.must(os.Link(r.path("link"), r.path("link again")))
	r.must(unix.Mkfifo(r.path("fifo"), 0o620))
	r.sparse("holes", 10<<20, 0, 5<<20)
	r.sparse("all hole", 3<<20)
	r.must(os.Chmod(r.path("small"), 0o4751|fs.ModeSetuid))
	r.must(os.Chmod(r.path("deep"), 0o777|fs.ModeSticky))
	r.chtimes("empty", -1_000_000_000, 123_456_789)
	r.chtimes("link", -5, 1)
	r.chtimes("nothing/inside", 1_000_000_000, 987_654_321)
	r.chtimes("", 1_500_000_000, 1)
	if os.Geteuid() != 0 {
		r.Log("SKIPPED devices and owners: not root")
		return
	}
	r.must(unix.Mknod(r.path("null"), unix.S_IFCHR|0o640, int(unix.Mkdev(1, 3))))
	r.must(os.Lchown(r.path("large"), 1234, 5678))
	r.must(os.Lchown(r.path("link"), 4321, 8765))
	r.must(os.Chown(r.path("deep/er"), 77, 88))
}

// sparse makes a file with 64 KiB of data at each offset.
func (r *rig) sparse(name string, size int64, at ...int64) {
	r.Helper()
	f, err := os.Create(r.path(name))
	r.must(err)
	defer f.Close()
	r.must(f.Truncate(size))
	for i, off := range at {
		_, err := f.WriteAt(random(uint64(100+i), 64<<10), off)
		r.must(err)
	}
}

// xattrs gives the source attributes and an ACL, where its file system has them.
func (r *rig) xattrs() {
	r.Helper()
	err := unix.Setxattr(r.path("small"), "user.color", []byte("blue\x00\xff"), 0)
	if errors.Is(err, unix.EOPNOTSUPP) {
		r.Log("SKIPPED extended attributes: the file system has none")
		return
	}
	r.must(err)
	r.must(unix.Setxattr(r.path("deep"), "user.empty", nil, 0))
	// user::rw- user:1:r-- group::r-- mask::r-- other::---
	acl := []byte("\x02\x00\x00\x00" +
		"\x01\x00\x06\x00\xff\xff\xff\xff" + "\x02\x00\x04\x00\x01\x00\x00\x00" + "\x04\x00\x04\x00\xff\xff\xff\xff" +
		"\x10\x00\x04\x00\xff\xff\xff\xff" + "\x20\x00\x00\x00\xff\xff\xff\xff")
	if err := unix.Setxattr(r.path("large"), "system.posix_acl_access", acl, 0); err != nil {
		r.Logf("SKIPPED ACLs: %v", err)
	}
	if os.Geteuid() == 0 {
		r.must(unix.Lsetxattr(r.path("link"), "trusted.kept", []byte("on a link"), 0))
	}
}

func TestReplicateFull(t *testing.T) {
	r := newRig(t)
	r.zoo()
	r.xattrs()
	r.step(nil, r.snapshot("one"))
	r.check("one")
	if st, err := os.Stat(filepath.Join(r.root, testFS, "@one/tree/small")); err != nil || st.Mode().Perm()&0o222 != 0 || st.Mode()&fs.ModeSetuid != 0 {
		t.Errorf("a file in the tree: mode %v, error %v", st.Mode(), err)
	}
	if entries, err := os.ReadDir(filepath.Join(r.root, testFS, receivingDir)); err == nil {
		t.Errorf("left behind after commit: %v", entries)
	}
}

// TestReplicateIncremental changes the source in one way at a time. allowed bounds
// the stream: header and what the change makes of the manifest come to less than one
// KiB where no limit is given.
func TestReplicateIncremental(t *testing.T) {
	tests := []struct {
		name    string
		prepare func(r *rig)
		change  func(r *rig)
		allowed int64
	}{
		{"nothing", nil, func(r *rig) {}, 0},
		{"rename of a file", nil, func(r *rig) { r.must(os.Rename(r.path("large"), r.path("renamed"))) }, 0},
		{"rename of a directory", nil, func(r *rig) { r.must(os.Rename(r.path("deep"), r.path("deepest"))) }, 0},
		{"copy", nil, func(r *rig) { r.write("copy", random(1, 3<<20)) }, 0},
		{"chmod", nil, func(r *rig) { r.must(os.Chmod(r.path("large"), 0o600)) }, 0},
		{"mtime", nil, func(r *rig) { r.chtimes("large", -1, 999_999_999) }, 0},
		{"touch", nil, func(r *rig) { r.must(os.Chtimes(r.path("large"), time.Time{}, time.Unix(5, 5))) }, 0},
		{"xattr", nil, func(r *rig) { r.xattrs() }, 0},
		{"removal", nil, func(r *rig) { r.must(os.RemoveAll(r.path("deep"))) }, 0},
		{"growth of a small file", nil, func(r *rig) { r.write("small", []byte("hello, world")) }, 0},
		{"two new files with one content", nil, func(r *rig) {
			r.write("new/1", random(7, 100_000))
			r.write("new/2", random(7, 100_000))
		}, 102_000},
		{"a file becomes a directory", nil, func(r *rig) {
			r.must(os.Remove(r.path("large")))
			r.write("large/inside", []byte("x"))
		}, 0},
		{"a directory becomes a link", nil, func(r *rig) {
			r.must(os.RemoveAll(r.path("deep")))
			r.must(os.Symlink("small", r.path("deep")))
		}, 0},
		{"a link group splits", nil, func(r *rig) {
			r.must(os.Remove(r.path("deep/small again")))
			r.write("deep/small again", []byte("hello"))
		}, 0},
		{"a region of a large file is rewritten",
			func(r *rig) { r.write("big", random(3, 16<<20)) },
			func(r *rig) {
				data := random(3, 16<<20)
				copy(data[7<<20:], random(4, 1<<20))
				r.write("big", data)
			}, 3 << 20},
		{"insertion at the front of a large file",
			func(r *rig) { r.write("big", random(3, 64<<20)) },
			func(r *rig) { r.write("big", slices.Concat(random(4, 1<<20), random(3, 64<<20))) }, 2 << 20},
		{"a large file becomes small", nil, func(r *rig) { r.must(os.Truncate(r.path("large"), 100_000)) }, 101_000},
		{"a small file becomes large", nil, func(r *rig) { r.write("small", random(5, 1<<20)) }, 1<<20 + 1<<10},
		{"a hole is filled", nil, func(r *rig) { r.sparse("holes", 10<<20, 0, 2<<20, 5<<20) }, 300 << 10},
		{"a hole is made", nil, func(r *rig) { r.sparse("holes", 10<<20, 5<<20) }, 130 << 10},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			r.zoo()
			if tt.prepare != nil {
				tt.prepare(r)
			}
			one := r.snapshot("one")
			r.step(nil, one)
			tt.change(r)
			two := r.snapshot("two")
			manifest := int64(len(r.delta(one, two)))
			n := r.step(one, two)
			if limit := max(tt.allowed, 1<<10); n-manifest > limit {
				t.Errorf("the stream has %d bytes beside a manifest of %d, more than %d", n-manifest, manifest, limit)
			}
			r.check("two")
			r.checkVerify("one")
		})
	}
}

// delta is the manifest's part of a step's stream.
func (r *rig) delta(from, to *pdu.FilesystemVersion) []byte {
	r.Helper()
	f, err := openFilesystem(r.store, testFS, false)
	r.must(err)
	defer f.Close()
	var m [2]*Manifest
	for i, v := range []*pdu.FilesystemVersion{from, to} {
		info, err := f.versionByGUID(v.Guid)
		r.must(err)
		m[i], err = f.readManifest(info)
		r.must(err)
	}
	return encodeDelta(m[0], m[1])
}

// TestReplicateLookalike: a file whose content is what the manifest says of another one
// is not that file.
func TestReplicateLookalike(t *testing.T) {
	r := newRig(t)
	r.write("large", random(1, 2<<20))
	one := r.snapshot("one")
	e := entryOf(t, r.manifest("one"), "large")
	var layout encoder
	layout.layout(e.Holes, e.Chunks)
	r.write("layout", layout.buf)
	two := r.snapshot("two")
	r.step(nil, one)
	r.step(one, two)
	r.check("two")
}

// TestReplicateSparse: a hole takes time nowhere, however large it is.
func TestReplicateSparse(t *testing.T) {
	const size = 1 << 40
	r := newRig(t)
	if err := errors.Join(os.WriteFile(r.path("f"), nil, 0o644), os.Truncate(r.path("f"), size)); err != nil {
		t.Skipf("SKIPPED: no file of %d bytes here: %v", size, err)
	}
	r.sparse("f", size, 1<<20, size-64<<10)
	r.step(nil, r.snapshot("one"))
	r.checkVerify("one")
	target := filepath.Join(t.TempDir(), "restored")
	_, err := Restore(t.Context(), r.root, testFS, "one", target, RestoreOptions{})
	r.must(err)
	restored, err := os.OpenRoot(target)
	r.must(err)
	dir, err := newTreeDir(restored)
	r.must(err)
	defer dir.Close()
	r.must(checkContent(t.Context(), dir, "f", entryOf(t, r.manifest("one"), "f")))
}

func TestReplicateManySteps(t *testing.T) {
	r := newRig(t)
	rng := rand.New(rand.NewPCG(1, 2))
	var last *pdu.FilesystemVersion
	for i := range 12 {
		for range 20 {
			r.mutate(rng)
		}
		v := r.snapshot(fmt.Sprint("v", i))
		r.step(last, v)
		last = v
		r.check(v.Name)
	}
	for _, name := range r.versions() {
		r.checkVerify(name)
	}
}

// mutate makes one random change to the source.
func (r *rig) mutate(rng *rand.Rand) {
	r.Helper()
	name := func() string { return fmt.Sprintf("d%d/f%d", rng.IntN(4), rng.IntN(8)) }
	switch rng.IntN(6) {
	case 0, 1:
		r.must(os.RemoveAll(r.path("tmp")))
		n := name()
		r.must(os.RemoveAll(r.path(n)))
		r.write(n, random(rng.Uint64N(20), rng.IntN(100_000)))
	case 2:
		n := name()
		r.must(os.RemoveAll(r.path(n)))
		r.write(n, random(rng.Uint64N(5), 2<<20+rng.IntN(100_000)))
	case 3:
		_ = os.Rename(r.path(name()), r.path(name()))
	case 4:
		_ = os.Link(r.path(name()), r.path(name()))
	case 5:
		_ = os.Chmod(r.path(name()), fs.FileMode(rng.IntN(0o1000)))
	}
}

// TestReplicateTreesAreBrowsable: names in the receiver's tree are those of the source.
func TestReplicateTreesAreBrowsable(t *testing.T) {
	r := newRig(t)
	r.zoo()
	r.step(nil, r.snapshot("one"))
	got, err := os.ReadFile(filepath.Join(r.root, testFS, "@one/tree/deep/er/and/deeper"))
	if err != nil || !bytes.Equal(got, random(2, 40_000)) {
		t.Errorf("read from the tree: %d bytes, error %v", len(got), err)
	}
	_, err = os.Lstat(filepath.Join(r.root, testFS, "@one/tree/fifo"))
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("FIFO in the tree: %v", err)
	}
}

func TestReplicateSharesUnchangedFiles(t *testing.T) {
	r := newRig(t)
	r.write("kept", random(1, 1<<20))
	r.write("changed", []byte("a"))
	one := r.snapshot("one")
	r.step(nil, one)
	r.write("changed", []byte("b"))
	r.step(one, r.snapshot("two"))
	a, err := os.Stat(filepath.Join(r.root, testFS, "@one/tree/kept"))
	r.must(err)
	b, err := os.Stat(filepath.Join(r.root, testFS, "@two/tree/kept"))
	r.must(err)
	if !clones(t, r.root) && !os.SameFile(a, b) {
		t.Error("an unchanged file was copied")
	}
}

func TestReplicateIntoClientStores(t *testing.T) {
	r := newRig(t)
	r.write("f", []byte("x"))
	one := r.snapshot("one")
	receiver, err := NewReceiver(ReceiverOptions{Root: r.root, Job: "sink", PerClient: true})
	r.must(err)
	_, err = receiver.ListFilesystems(context.Background(), nil)
	if err == nil || !strings.Contains(err.Error(), "identity") {
		t.Errorf("a call without identity: %v", err)
	}
	for _, id := range []string{"alice", "bob"} {
		ctx := transport.ContextWithClientIdentity(t.Context(), id)
		_, err := receiver.Receive(ctx, &pdu.ReceiveReq{Filesystem: testFS, To: one}, bytes.NewReader(r.stream(nil, one, "")))
		r.must(err)
		list, err := receiver.ListFilesystems(ctx, nil)
		if err != nil || len(list.Filesystems) != 2 || !list.Filesystems[0].IsPlaceholder || list.Filesystems[1].IsPlaceholder {
			t.Errorf("%s sees %v, error %v", id, list, err)
		}
		if report, err := Verify(t.Context(), filepath.Join(r.root, id), testFS, "", VerifyOptions{}); err != nil || report.Files != 1 {
			t.Errorf("store of %s: %v, error %v", id, report, err)
		}
	}
	list, err := receiver.ListFilesystems(transport.ContextWithClientIdentity(t.Context(), "carol"), nil)
	if err != nil || len(list.Filesystems) != 0 {
		t.Errorf("carol sees %v, error %v", list, err)
	}
}
