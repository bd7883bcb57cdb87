package btrfs

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
	"github.com/dualrepl/dualrepl/transport"
)

// onRead is a reader of nothing that calls itself.
type onRead func()

func (f onRead) Read([]byte) (int, error) {
	f()
	return 0, io.EOF
}

// wrapped is a btrfs program that leaves its process id in the file whose name is
// returned, too.
func (r *rig) wrapped() (program, pidFile string) {
	r.Helper()
	program, pidFile = filepath.Join(r.top, "btrfs"), filepath.Join(r.top, "pid")
	script := "#!/bin/sh\n[ \"$2\" = --help ] || echo $$ > '" + pidFile + "'\nexec btrfs \"$@\"\n"
	r.must(os.WriteFile(program, []byte(script), 0o755))
	return program, pidFile
}

// TestProgramKilled: the step fails with the program's end, leaves nothing behind, and can be
// done again.
func TestProgramKilled(t *testing.T) {
	r := newRig(t)
	r.zoo()
	one := r.snapshot("one")
	whole := r.stream(nil, one)
	program, pidFile := r.wrapped()
	r.receiver = r.newReceiver(ReceiverOptions{Program: program})
	half := bytes.NewReader(whole[:len(whole)/2])
	kill := onRead(func() {
		data, err := os.ReadFile(pidFile)
		r.must(err)
		pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
		r.must(err)
		r.must(syscall.Kill(pid, syscall.SIGKILL))
	})
	err := r.receive(one, io.MultiReader(half, kill, bytes.NewReader(whole[len(whole)/2:])))
	var command *CommandError
	if !errors.As(err, &command) || !strings.Contains(err.Error(), "signal: killed") {
		t.Errorf("Receive: %v", err)
	}
	if got := list(t, r.receiver, testFS); len(got) > 0 {
		t.Errorf("there are %v", got)
	}
	r.clean()
	r.step(nil, one)
	r.check("one")
}

// receiveProcess receives its standard input.
func receiveProcess(root, name, guid, creation string) error {
	id, err := strconv.ParseUint(guid, 10, 64)
	if err != nil {
		return err
	}
	receiver, err := NewReceiver(ReceiverOptions{Root: root, Job: "sink"})
	if err != nil {
		return err
	}
	to := &pdu.FilesystemVersion{Name: name, Guid: id, Creation: creation}
	_, err = receiver.Receive(context.Background(), &pdu.ReceiveReq{Filesystem: testFS, To: to}, os.Stdin)
	return err
}

// receiveArgs are those of a process that receives.
func (r *rig) receiveArgs(to *pdu.FilesystemVersion) []string {
	return []string{"receive", r.root, to.Name, strconv.FormatUint(to.Guid, 10), to.Creation}
}

// process starts a receiving process, writes the stream to it and returns it with its
// input still open.
func (r *rig) process(to *pdu.FilesystemVersion, stream []byte) (*exec.Cmd, io.Closer) {
	r.Helper()
	cmd := exec.Command("/proc/self/exe", r.receiveArgs(to)...)
	cmd.Stderr = r.Output()
	in, err := cmd.StdinPipe()
	r.must(err)
	r.must(cmd.Start())
	_, err = in.Write(stream)
	r.must(err)
	return cmd, in
}

// TestProcessKilled: what a killed process leaves is destroyed by the next receive, and by
// the next receiver that is made.
func TestProcessKilled(t *testing.T) {
	r := newRig(t)
	r.zoo()
	one := r.snapshot("one")
	r.step(nil, one)
	r.change()
	r.write("more", random(4, 4<<20))
	two := r.snapshot("two")
	whole := r.stream(one, two)
	for name, next := range map[string]func(){
		"receiver": func() { r.receiver = r.newReceiver(ReceiverOptions{}) },
		"receive":  func() { _ = r.receive(two, bytes.NewReader(whole[:len(whole)-1])) },
	} {
		cmd, in := r.process(two, whole[:len(whole)-1000])
		r.must(cmd.Process.Kill())
		_ = cmd.Wait()
		in.Close()
		r.waitForProgram()
		if _, err := os.Stat(filepath.Join(r.root, testFS, metaDir, receivingName)); err != nil {
			t.Errorf("%s: the process had not begun: %v", name, err)
		}
		if got := list(t, r.receiver, testFS); !slices.Equal(names(got), []string{"one"}) {
			t.Errorf("%s: there are %v", name, got)
		}
		next()
		r.clean()
	}
	r.step(one, two)
	r.check("two")
}

// waitForProgram waits until nobody receives any more: the program, which outlives the
// process that was killed, has its lock.
func (r *rig) waitForProgram() {
	r.Helper()
	dir, err := openRoot(r.root)
	r.must(err)
	defer dir.Close()
	f, err := dir.openFilesystem(testFS, false)
	r.must(err)
	defer f.Close()
	lock, err := f.lockReceive(r.Context())
	r.must(err)
	lock.Close()
}

// TestSymlinks: no path of the receiver's goes through a symbolic link, not even to where it
// could go.
func TestSymlinks(t *testing.T) {
	for _, link := range []string{
		"alice", "alice/data", "alice/" + testFS, "alice/" + testFS + "/" + metaDir,
		"alice/" + testFS + "/" + metaDir + "/" + receivingName, "alice/" + testFS + "/@one",
	} {
		t.Run(link, func(t *testing.T) {
			r := newRig(t)
			r.write("file", []byte("text"))
			one := r.snapshot("one")
			victim := filepath.Join(r.root, "victim")
			r.must(os.MkdirAll(victim, 0o755))
			place := filepath.Join(r.root, link)
			r.must(os.MkdirAll(filepath.Dir(place), 0o755))
			r.must(os.Symlink(victim, place))
			ctx := transport.ContextWithClientIdentity(t.Context(), "alice")
			receiver := r.newReceiver(ReceiverOptions{PerClient: true})
			_, err := receiver.Receive(ctx, &pdu.ReceiveReq{Filesystem: testFS, To: one}, bytes.NewReader(r.stream(nil, one)))
			if !errors.Is(err, endpoint.ErrFailedPrecondition) {
				t.Errorf("Receive: %v", err)
			}
			if entries, err := os.ReadDir(victim); len(entries) > 0 || err != nil {
				t.Errorf("where the link leads there is %v, %v", entries, err)
			}
			if st, err := os.Lstat(place); err != nil || st.Mode().Type() != fs.ModeSymlink {
				t.Errorf("the link is %v, %v now", st, err)
			}
		})
	}
}

// TestWrongBeginning: such a stream is refused before anything is made.
func TestWrongBeginning(t *testing.T) {
	r := newRig(t)
	r.write("file", []byte("text"))
	one := r.snapshot("one")
	r.write("file", []byte("other"))
	two := r.snapshot("two")
	full, step := r.stream(nil, one), r.stream(one, two)
	header := full[:streamHeaderBytes]
	begin := func(commands ...[]byte) []byte { return append(bytes.Clone(header), bytes.Join(commands, nil)...) }
	id := idOf(t, full)
	tests := map[string]struct {
		stream []byte
		to     *pdu.FilesystemVersion
		want   error
	}{
		"hostile path":    {begin(build(cmdSubvol, named("../../../etc"), idAttr(attrUUID, id)), end), one, endpoint.ErrInvalid},
		"another UUID":    {begin(build(cmdSubvol, named("@one"), idAttr(attrUUID, idOther)), end), one, endpoint.ErrInvalid},
		"another version": {full, two, endpoint.ErrInvalid},
		"missing parent":  {step, two, endpoint.ErrFailedPrecondition},
		"damaged":         {flip(full, streamHeaderBytes+20), one, endpoint.ErrInvalid},
		"no beginning":    {begin(end), one, endpoint.ErrInvalid},
		"header only":     {header, one, io.ErrUnexpectedEOF},
		"half a command":  {full[:streamHeaderBytes+20], one, io.ErrUnexpectedEOF},
		"version 3":       {append([]byte("btrfs-stream\x00\x03\x00\x00\x00"), full[streamHeaderBytes:]...), one, endpoint.ErrInvalid},
		"no creation":     {full, &pdu.FilesystemVersion{Name: "one", Guid: one.Guid}, endpoint.ErrInvalid},
	}
	for name, tt := range tests {
		if err := r.receive(tt.to, bytes.NewReader(tt.stream)); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
		if _, err := os.Lstat(r.root); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("%s: it leaves something: %v", name, err)
		}
	}
	r.step(nil, one)
	for name, tt := range map[string][]byte{"again": full, "a full step": r.stream(nil, two)} {
		to := map[string]*pdu.FilesystemVersion{"again": one, "a full step": two}[name]
		if err := r.receive(to, bytes.NewReader(tt)); !errors.Is(err, endpoint.ErrFailedPrecondition) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// idOf is the UUID of the version that a stream is of.
func idOf(t *testing.T, stream []byte) uuid {
	t.Helper()
	b, err := readBeginning(newCommandReader(bytes.NewReader(stream[streamHeaderBytes:]), 1))
	if err != nil {
		t.Fatal(err)
	}
	return b.id
}

// TestHostileStream: streams that no btrfs made, with a right beginning and right checksums.
func TestHostileStream(t *testing.T) {
	r := newRig(t)
	r.write("file", []byte("text"))
	one := r.snapshot("one")
	header, id := r.stream(nil, one)[:streamHeaderBytes], idOf(t, r.stream(nil, one))
	victim := filepath.Join(r.root, "data", "victim")
	r.must(os.MkdirAll(victim, 0o755))
	r.snapshot("secret")
	secret := r.identity(filepath.Join(r.top, "send", metaDir, testFS, "@secret"))
	ino := number(3, 260)
	tests := map[string]struct {
		commands [][]byte
		want     error // nil: it does what it can, in its own place
	}{
		"through a link": {[][]byte{
			build(8, ino, named("x"), value(attrPathLink, victim)), build(3, ino, named("x/planted")),
		}, errAny},
		"through a link upwards": {[][]byte{
			build(8, ino, named("x"), value(attrPathLink, "../../../../victim")), build(3, ino, named("x/planted")),
		}, errAny},
		"beside itself": {[][]byte{
			build(8, ino, named("x"), value(attrPathLink, "..")), build(3, ino, named("x/planted")), build(4, ino, named("x/dir")),
		}, nil},
		"moved away": {[][]byte{
			build(8, ino, named("x"), value(attrPathLink, "..")), build(4, ino, named("x/dir")),
			build(9, named("x/"+incomingName), value(attrPathTo, "x/dir/moved")),
		}, errAny},
		"upwards":           {[][]byte{build(3, named("../planted"))}, endpoint.ErrInvalid},
		"another subvolume": {[][]byte{build(cmdSubvol, named("planted"), idAttr(attrUUID, idOther))}, endpoint.ErrInvalid},
		"another's data": {[][]byte{
			build(3, ino, named("x")), build(cmdClone, number(18, 0), number(24, 4096), named("x"), idAttr(attrCloneUUID, secret),
				number(attrCloneCtransid, 1), value(attrClonePath, "file"), number(23, 0)),
		}, endpoint.ErrInvalid},
		"a device": {[][]byte{build(cmdMknod, ino, named("sda"), number(6, 0o60600), number(attrRdev, 0x800))}, endpoint.ErrFailedPrecondition},
	}
	for name, tt := range tests {
		begin := build(cmdSubvol, named("@one"), idAttr(attrUUID, id), number(attrCtransid, 7))
		stream := slices.Concat(header, begin, bytes.Join(tt.commands, nil), end)
		err := r.receive(one, bytes.NewReader(stream))
		switch {
		case tt.want == nil && err != nil, tt.want == errAny && err == nil, tt.want != errAny && !errors.Is(err, tt.want):
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
		if entries, err := os.ReadDir(victim); len(entries) > 0 || err != nil {
			t.Errorf("%s: %v is outside, %v", name, entries, err)
		}
		r.clean()
		r.forget()
	}
}

// TestHostileCompression: what would have the program write, or read, outside of its memory does not
// get to it. What just lies is its own affair.
func TestHostileCompression(t *testing.T) {
	r := newRig(t)
	if !r.receiver.program.version2() {
		t.Skip("the btrfs program does not know version 2")
	}
	r.write("file", []byte("text"))
	one := r.snapshot("one")
	id := idOf(t, r.stream(nil, one))
	begin := build(cmdSubvol, named("@one"), idAttr(attrUUID, id), number(attrCtransid, 7))
	for name, tt := range map[string]struct {
		data []byte
		want error
	}{
		"a segment that is too long":          {encoded(lzo64K, 1<<10, 0, 1<<10, lzo(60000)), nil},
		"a second segment":                    {encoded(lzo64K, 64<<10, 0, 4<<10, lzo(60000, 60000)), endpoint.ErrInvalid},
		"memory without end":                  {encoded(2, 1<<40, 0, 4<<10, []byte("x")), endpoint.ErrInvalid},
		"more than there is":                  {encoded(lzo4K, 4<<10, 0, 1<<20, lzo(4<<10)), endpoint.ErrInvalid},
		"from behind the end":                 {encoded(lzo4K, 4<<10, 1<<30, 4<<10, lzo(4<<10)), endpoint.ErrInvalid},
		"what the kernel does not take as is": {encoded(lzo4K, 4000, 0, 4000, lzo(4000)), nil},
	} {
		stream := slices.Concat([]byte("btrfs-stream\x00\x02\x00\x00\x00"), begin, build(3, number(3, 260), named("file")), tt.data, end)
		err := r.receive(one, bytes.NewReader(stream))
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
		r.clean()
		r.forget()
	}
}

// errAny: the program fails.
var errAny = errors.New("any error")

// identity is that of a version by its path.
func (r *rig) identity(path string) uuid {
	r.Helper()
	dir, err := os.Open(path)
	r.must(err)
	defer dir.Close()
	v, err := statSubvolume(dir)
	r.must(err)
	return v.identity()
}

// forget destroys all that was received, marks included.
func (r *rig) forget() {
	r.Helper()
	dir, err := openRoot(r.root)
	r.must(err)
	defer dir.Close()
	f, err := dir.openFilesystem(testFS, false)
	r.must(err)
	defer f.Close()
	versions, err := f.versions(testLog(r.T))
	r.must(err)
	r.must(f.updateState(func(s *state) error {
		*s = state{}
		return nil
	}))
	for _, v := range versions {
		r.must(f.destroy(v.name, 0))
	}
}

// TestBrokenIncremental: what a step starts from stays as it is, whatever becomes of the step;
// and it may go while it is used.
func TestBrokenIncremental(t *testing.T) {
	r := newRig(t)
	r.zoo()
	one := r.snapshot("one")
	r.step(nil, one)
	r.change()
	two := r.snapshot("two")
	whole := r.stream(one, two)
	broken := errors.New("broken")
	for _, n := range []int{0, streamHeaderBytes, 200, len(whole) / 2, len(whole) - 10, len(whole)} {
		err := r.receive(two, io.MultiReader(bytes.NewReader(whole[:n]), errReader{broken}))
		if !errors.Is(err, broken) {
			t.Fatalf("after %d bytes: %v", n, err)
		}
		r.clean()
		r.check("one")
	}
	destroyed := onRead(r.forget)
	r.must(r.receive(two, io.MultiReader(bytes.NewReader(whole[:len(whole)/2]), destroyed, bytes.NewReader(whole[len(whole)/2:]))))
	r.check("two")
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

// TestDiskFull: that is told, leaves nothing behind, and what fits goes on.
func TestDiskFull(t *testing.T) {
	r := newRig(t)
	r.root = filepath.Join(r.mountSmall(), "root")
	r.receiver = r.newReceiver(ReceiverOptions{})
	r.write("small", random(1, 1<<20))
	one := r.snapshot("one")
	r.step(nil, one)
	r.write("large", random(2, 200<<20))
	two := r.snapshot("two")
	err := r.receive(two, bytes.NewReader(r.stream(one, two)))
	if !errors.Is(err, endpoint.ErrNoSpace) {
		t.Errorf("Receive: %v", err)
	}
	r.clean()
	r.command("btrfs", "subvolume", "sync", r.root) // waits until the kernel has freed what came
	r.must(os.Remove(filepath.Join(r.source, "large")))
	r.write("small", random(3, 1<<20))
	three := r.snapshot("three")
	r.step(one, three)
	r.check("three")
}

// mountSmall mounts a file system of its own.
func (r *rig) mountSmall() string {
	r.Helper()
	image, mount := filepath.Join(r.top, "image"), filepath.Join(r.top, "small")
	r.must(os.WriteFile(image, nil, 0o600))
	r.must(os.Truncate(image, 128<<20))
	r.must(os.Mkdir(mount, 0o755))
	r.command("mkfs.btrfs", "--quiet", "--mixed", image)
	r.command("mount", "-o", "loop", image, mount)
	r.Cleanup(func() { r.command("umount", mount) })
	return mount
}

func (r *rig) command(name string, args ...string) {
	r.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		r.Errorf("%s %v: %v: %s", name, args, err, out)
	}
}

func TestNewReceiverRefuses(t *testing.T) {
	for _, opts := range []ReceiverOptions{{Job: "sink"}, {Root: "/x"}, {Root: "/x", Job: "a/b"}} {
		if _, err := NewReceiver(opts); !errors.Is(err, endpoint.ErrInvalid) {
			t.Errorf("NewReceiver(%+v): %v", opts, err)
		}
	}
}
