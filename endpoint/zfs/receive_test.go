package zfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/endpoint/endpointtest"
	"github.com/dualrepl/dualrepl/pdu"
)

// realReceiver is a receiver on a real pool and a filesystem whose streams it gets.
type realReceiver struct {
	*Receiver
	t    *testing.T
	root string // the receiver's RootFS
	from string // the sender's filesystem
}

// newRealReceiver makes a receiver below base, which has the sender's filesystem, too.
func newRealReceiver(t *testing.T, base string, change func(*ReceiverOptions)) *realReceiver {
	t.Helper()
	r := &realReceiver{t: t, root: base + "/backup", from: base + "/data"}
	zfs(t, "create", r.root)
	zfs(t, "create", r.from)
	opts := ReceiverOptions{Job: "test", RootFS: r.root}
	if change != nil {
		change(&opts)
	}
	var err error
	if r.Receiver, err = NewReceiver(opts); err != nil {
		t.Fatal(err)
	}
	return r
}

// snapshot changes the sender's filesystem and makes a snapshot of it.
func (r *realReceiver) snapshot(name string) *pdu.FilesystemVersion {
	r.t.Helper()
	fill(r.t, r.from, name, 1<<20)
	zfs(r.t, "snapshot", r.from+"@"+name)
	return r.version(r.from, name)
}

func (r *realReceiver) version(fs, name string) *pdu.FilesystemVersion {
	r.t.Helper()
	guid, err := strconv.ParseUint(property(r.t, fs+"@"+name, "guid"), 10, 64)
	if err != nil {
		r.t.Fatal(err)
	}
	return &pdu.FilesystemVersion{Name: name, Guid: guid}
}

// stream is what zfs sends.
func (r *realReceiver) stream(args ...string) []byte {
	r.t.Helper()
	out, err := exec.Command("zfs", append([]string{"send"}, args...)...).Output()
	if err != nil {
		r.t.Fatalf("zfs send %v: %v", args, err)
	}
	return out
}

// receive receives a stream of the version, into a filesystem of the receiver's.
func (r *realReceiver) receive(fs string, to *pdu.FilesystemVersion, stream io.Reader) error {
	return r.receiveWith(fs, to, stream, true, pdu.ReplicationGuaranteeKind_GuaranteeResumability)
}

func (r *realReceiver) resume(fs string, to *pdu.FilesystemVersion, stream io.Reader) error {
	return r.receiveWith(fs, to, stream, false, pdu.ReplicationGuaranteeKind_GuaranteeResumability)
}

func (r *realReceiver) receiveWith(fs string, to *pdu.FilesystemVersion, stream io.Reader, clear bool, kind pdu.ReplicationGuaranteeKind) error {
	_, err := r.Receive(r.t.Context(), &pdu.ReceiveReq{
		Filesystem: fs, To: to, ClearResumeToken: clear, ReplicationConfig: protection(kind, kind),
	}, stream)
	return err
}

func protection(initial, incremental pdu.ReplicationGuaranteeKind) *pdu.ReplicationConfig {
	return &pdu.ReplicationConfig{Protection: &pdu.ReplicationConfigProtection{Initial: initial, Incremental: incremental}}
}

// mustReceive receives what zfs sends with args.
func (r *realReceiver) mustReceive(fs string, to *pdu.FilesystemVersion, args ...string) {
	r.t.Helper()
	if err := r.receive(fs, to, bytes.NewReader(r.stream(args...))); err != nil {
		r.t.Fatal(err)
	}
}

var errLine = errors.New("the line is down")

// breakStep receives half of the full step to a version.
func (r *realReceiver) breakStep(fs string, to *pdu.FilesystemVersion) {
	r.t.Helper()
	whole := r.stream(r.from + "@" + to.Name)
	half := io.MultiReader(bytes.NewReader(whole[:len(whole)/2]), failing{errLine})
	if err := r.receive(fs, to, half); !errors.Is(err, errLine) {
		r.t.Fatalf("a broken stream: %v", err)
	}
	if r.token(fs) == "" {
		r.t.Fatal("a broken step leaves no resume token behind")
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// list returns what the receiver lists, by path.
func (r *realReceiver) list() map[string]*pdu.Filesystem {
	r.t.Helper()
	res, err := r.ListFilesystems(r.t.Context(), &pdu.ListFilesystemReq{})
	if err != nil {
		r.t.Fatal(err)
	}
	list := map[string]*pdu.Filesystem{}
	for _, fs := range res.Filesystems {
		list[fs.Path] = fs
	}
	return list
}

func (r *realReceiver) token(fs string) string { return r.list()[fs].GetResumeToken() }

// snapshots are the names of those that are in a dataset.
func snapshots(t *testing.T, dataset string) []string {
	t.Helper()
	return strings.Fields(strings.ReplaceAll(zfs(t, "list", "-H", "-d", "1", "-t", "snapshot", "-o", "name", dataset), dataset+"@", ""))
}

// wantHeld fails the test unless the job holds just these snapshots of what was received.
func (r *realReceiver) wantHeld(fs string, names ...string) {
	r.t.Helper()
	var held []string
	for _, name := range snapshots(r.t, r.root+"/"+fs) {
		for line := range fields([]byte(zfs(r.t, "holds", "-H", r.root+"/"+fs+"@"+name)), 3) {
			if line[1] != "zrepl_last_received_J_test" {
				r.t.Errorf("%s has a hold %s", line[0], line[1])
			}
			held = append(held, name)
		}
	}
	if !slices.Equal(held, names) {
		r.t.Errorf("%s: %v are held, want %v", fs, held, names)
	}
}

func TestReceiverConformance(t *testing.T) {
	needZFS(t)
	endpointtest.TestReceiver(t, func(t *testing.T) (endpointtest.Sender, endpointtest.Receiver) {
		r := newRealReceiver(t, pool(t), nil)
		s, err := NewSender(SenderOptions{Job: "test", Filter: func(name string) bool { return name == r.from }})
		if err != nil {
			t.Fatal(err)
		}
		return endpointtest.Sender{
			Sender: s, Filesystem: r.from, Snapshot: func(_ *testing.T, name string) { r.snapshot(name) },
		}, endpointtest.Receiver{Receiver: r.Receiver}
	})
}

func TestLastReceivedHold(t *testing.T) {
	const (
		resumability = pdu.ReplicationGuaranteeKind_GuaranteeResumability
		incremental  = pdu.ReplicationGuaranteeKind_GuaranteeIncrementalReplication
		nothing      = pdu.ReplicationGuaranteeKind_GuaranteeNothing
	)
	r := newRealReceiver(t, pool(t), nil)
	r.snapshot("0")
	for i, step := range []struct {
		kind pdu.ReplicationGuaranteeKind
		held []string
	}{{resumability, []string{"1"}}, {incremental, []string{"2"}}, {nothing, nil}, {nothing, nil}, {resumability, []string{"5"}}} {
		to := r.snapshot(strconv.Itoa(i + 1))
		args := []string{"-i", "@" + strconv.Itoa(i), r.from + "@" + to.Name}
		if i == 0 {
			args = args[2:]
		}
		if err := r.receiveWith("f", to, bytes.NewReader(r.stream(args...)), true, step.kind); err != nil {
			t.Fatal(err)
		}
		r.wantHeld("f", step.held...)
	}
	if r.list()["f"].IsPlaceholder || zfs(t, "get", "-H", "-o", "value", "mounted", r.root+"/f") != "no" {
		t.Error("what was received is a placeholder, or mounted")
	}
}

// killable is a program that notes the process ID of each receive.
func killable(t *testing.T) (path, pidFile string) {
	dir := t.TempDir()
	path, pidFile = filepath.Join(dir, "zfs"), filepath.Join(dir, "pid")
	script := fmt.Sprintf("#!/bin/sh\n[ \"$1\" = receive ] && echo $$ > %s\nexec %s \"$@\"\n", pidFile, findProgram())
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return path, pidFile
}

// killer is a stream that kills its reader in the middle.
type killer struct {
	io.Reader
	kill func()
}

func (k *killer) Read(p []byte) (int, error) {
	k.kill()
	return k.Reader.Read(p)
}

func TestResumeAfterKill(t *testing.T) {
	program, pidFile := killable(t)
	r := newRealReceiver(t, pool(t), func(o *ReceiverOptions) { o.Program = program })
	kill := func() {
		data, err := os.ReadFile(pidFile)
		pid, atoiErr := strconv.Atoi(strings.TrimSpace(string(data)))
		if err := errors.Join(err, atoiErr); err != nil {
			t.Fatal(err)
		}
		syscall.Kill(pid, syscall.SIGKILL)
	}
	for i := range 4 {
		r.snapshot("a" + strconv.Itoa(i)) // more than a pipe holds
	}
	to := r.snapshot("one")
	zfs(t, "create", "-o", "zrepl:placeholder=on", "-o", "mountpoint=none", r.root+"/place")
	for _, fs := range []string{"new", "place"} {
		whole := r.stream(r.from + "@one")
		cut := len(whole) * 2 / 3
		stream := io.MultiReader(bytes.NewReader(whole[:cut]), &killer{bytes.NewReader(whole[cut:]), kill})
		err := r.receive(fs, to, stream)
		if err == nil || !strings.Contains(err.Error(), "killed") {
			t.Fatalf("%s: %v", fs, err)
		}
		token := r.token(fs)
		step, err := r.ReadResumeToken(t.Context(), token)
		if err != nil || step != (endpoint.ResumeStep{ToGUID: to.Guid}) {
			t.Fatalf("%s: resume token %q is of %v, %v", fs, token, step, err)
		}
		rest := r.stream("-t", token)
		if len(rest) >= len(whole) {
			t.Errorf("%s: %d bytes are sent again of %d", fs, len(rest), len(whole))
		}
		if err := r.resume(fs, to, bytes.NewReader(rest)); err != nil {
			t.Fatalf("%s: %v", fs, err)
		}
		r.wantHeld(fs, "one")
		if got := r.list()[fs]; got.IsPlaceholder || got.ResumeToken != "" {
			t.Errorf("%s: after the resumed step it is %v", fs, got)
		}
	}
}

func TestStalePartialState(t *testing.T) {
	r := newRealReceiver(t, pool(t), nil)
	one := r.snapshot("one")
	zfs(t, "create", "-o", "zrepl:placeholder=on", "-o", "mountpoint=none", r.root+"/place")
	rests := map[string][]byte{}
	for _, fs := range []string{"new", "place"} {
		r.breakStep(fs, one)
		rests[fs] = r.stream("-t", r.token(fs))
	}
	zfs(t, "destroy", r.from+"@one")
	two := r.snapshot("two")
	for fs, rest := range rests {
		if err := r.receiveWith(fs, two, bytes.NewReader(r.stream(r.from+"@two")), false, pdu.ReplicationGuaranteeKind_GuaranteeNothing); !errors.Is(err, endpoint.ErrFailedPrecondition) {
			t.Errorf("%s: a full step beside the beginning of another: %v", fs, err)
		}
		r.mustReceive(fs, two, r.from+"@two")
		if token := r.token(fs); token != "" {
			t.Errorf("%s: resume token %q is left", fs, token)
		}
		if err := r.resume(fs, one, bytes.NewReader(rest)); !errors.Is(err, endpoint.ErrStaleToken) {
			t.Errorf("%s: the rest of the dropped step: %v", fs, err)
		}
	}
}

func TestResumedStreamOfAnotherPlace(t *testing.T) {
	r := newRealReceiver(t, pool(t), nil)
	one := r.snapshot("one")
	r.breakStep("f", one)
	early := r.stream("-t", r.token("f"))
	cut := io.MultiReader(bytes.NewReader(early[:len(early)*2/3]), failing{errLine})
	if err := r.resume("f", one, cut); !errors.Is(err, errLine) {
		t.Fatal(err)
	}
	if err := r.resume("f", one, bytes.NewReader(early)); !errors.Is(err, endpoint.ErrStaleToken) {
		t.Errorf("a stream that goes on where an older token says: %v", err)
	}
	if err := r.resume("f", one, bytes.NewReader(r.stream("-t", r.token("f")))); err != nil {
		t.Error(err)
	}
}

func TestDiverged(t *testing.T) {
	r := newRealReceiver(t, pool(t), nil)
	r.mustReceive("f", r.snapshot("one"), r.from+"@one")
	two, three := r.snapshot("two"), r.snapshot("three")
	if err := r.receive("f", three, bytes.NewReader(r.stream("-i", "@two", r.from+"@three"))); !errors.Is(err, endpoint.ErrFailedPrecondition) {
		t.Errorf("an incremental step from what is not there: %v", err)
	}
	if err := r.receive("f", three, bytes.NewReader(r.stream(r.from+"@three"))); !errors.Is(err, endpoint.ErrFailedPrecondition) {
		t.Errorf("a full step onto what is there: %v", err)
	}
	zfs(t, "mount", r.root+"/f")
	fill(t, r.root+"/f", "own", 1000)
	zfs(t, "snapshot", r.root+"/f@own")
	incremental := r.stream("-i", "@one", r.from+"@two")
	err := r.receive("f", two, bytes.NewReader(incremental))
	if !errors.Is(err, endpoint.ErrFailedPrecondition) {
		t.Errorf("an incremental step onto what was changed: %v", err)
	}
	if got := snapshots(t, r.root+"/f"); !slices.Equal(got, []string{"one", "own"}) {
		t.Errorf("refused steps leave %v", got)
	}
	zfs(t, "rollback", "-r", r.root+"/f@one")
	if err := r.receive("f", two, bytes.NewReader(incremental)); err != nil {
		t.Errorf("a mounted filesystem that was rolled back: %v", err)
	}
	r.wantHeld("f", "two")
}

func TestPoolFull(t *testing.T) {
	small := ownPool(t, 64<<20)
	r := newRealReceiver(t, pool(t), func(o *ReceiverOptions) { o.RootFS = small })
	r.root = small
	fill(t, r.from, "large", 64<<20)
	to := r.snapshot("one")
	err := r.receive("f", to, bytes.NewReader(r.stream(r.from+"@one")))
	if !errors.Is(err, endpoint.ErrNoSpace) {
		t.Errorf("a full pool: %v", err)
	}
	token := r.token("f")
	if token == "" {
		t.Fatal("what filled the pool has no resume token")
	}
	if err := r.resume("f", to, bytes.NewReader(r.stream("-t", token))); !errors.Is(err, endpoint.ErrNoSpace) {
		t.Errorf("resumed on a full pool: %v", err)
	}
	if err := os.Remove(filepath.Join(property(t, r.from, "mountpoint"), "large")); err != nil {
		t.Fatal(err)
	}
	r.mustReceive("f", r.snapshot("two"), r.from+"@two")
	r.wantHeld("f", "two")
}

func TestReceiveProperties(t *testing.T) {
	base := pool(t)
	r := newRealReceiver(t, base, func(o *ReceiverOptions) {
		o.Inherit = []string{"compression"}
		o.Override = map[string]string{"readonly": "on", "mountpoint": "/nowhere"}
	})
	zfs(t, "set", "compression=gzip-9", "com.example:mine=yes", r.from)
	zfs(t, "create", "-V", "1M", base+"/volume")
	zfs(t, "snapshot", base+"/volume@one")
	r.mustReceive("f", r.snapshot("one"), "-p", r.from+"@one")
	r.mustReceive("v", r.version(base+"/volume", "one"), "-p", base+"/volume@one")
	want := map[string]string{
		"f com.example:mine": "yes", "f readonly": "on", "f mountpoint": "/nowhere", "f canmount": "noauto", "f compression": "off",
		"v readonly": "on", "v type": "volume",
	}
	for what, value := range want {
		fs, name, _ := strings.Cut(what, " ")
		if got := property(t, r.root+"/"+fs, name); got != value {
			t.Errorf("%s is %s, want %s", what, got, value)
		}
	}
}

func TestMountpointOfResumedStream(t *testing.T) {
	r := newRealReceiver(t, pool(t), nil)
	to := r.snapshot("one")
	zfs(t, "set", "mountpoint="+property(t, r.from, "mountpoint"), r.from) // now it has one of its own to send
	for fs, flag := range map[string]string{"with": "-p", "without": "-L"} {
		whole := r.stream(flag, r.from+"@one")
		if err := r.receive(fs, to, bytes.NewReader(whole[:len(whole)/2])); err == nil {
			t.Fatal("half a stream is a version")
		}
		if err := r.resume(fs, to, bytes.NewReader(r.stream("-t", r.token(fs)))); err != nil {
			t.Fatal(err)
		}
	}
	if with, without := property(t, r.root+"/with", "canmount"), property(t, r.root+"/without", "canmount"); with != "noauto" || without != "on" {
		t.Errorf("canmount is %s where the sender's mountpoint came, %s where not", with, without)
	}
}

func TestPackagesAreRefused(t *testing.T) {
	r := newRealReceiver(t, pool(t), nil)
	zfs(t, "create", r.from+"/child")
	zfs(t, "snapshot", "-r", r.from+"@one")
	if err := r.receive("f", r.version(r.from, "one"), bytes.NewReader(r.stream("-R", r.from+"@one"))); err == nil {
		t.Error("a stream of several filesystems is received")
	}
	if list := r.list(); len(list) != 0 {
		t.Errorf("it made %v", slices.Collect(maps.Keys(list)))
	}
}

func TestCloneStreamIsRefused(t *testing.T) {
	r := newRealReceiver(t, pool(t), nil)
	r.snapshot("one")
	zfs(t, "clone", r.from+"@one", r.from+"/clone")
	zfs(t, "snapshot", r.from+"/clone@two")
	stream := r.stream("-i", r.from+"@one", r.from+"/clone@two")
	if err := r.receive("f", r.version(r.from+"/clone", "two"), bytes.NewReader(stream)); !errors.Is(err, endpoint.ErrFailedPrecondition) {
		t.Errorf("a clone of another client's snapshot: %v", err)
	}
	if list := r.list(); len(list) != 0 {
		t.Errorf("it made %v", slices.Collect(maps.Keys(list)))
	}
}

// unending is a stream without end or error.
type unending struct{}

func (unending) Read(p []byte) (int, error) { return len(p), nil }

func TestReceiveProcess(t *testing.T) {
	drained, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	enough := errors.New("enough")
	tests := []struct {
		name   string
		script string
		ctx    context.Context
		stream io.Reader
		want   error
	}{
		{"whole", "cat > /dev/null", t.Context(), strings.NewReader("data"), nil},
		{"broken stream", "cat > /dev/null; echo 'checksum mismatch or incomplete stream' >&2; exit 1", t.Context(), failing{errLine}, errLine},
		{"program ends early", "echo 'out of space' >&2; exit 1", t.Context(), unending{}, endpoint.ErrNoSpace},
		{"stream goes on", "exit 0", t.Context(), unending{}, endpoint.ErrInvalid},
		{"context ends", "exec cat > /dev/null", drained, &killer{unending{}, func() { cancel(enough) }}, enough},
		{"busy", "cat > /dev/null; echo 'cannot receive: dataset is busy' >&2; exit 1", t.Context(), strings.NewReader(""), endpoint.ErrBusy},
	}
	for _, tt := range tests {
		err := fake(t, tt.script).receive(tt.ctx, []string{"receive", "f@v"}, []byte("head"), tt.stream)
		if err := receiveError(err, &streamHead{}); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
	if err := newProgram("/does/not/exist", nil).receive(t.Context(), nil, nil, strings.NewReader("")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no program: %v", err)
	}
}

// TestReceiveProcessStays has a process whose end of the pipe stays open, as that of one
// that the kernel does not let die: what is written to it when the context ends is given up.
func TestReceiveProcessStays(t *testing.T) {
	started := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(started, 0o600); err != nil {
		t.Fatal(err)
	}
	p := fake(t, "exec 3<&0; sleep 600 <&3 2>&- & echo $! > "+started+"; wait")
	ctx, cancel := context.WithCancelCause(t.Context())
	end := sync.OnceFunc(func() {
		pid, err := os.ReadFile(started)
		if err != nil {
			t.Error(err)
		}
		t.Cleanup(func() { exec.Command("kill", strings.TrimSpace(string(pid))).Run() })
		cancel(errLine)
	})
	if err := p.receive(ctx, []string{"receive", "f@v"}, []byte("head"), &killer{unending{}, end}); !errors.Is(err, errLine) {
		t.Errorf("error is %v", err)
	}
}

func TestReceiveArgs(t *testing.T) {
	r := &Receiver{opts: ReceiverOptions{Inherit: []string{"compression"}, Override: map[string]string{"quota": "1G", "readonly": "on"}}}
	decided := &Receiver{opts: ReceiverOptions{Inherit: []string{"canmount"}}}
	full, properties := &streamHead{}, &streamHead{properties: true}
	there, placeholder := &dataset{token: "1-x"}, &dataset{placeholder: true}
	tests := []struct {
		name   string
		r      *Receiver
		target *dataset
		head   *streamHead
		want   string
	}{
		{"full", &Receiver{}, nil, full, "receive -s -u"},
		{"placeholder", &Receiver{}, placeholder, full, "receive -s -u -F -o zrepl:placeholder=off"},
		{"resumed", &Receiver{}, there, &streamHead{resumed: true}, "receive -s -u -F"},
		{"incremental", &Receiver{}, there, &streamHead{fromGUID: 3}, "receive -s -u"},
		{"options", r, nil, full, "receive -s -u -x compression -o quota=1G -o readonly=on"},
		{"options for a volume", r, nil, &streamHead{volume: true}, "receive -s -u -x compression -o readonly=on"},
		{"properties", &Receiver{}, nil, properties, "receive -s -u -o canmount=noauto"},
		{"properties, decided", decided, nil, properties, "receive -s -u -x canmount"},
		{"properties of a volume", &Receiver{}, nil, &streamHead{properties: true, volume: true}, "receive -s -u"},
	}
	for _, tt := range tests {
		if got := strings.Join(tt.r.receiveArgs(tt.target, tt.head), " "); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}
