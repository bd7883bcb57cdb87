package zfs

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
	"github.com/dualrepl/dualrepl/transport"
)

func TestNewReceiver(t *testing.T) {
	override := map[string]string{"readonly": "on"}
	tests := []struct {
		name string
		opts ReceiverOptions
		ok   bool
	}{
		{"least", ReceiverOptions{Job: "j", RootFS: "tank/backup"}, true},
		{"all", ReceiverOptions{Job: "j", RootFS: "tank", Inherit: []string{"compression"}, Override: override, PlaceholderEncryption: PlaceholderOff}, true},
		{"no job", ReceiverOptions{RootFS: "tank"}, false},
		{"no root", ReceiverOptions{Job: "j"}, false},
		{"root is an option", ReceiverOptions{Job: "j", RootFS: "-r"}, false},
		{"root is a snapshot", ReceiverOptions{Job: "j", RootFS: "tank@one"}, false},
		{"twice", ReceiverOptions{Job: "j", RootFS: "tank", Inherit: []string{"readonly"}, Override: override}, false},
		{"placeholders set", ReceiverOptions{Job: "j", RootFS: "tank", Override: map[string]string{"zrepl:placeholder": "on"}}, false},
		{"placeholders inherited", ReceiverOptions{Job: "j", RootFS: "tank", Inherit: []string{"zrepl:placeholder"}}, false},
		{"encryption", ReceiverOptions{Job: "j", RootFS: "tank", PlaceholderEncryption: "on"}, false},
	}
	for _, tt := range tests {
		_, err := NewReceiver(tt.opts)
		if ok := err == nil; ok != tt.ok || !ok && !errors.Is(err, endpoint.ErrInvalid) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestTarget(t *testing.T) {
	client := func(id string) context.Context { return transport.ContextWithClientIdentity(t.Context(), id) }
	long := strings.Repeat("x", endpoint.MaxNameLength-len("tank/h/"))
	tests := []struct {
		ctx       context.Context
		perClient bool
		path      string
		want      string // "": an error
	}{
		{t.Context(), false, "a/b", "tank/a/b"},
		{client("h"), true, "a/b", "tank/h/a/b"},
		{client("h"), false, "a", "tank/a"},
		{client("h"), true, long, "tank/h/" + long},
		{client("h"), true, long + "x", ""},
		{t.Context(), true, "a", ""},
		{client("h/../i"), true, "a", ""},
		{client("hé"), true, "a", ""},
		{client("h"), true, "../i/a", ""},
		{client("h"), true, "", ""},
	}
	for _, tt := range tests {
		r := &Receiver{opts: ReceiverOptions{RootFS: "tank", PerClient: tt.perClient}}
		got, err := r.target(tt.ctx, tt.path)
		if err != nil {
			got = ""
		}
		refused := errors.Is(err, endpoint.ErrInvalid) || errors.Is(err, endpoint.ErrPermission)
		if got != tt.want || refused != (tt.want == "") {
			t.Errorf("%q: %q, %v, want %q", tt.path, got, err, tt.want)
		}
	}
}

func TestCheckReceive(t *testing.T) {
	r := &Receiver{opts: ReceiverOptions{RootFS: "tank"}}
	const kind = pdu.ReplicationGuaranteeKind_GuaranteeNothing
	to := &pdu.FilesystemVersion{Name: "one", Guid: 5}
	tests := []struct {
		name string
		req  *pdu.ReceiveReq
		ok   bool
	}{
		{"whole", &pdu.ReceiveReq{Filesystem: "f", To: to, ReplicationConfig: protection(kind, kind)}, true},
		{"empty", &pdu.ReceiveReq{}, false},
		{"no To", &pdu.ReceiveReq{Filesystem: "f", ReplicationConfig: protection(kind, kind)}, false},
		{"no guarantee", &pdu.ReceiveReq{Filesystem: "f", To: to}, false},
		{"no initial guarantee", &pdu.ReceiveReq{Filesystem: "f", To: to, ReplicationConfig: protection(0, kind)}, false},
		{"unknown guarantee", &pdu.ReceiveReq{Filesystem: "f", To: to, ReplicationConfig: protection(kind, 4)}, false},
		{"too long together", &pdu.ReceiveReq{
			Filesystem: strings.Repeat("f", 200), To: &pdu.FilesystemVersion{Name: strings.Repeat("v", 200), Guid: 5}, ReplicationConfig: protection(kind, kind),
		}, false},
	}
	for _, tt := range tests {
		if _, err := r.checkReceive(t.Context(), tt.req); (err == nil) != tt.ok || err != nil && !errors.Is(err, endpoint.ErrInvalid) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestLockTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &Receiver{}
		unlock, err := r.lockTarget(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		if unlock, err := r.lockTarget(t.Context(), "b"); err != nil {
			t.Errorf("another dataset: %v", err)
		} else {
			unlock()
		}
		begin := time.Now()
		if _, err := r.lockTarget(t.Context(), "a"); !errors.Is(err, endpoint.ErrBusy) || time.Since(begin) != busyWait {
			t.Errorf("the second, after %v: %v", time.Since(begin), err)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := r.lockTarget(ended, "a"); !errors.Is(err, context.Canceled) {
			t.Errorf("ended: %v", err)
		}
		time.AfterFunc(time.Second, unlock)
		begin = time.Now()
		if _, err := r.lockTarget(t.Context(), "a"); err != nil || time.Since(begin) != time.Second {
			t.Errorf("one that waits, after %v: %v", time.Since(begin), err)
		}
	})
}

// fakePool is a zfs in a script: get answers as told by dataset, the other commands do what
// the script does. It notes all commands but get.
func fakePool(t *testing.T, script string, answers map[string]string) (r *Receiver, commands func() []string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range answers {
		if err := os.WriteFile(filepath.Join(dir, strings.ReplaceAll(name, "/", "_")), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r, err := NewReceiver(ReceiverOptions{Job: "test", RootFS: "tank", PlaceholderEncryption: PlaceholderOff})
	if err != nil {
		t.Fatal(err)
	}
	r.program = fake(t, `
cd `+dir+`; [ "$1" = get ] || echo "$*" >> log
last() { while [ $# -gt 1 ]; do shift; done; echo "$1" | tr / _; }
case $1 in
get) cat "$(last "$@")" 2>/dev/null || { echo "cannot open: dataset does not exist" >&2; exit 1; };;
receive) [ "$2" = -A ] || cat > /dev/null;;
esac
`+script)
	return r, func() []string {
		log, _ := os.ReadFile(filepath.Join(dir, "log")) // none: no commands
		return strings.FieldsFunc(string(log), func(c rune) bool { return c == '\n' })
	}
}

// existing is what zfs get says of a dataset.
func existing(name, placeholder, token string) string {
	return name + "\treceive_resume_token\t-\t" + token + "\n" + name + "\tencryption\tdefault\toff\n" +
		name + "\tzrepl:placeholder\tlocal\t" + placeholder + "\n"
}

func receiveFake(t *testing.T, r *Receiver, fs string, clear bool, head testRecord) error {
	const kind = pdu.ReplicationGuaranteeKind_GuaranteeResumability
	_, err := r.Receive(t.Context(), &pdu.ReceiveReq{
		Filesystem: fs, To: &pdu.FilesystemVersion{Name: "one", Guid: 5}, ClearResumeToken: clear, ReplicationConfig: protection(kind, kind),
	}, bytes.NewReader(head.bytes(binary.LittleEndian)))
	return err
}

const listed = `[ "$1" != list ] || printf 'tank/a/f@one\t5\t10\t1700000000\t0\n'`

func TestReceiveCommands(t *testing.T) {
	const (
		list = "list -H -p -t snapshot,bookmark -d 1 -o name,guid,createtxg,creation,userrefs tank/a/f"
		hold = "hold zrepl_last_received_J_test tank/a/f@one"
		make = "create -u -o zrepl:placeholder=on -o mountpoint=none -o encryption=off "
	)
	tests := []struct {
		name  string
		pool  map[string]string
		clear bool
		head  testRecord
		want  []string
	}{
		{"full", map[string]string{"tank": existing("tank", "-", "-")}, true, plainBegin(0, 5, 0),
			[]string{make + "tank/a", "receive -s -u tank/a/f@one", list, hold}},
		{"full beside others", map[string]string{"tank/a": existing("tank/a", "on", "-")}, true, plainBegin(0, 5, 0),
			[]string{"receive -s -u tank/a/f@one", list, hold}},
		{"incremental", map[string]string{"tank/a/f": existing("tank/a/f", "-", "-")}, true, plainBegin(0, 5, 3),
			[]string{"receive -s -u tank/a/f@one", list, hold}},
		{"incremental instead of a broken one", map[string]string{"tank/a/f": existing("tank/a/f", "-", "1-x")}, true, plainBegin(0, 5, 3),
			[]string{"receive -A tank/a/f", list, "receive -s -u tank/a/f@one", list, hold}},
		{"resumed incremental", map[string]string{"tank/a/f": existing("tank/a/f", "-", "1-x")}, false, plainBegin(featureResuming, 5, 3),
			[]string{"receive -s -u tank/a/f@one", list, hold}},
	}
	for _, tt := range tests {
		r, commands := fakePool(t, listed, tt.pool)
		if err := receiveFake(t, r, "a/f", tt.clear, tt.head); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if got := commands(); !slices.Equal(got, tt.want) {
			t.Errorf("%s: commands\n%s\nwant\n%s", tt.name, strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
		}
	}
}

func TestReceiveChangesNothing(t *testing.T) {
	there := map[string]string{"tank": existing("tank", "-", "-"), "tank/a/f": existing("tank/a/f", "-", "-")}
	broken := map[string]string{"tank/a/f": existing("tank/a/f", "-", "1-x")}
	tests := []struct {
		name  string
		pool  map[string]string
		clear bool
		head  testRecord
		want  error
	}{
		{"another version", there, true, plainBegin(0, 6, 3), endpoint.ErrInvalid},
		{"full onto a filesystem", there, true, plainBegin(0, 5, 0), endpoint.ErrFailedPrecondition},
		{"full onto a placeholder, but another version", map[string]string{"tank/a/f": existing("tank/a/f", "on", "-")}, true, plainBegin(0, 6, 0), endpoint.ErrInvalid},
		{"incremental to nothing, below nothing", map[string]string{"tank": existing("tank", "-", "-")}, true, plainBegin(0, 5, 3), endpoint.ErrFailedPrecondition},
		{"incremental that is none, to a broken one", broken, true, plainBegin(0, 6, 3), endpoint.ErrInvalid},
		{"resumed, nothing broken", there, false, plainBegin(featureResuming, 5, 3), endpoint.ErrStaleToken},
		{"rest of a full step onto versions", broken, false, plainBegin(featureResuming, 5, 0), endpoint.ErrFailedPrecondition},
	}
	for _, tt := range tests {
		r, commands := fakePool(t, listed+"\n"+`[ "$1" = list ] || [ "$1" = get ] || exit 1`, tt.pool)
		if err := receiveFake(t, r, "a/f", tt.clear, tt.head); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
		for _, c := range commands() {
			if !strings.HasPrefix(c, "list ") {
				t.Errorf("%s: runs zfs %s", tt.name, c)
			}
		}
	}
}

func TestReceivedOtherThanSaid(t *testing.T) {
	there := map[string]string{"tank/a/f": existing("tank/a/f", "-", "-")}
	other := strings.Replace(listed, `\t5\t`, `\t6\t`, 1)
	r, commands := fakePool(t, other, there)
	if err := receiveFake(t, r, "a/f", true, plainBegin(0, 5, 3)); !errors.Is(err, endpoint.ErrNotFound) {
		t.Errorf("a version with another GUID: %v", err)
	}
	for _, c := range commands() {
		if strings.HasPrefix(c, "destroy") || strings.HasPrefix(c, "hold") {
			t.Errorf("runs zfs %s", c)
		}
	}
}

func TestReceiverListsWhileBroken(t *testing.T) {
	r, _ := fakePool(t, "", nil)
	r.program = fake(t, "echo 'I/O error' >&2; exit 1")
	_, err := r.ListFilesystems(t.Context(), &pdu.ListFilesystemReq{})
	if err == nil || !strings.Contains(err.Error(), "I/O error") {
		t.Errorf("ListFilesystems: %v", err)
	}
	if err := receiveFake(t, r, "a/f", true, plainBegin(0, 5, 0)); err == nil || !strings.Contains(err.Error(), "I/O error") {
		t.Errorf("Receive: %v", err)
	}
	if _, err := r.Receive(t.Context(), &pdu.ReceiveReq{}, io.MultiReader()); !errors.Is(err, endpoint.ErrInvalid) {
		t.Errorf("an empty request: %v", err)
	}
}
