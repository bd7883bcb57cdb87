package btrfs

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/endpoint/endpointtest"
	"github.com/dualrepl/dualrepl/pdu"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if flag.NArg() > 0 {
		if err := process(flag.Args()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// process is what a test starts in a process of its own.
func process(args []string) error {
	if args[0] == "send" {
		return sendProcess(args[1], args[2])
	}
	return receiveProcess(args[1], args[2], args[3], args[4])
}

const testFS = "data/photos"

// needBtrfs skips a test that cannot run here.
func needBtrfs(t *testing.T) {
	t.Helper()
	var st unix.Statfs_t
	err := unix.Statfs(os.TempDir(), &st)
	if err != nil || st.Type != unix.BTRFS_SUPER_MAGIC || os.Geteuid() != 0 {
		t.Skip("needs root and a temporary directory on btrfs: run make test-btrfs")
	}
}

func testLog(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// scratch makes a directory on btrfs. All in it is destroyed at the end of the test.
func scratch(t *testing.T) string {
	t.Helper()
	needBtrfs(t)
	dir, err := os.MkdirTemp("", "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { removeTree(t, dir) })
	return dir
}

func removeTree(t *testing.T, dir string) {
	root, err := openRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	removeSubvolumes(t, root)
	if err := os.RemoveAll(dir); err != nil {
		t.Error(err)
	}
}

func removeSubvolumes(t *testing.T, dir *folder) {
	paths, err := childPaths(dir.file)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range paths {
		child, err := dir.descend(p, false)
		if err != nil {
			t.Fatal(err)
		}
		removeSubvolumes(t, child)
		child.Close()
		parent, err := dir.descend(filepath.Dir(p), false)
		if err != nil {
			t.Fatal(err)
		}
		if err := destroySubvolume(parent.file, filepath.Base(p)); err != nil {
			t.Error(err)
		}
		parent.Close()
	}
}

// rig is a sender with one filesystem and a receiver.
type rig struct {
	*testing.T
	top      string
	source   string // the subvolume
	root     string // the receiver's
	sender   *Sender
	receiver *Receiver
}

func newRig(t *testing.T) *rig {
	t.Helper()
	top := scratch(t)
	r := &rig{T: t, top: top, source: filepath.Join(top, "send", testFS), root: filepath.Join(top, "receive")}
	r.subvolume(r.source)
	var err error
	r.sender, err = NewSender(SenderOptions{Root: filepath.Join(top, "send"), Job: "push", Logger: testLog(t)})
	r.must(err)
	r.receiver = r.newReceiver(ReceiverOptions{})
	return r
}

func (r *rig) newReceiver(opts ReceiverOptions) *Receiver {
	r.Helper()
	opts.Job = "sink"
	if opts.Root == "" {
		opts.Root = r.root
	}
	receiver, err := NewReceiver(opts)
	r.must(err)
	return receiver
}

func (r *rig) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

// subvolume makes one, and the directories above it.
func (r *rig) subvolume(path string) {
	r.Helper()
	r.must(os.MkdirAll(filepath.Dir(path), 0o755))
	dir, err := os.Open(filepath.Dir(path))
	r.must(err)
	defer dir.Close()
	r.must(createSubvolume(dir, filepath.Base(path)))
}

func (r *rig) write(name string, data []byte) {
	r.Helper()
	path := filepath.Join(r.source, name)
	r.must(os.MkdirAll(filepath.Dir(path), 0o755))
	r.must(os.WriteFile(path, data, 0o644))
}

func random(seed uint64, n int) []byte {
	data := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(data)
	return data
}

func (r *rig) snapshot(name string) *pdu.FilesystemVersion {
	r.Helper()
	for fs, err := range r.sender.Snapshot(r.Context(), name, []string{testFS}) {
		r.Fatal(fs, err)
	}
	return theVersion(r.T, r.sender, testFS, name)
}

// theVersion is the version of a name.
func theVersion(t *testing.T, e endpoint.Endpoint, fs, name string) *pdu.FilesystemVersion {
	t.Helper()
	for _, v := range list(t, e, fs) {
		if v.Name == name {
			return v
		}
	}
	t.Fatalf("there is no version %s@%s", fs, name)
	return nil
}

func list(t *testing.T, e endpoint.Endpoint, fs string) []*pdu.FilesystemVersion {
	t.Helper()
	res, err := e.ListFilesystemVersions(t.Context(), &pdu.ListFilesystemVersionsReq{Filesystem: fs})
	if errors.Is(err, endpoint.ErrNotFound) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return res.Versions
}

func names(versions []*pdu.FilesystemVersion) (names []string) {
	for _, v := range versions {
		names = append(names, v.Name)
	}
	return names
}

func request(from, to *pdu.FilesystemVersion, kinds ...string) *pdu.SendReq {
	kind := pdu.ReplicationGuaranteeKind_GuaranteeResumability
	return &pdu.SendReq{Filesystem: testFS, From: from, To: to, StreamKinds: kinds,
		ReplicationConfig: &pdu.ReplicationConfig{Protection: &pdu.ReplicationConfigProtection{Initial: kind, Incremental: kind}}}
}

// stream is the whole stream of a step.
func (r *rig) stream(from, to *pdu.FilesystemVersion, kinds ...string) []byte {
	r.Helper()
	_, stream, err := r.sender.Send(r.Context(), request(from, to, kinds...))
	r.must(err)
	defer stream.Close()
	var data bytes.Buffer
	_, err = io.Copy(&data, stream)
	r.must(err)
	return data.Bytes()
}

func (r *rig) receive(to *pdu.FilesystemVersion, stream io.Reader) error {
	_, err := r.receiver.Receive(r.Context(), &pdu.ReceiveReq{Filesystem: testFS, To: to, ClearResumeToken: true}, stream)
	return err
}

// step replicates, with all that belongs to it.
func (r *rig) step(from, to *pdu.FilesystemVersion) {
	r.Helper()
	r.must(r.receive(to, bytes.NewReader(r.stream(from, to, "btrfs2", "btrfs"))))
	_, err := r.sender.SendCompleted(r.Context(), &pdu.SendCompletedReq{OriginalReq: request(from, to)})
	r.must(err)
}

// check compares a received version with the sender's: content and metadata.
func (r *rig) check(name string) {
	r.Helper()
	sent := r.archive(filepath.Join(r.top, "send", metaDir, testFS, "@"+name))
	if got := r.archive(filepath.Join(r.root, testFS, "@"+name)); got != sent {
		r.Errorf("version %s differs", name)
	}
}

// archive is a digest of all that tar sees in a directory.
func (r *rig) archive(dir string) (sum [sha256.Size]byte) {
	r.Helper()
	cmd := exec.Command("tar", "--create", "--sort=name", "--numeric-owner", "--xattrs", "--format=posix",
		"--pax-option=delete=atime,delete=ctime,exthdr.name=%d/%f", "--directory", dir, ".")
	cmd.Stderr = r.Output()
	data, err := cmd.Output()
	r.must(err)
	return sha256.Sum256(data)
}

// clean fails the test if a receive left anything behind.
func (r *rig) clean() {
	r.Helper()
	dir, err := os.Open(r.root)
	r.must(err)
	defer dir.Close()
	paths, err := childPaths(dir)
	r.must(err)
	paths = slices.DeleteFunc(paths, func(p string) bool { return strings.HasPrefix(filepath.Base(p), "@") })
	if len(paths) > 0 {
		r.Errorf("left behind: %v", paths)
	}
}

func (r *rig) suiteSender() endpointtest.Sender {
	n := 0
	return endpointtest.Sender{Sender: r.sender, Filesystem: testFS, Snapshot: func(t *testing.T, name string) {
		n++
		r.write("file", fmt.Append(nil, "content ", n))
		r.snapshot(name)
	}}
}

func TestSenderConforms(t *testing.T) {
	needBtrfs(t)
	endpointtest.TestSender(t, func(t *testing.T) endpointtest.Sender { return newRig(t).suiteSender() })
}

func TestReceiverConforms(t *testing.T) {
	needBtrfs(t)
	endpointtest.TestReceiver(t, func(t *testing.T) (endpointtest.Sender, endpointtest.Receiver) {
		r := newRig(t)
		return r.suiteSender(), endpointtest.Receiver{Receiver: r.receiver, NoResume: true}
	})
}
