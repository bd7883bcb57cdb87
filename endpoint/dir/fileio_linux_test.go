package dir

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"

	"github.com/zeebo/blake3"
	"golang.org/x/sys/unix"
)

// mountNew mounts a new file system of a kind that clones files.
func mountNew(t *testing.T, mkfs string, args ...string) string {
	t.Helper()
	dir := t.TempDir()
	image, mnt := filepath.Join(dir, "image"), filepath.Join(dir, "mnt")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Truncate(image, 512<<20), os.Mkdir(mnt, 0o755)); err != nil {
		t.Fatal(err)
	}
	for _, cmd := range [][]string{append([]string{mkfs}, append(args, image)...), {"mount", "-o", "loop", image, mnt}} {
		if out, err := exec.Command(cmd[0], cmd[1:]...).CombinedOutput(); err != nil {
			t.Skipf("SKIPPED: %s does not work here: %v %s", cmd[0], err, out)
		}
	}
	t.Cleanup(func() {
		if err := unix.Unmount(mnt, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return mnt
}

// used is how many bytes a file system holds.
func used(t *testing.T, path string) int64 {
	t.Helper()
	var st unix.Statfs_t
	d, err := os.Open(path)
	if err == nil {
		err = errors.Join(unix.Syncfs(int(d.Fd())), d.Close(), unix.Statfs(path, &st))
	}
	if err != nil {
		t.Fatal(err)
	}
	return int64(st.Blocks-st.Bfree) * st.Bsize
}

func clones(t *testing.T, dir string) bool {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	return newFileIO(root).clones
}

func TestReplicateByCloning(t *testing.T) {
	for _, mkfs := range [][]string{{"mkfs.xfs", "-q"}, {"mkfs.btrfs", "-q"}} {
		t.Run(mkfs[0], func(t *testing.T) {
			dir := mountNew(t, mkfs[0], mkfs[1:]...)
			r := newRigAt(t, dir)
			if !clones(t, dir) {
				t.Fatal("cloning is not found")
			}
			r.zoo()
			r.xattrs()
			data := random(9, 40<<20)
			r.write("big", data)
			one := r.snapshot("one")
			r.step(nil, one)
			r.check("one")
			before := used(t, dir)
			f, err := os.OpenFile(r.path("big"), os.O_WRONLY, 0)
			r.must(err)
			_, err = f.WriteAt(random(10, 1<<20), 20<<20)
			r.must(errors.Join(err, f.Close()))
			r.must(os.Rename(r.path("large"), r.path("renamed")))
			two := r.snapshot("two")
			r.step(one, two)
			if grown := used(t, dir) - before; grown > 16<<20 {
				t.Errorf("a change of 1 MiB takes %d bytes in source, store and receiver", grown)
			}
			r.checkVerify("one")
			target := filepath.Join(dir, "restored")
			before = used(t, dir)
			_, err = Restore(t.Context(), r.root, testFS, "two", target, RestoreOptions{})
			r.must(err)
			if grown := used(t, dir) - before; grown > 16<<20 {
				t.Errorf("a restored clone takes %d bytes", grown)
			}
			if d, err := Compare(t.Context(), r.source, target); err != nil || len(d) > 0 {
				t.Errorf("restored: %v, error %v", d, err)
			}
		})
	}
}

// TestWithoutRoot runs other tests of this package as a user who is not root.
func TestWithoutRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: the other tests run without root already")
	}
	binary, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer binary.Close()
	temp, err := os.MkdirTemp("", "nobody")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(temp)
	const nobody = 65534
	if err := os.Chown(temp, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/fd/3", "-test.run=^Test(Replicate(Full|Incremental|Client)|ReceiveDamaged|ReceiveResumesAgain|Restore|Verify|Compare|SnapshotUnreadable|StoreUnreadable|LeftoversThatStay)")
	cmd.ExtraFiles = []*os.File{binary}
	cmd.Dir, cmd.Env = "/", []string{"TMPDIR=" + temp}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestInUserNamespace runs other tests of this package as a root who has no owner but
// itself.
func TestInUserNamespace(t *testing.T) {
	uids, gids := []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}, []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestReceiveForeignOwner$")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: uids, GidMappings: gids}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) {
		t.Skipf("SKIPPED: no user namespaces here: %v", err)
	}
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// layout is a file's size and where its data lies.
type layout struct {
	size int64
	data []Hole // ranges of data, for once
}

func (l layout) create(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(l.size); err != nil {
		t.Fatal(err)
	}
	for i, d := range l.data {
		if _, err := f.WriteAt(random(uint64(i), int(d.Len)), d.Off); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func TestIngest(t *testing.T) {
	tests := []struct {
		name   string
		layout layout
		holes  []Hole
		chunks bool
	}{
		{"empty", layout{}, nil, false},
		{"one byte", layout{1, []Hole{{0, 1}}}, nil, false},
		{"just not chunked", layout{MinChunkedSize - 1, []Hole{{0, MinChunkedSize - 1}}}, nil, false},
		{"just chunked", layout{MinChunkedSize, []Hole{{0, MinChunkedSize}}}, nil, true},
		{"larger than a buffer", layout{3*copyBuffer + 5, []Hole{{0, 3*copyBuffer + 5}}}, nil, true},
		{"only a hole", layout{5 << 20, nil}, []Hole{{0, 5 << 20}}, false},
		{"hole first", layout{2 << 20, []Hole{{1 << 20, 1 << 20}}}, []Hole{{0, 1 << 20}}, true},
		{"hole last", layout{2 << 20, []Hole{{0, 1 << 20}}}, []Hole{{1 << 20, 1 << 20}}, true},
		{"small with a hole", layout{128 << 10, []Hole{{0, 4096}, {64 << 10, 64 << 10}}}, []Hole{{4096, 60 << 10}}, false},
		{"beyond 4 GiB", layout{5 << 30, []Hole{{5<<30 - 8192, 8192}}}, []Hole{{0, 5<<30 - 8192}}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			src := tt.layout.create(t)
			dir := openTestDir(t)
			info, err := newFileIO(dir.root).ingest(t.Context(), src, dir, "copy")
			if err != nil {
				t.Fatal(err)
			}
			if info.Size != tt.layout.size || !slices.Equal(info.Holes, tt.holes) || (len(info.Chunks) > 0) != tt.chunks {
				t.Errorf("%d bytes, holes %v, %d chunks", info.Size, info.Holes, len(info.Chunks))
			}
			checkChunks(t, info)
			copied, err := dir.openRegular("copy")
			if err != nil {
				t.Fatal(err)
			}
			defer copied.Close()
			again, err := new(fileIO).describe(t.Context(), copied)
			if err != nil || again.Hash != info.Hash || !slices.Equal(again.Holes, info.Holes) || !slices.Equal(again.Chunks, info.Chunks) {
				t.Errorf("the copy is another file: %v", err)
			}
			e := Entry{Path: "copy", Type: TypeFile, Size: info.Size, Holes: info.Holes, Chunks: info.Chunks, Hash: info.Hash}
			if err := errors.Join(e.validate(), checkContent(t.Context(), dir, "copy", &e)); err != nil {
				t.Error(err)
			}
			if len(info.Chunks) == 0 && info.Size < MinChunkedSize {
				checkHash(t, src, info.Hash)
			}
		})
	}
}

// openTestDir opens a new directory.
func openTestDir(t *testing.T) *treeDir {
	t.Helper()
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	dir, err := newTreeDir(root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	return dir
}

// checkChunks checks that a file's chunks are all of its data.
func checkChunks(t *testing.T, info contentInfo) {
	t.Helper()
	e := Entry{Path: "f", Type: TypeFile, Size: info.Size, Holes: info.Holes, Chunks: info.Chunks}
	if err := e.validate(); err != nil {
		t.Error(err)
	}
}

func checkHash(t *testing.T, f *os.File, want Digest) {
	t.Helper()
	h := blake3.New()
	if _, err := io.Copy(h, io.NewSectionReader(f, 0, 1<<62)); err != nil {
		t.Fatal(err)
	}
	if Digest(h.Sum(nil)) != want {
		t.Error("the digest is not that of the content")
	}
}

// TestChunksFollowContent: an insertion changes few chunks.
func TestChunksFollowContent(t *testing.T) {
	chunks := func(data []byte) []Chunk {
		f, err := os.Create(filepath.Join(t.TempDir(), "f"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.Write(data); err != nil {
			t.Fatal(err)
		}
		info, err := new(fileIO).describe(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		return info.Chunks
	}
	data := random(1, 16<<20)
	before, after := chunks(data), chunks(slices.Concat(random(2, 12345), data))
	known := map[Chunk]bool{}
	for _, c := range before {
		known[c] = true
	}
	fresh := 0
	for _, c := range after {
		if !known[c] {
			fresh++
		}
	}
	if fresh > 4 {
		t.Errorf("%d of %d chunks are new after an insertion", fresh, len(after))
	}
	if n := len(before); n < 64 || n > 256 {
		t.Errorf("%d chunks in 16 MiB", n)
	}
}

// TestReadShrinkingSource: what a source lost while it was read is a hole.
func TestReadShrinkingSource(t *testing.T) {
	for _, size := range []int64{128 << 10, 4 << 20} {
		src := layout{size, []Hole{{0, size}}}.create(t)
		r := &contentReader{ctx: t.Context(), src: src, dst: layout{}.create(t), scratch: scratchPool.New().(*scratch)}
		if err := src.Truncate(size / 2); err != nil {
			t.Fatal(err)
		}
		if err := r.read(size); err != nil || r.info.Size != size || !slices.Equal(r.info.Holes, []Hole{{size / 2, size / 2}}) {
			t.Errorf("of %d bytes %d, holes %v, error %v", size, r.info.Size, r.info.Holes, err)
		}
	}
}

// TestShrankBelowChunks: a file that is too small for chunks when it was cut is read
// again. One of /proc is so: it knows of no holes, and has as many bytes as it likes.
func TestShrankBelowChunks(t *testing.T) {
	src, err := os.Open("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	r := &contentReader{ctx: t.Context(), src: src, scratch: scratchPool.New().(*scratch)}
	if err := r.large(4 << 20); !errors.Is(err, errShrank) || r.info.Size == 0 {
		t.Errorf("%d bytes, error %v", r.info.Size, err)
	}
}

// TestDataEndsEarly: an extent that ends before it should yields what is there.
func TestDataEndsEarly(t *testing.T) {
	for _, size := range []int64{100_000, 3 << 20} {
		r := &contentReader{ctx: t.Context(), src: layout{size, []Hole{{0, size}}}.create(t), scratch: scratchPool.New().(*scratch)}
		if size >= MinChunkedSize {
			var err error
			if r.chunker, err = newChunker(r.buf); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.data(2 * size); err != nil || r.info.Size != size {
			t.Errorf("of %d bytes %d, error %v", size, r.info.Size, err)
		}
	}
}

func TestReadContentEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errCut)
	for _, l := range []layout{{100, []Hole{{0, 100}}}, {4 << 20, []Hole{{0, 4 << 20}}}, {4 << 20, nil}} {
		if _, err := new(fileIO).describe(ctx, l.create(t)); !errors.Is(err, errCut) {
			t.Errorf("error %v", err)
		}
	}
}

func TestReadContentRefusesSize(t *testing.T) {
	f, err := os.CreateTemp("/dev/shm", "dir")
	if err != nil {
		t.Skipf("SKIPPED: no tmpfs here: %v", err)
	}
	defer f.Close()
	if err := errors.Join(os.Remove(f.Name()), f.Truncate(MaxFileBytes+1)); err != nil {
		t.Fatal(err)
	}
	if _, err := new(fileIO).describe(t.Context(), f); err == nil {
		t.Errorf("error %v", err)
	}
}

// TestHolesThatTouch: they are one in a manifest.
func TestHolesThatTouch(t *testing.T) {
	r := &contentReader{ctx: t.Context(), scratch: scratchPool.New().(*scratch)}
	for _, end := range []int64{10, 10, 30} {
		r.hole(end)
	}
	if !slices.Equal(r.info.Holes, []Hole{{0, 30}}) {
		t.Errorf("holes %v", r.info.Holes)
	}
}

func TestReadXattrs(t *testing.T) {
	f := layout{}.create(t)
	want := []Xattr{{Name: "user.a", Value: []byte{}}, {Name: "user.b", Value: bytes.Repeat([]byte("v"), 2000)}}
	for _, x := range slices.Backward(want) {
		if err := unix.Fsetxattr(int(f.Fd()), x.Name, x.Value, 0); err != nil {
			t.Skipf("SKIPPED: no extended attributes here: %v", err)
		}
	}
	dir, err := os.Open(filepath.Dir(f.Name()))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	byFile, errFile := readXattrs(f)
	byName, errName := readLinkXattrs(dir, filepath.Base(f.Name()))
	for _, got := range [][]Xattr{byFile, byName} {
		if !slices.EqualFunc(got, want, Xattr.equal) {
			t.Errorf("read %v, want %v", got, want)
		}
	}
	if err := errors.Join(errFile, errName); err != nil {
		t.Error(err)
	}
	if _, err := readLinkXattrs(dir, "missing"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("of a missing file: %v", err)
	}
}

func TestTreeCursor(t *testing.T) {
	top := t.TempDir()
	for _, dir := range []string{"a/b/c", "a/bb", "d"} {
		if err := os.MkdirAll(filepath.Join(top, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("b", filepath.Join(top, "a/link")); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(top)
	if err != nil {
		t.Fatal(err)
	}
	d, err := newTreeDir(root)
	if err != nil {
		t.Fatal(err)
	}
	c := newTreeCursor(d)
	defer c.Close()
	for _, path := range []string{"", "a", "a/b", "a/b/c", "a/bb", "a", "d", "a/b/c", "", "a/b"} {
		got, err := c.dir(path)
		if err != nil {
			t.Fatalf("%q: %v", path, err)
		}
		want, err := os.Stat(filepath.Join(top, path))
		if err != nil {
			t.Fatal(err)
		}
		if st, err := got.root.Stat("."); err != nil || !os.SameFile(st, want) {
			t.Errorf("%q opens another directory: %v", path, err)
		}
	}
	for _, path := range []string{"a/link", "a/link/c", "missing", "..", "a/../d"} {
		if _, err := c.dir(path); err == nil {
			t.Errorf("%q opens", path)
		}
	}
	if dir, name, err := c.parent("a/b/c"); err != nil || name != "c" || c.path != "a/b" || dir != c.cur {
		t.Errorf("parent of a/b/c: %q in %q, error %v", name, c.path, err)
	}
}

func TestReuseBeyondTheLinkLimit(t *testing.T) {
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	d, err := newTreeDir(root)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	content := []byte("shared")
	if err := os.WriteFile(filepath.Join(dir, "f"), content, 0o600); err != nil {
		t.Fatal(err)
	}
	for i := range 70_000 { // ext4 allows 65,000
		if err = d.link(d, "f", strconv.Itoa(i)); err != nil {
			break
		}
	}
	if err == nil {
		t.Skip("SKIPPED: no limit on links here")
	}
	e := Entry{Type: TypeFile, Size: int64(len(content)), Hash: blake3.Sum256(content)}
	if linked, err := (&fileIO{}).reuse(t.Context(), d, "f", d, "copy", &e, false); linked || err != nil {
		t.Errorf("linked %v, error %v", linked, err)
	}
	e.Hash = Digest{}
	if _, err := (&fileIO{}).reuse(t.Context(), d, "f", d, "wrong", &e, false); !errors.Is(err, errContent) {
		t.Errorf("a copy with another digest: %v", err)
	}
}
