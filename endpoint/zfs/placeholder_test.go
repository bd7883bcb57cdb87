package zfs

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
	"github.com/dualrepl/dualrepl/transport"
)

func (r *realReceiver) wantPlaceholders(want ...string) {
	r.t.Helper()
	var got []string
	for path, fs := range r.list() {
		if fs.IsPlaceholder {
			got = append(got, path)
		}
	}
	if slices.Sort(got); !slices.Equal(got, want) {
		r.t.Errorf("placeholders are %v, want %v", got, want)
	}
}

func TestNestedFilesystems(t *testing.T) {
	r := newRealReceiver(t, pool(t), nil)
	one := r.snapshot("one")
	stream := r.stream(r.from + "@one")
	var wg sync.WaitGroup
	for _, fs := range []string{"a/b/c", "a/b/d", "a/e"} {
		wg.Go(func() {
			if err := r.receive(fs, one, bytes.NewReader(stream)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	r.wantPlaceholders("a", "a/b")
	for _, name := range []string{"a", "a/b", "a/b/c"} {
		if got := property(t, r.root+"/"+name, "mountpoint"); got != "none" {
			t.Errorf("%s would be mounted at %s", name, got)
		}
	}

	// A placeholder turns real; what was below it stays.
	zfs(t, "snapshot", "-r", r.root+"/a@automatic")
	r.mustReceive("a/b", one, r.from+"@one")
	r.wantPlaceholders("a")
	r.wantHeld("a/b", "one")
	if got := snapshots(t, r.root+"/a/b/c"); !slices.Equal(got, []string{"one", "automatic"}) {
		t.Errorf("the child of what was a placeholder has %v", got)
	}
	two := r.snapshot("two")
	r.mustReceive("a/b", two, "-i", "@one", r.from+"@two")
	r.wantHeld("a/b", "two")
}

func TestPlaceholderSurvivesFailure(t *testing.T) {
	r := newRealReceiver(t, pool(t), nil)
	one := r.snapshot("one")
	r.mustReceive("a/b", one, r.from+"@one")
	whole := r.stream(r.from + "@one")
	if err := r.receive("a", one, bytes.NewReader(whole[:recordSize+100])); err == nil {
		t.Error("the start of a stream is a version")
	}
	r.wantPlaceholders("a")
	r.breakStep("a", one)
	r.breakStep("a", one) // drops the first one's beginning
	if err := r.resume("a", one, bytes.NewReader(r.stream("-t", r.token("a")))); err != nil {
		t.Error(err)
	}
	r.wantPlaceholders()
}

// TestLostPlaceholder is of what a machine that failed leaves behind, or zrepl: the
// beginning of a full step onto a placeholder that is not marked as one any more.
func TestLostPlaceholder(t *testing.T) {
	r := newRealReceiver(t, pool(t), nil)
	one := r.snapshot("one")
	for fs, finish := range map[string]func(fs string) error{
		"resumed": func(fs string) error { return r.resume(fs, one, bytes.NewReader(r.stream("-t", r.token(fs)))) },
		"dropped": func(fs string) error { return r.receive(fs, one, bytes.NewReader(r.stream(r.from+"@one"))) },
	} {
		zfs(t, "create", "-o", "zrepl:placeholder=on", "-o", "mountpoint=none", r.root+"/"+fs)
		r.breakStep(fs, one)
		zfs(t, "set", "zrepl:placeholder=off", r.root+"/"+fs)
		if err := finish(fs); err != nil {
			t.Errorf("%s: %v", fs, err)
		}
		r.wantHeld(fs, "one")
	}
	r.wantPlaceholders()
}

func TestHeldPlaceholder(t *testing.T) {
	r := newRealReceiver(t, pool(t), nil)
	one := r.snapshot("one")
	r.mustReceive("a/b", one, r.from+"@one")
	zfs(t, "snapshot", r.root+"/a@kept")
	zfs(t, "hold", "mine", r.root+"/a@kept")
	if err := r.receive("a", one, bytes.NewReader(r.stream(r.from+"@one"))); !errors.Is(err, endpoint.ErrFailedPrecondition) {
		t.Errorf("a placeholder with a held snapshot: %v", err)
	}
	zfs(t, "release", "mine", r.root+"/a@kept")
	r.mustReceive("a", one, r.from+"@one")
}

// withKey makes an encrypted filesystem and loads its key.
func withKey(t *testing.T, name string) {
	t.Helper()
	zfs(t, "create", "-o", "encryption=on", "-o", "keyformat=hex", "-o", "keylocation=file://"+keyFile(t), name)
}

func TestEncryptedPlaceholders(t *testing.T) {
	base := pool(t)
	r := newRealReceiver(t, base, nil)
	withKey(t, r.root+"/vault")
	r.opts.RootFS += "/vault"
	withKey(t, base+"/secret")
	fill(t, base+"/secret", "data", 1<<20)
	zfs(t, "snapshot", base+"/secret@one")
	raw, rawStream := r.version(base+"/secret", "one"), r.stream("-w", base+"/secret@one")
	one := r.snapshot("one")
	plainStream := r.stream(r.from + "@one")

	err := r.receive("a/plain", one, bytes.NewReader(plainStream))
	if !errors.Is(err, endpoint.ErrFailedPrecondition) || !strings.Contains(err.Error(), "inherit or off") {
		t.Errorf("a placeholder below an encrypted dataset, unspecified: %v", err)
	}
	for _, choice := range []string{PlaceholderInherit, PlaceholderOff} {
		r.opts.PlaceholderEncryption = choice
		for fs, receive := range map[string]func(fs string) error{
			"raw":   func(fs string) error { return r.receive(fs, raw, bytes.NewReader(rawStream)) },
			"plain": func(fs string) error { return r.receive(fs, one, bytes.NewReader(plainStream)) },
		} {
			parent := choice + "-" + fs
			if err := receive(parent + "/" + fs); err != nil {
				t.Errorf("%s below a placeholder: %v", parent, err)
			}
			err := receive(parent) // onto a placeholder with children
			if impossible := fs == "raw" || choice == PlaceholderInherit; impossible != errors.Is(err, endpoint.ErrFailedPrecondition) {
				t.Errorf("%s onto a placeholder with children: %v", parent, err)
			}
			if err == nil {
				continue
			}
			child := r.opts.RootFS + "/" + parent + "/" + fs
			zfs(t, "release", "zrepl_last_received_J_test", child+"@one")
			zfs(t, "destroy", "-r", child)
			if err := receive(parent); err != nil {
				t.Errorf("%s onto a placeholder without children: %v", parent, err)
			}
		}
	}
	r.wantPlaceholders()
}

func TestClientRoots(t *testing.T) {
	r := newRealReceiver(t, pool(t), func(o *ReceiverOptions) { o.PerClient = true })
	one := r.snapshot("one")
	stream := r.stream(r.from + "@one")
	for _, client := range []string{"host-1", "host 2"} {
		ctx := transport.ContextWithClientIdentity(t.Context(), client)
		if res, err := r.ListFilesystems(ctx, &pdu.ListFilesystemReq{}); err != nil || len(res.Filesystems) != 0 {
			t.Errorf("%s begins with %v, %v", client, res, err)
		}
		kind := pdu.ReplicationGuaranteeKind_GuaranteeResumability
		_, err := r.Receive(ctx, &pdu.ReceiveReq{
			Filesystem: "f", To: one, ClearResumeToken: true, ReplicationConfig: protection(kind, kind),
		}, bytes.NewReader(stream))
		if err != nil {
			t.Fatalf("%s: %v", client, err)
		}
		if res, err := r.ListFilesystems(ctx, &pdu.ListFilesystemReq{}); err != nil || len(res.Filesystems) != 1 || res.Filesystems[0].Path != "f" {
			t.Errorf("%s has %v, %v", client, res, err)
		}
		if got := property(t, r.root+"/"+client, "zrepl:placeholder"); got != "on" {
			t.Errorf("the root of %s is a placeholder: %s", client, got)
		}
	}
	r.opts.RootFS += "/never/was"
	_, err := r.ListFilesystems(transport.ContextWithClientIdentity(t.Context(), "host-1"), &pdu.ListFilesystemReq{})
	if !errors.Is(err, endpoint.ErrNotFound) || !strings.Contains(err.Error(), "root_fs does not exist") {
		t.Errorf("without root_fs: %v", err)
	}
	r.opts.PerClient = false
	if err := r.receive("a/f", one, bytes.NewReader(stream)); !errors.Is(err, endpoint.ErrNotFound) {
		t.Errorf("a receive without root_fs: %v", err)
	}
}

func keyFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte(strings.Repeat("0123456789abcdef", 4)), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestUnprivileged shows that the permissions that docs/zfs.md names are enough.
func TestUnprivileged(t *testing.T) {
	base := pool(t)
	program := asNobody(t)
	r := newRealReceiver(t, base, func(o *ReceiverOptions) { o.Program = program })
	one := r.snapshot("one")
	if err := r.receive("a/b", one, bytes.NewReader(r.stream(r.from+"@one"))); !errors.Is(err, endpoint.ErrPermission) {
		t.Errorf("without permissions: %v", err)
	}
	zfs(t, "allow", "-u", "nobody", "create,receive,mount,mountpoint,canmount,userprop,hold,release,destroy", r.root)
	zfs(t, "set", "mountpoint="+property(t, r.from, "mountpoint"), r.from)
	r.mustReceive("a/b", one, "-p", r.from+"@one")
	zfs(t, "snapshot", r.root+"/a@automatic")
	r.breakStep("a", one)
	r.mustReceive("a", one, r.from+"@one")
	r.mustReceive("a/b", r.snapshot("two"), "-p", "-i", "@one", r.from+"@two")
	r.wantHeld("a/b", "two")
	r.wantPlaceholders()
}
