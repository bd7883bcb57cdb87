package dir

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/endpoint/endpointtest"
	"github.com/dualrepl/dualrepl/pdu"
	"github.com/dualrepl/dualrepl/transport"
)

func TestSenderConforms(t *testing.T) {
	endpointtest.TestSender(t, func(t *testing.T) endpointtest.Sender {
		r := newRig(t)
		n := 0
		return endpointtest.Sender{Sender: r.sender, Filesystem: testFS, Snapshot: func(t *testing.T, name string) {
			n++
			r.write("file", fmt.Append(nil, "content ", n))
			r.snapshot(name)
		}}
	})
}

func TestNewSenderRefuses(t *testing.T) {
	for name, opts := range map[string]SenderOptions{
		"no store":      {Job: "j"},
		"no job":        {Store: "/s"},
		"relative path": {Store: "/s", Job: "j", Directories: map[string]string{"a": "b"}},
		"name":          {Store: "/s", Job: "j", Directories: map[string]string{"../a": "/b"}},
	} {
		if _, err := NewSender(opts); !errors.Is(err, endpoint.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSenderListsPlaceholders(t *testing.T) {
	dirs := map[string]string{"a/b/c": "/x", "a/b": "/y", "d": "/z", "secret/e": "/z"}
	s, err := NewSender(SenderOptions{Store: t.TempDir(), Job: "j", Directories: dirs,
		Filter: func(fs string) bool { return !strings.HasPrefix(fs, "secret") }})
	if err != nil {
		t.Fatal(err)
	}
	res, err := s.ListFilesystems(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range res.Filesystems {
		got = append(got, fmt.Sprint(f.Path, " ", f.IsPlaceholder))
	}
	expect(t, "filesystems", got, []string{"a true", "a/b false", "a/b/c false", "d false"})
	// It was a filesystem once.
	old, err := openFilesystem(s.opts.Store, "a", true)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	makeVersion(t, old, "old", 1, 1)
	versions, err := s.ListFilesystemVersions(t.Context(), &pdu.ListFilesystemVersionsReq{Filesystem: "a"})
	if err != nil || len(versions.Versions) > 0 {
		t.Errorf("versions of a placeholder: %v, %v", versions, err)
	}
	if _, err := s.ListFilesystemVersions(t.Context(), &pdu.ListFilesystemVersionsReq{Filesystem: "secret/e"}); !errors.Is(err, endpoint.ErrNotFound) {
		t.Errorf("versions of what is filtered out: %v", err)
	}
}

// twoVersions has a change of every kind between its two snapshots.
func twoVersions(t *testing.T) (r *rig, one, two *pdu.FilesystemVersion) {
	r = newRig(t)
	r.zoo()
	one = r.snapshot("one")
	large := random(1, 3<<20)
	r.write("large", append([]byte("inserted"), large...))
	r.write("new", random(9, 100_000))
	r.write("new too", random(8, 100_000))
	r.must(os.Rename(r.path("deep"), r.path("moved")))
	r.must(os.Remove(r.path("empty")))
	return r, one, r.snapshot("two")
}

func TestStreamIsDeterministic(t *testing.T) {
	r, one, two := twoVersions(t)
	for _, from := range []*pdu.FilesystemVersion{nil, one} {
		if !bytes.Equal(r.stream(from, two, ""), r.stream(from, two, "")) {
			t.Error("two streams of one step differ")
		}
	}
	full, incremental := len(r.stream(nil, two, "")), len(r.stream(one, two, ""))
	if full < 3<<20 || incremental > 1<<20 {
		t.Errorf("the full stream has %d bytes, the incremental one %d", full, incremental)
	}
}

// A stream that continues at an offset is the rest of the whole stream.
func TestStreamContinues(t *testing.T) {
	r, one, two := twoVersions(t)
	m := r.manifest("two")
	whole := r.stream(one, two, "")
	body := whole[streamHeaderLen:]
	token := resumeToken{FromGUID: one.Guid, ToGUID: two.Guid, ToDigest: m.Digest}
	for offset := 0; offset <= len(body); offset += max(1, min(997, len(body)-offset)) {
		token.Offset = int64(offset)
		rest := r.stream(one, two, token.encode())
		h, err := parseStreamHeader(rest[:streamHeaderLen])
		if err != nil || h.Offset != token.Offset || h.BodyLength != int64(len(body)) {
			t.Fatalf("header %+v, %v", h, err)
		}
		if got, err := readStream(bytes.NewReader(rest)); err != nil || !bytes.Equal(got, body[offset:]) {
			t.Fatalf("continued at %d: not the rest, %v", offset, err)
		}
		res, err := r.sender.SendDry(t.Context(), &pdu.SendReq{Filesystem: testFS, From: one, To: two, ResumeToken: token.encode()})
		if err != nil || !res.UsedResumeToken || res.ExpectedSize != uint64(len(body)-offset) {
			t.Fatalf("SendDry: %v, %v", res, err)
		}
	}
	for name, spoil := range map[string]func(*resumeToken){
		"another From":       func(t *resumeToken) { t.FromGUID = 0 },
		"another To":         func(t *resumeToken) { t.ToGUID++ },
		"another content":    func(t *resumeToken) { t.ToDigest[0]++ },
		"offset behind body": func(t *resumeToken) { t.Offset = int64(len(body)) + 1 },
	} {
		bad := token
		spoil(&bad)
		if _, err := r.open(one, two, bad.encode()); !errors.Is(err, endpoint.ErrStaleToken) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestStreamReadsAcrossFiles(t *testing.T) {
	r := newRig(t)
	for i := range 100 {
		r.write(fmt.Sprint(i), fmt.Append(nil, i))
	}
	stream, err := r.open(nil, r.snapshot("one"), "")
	r.must(err)
	defer stream.Close()
	buf := make([]byte, 1<<20)
	if n, err := stream.Read(buf); err != nil || n < 2000 {
		t.Errorf("the first read returned %d bytes, %v", n, err)
	}
	if n, err := stream.Read(buf); n != 0 || err != io.EOF {
		t.Errorf("the second one %d bytes, %v", n, err)
	}
}

func TestStreamOfDamagedTree(t *testing.T) {
	for name, damage := range map[string]func(string) error{
		"missing": os.Remove,
		"shorter": func(p string) error { return errors.Join(os.Chmod(p, 0o600), os.Truncate(p, 10)) },
		"a link":  func(p string) error { return errors.Join(os.Remove(p), os.Symlink("/etc/passwd", p)) },
	} {
		r := newRig(t)
		r.write("f", random(1, 1000))
		one := r.snapshot("one")
		r.must(damage(r.stored("one", "f")))
		stream, err := r.open(nil, one, "")
		r.must(err)
		_, err = io.Copy(io.Discard, stream)
		r.checkDamaged(err, "one")
		if t.Failed() {
			t.Fatal(name)
		}
		stream.Close()
	}
}

// checkDamaged checks that an error names the sender's version that is damaged, and the
// way out.
func (r *rig) checkDamaged(err error, version string) {
	r.Helper()
	if !errors.Is(err, endpoint.ErrFailedPrecondition) {
		r.Fatalf("error %v", err)
	}
	for _, want := range []string{
		"version " + version + " of " + testFS + " is damaged in the sender's store", "dualrepl verify push", filepath.Join(r.store, testFS, "@"+version),
	} {
		if !strings.Contains(err.Error(), want) {
			r.Errorf("error %v, without %q", err, want)
		}
	}
}

// A file that was changed in the store is found by the receiver. When that asks for it
// again, the sender finds it, too, and says whose fault it is.
func TestSendChangedFile(t *testing.T) {
	r := newRig(t)
	r.write("a", random(1, 3000))
	r.write("b", random(2, 3000))
	one := r.snapshot("one")
	damage(t, r.stored("one", "b"), func(f *os.File) error { _, err := f.WriteAt([]byte("changed"), 7); return err })
	if err := r.receive(one, bytes.NewReader(r.stream(nil, one, ""))); !errors.Is(err, errContent) {
		t.Fatalf("Receive: %v", err)
	}
	stream, err := r.open(nil, one, r.token())
	r.must(err)
	defer stream.Close()
	_, err = io.Copy(io.Discard, stream)
	r.checkDamaged(err, "one")
}

// A version with a damaged manifest cannot be sent, nor what follows it; without it, the
// replication cursor stands for it.
func TestSendDamagedManifest(t *testing.T) {
	r := newRig(t)
	r.write("a", random(1, 1000))
	one := r.snapshot("one")
	r.step(nil, one)
	_, err := r.sender.SendCompleted(t.Context(), &pdu.SendCompletedReq{OriginalReq: &pdu.SendReq{Filesystem: testFS, To: one}})
	r.must(err)
	two := r.snapshot("two")
	damage(t, filepath.Join(r.store, testFS, "@one", manifestName), func(f *os.File) error { _, err := f.WriteAt([]byte("x"), 100); return err })
	_, err = r.open(nil, one, "")
	r.checkDamaged(err, "one")
	_, err = r.open(one, two, "")
	r.checkDamaged(err, "one")
	_, err = r.sender.SendCompleted(t.Context(), &pdu.SendCompletedReq{OriginalReq: &pdu.SendReq{Filesystem: testFS, To: one}})
	r.checkDamaged(err, "one")
	r.must(os.RemoveAll(filepath.Join(r.store, testFS, "@one")))
	r.step(one, two)
	r.check("two")
}

func TestStreamEndsWithItsContext(t *testing.T) {
	r := newRig(t)
	r.write("f", random(1, 1000))
	ctx, cancel := context.WithCancelCause(t.Context())
	_, stream, err := r.sender.Send(ctx, &pdu.SendReq{Filesystem: testFS, To: r.snapshot("one")})
	r.must(err)
	why := errors.New("why")
	cancel(why)
	if _, err := stream.Read(make([]byte, 1)); !errors.Is(err, why) {
		t.Errorf("error %v", err)
	}
	r.must(stream.Close())
	r.must(stream.Close())
	if _, err := stream.Read(make([]byte, 1)); err == nil {
		t.Error("reading after Close works")
	}
}

// send starts a step with a guarantee and ends it at once.
func (r *rig) begin(kind pdu.ReplicationGuaranteeKind, from, to *pdu.FilesystemVersion) *pdu.SendReq {
	r.Helper()
	req := &pdu.SendReq{Filesystem: testFS, From: from, To: to,
		ReplicationConfig: &pdu.ReplicationConfig{Protection: &pdu.ReplicationConfigProtection{Initial: kind, Incremental: kind}}}
	_, stream, err := r.sender.Send(r.Context(), req)
	r.must(err)
	r.must(stream.Close())
	return req
}

// destroyed destroys one of the sender's snapshots and says whether that worked.
func (r *rig) destroyed(v *pdu.FilesystemVersion) bool {
	r.Helper()
	res, err := r.sender.DestroySnapshots(r.Context(), &pdu.DestroySnapshotsReq{Filesystem: testFS, Snapshots: []*pdu.FilesystemVersion{v}})
	r.must(err)
	return res.Results[0].Error == ""
}

func TestSenderHolds(t *testing.T) {
	const resumable, nothing = pdu.ReplicationGuaranteeKind_GuaranteeResumability, pdu.ReplicationGuaranteeKind_GuaranteeNothing
	r := newRig(t)
	one, two, three := r.snapshot("one"), r.snapshot("two"), r.snapshot("three")
	req := r.begin(resumable, one, two)
	if r.destroyed(one) || r.destroyed(two) {
		t.Error("a snapshot that a step needs was destroyed")
	}
	_, err := r.sender.SendCompleted(t.Context(), &pdu.SendCompletedReq{OriginalReq: req})
	r.must(err)
	if !r.destroyed(one) {
		t.Error("From is held after the step")
	}
	r.begin(resumable, two, three)
	r.begin(nothing, two, three)
	if !r.destroyed(two) || !r.destroyed(three) {
		t.Error("a step without guarantees holds")
	}
}

// What is being sent is not destroyed, guaranteed or not; that is so in all processes,
// since each stream and each destroy opens it anew.
func TestSenderProtectsWhatItSends(t *testing.T) {
	r := newRig(t)
	r.write("f", random(1, 1<<20))
	one := r.snapshot("one")
	first, err := r.open(nil, one, "")
	r.must(err)
	second, err := r.open(nil, one, "")
	r.must(err)
	for _, stream := range []io.Closer{first, second} {
		res, err := r.sender.DestroySnapshots(t.Context(), &pdu.DestroySnapshotsReq{Filesystem: testFS, Snapshots: []*pdu.FilesystemVersion{one}})
		r.must(err)
		if !strings.Contains(res.Results[0].Error, endpoint.ErrBusy.Error()) {
			t.Errorf("result %q", res.Results[0].Error)
		}
		r.must(stream.Close())
	}
	_, err = r.open(nil, one, "not a token")
	if !errors.Is(err, endpoint.ErrStaleToken) {
		t.Errorf("a step that does not begin: %v", err)
	}
	if !r.destroyed(one) {
		t.Error("not destroyed after all streams were closed")
	}
	if _, err := r.open(nil, one, ""); !errors.Is(err, endpoint.ErrNotFound) {
		t.Errorf("a step of what is gone: %v", err)
	}
}

// Clients of one job do not move each other's cursor, nor let go of each other's holds.
func TestSenderKeepsClientsApart(t *testing.T) {
	r := newRig(t)
	one, two := r.snapshot("one"), r.snapshot("two")
	alice := transport.ContextWithClientIdentity(t.Context(), "alice")
	bob := transport.ContextWithClientIdentity(t.Context(), "bob")
	resumable := &pdu.ReplicationConfig{Protection: &pdu.ReplicationConfigProtection{
		Initial: pdu.ReplicationGuaranteeKind_GuaranteeResumability}}
	for ctx, to := range map[context.Context]*pdu.FilesystemVersion{alice: one, bob: two} {
		_, stream, err := r.sender.Send(ctx, &pdu.SendReq{Filesystem: testFS, To: to, ReplicationConfig: resumable})
		r.must(err)
		r.must(stream.Close())
	}
	if r.destroyed(one) || r.destroyed(two) {
		t.Error("one client's step let go of the other's hold")
	}
	for ctx, to := range map[context.Context]*pdu.FilesystemVersion{alice: one, bob: two} {
		_, err := r.sender.SendCompleted(ctx, &pdu.SendCompletedReq{OriginalReq: &pdu.SendReq{Filesystem: testFS, To: to}})
		r.must(err)
	}
	for ctx, want := range map[context.Context]uint64{alice: one.Guid, bob: two.Guid, t.Context(): 0} {
		res, err := r.sender.ReplicationCursor(ctx, &pdu.ReplicationCursorReq{Filesystem: testFS})
		r.must(err)
		if res.GetGuid() != want || res.GetNotexist() != (want == 0) {
			t.Errorf("cursor %v, want %#x", res, want)
		}
	}
	if !r.destroyed(one) || !r.destroyed(two) {
		t.Error("held after both steps")
	}
}

// Small entries with long paths would take a receiver much more memory than they have
// bytes: it refuses them, so the sender does.
func TestCheckDelta(t *testing.T) {
	m := &Manifest{Entries: make([]Entry, 20_000)}
	path := strings.Repeat("x", MaxPathBytes)
	for i := range m.Entries {
		m.Entries[i].Path = path
	}
	if err := checkDelta(nil, m, make([]byte, 20_000*minEntryBytes)); !errors.Is(err, errCost) {
		t.Errorf("error %v", err)
	}
	if err := checkDelta(m, m, nil); err != nil {
		t.Errorf("nothing changed: %v", err)
	}
	if err := checkLimits("manifest delta", MaxManifestBytes+1, 0); err == nil {
		t.Error("no limit on its length")
	}
}

// The cursor stands for a snapshot that is gone: what has changed since can be sent.
func TestSendFromCursor(t *testing.T) {
	r := newRig(t)
	r.write("f", random(1, 2<<20))
	one := r.snapshot("one")
	r.step(nil, one)
	_, err := r.sender.SendCompleted(t.Context(), &pdu.SendCompletedReq{OriginalReq: &pdu.SendReq{Filesystem: testFS, To: one}})
	r.must(err)
	if !r.destroyed(one) {
		t.Fatal("not destroyed")
	}
	r.write("f", append(random(1, 2<<20), 1))
	two := r.snapshot("two")
	if two.CreateTXG != 2 {
		t.Errorf("CreateTXG went back to %d", two.CreateTXG)
	}
	if n := r.step(one, two); n > 1<<20 {
		t.Errorf("the step from a bookmark sends %d bytes", n)
	}
	r.check("two")
}
