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
	"strings"
	"testing"
	"unsafe"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
	"github.com/dualrepl/dualrepl/transport"
	"golang.org/x/sys/unix"
)

const (
	resumability = pdu.ReplicationGuaranteeKind_GuaranteeResumability
	incremental  = pdu.ReplicationGuaranteeKind_GuaranteeIncrementalReplication
	nothing      = pdu.ReplicationGuaranteeKind_GuaranteeNothing
)

// guaranteed is a request with the guarantee.
func guaranteed(from, to *pdu.FilesystemVersion, kind pdu.ReplicationGuaranteeKind) *pdu.SendReq {
	req := request(from, to)
	req.ReplicationConfig.Protection = &pdu.ReplicationConfigProtection{Initial: kind, Incremental: kind}
	return req
}

// held says why the sender keeps a version: "" where it destroys it.
func (r *rig) held(ctx context.Context, v *pdu.FilesystemVersion) string {
	r.Helper()
	res, err := r.sender.DestroySnapshots(ctx, &pdu.DestroySnapshotsReq{Filesystem: testFS, Snapshots: []*pdu.FilesystemVersion{v}})
	r.must(err)
	return res.Results[0].Error
}

func (r *rig) begin(ctx context.Context, req *pdu.SendReq) {
	r.Helper()
	_, stream, err := r.sender.Send(ctx, req)
	r.must(err)
	r.must(stream.Close())
}

func (r *rig) complete(ctx context.Context, req *pdu.SendReq) {
	r.Helper()
	_, err := r.sender.SendCompleted(ctx, &pdu.SendCompletedReq{OriginalReq: req})
	r.must(err)
}

func (r *rig) cursor(ctx context.Context) uint64 {
	r.Helper()
	res, err := r.sender.ReplicationCursor(ctx, &pdu.ReplicationCursorReq{Filesystem: testFS})
	r.must(err)
	return res.GetGuid()
}

// TestGuarantees: what is held while a step is under way, and after it.
func TestGuarantees(t *testing.T) {
	tests := []struct {
		kind          pdu.ReplicationGuaranteeKind
		full          bool
		during, after []string
	}{
		{resumability, true, []string{"two"}, []string{"two"}},
		{resumability, false, []string{"one", "two"}, []string{"two"}},
		{incremental, true, []string{"two"}, []string{"two"}},
		{incremental, false, []string{"one", "two"}, []string{"two"}},
		{nothing, true, nil, nil},
		{nothing, false, nil, nil},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprint(tt.kind, tt.full), func(t *testing.T) {
			r := newRig(t)
			one, two := r.snapshot("one"), r.snapshot("two")
			req := guaranteed(one, two, tt.kind)
			if tt.full {
				req.From = nil
			}
			r.begin(t.Context(), req)
			if got := r.marked(); !slices.Equal(got, tt.during) {
				t.Errorf("during the step %v are held, want %v", got, tt.during)
			}
			r.complete(t.Context(), req)
			if got := r.marked(); !slices.Equal(got, tt.after) {
				t.Errorf("after the step %v are held, want %v", got, tt.after)
			}
			if got := r.cursor(t.Context()); (got == two.Guid) != (tt.after != nil) {
				t.Errorf("the cursor is %#x", got)
			}
		})
	}
}

// marked are the names of the sender's versions that are held.
func (r *rig) marked() (held []string) {
	r.Helper()
	f, _, err := r.sender.open(r.Context(), testFS)
	r.must(err)
	defer f.Close()
	s, err := f.readState()
	r.must(err)
	versions, err := f.versions(r.sender.log)
	r.must(err)
	for _, v := range versions {
		if len(s.marksOn(v.guid())) > 0 {
			held = append(held, v.name)
		}
	}
	return held
}

// TestCursor: it moves from step to step and holds its snapshot, which is then let go.
func TestCursor(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	one, two, three := r.snapshot("one"), r.snapshot("two"), r.snapshot("three")
	r.complete(ctx, request(nil, one))
	if why := r.held(ctx, one); !strings.Contains(why, "replication cursor of job push") {
		t.Errorf("destroying the cursor's snapshot: %q", why)
	}
	r.complete(ctx, request(one, two))
	if why := r.held(ctx, one); why != "" {
		t.Errorf("the snapshot before the cursor's: %q", why)
	}
	r.begin(ctx, request(two, three))
	if why := r.held(ctx, three); !strings.Contains(why, "step under way of job push") {
		t.Errorf("destroying the end of a step: %q", why)
	}
	wrong := &pdu.FilesystemVersion{Name: "three", Guid: two.Guid}
	if why := r.held(ctx, wrong); !strings.Contains(why, "GUID") {
		t.Errorf("destroying another version of that name: %q", why)
	}
	r.complete(ctx, guaranteed(two, three, nothing))
	if r.cursor(ctx) != 0 || r.held(ctx, two) != "" || r.held(ctx, three) != "" {
		t.Error("with the guarantee of nothing, something is held")
	}
	if _, err := r.sender.SendCompleted(ctx, &pdu.SendCompletedReq{OriginalReq: request(nil, two)}); !errors.Is(err, endpoint.ErrNotFound) {
		t.Errorf("a completed step to what is gone: %v", err)
	}
}

// TestCursorsOfClients: each client that pulls has its own.
func TestCursorsOfClients(t *testing.T) {
	r := newRig(t)
	alice := transport.ContextWithClientIdentity(t.Context(), "alice")
	bob := transport.ContextWithClientIdentity(t.Context(), "bob")
	one, two := r.snapshot("one"), r.snapshot("two")
	r.complete(alice, request(nil, one))
	r.complete(bob, request(nil, one))
	r.complete(bob, request(one, two))
	if a, b, own := r.cursor(alice), r.cursor(bob), r.cursor(t.Context()); a != one.Guid || b != two.Guid || own != 0 {
		t.Errorf("cursors are %#x, %#x, %#x", a, b, own)
	}
	if why := r.held(bob, one); !strings.Contains(why, "client alice") {
		t.Errorf("destroying alice's snapshot: %q", why)
	}
	r.destroyByHand("one")
	if got := r.cursor(alice); got != 0 {
		t.Errorf("the cursor is on %#x, which is gone", got)
	}
}

// destroyByHand does what `btrfs subvolume delete` does.
func (r *rig) destroyByHand(name string) {
	r.Helper()
	dir, err := os.Open(filepath.Join(r.top, "send", metaDir, testFS))
	r.must(err)
	defer dir.Close()
	r.must(destroySubvolume(dir, "@"+name))
}

// TestDestroyWhileSent: the kernel keeps what is being sent.
func TestDestroyWhileSent(t *testing.T) {
	r := newRig(t)
	r.write("large", random(1, 8<<20))
	one := r.snapshot("one")
	_, stream, err := r.sender.Send(t.Context(), guaranteed(nil, one, nothing))
	r.must(err)
	_, err = io.ReadFull(stream, make([]byte, 1<<20))
	r.must(err)
	if why := r.held(t.Context(), one); !strings.Contains(why, "being sent") {
		t.Errorf("destroying what is being sent: %q", why)
	}
	r.must(stream.Close())
	if why := r.held(t.Context(), one); why != "" {
		t.Errorf("destroying what was being sent: %q", why)
	}
}

// TestCompressed: what is compressed on disk crosses so if all can do that, and arrives
// in either case.
func TestCompressed(t *testing.T) {
	for _, method := range []string{"zlib", "lzo", "zstd"} {
		t.Run(method, func(t *testing.T) { testCompressed(t, method) })
	}
}

func testCompressed(t *testing.T, method string) {
	r := newRig(t)
	r.command("btrfs", "property", "set", r.source, "compression", method)
	r.write("file", bytes.Repeat([]byte("compress me "), 1<<17))
	r.write("small", bytes.Repeat([]byte("compress me "), 99))
	r.must(unix.Syncfs(openFile(t, r.source)))
	one := r.snapshot("one")
	encoded := map[string]bool{}
	for _, kinds := range [][]string{{"btrfs"}, {"btrfs2", "btrfs"}, nil} {
		stream := r.stream(nil, one, kinds...)
		encoded[fmt.Sprint(kinds)] = slices.Contains(r.commands(stream), 25)
		r.must(r.receive(one, bytes.NewReader(stream)))
		r.check("one")
		r.forget()
	}
	if want := map[string]bool{"[btrfs]": false, "[btrfs2 btrfs]": true, "[]": false}; fmt.Sprint(encoded) != fmt.Sprint(want) {
		t.Errorf("compressed data by the kinds that the receiver takes: %v, want %v", encoded, want)
	}
	if _, _, err := r.sender.Send(t.Context(), request(nil, one, "zfs")); !errors.Is(err, endpoint.ErrInvalid) {
		t.Errorf("a receiver that takes zfs streams: %v", err)
	}
}

func openFile(t *testing.T, name string) int {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return int(f.Fd())
}

// TestStreamKinds: a receiver whose program is too old takes version 1 only.
func TestStreamKinds(t *testing.T) {
	r := newRig(t)
	kinds := func(receiver *Receiver) string {
		res, err := receiver.ListFilesystems(t.Context(), &pdu.ListFilesystemReq{})
		r.must(err)
		return fmt.Sprint(res.StreamKinds)
	}
	if got := kinds(r.receiver); got != "[btrfs2 btrfs]" {
		t.Errorf("it takes %v", got)
	}
	old := r.script(`echo usage`)
	if got := kinds(r.newReceiver(ReceiverOptions{Program: old})); got != "[btrfs]" {
		t.Errorf("with an old program it takes %v", got)
	}
}

// script is a program.
func (r *rig) script(lines string) string {
	r.Helper()
	name := filepath.Join(r.top, "script")
	r.must(os.WriteFile(name, []byte("#!/bin/sh\n"+lines+"\n"), 0o755))
	return name
}

// TestProgramFails: a stream that the program did not complete never ends as one that is
// whole.
func TestProgramFails(t *testing.T) {
	r := newRig(t)
	one := r.snapshot("one")
	tests := map[string]struct {
		program string
		want    error
	}{
		"says why":    {r.script(`printf btrfs-stream; echo "ERROR: send ioctl failed with -1: Operation not permitted" >&2; exit 1`), endpoint.ErrPermission},
		"is missing":  {"/nonexistent/btrfs", os.ErrNotExist},
		"not in PATH": {"no-such-btrfs", exec.ErrNotFound},
	}
	for name, tt := range tests {
		sender, err := NewSender(SenderOptions{Root: filepath.Join(r.top, "send"), Job: "push", Program: tt.program})
		r.must(err)
		_, stream, err := sender.Send(t.Context(), request(nil, one))
		if err == nil {
			_, err = io.Copy(io.Discard, struct{ io.Reader }{stream})
			r.must(stream.Close())
		}
		if !errors.Is(err, tt.want) {
			t.Errorf("a program that %s: %v", name, err)
		}
	}
}

// TestEstimate: about what the step's data takes.
func TestEstimate(t *testing.T) {
	r := newRig(t)
	r.write("file", random(1, 5<<20))
	one := r.snapshot("one")
	r.write("more", random(2, 1<<20))
	two := r.snapshot("two")
	for _, req := range []*pdu.SendReq{request(nil, one), request(one, two)} {
		res, err := r.sender.SendDry(t.Context(), req)
		r.must(err)
		if got, want := int64(res.ExpectedSize), int64(len(r.stream(req.From, req.To))); got < want*9/10 || got > want*11/10 {
			t.Errorf("the estimate is %d, the stream has %d bytes", got, want)
		}
	}
}

// TestRootFilesystem: the root may be a subvolume itself, and its snapshots do not contain the
// snapshots.
func TestRootFilesystem(t *testing.T) {
	r := newRig(t)
	sender, err := NewSender(SenderOptions{Root: r.source, Job: "push"})
	r.must(err)
	r.write("file", []byte("text"))
	for _, name := range []string{"one", "two"} {
		if failed := sender.Snapshot(t.Context(), name, []string{RootFilesystem}); failed != nil {
			t.Fatal(failed)
		}
	}
	filesystems, err := sender.Filesystems(t.Context())
	if err != nil || !slices.Equal(filesystems, []string{RootFilesystem}) {
		t.Errorf("filesystems are %v, %v", filesystems, err)
	}
	two := theVersion(t, sender, RootFilesystem, "two")
	_, stream, err := sender.Send(t.Context(), &pdu.SendReq{Filesystem: RootFilesystem, To: two})
	r.must(err)
	defer stream.Close()
	r.must(r.receive(two, stream))
	entries, err := os.ReadDir(filepath.Join(r.root, testFS, "@two"))
	if err != nil || len(entries) != 1 {
		t.Errorf("the version has %v, %v", entries, err)
	}
}

// TestRootFilesystemReceived: one that was received under that name can be sent on.
func TestRootFilesystemReceived(t *testing.T) {
	r := newRig(t)
	one := r.snapshot("one")
	_, err := r.receiver.Receive(t.Context(), &pdu.ReceiveReq{Filesystem: RootFilesystem, To: one}, bytes.NewReader(r.stream(nil, one)))
	r.must(err)
	sender, err := NewSender(SenderOptions{Root: r.root, Job: "onwards"})
	r.must(err)
	res, err := sender.ListFilesystems(t.Context(), &pdu.ListFilesystemReq{})
	if err != nil || len(res.Filesystems) != 1 || res.Filesystems[0].Path != RootFilesystem {
		t.Errorf("filesystems are %v, %v", res, err)
	}
	if got := theVersion(t, sender, RootFilesystem, "one"); got.Guid != one.Guid {
		t.Errorf("the version is %v, want %v", got, one)
	}
}

func TestSnapshotRefuses(t *testing.T) {
	r := newRig(t)
	r.snapshot("one")
	received := filepath.Join(r.top, "send", "received")
	r.subvolume(received)
	dir, err := os.OpenFile(received, os.O_RDONLY, 0)
	r.must(err)
	r.must(errors.Join(setReceived(dir, idOther), dir.Close()))
	r.must(os.Symlink(testFS, filepath.Join(r.top, "send", "link")))
	tests := []struct {
		filesystem, name string
		want             error
	}{
		{testFS, "one", endpoint.ErrFailedPrecondition},
		{testFS, "a/b", endpoint.ErrInvalid},
		{testFS, strings.Repeat("x", 255), endpoint.ErrInvalid},
		{"data", "two", endpoint.ErrNotFound},
		{"../x", "two", endpoint.ErrInvalid},
		{metaDir + "/" + testFS, "two", endpoint.ErrInvalid},
		{"received", "two", endpoint.ErrFailedPrecondition},
		{"link", "two", endpoint.ErrFailedPrecondition},
		{RootFilesystem, "two", endpoint.ErrNotFound},
	}
	for _, tt := range tests {
		if failed := r.sender.Snapshot(t.Context(), tt.name, []string{tt.filesystem}); !errors.Is(failed[tt.filesystem], tt.want) {
			t.Errorf("%s@%s: %v, want %v", tt.filesystem, tt.name, failed, tt.want)
		}
	}
	if got := list(t, r.sender, testFS); len(got) != 1 {
		t.Errorf("there are %v", got)
	}
}

// TestFilter: what is not selected is not there.
func TestSenderFilter(t *testing.T) {
	r := newRig(t)
	one := r.snapshot("one")
	sender, err := NewSender(SenderOptions{
		Root: filepath.Join(r.top, "send"), Job: "push", Filter: func(fs string) bool { return fs != testFS },
	})
	r.must(err)
	if filesystems, err := sender.Filesystems(t.Context()); err != nil || len(filesystems) > 0 {
		t.Errorf("filesystems are %v, %v", filesystems, err)
	}
	if _, _, err := sender.Send(t.Context(), request(nil, one)); !errors.Is(err, endpoint.ErrNotFound) {
		t.Errorf("Send: %v", err)
	}
}

// TestManySubvolumes are more than the kernel lists at once.
func TestManySubvolumes(t *testing.T) {
	r := newRig(t)
	const n = 300
	dir, err := os.Open(filepath.Join(r.top, "send"))
	r.must(err)
	defer dir.Close()
	for i := range n {
		r.must(createSubvolume(dir, fmt.Sprint("many ", i)))
	}
	filesystems, err := r.sender.Filesystems(t.Context())
	if err != nil || len(filesystems) != n+1 {
		t.Errorf("%d filesystems, %v", len(filesystems), err)
	}
}

func TestNewSenderRefuses(t *testing.T) {
	for _, opts := range []SenderOptions{{Job: "push"}, {Root: "/x"}, {Root: "/x", Job: "a/b"}} {
		if _, err := NewSender(opts); !errors.Is(err, endpoint.ErrInvalid) {
			t.Errorf("NewSender(%+v): %v", opts, err)
		}
	}
}

// TestNotBtrfs: a root whose disk is not mounted must not look like an empty one.
func TestNotBtrfs(t *testing.T) {
	for root, want := range map[string]error{"/proc": endpoint.ErrFailedPrecondition, "/nonexistent": endpoint.ErrNotFound} {
		sender, err := NewSender(SenderOptions{Root: root, Job: "push"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := sender.ListFilesystems(t.Context(), &pdu.ListFilesystemReq{}); !errors.Is(err, want) {
			t.Errorf("%s: %v", root, err)
		}
	}
	receiver, err := NewReceiver(ReceiverOptions{Root: "/proc", Job: "sink"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := receiver.ListFilesystems(t.Context(), &pdu.ListFilesystemReq{}); !errors.Is(err, endpoint.ErrFailedPrecondition) {
		t.Errorf("receiver: %v", err)
	}
}

// TestIoctlSizes: they are a part of the ioctls' numbers.
func TestIoctlSizes(t *testing.T) {
	for name, size := range map[string][2]uintptr{
		"vol_args":           {unsafe.Sizeof(volArgs{}), iocSubvolCreate >> 16 & 0x1fff},
		"vol_args_v2":        {unsafe.Sizeof(volArgsV2{}), iocSnapCreateV2 >> 16 & 0x1fff},
		"received_subvol":    {unsafe.Sizeof(receivedArgs{}), iocSetReceived >> 16 & 0x1fff},
		"get_subvol_info":    {unsafe.Sizeof(subvolInfo{}), iocSubvolInfo >> 16 & 0x1fff},
		"get_subvol_rootref": {unsafe.Sizeof(rootrefs{}), iocSubvolRootref >> 16 & 0x1fff},
		"ino_lookup_user":    {unsafe.Sizeof(inoLookup{}), iocInoLookupUser >> 16 & 0x1fff},
	} {
		if size[0] != size[1] {
			t.Errorf("%s has %d bytes, want %d", name, size[0], size[1])
		}
	}
}

func TestGUID(t *testing.T) {
	for id, want := range map[uuid]uint64{
		{}: 1, {7: 5, 15: 5}: 1, {7: 1}: 1, {15: 2}: 2, {0: 0x80, 8: 0x01}: 0x81 << 56,
	} {
		if got := id.guid(); got != want {
			t.Errorf("the GUID of %v is %#x, want %#x", id, got, want)
		}
	}
}

func TestCommandError(t *testing.T) {
	for says, want := range map[string]error{
		"ERROR: writing to a failed: No space left on device\n": endpoint.ErrNoSpace,
		"ERROR: writing to a failed: Disk quota exceeded\n":     endpoint.ErrNoSpace,
		"ERROR: chroot: Operation not permitted\n":              endpoint.ErrPermission,
		"ERROR: crc mismatch\n":                                 nil,
	} {
		var said tail
		fmt.Fprint(&said, strings.Repeat("noise\n", 1000), says)
		ended := errors.New("exit status 1")
		err := error(&CommandError{Args: []string{"receive"}, Stderr: said.String(), Err: ended})
		if !errors.Is(err, ended) || want != nil && !errors.Is(err, want) || len(err.Error()) > 200 {
			t.Errorf("%q: %v", says, err)
		}
	}
}
