package btrfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
	"github.com/dualrepl/dualrepl/transport"
	"golang.org/x/sys/unix"
)

// zoo fills the source with every kind of file.
func (r *rig) zoo() {
	r.Helper()
	r.write("small", []byte("text"))
	r.write("large", random(1, 3<<20))
	r.write("dir/deep/empty", nil)
	r.write("not utf-8 \xff", []byte("x"))
	in := func(name string) string { return filepath.Join(r.source, name) }
	r.must(os.Truncate(in("dir/deep/empty"), 1<<20))
	r.must(os.Symlink("/etc/passwd", in("absolute")))
	r.must(os.Symlink("../../../..", in("dir/upwards")))
	r.must(os.Link(in("small"), in("dir/same")))
	r.must(unix.Mkfifo(in("fifo"), 0o640))
	r.must(unix.Mknod(in("whiteout"), unix.S_IFCHR, 0))
	r.must(unix.Setxattr(in("small"), "user.note", []byte("value"), 0))
	r.must(os.Chown(in("dir/deep"), 1234, 4321))
	r.must(os.Chown(in("large"), 1234, 4321))
	r.must(os.Chmod(in("large"), os.ModeSetuid|os.ModeSetgid|0o711))
	r.must(unix.Setxattr(in("large"), "security.capability", capability, 0))
	r.clone("large", "clone")
}

// capability is CAP_NET_RAW, permitted and effective: VFS_CAP_REVISION_2.
var capability = []byte{0x01, 0x00, 0x00, 0x02, 0x00, 0x20, 0x00, 0x00, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

// clone makes a file that shares the data of another one.
func (r *rig) clone(from, to string) {
	r.Helper()
	src, err := os.Open(filepath.Join(r.source, from))
	r.must(err)
	defer src.Close()
	dst, err := os.Create(filepath.Join(r.source, to))
	r.must(err)
	defer dst.Close()
	r.must(unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())))
}

// change changes the zoo, so that the next step renames, removes, and shares data with the
// version before.
func (r *rig) change() {
	r.Helper()
	in := func(name string) string { return filepath.Join(r.source, name) }
	r.clone("large", "clone of the version before")
	r.must(os.Rename(in("dir/deep"), in("moved")))
	r.must(os.Remove(in("absolute")))
	r.write("absolute", []byte("a file now"))
	r.write("small", []byte("other text"))
	r.write("new", random(2, 100_000))
}

func TestReplicate(t *testing.T) {
	r := newRig(t)
	r.zoo()
	one := r.snapshot("one")
	r.step(nil, one)
	r.check("one")
	r.change()
	two := r.snapshot("two")
	if !slices.Contains(r.commands(r.stream(one, two)), cmdClone) {
		t.Error("the step shares nothing with the version before: the test is of no use")
	}
	r.step(one, two)
	r.check("two")
	r.step(two, r.snapshot("three")) // nothing changed
	r.check("three")
	if got := list(t, r.receiver, testFS); !slices.Equal(names(got), []string{"one", "two", "three"}) {
		t.Errorf("the receiver has %v", got)
	}
	r.clean()
}

// commands are the kinds of a stream's commands.
func (r *rig) commands(stream []byte) (kinds []int) {
	r.Helper()
	commands := newCommandReader(bytes.NewReader(stream[streamHeaderBytes:]), int(stream[streamHeaderBytes-4]))
	for {
		c, err := commands.next()
		if err != nil {
			return kinds
		}
		kinds = append(kinds, int(c.kind))
	}
}

// What the documentation says that each side can do with.
var (
	capsToSend    = []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_DAC_READ_SEARCH, unix.CAP_FOWNER}
	capsToReceive = []uintptr{
		unix.CAP_SYS_ADMIN, unix.CAP_SYS_CHROOT, unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER, unix.CAP_FSETID,
		unix.CAP_MKNOD, unix.CAP_SETFCAP,
	}
)

const nobody = 65534

// asNobody prepares another process of this test.
func (r *rig) asNobody(caps []uintptr, args ...string) *exec.Cmd {
	r.Helper()
	self, err := os.Open("/proc/self/exe")
	r.must(err)
	r.Cleanup(func() { self.Close() })
	cmd := exec.Command("/proc/self/fd/3", args...)
	cmd.ExtraFiles = []*os.File{self}
	cmd.Stderr = r.Output()
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}, AmbientCaps: caps}
	return cmd
}

// TestWithoutRoot: with some capabilities each side can do without, although what is sent
// is root's.
func TestWithoutRoot(t *testing.T) {
	r := newRig(t)
	r.zoo()
	r.must(os.Chmod(r.source, 0o700))
	store := filepath.Join(r.top, "send", metaDir)
	r.subvolume(store)
	r.must(errors.Join(os.Chown(store, nobody, nobody), os.Mkdir(r.root, 0o700), os.Chown(r.root, nobody, nobody), os.Chmod(r.top, 0o755)))
	for _, name := range []string{"one", "two"} {
		data, err := r.asNobody(capsToSend, "send", filepath.Dir(store), name).Output()
		r.must(err)
		to := theVersion(t, r.sender, testFS, name)
		receive := r.asNobody(capsToReceive, r.receiveArgs(to)...)
		receive.Stdin = bytes.NewReader(data)
		r.must(receive.Run())
		r.check(name)
		if name == "one" {
			r.change()
		}
	}
}

// sendProcess takes a snapshot and writes the step to it, from that before, to its standard
// output; then it destroys the one before.
func sendProcess(root, name string) error {
	ctx := context.Background()
	sender, err := NewSender(SenderOptions{Root: root, Job: "push"})
	if err != nil {
		return err
	}
	if failed := sender.Snapshot(ctx, name, []string{testFS}); failed != nil {
		return failed[testFS]
	}
	res, err := sender.ListFilesystemVersions(ctx, &pdu.ListFilesystemVersionsReq{Filesystem: testFS})
	if err != nil {
		return err
	}
	req := request(nil, res.Versions[len(res.Versions)-1], "btrfs2")
	if len(res.Versions) > 1 {
		req.From = res.Versions[0]
	}
	_, stream, err := sender.Send(ctx, req)
	if err != nil {
		return err
	}
	_, err = io.Copy(os.Stdout, stream)
	if err != nil || req.From == nil {
		return errors.Join(err, stream.Close())
	}
	_, err = sender.SendCompleted(ctx, &pdu.SendCompletedReq{OriginalReq: req})
	if err != nil {
		return err
	}
	destroyed, err := sender.DestroySnapshots(ctx, &pdu.DestroySnapshotsReq{Filesystem: testFS, Snapshots: res.Versions[:1]})
	if err == nil && destroyed.Results[0].Error != "" {
		err = errors.New(destroyed.Results[0].Error)
	}
	return errors.Join(err, stream.Close())
}

// TestThreeHosts: a version that is sent on has one GUID everywhere, also where two of
// the hosts are on one file system.
func TestThreeHosts(t *testing.T) {
	r := newRig(t)
	r.zoo()
	one := r.snapshot("one")
	r.step(nil, one)
	r.change()
	two := r.snapshot("two")
	r.step(one, two)

	middle, err := NewSender(SenderOptions{Root: r.root, Job: "onwards"})
	r.must(err)
	last := &rig{T: t, top: r.top, root: filepath.Join(r.top, "last"), sender: middle}
	last.receiver = last.newReceiver(ReceiverOptions{})
	for _, want := range []*pdu.FilesystemVersion{one, two} {
		if got := theVersion(t, middle, testFS, want.Name); got.Guid != want.Guid || got.Creation != want.Creation {
			t.Errorf("in the middle %s is %v, want %v", want.Name, got, want)
		}
	}
	last.step(nil, theVersion(t, middle, testFS, "one"))
	last.step(theVersion(t, middle, testFS, "one"), theVersion(t, middle, testFS, "two"))
	for _, want := range []*pdu.FilesystemVersion{one, two} {
		if got := theVersion(t, last.receiver, testFS, want.Name); got.Guid != want.Guid || got.Creation != want.Creation {
			t.Errorf("at the end %s is %v, want %v", want.Name, got, want)
		}
	}
	r.root = last.root
	r.check("two")
	if filesystems, err := middle.Filesystems(t.Context()); err != nil || len(filesystems) > 0 {
		t.Errorf("snapshots could be taken of %v, %v", filesystems, err)
	}
	if failed := middle.Snapshot(t.Context(), "x", []string{testFS}); !errors.Is(failed[testFS], endpoint.ErrFailedPrecondition) {
		t.Errorf("a snapshot of what was received: %v", failed)
	}
}

// TestClients: what two clients send lies apart, although they send the same.
func TestClients(t *testing.T) {
	r := newRig(t)
	r.zoo()
	one := r.snapshot("one")
	r.change()
	two := r.snapshot("two")
	receiver := r.newReceiver(ReceiverOptions{PerClient: true})
	receive := func(client string, from, to *pdu.FilesystemVersion) error {
		ctx := transport.ContextWithClientIdentity(t.Context(), client)
		_, err := receiver.Receive(ctx, &pdu.ReceiveReq{Filesystem: testFS, To: to}, bytes.NewReader(r.stream(from, to)))
		return err
	}
	for _, client := range []string{"alice", "bob"} {
		r.must(receive(client, nil, one))
	}
	if err := receive("carol", one, two); !errors.Is(err, endpoint.ErrFailedPrecondition) {
		t.Errorf("a step from what another client has: %v", err)
	}
	r.must(receive("bob", one, two))
	for client, want := range map[string][]string{"alice": {"one"}, "bob": {"one", "two"}, "carol": nil} {
		ctx := transport.ContextWithClientIdentity(t.Context(), client)
		res, err := receiver.ListFilesystemVersions(ctx, &pdu.ListFilesystemVersionsReq{Filesystem: testFS})
		if err != nil && want != nil || !slices.Equal(names(res.GetVersions()), want) {
			t.Errorf("%s has %v, %v", client, res, err)
		}
	}
	r.root = filepath.Join(r.root, "bob")
	r.check("two")
	_, err := receiver.ListFilesystems(t.Context(), &pdu.ListFilesystemReq{})
	if !errors.Is(err, endpoint.ErrPermission) {
		t.Errorf("a call without identity: %v", err)
	}
}

// TestClientNamedLikeStore: a client gets no other directory than one of its own.
func TestClientNamedLikeStore(t *testing.T) {
	r := newRig(t)
	one := r.snapshot("one")
	receiver := r.newReceiver(ReceiverOptions{Root: filepath.Join(r.top, "send"), PerClient: true})
	ctx := transport.ContextWithClientIdentity(t.Context(), metaDir)
	_, err := receiver.DestroySnapshots(ctx, &pdu.DestroySnapshotsReq{Filesystem: testFS, Snapshots: []*pdu.FilesystemVersion{one}})
	if !errors.Is(err, endpoint.ErrPermission) {
		t.Errorf("DestroySnapshots: %v", err)
	}
	theVersion(t, r.sender, testFS, "one")
}

// TestReceivedIntoSubvolume: what is a filesystem already is not listed twice.
func TestReceivedIntoSubvolume(t *testing.T) {
	r := newRig(t)
	one := r.snapshot("one")
	r.subvolume(filepath.Join(r.root, testFS))
	r.step(nil, one)
	sender, err := NewSender(SenderOptions{Root: r.root, Job: "onwards"})
	r.must(err)
	res, err := sender.ListFilesystems(t.Context(), &pdu.ListFilesystemReq{})
	if err != nil || len(res.GetFilesystems()) != 1 {
		t.Errorf("filesystems are %v, %v", res, err)
	}
}

// TestDestroyNeedsNoRoom: where nothing can be written, as on a full disk, snapshots can go.
func TestDestroyNeedsNoRoom(t *testing.T) {
	r := newRig(t)
	one := r.snapshot("one")
	two := r.snapshot("two")
	r.step(nil, one)
	r.step(one, two)
	r.must(os.Mkdir(filepath.Join(r.root, testFS, metaDir, stateTempName), 0o700))
	res, err := r.receiver.DestroySnapshots(t.Context(), &pdu.DestroySnapshotsReq{Filesystem: testFS, Snapshots: []*pdu.FilesystemVersion{one}})
	r.must(err)
	if got := res.Results[0].Error; got != "" {
		t.Errorf("DestroySnapshots: %s", got)
	}
	if got := list(t, r.receiver, testFS); !slices.Equal(names(got), []string{"two"}) {
		t.Errorf("there are %v", got)
	}
}

// TestFailedCommits: the state does not grow with the attempts.
func TestFailedCommits(t *testing.T) {
	r := newRig(t)
	one := r.snapshot("one")
	r.must(os.MkdirAll(filepath.Join(r.root, testFS, "@one"), 0o755)) // in the way
	path := filepath.Join(r.root, testFS, metaDir, stateName)
	var first []byte
	for range 2 {
		if err := r.receive(one, bytes.NewReader(r.stream(nil, one))); !errors.Is(err, endpoint.ErrFailedPrecondition) {
			t.Errorf("Receive: %v", err)
		}
		r.clean()
		data, err := os.ReadFile(path)
		r.must(err)
		if first == nil {
			first = data
		} else if !bytes.Equal(data, first) {
			t.Errorf("the state is %s, and was %s", data, first)
		}
	}
}

// TestNested: a subvolume within another one is a filesystem of its own, and not in the
// other's versions.
func TestNested(t *testing.T) {
	r := newRig(t)
	r.write("file", []byte("x"))
	r.subvolume(filepath.Join(r.source, "raw", "old"))
	r.subvolume(filepath.Join(r.source, "raw", "old", "deeper"))
	r.must(os.WriteFile(filepath.Join(r.source, "raw/old/deeper/inner"), []byte("y"), 0o644))
	r.subvolume(filepath.Join(r.top, "send", "not @ name"))
	all, err := r.sender.Filesystems(t.Context())
	r.must(err)
	want := []string{testFS, testFS + "/raw/old", testFS + "/raw/old/deeper"}
	if !slices.Equal(all, want) {
		t.Fatalf("filesystems are %q, want %q", all, want)
	}
	if failed := r.sender.Snapshot(t.Context(), "one", append(all, "never/was")); len(failed) != 1 || !errors.Is(failed["never/was"], endpoint.ErrNotFound) {
		t.Errorf("Snapshot: %v", failed)
	}
	for _, fs := range all {
		to := theVersion(t, r.sender, fs, "one")
		_, stream, err := r.sender.Send(t.Context(), &pdu.SendReq{Filesystem: fs, To: to})
		r.must(err)
		_, err = r.receiver.Receive(t.Context(), &pdu.ReceiveReq{Filesystem: fs, To: to}, stream)
		r.must(errors.Join(err, stream.Close()))
	}
	res, err := r.receiver.ListFilesystems(t.Context(), &pdu.ListFilesystemReq{})
	r.must(err)
	var got []string
	for _, fs := range res.Filesystems {
		got = append(got, fmt.Sprint(fs.Path, " ", fs.IsPlaceholder))
	}
	if want := []string{"data true", testFS + " false", testFS + "/raw true", want[1] + " false", want[2] + " false"}; !slices.Equal(got, want) {
		t.Errorf("the receiver lists %q, want %q", got, want)
	}
	if _, err := os.Stat(filepath.Join(r.root, testFS, "@one/raw/old/deeper")); err == nil {
		t.Error("a version contains a subvolume within")
	}
	if data, err := os.ReadFile(filepath.Join(r.root, want[2], "@one/inner")); string(data) != "y" {
		t.Errorf("the innermost filesystem has %q, %v", data, err)
	}
}
