package zfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/endpoint/endpointtest"
	"github.com/dualrepl/dualrepl/pdu"
)

// newSender makes a sender of a fresh dataset and what is below it.
func newSender(t *testing.T, opts SenderOptions) (*Sender, string) {
	t.Helper()
	fs := pool(t)
	opts.Job = "j"
	opts.Filter = func(name string) bool { return name == fs || strings.HasPrefix(name, fs+"/") }
	s, err := NewSender(opts)
	if err != nil {
		t.Fatal(err)
	}
	return s, fs
}

func TestSenderConformance(t *testing.T) {
	endpointtest.TestSender(t, func(t *testing.T) endpointtest.Sender {
		s, fs := newSender(t, SenderOptions{})
		return endpointtest.Sender{Sender: s, Filesystem: fs, Snapshot: func(t *testing.T, name string) {
			fill(t, fs, name, 300<<10)
			zfs(t, "snapshot", fs+"@"+name)
		}}
	})
}

// snap changes a filesystem, takes a snapshot of it and returns the version.
func snap(t *testing.T, s *Sender, fs, name string) *pdu.FilesystemVersion {
	t.Helper()
	fill(t, fs, name, 100<<10)
	if failed := s.Snapshot(t.Context(), name, []string{fs}); failed != nil {
		t.Fatal(failed)
	}
	return find(t, s, fs, name)
}

// find returns the snapshot or, with "#" before its name, the bookmark.
func find(t *testing.T, s *Sender, fs, name string) *pdu.FilesystemVersion {
	t.Helper()
	res, err := s.ListFilesystemVersions(t.Context(), &pdu.ListFilesystemVersionsReq{Filesystem: fs})
	if err != nil {
		t.Fatal(err)
	}
	bookmark, kind := strings.CutPrefix(name, "#")
	for _, v := range res.Versions {
		if v.Name == bookmark && (v.Type == pdu.FilesystemVersion_Bookmark) == kind {
			return v
		}
	}
	t.Fatalf("no %s in %v", name, res.Versions)
	return nil
}

// send sends a whole step and returns its stream.
func send(t *testing.T, s *Sender, req *pdu.SendReq) []byte {
	t.Helper()
	_, stream, err := s.Send(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	data, err := io.ReadAll(stream)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func complete(t *testing.T, s *Sender, req *pdu.SendReq) {
	t.Helper()
	if _, err := s.SendCompleted(t.Context(), &pdu.SendCompletedReq{OriginalReq: req}); err != nil {
		t.Fatal(err)
	}
}

// receive has zfs receive a stream.
func receive(t *testing.T, stream []byte, args ...string) {
	t.Helper()
	cmd := exec.Command("zfs", append([]string{"receive"}, args...)...)
	cmd.Stdin = bytes.NewReader(stream)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("zfs receive %v: %v: %s", args, err, out)
	}
}

// marks are the job's holds and bookmarks on a filesystem, such as "hold 1" and
// "cursor 1", where 1 is the name of the snapshot or of one with that GUID.
func marks(t *testing.T, s *Sender, fs string) string {
	t.Helper()
	versions, err := s.program.versions(t.Context(), fs)
	if err != nil {
		t.Fatal(err)
	}
	holds, err := s.program.holdsOf(t.Context(), fs, versions)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	names := map[uint64]string{}
	for _, v := range versions {
		if !v.bookmark {
			names[v.guid] = v.name
		}
		for _, tag := range holds[v.name] {
			if !v.bookmark {
				list = append(list, strings.Replace(tag, stepHoldTag("j"), "hold", 1)+" "+v.name)
			}
		}
	}
	for _, v := range versions {
		switch {
		case isCursor(&v, "j"):
			list = append(list, "cursor "+names[v.guid])
		case isTentativeCursor(&v, "j"):
			list = append(list, "tentative "+names[v.guid])
		case v.bookmark:
			list = append(list, v.name)
		}
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}

func wantMarks(t *testing.T, when string, s *Sender, fs, want string) {
	t.Helper()
	if got := marks(t, s, fs); got != want {
		t.Errorf("%s: %q is kept, want %q", when, got, want)
	}
}

// TestGuarantees: what is on the pool after each part of a full step, an incremental one
// that breaks, and one that is completed.
func TestGuarantees(t *testing.T) {
	tests := []struct {
		kind                                     pdu.ReplicationGuaranteeKind
		began, completed, broken, next, finished string
	}{
		{resumability, "hold 1", "cursor 1", "cursor 1, hold 1, hold 2", "cursor 1, hold 1, hold 3", "cursor 3"},
		{incremental, "tentative 1", "cursor 1", "cursor 1, tentative 1, tentative 2", "cursor 1, tentative 1, tentative 3", "cursor 3"},
		{nothing, "", "", "", "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.kind.String(), func(t *testing.T) {
			s, fs := newSender(t, SenderOptions{})
			one, two := snap(t, s, fs, "1"), snap(t, s, fs, "2")
			full, step := request(fs, tt.kind, nil, one), request(fs, tt.kind, one, two)
			send(t, s, full)
			wantMarks(t, "full step", s, fs, tt.began)
			complete(t, s, full)
			wantMarks(t, "full step completed", s, fs, tt.completed)
			_, stream, err := s.Send(t.Context(), step)
			if err != nil {
				t.Fatal(err)
			}
			stream.Close()
			wantMarks(t, "broken step", s, fs, tt.broken)
			step = request(fs, tt.kind, one, snap(t, s, fs, "3"))
			send(t, s, step)
			wantMarks(t, "another step", s, fs, tt.next)
			complete(t, s, step)
			wantMarks(t, "that one completed", s, fs, tt.finished)
			complete(t, s, step)
			wantMarks(t, "completed again", s, fs, tt.finished)
		})
	}
}

// TestCompletedGone: To was destroyed after it was received. What marks it is enough.
func TestCompletedGone(t *testing.T) {
	for kind, want := range map[pdu.ReplicationGuaranteeKind]string{incremental: "cursor ", nothing: ""} {
		t.Run(kind.String(), func(t *testing.T) {
			s, fs := newSender(t, SenderOptions{})
			one, two := snap(t, s, fs, "1"), snap(t, s, fs, "2")
			complete(t, s, request(fs, incremental, nil, one))
			req := request(fs, kind, one, two)
			send(t, s, req)
			destroySnapshot(t, s, fs, two, "")
			complete(t, s, req)
			wantMarks(t, "completed", s, fs, want)
			complete(t, s, req)
			wantMarks(t, "completed again", s, fs, want)
			gone := request(fs, incremental, nil, &pdu.FilesystemVersion{Name: "never", Guid: 1})
			if _, err := s.SendCompleted(t.Context(), &pdu.SendCompletedReq{OriginalReq: gone}); !errors.Is(err, endpoint.ErrNotFound) {
				t.Errorf("one that nothing marks: %v", err)
			}
			wantMarks(t, "refused", s, fs, want)
		})
	}
}

// TestOthersMarks: what other jobs and people keep on the pool stays.
func TestOthersMarks(t *testing.T) {
	s, fs := newSender(t, SenderOptions{})
	one := snap(t, s, fs, "1")
	zfs(t, "hold", stepHoldTag("other"), fs+"@1")
	zfs(t, "bookmark", fs+"@1", fs+"#mine")
	other := cursorName("other", one.Guid)
	zfs(t, "bookmark", fs+"@1", fs+"#"+other)
	req := request(fs, nothing, nil, one)
	send(t, s, req)
	complete(t, s, req)
	wantMarks(t, "completed", s, fs, strings.Join([]string{"mine", other, stepHoldTag("other") + " 1"}, ", "))
}

// TestFromBookmark: From was destroyed, and its cursor or tentative cursor is left.
func TestFromBookmark(t *testing.T) {
	for kind, tentative := range map[pdu.ReplicationGuaranteeKind]bool{resumability: false, incremental: true, nothing: false} {
		t.Run(kind.String(), func(t *testing.T) {
			s, fs := newSender(t, SenderOptions{})
			one, two := snap(t, s, fs, "1"), snap(t, s, fs, "2")
			first := request(fs, incremental, nil, one)
			receive(t, send(t, s, first), "-u", fs+"/copy")
			name := tentativeCursorName("j", one.Guid)
			if !tentative {
				complete(t, s, first)
				name = cursorName("j", one.Guid)
			}
			destroySnapshot(t, s, fs, one, "")
			req := request(fs, kind, find(t, s, fs, "#"+name), two)
			receive(t, send(t, s, req), "-u", fs+"/copy")
			if complete(t, s, req); property(t, fs+"/copy@2", "guid") != property(t, fs+"@2", "guid") {
				t.Error("the copy has another GUID")
			}
			wantMarks(t, "completed", s, fs, map[bool]string{true: "", false: "cursor 2"}[kind == nothing])
		})
	}
}

// destroySnapshot wants an error that contains a phrase; "": none.
func destroySnapshot(t *testing.T, s *Sender, fs string, v *pdu.FilesystemVersion, phrase string) {
	t.Helper()
	res, err := s.DestroySnapshots(t.Context(), &pdu.DestroySnapshotsReq{Filesystem: fs, Snapshots: []*pdu.FilesystemVersion{v}})
	if err != nil {
		t.Fatal(err)
	}
	if got := res.Results[0].Error; (got == "") != (phrase == "") || !strings.Contains(got, phrase) {
		t.Errorf("destroy %s: %q, want %q", v.Name, got, phrase)
	}
}

// TestDestroySnapshots has one of each kind of failure among those that can be destroyed.
func TestDestroySnapshots(t *testing.T) {
	s, fs := newSender(t, SenderOptions{})
	names := []string{"1", "2", "3", "4", "5", "6", "7"}
	for _, name := range names {
		zfs(t, "snapshot", fs+"@"+name)
	}
	zfs(t, "hold", "keep it", fs+"@2")
	zfs(t, "clone", fs+"@4", fs+"/clone")
	var list []*pdu.FilesystemVersion
	for _, name := range names[:6] {
		list = append(list, find(t, s, fs, name))
	}
	list[4].Guid++
	list = append(list, &pdu.FilesystemVersion{Name: "gone", Guid: 1}, list[0])
	starts := s.program.starts.Load()
	res, err := s.DestroySnapshots(t.Context(), &pdu.DestroySnapshotsReq{Filesystem: fs, Snapshots: list})
	if err != nil {
		t.Fatal(err)
	}
	for i, phrase := range []string{"", "keep it", "", "dependent clones", "has GUID", "", "not found", ""} {
		if got := res.Results[i].Error; (got == "") != (phrase == "") || !strings.Contains(got, phrase) {
			t.Errorf("result %d (%s) is %q, want %q", i, res.Results[i].Snapshot.Name, got, phrase)
		}
	}
	if n := s.program.starts.Load() - starts; n > 8 {
		t.Errorf("%d processes", n)
	}
	if got := zfs(t, "list", "-H", "-t", "snapshot", "-d", "1", "-o", "name", fs); got != fs+"@2\n"+fs+"@4\n"+fs+"@5\n"+fs+"@7" {
		t.Errorf("left are %s", got)
	}
}

// TestHeld: what a step holds cannot be destroyed, and the error says who holds it.
func TestHeld(t *testing.T) {
	s, fs := newSender(t, SenderOptions{})
	one := snap(t, s, fs, "1")
	req := request(fs, resumability, nil, one)
	send(t, s, req)
	destroySnapshot(t, s, fs, one, stepHoldTag("j"))
	complete(t, s, req)
	destroySnapshot(t, s, fs, one, "")
}

// TestDestroyedMidPlan: a snapshot that was destroyed after it was listed.
func TestDestroyedMidPlan(t *testing.T) {
	s, fs := newSender(t, SenderOptions{})
	one, two := snap(t, s, fs, "1"), snap(t, s, fs, "2")
	if _, err := s.ListFilesystems(t.Context(), &pdu.ListFilesystemReq{}); err != nil {
		t.Fatal(err)
	}
	zfs(t, "destroy", fs+"@1")
	for name, req := range map[string]*pdu.SendReq{"From": request(fs, resumability, one, two), "To": request(fs, resumability, nil, one)} {
		if _, _, err := s.Send(t.Context(), req); !errors.Is(err, endpoint.ErrNotFound) {
			t.Errorf("%s is gone: %v", name, err)
		}
	}
	wantMarks(t, "refused", s, fs, "")
	zfs(t, "snapshot", fs+"@1")
	if _, _, err := s.Send(t.Context(), request(fs, resumability, nil, one)); !errors.Is(err, endpoint.ErrNotFound) {
		t.Errorf("another one of that name: %v", err)
	}
	zfs(t, "destroy", "-r", fs)
	if _, _, err := s.Send(t.Context(), request(fs, resumability, nil, two)); !errors.Is(err, endpoint.ErrNotFound) {
		t.Errorf("the filesystem is gone: %v", err)
	}
}

// newEncrypted makes an encrypted filesystem below fs.
func newEncrypted(t *testing.T, fs string) string {
	t.Helper()
	cmd := exec.Command("zfs", "create", "-o", "encryption=on", "-o", "keyformat=passphrase", fs+"/enc")
	cmd.Stdin = strings.NewReader("password")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return fs + "/enc"
}

// TestRawEncrypted: full and incremental steps of an encrypted filesystem, sent without
// its key, and a token of a raw step that the policy has to fit.
func TestRawEncrypted(t *testing.T) {
	s, fs := newSender(t, SenderOptions{Encrypted: true})
	enc := newEncrypted(t, fs)
	one, two := snap(t, s, enc, "1"), snap(t, s, enc, "2")
	zfs(t, "unmount", enc)
	zfs(t, "unload-key", enc)
	req := request(enc, resumability, nil, one)
	receive(t, send(t, s, req), "-u", fs+"/copy")
	complete(t, s, req)
	destroySnapshot(t, s, enc, one, "")
	req = request(enc, resumability, find(t, s, enc, "#"+cursorName("j", one.Guid)), two)
	stream := send(t, s, req)
	cmd := exec.Command("zfs", "receive", "-s", "-u", fs+"/copy")
	cmd.Stdin = bytes.NewReader(stream[:len(stream)-1000])
	if out, err := cmd.CombinedOutput(); err == nil {
		t.Fatalf("a cut stream was received: %s", out)
	}
	req.ResumeToken = property(t, fs+"/copy", "receive_resume_token")
	s.opts.Encrypted = false
	if _, _, err := s.Send(t.Context(), req); !errors.Is(err, endpoint.ErrStaleToken) {
		t.Errorf("a raw token for a plain step: %v", err)
	}
	s.opts.Encrypted = true
	if step, err := s.ReadResumeToken(t.Context(), req.ResumeToken); err != nil || step.FromGUID != one.Guid || step.ToGUID != two.Guid {
		t.Errorf("the token is for %+v, %v", step, err)
	}
	if dry, err := s.SendDry(t.Context(), req); err != nil || !dry.UsedResumeToken || dry.ExpectedSize == 0 {
		t.Errorf("SendDry with a token: %v, %v", dry, err)
	}
	receive(t, send(t, s, req), "-s", "-u", fs+"/copy")
	if property(t, fs+"/copy", "encryption") == "off" || property(t, fs+"/copy@2", "guid") != property(t, enc+"@2", "guid") {
		t.Error("the copy is not encrypted, or not the same")
	}
	if _, _, err := s.Send(t.Context(), request(fs, resumability, nil, snap(t, s, fs, "1"))); !errors.Is(err, endpoint.ErrFailedPrecondition) {
		t.Errorf("a plain filesystem: %v", err)
	}
}

// TestWithoutKey: what cannot be sent is an error of the stream.
func TestWithoutKey(t *testing.T) {
	s, fs := newSender(t, SenderOptions{})
	enc := newEncrypted(t, fs)
	one := snap(t, s, enc, "1")
	zfs(t, "unmount", enc)
	zfs(t, "unload-key", enc)
	_, stream, err := s.Send(t.Context(), request(enc, nothing, nil, one))
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	if _, err := io.ReadAll(stream); !errors.Is(err, endpoint.ErrFailedPrecondition) {
		t.Errorf("the stream ends with %v", err)
	}
}

// TestSenderListing: placeholders are flagged, unless the property is inherited; volumes are
// listed; a dataset whose property's value feigns lines fools nobody.
func TestSenderListing(t *testing.T) {
	s, fs := newSender(t, SenderOptions{})
	zfs(t, "create", "-o", "zrepl:placeholder=on", fs+"/p")
	zfs(t, "create", fs+"/p/child")
	zfs(t, "create", "-s", "-V", "8M", fs+"/vol")
	for _, feigned := range []string{fs, fs + "/vol"} {
		zfs(t, "set", "zrepl:placeholder=x\n"+feigned+"\tzrepl:placeholder\tlocal\ton\n"+feigned+"\tzrepl:placeholder\ton\tlocal\ny", fs)
		wantUnfooled(t, s, fs)
	}
	names, err := s.Filesystems(t.Context())
	if want := []string{fs, fs + "/p/child", fs + "/vol"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("filesystems are %v, %v", names, err)
	}
	if failed := s.Snapshot(t.Context(), "x", names); failed != nil {
		t.Error(failed)
	}
	send(t, s, request(fs+"/vol", nothing, nil, find(t, s, fs+"/vol", "x")))
}

func wantUnfooled(t *testing.T, s *Sender, fs string) {
	t.Helper()
	res, err := s.ListFilesystems(t.Context(), &pdu.ListFilesystemReq{})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for _, f := range res.Filesystems {
		got[strings.TrimPrefix(f.Path, fs)] = f.IsPlaceholder
	}
	if want := map[string]bool{"": false, "/p": true, "/p/child": false, "/vol": false}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("listed are %v, want %v", got, want)
	}
}

// TestListingCost has a hundred filesystems; TestThousandFilesystems has a thousand, and a
// zfs that is none.
func TestListingCost(t *testing.T) {
	const n = 100
	s, fs := newSender(t, SenderOptions{})
	create := exec.Command("sh", "-c", `seq "$2" | xargs -P 4 -I{} zfs create -u "$1/{}"`, "sh", fs, fmt.Sprint(n))
	if out, err := create.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	zfs(t, "snapshot", "-r", fs+"@s")
	res, err := s.ListFilesystems(t.Context(), &pdu.ListFilesystemReq{})
	if err != nil || len(res.Filesystems) != n+1 {
		t.Fatalf("%d filesystems, %v", len(res.GetFilesystems()), err)
	}
	for _, f := range res.Filesystems {
		find(t, s, f.Path, "s")
	}
	if got := s.program.starts.Load(); got != 2 {
		t.Errorf("%d processes for %d filesystems", got, len(res.Filesystems))
	}
}

// senderPermissions are those that docs/zfs.md names.
const senderPermissions = "bookmark,destroy,hold,mount,release,send,snapshot"

// TestSenderUnprivileged does everything that a sender does as a user who is not root.
func TestSenderUnprivileged(t *testing.T) {
	s, fs := newSender(t, SenderOptions{Program: asNobody(t), LargeBlocks: true, Compressed: true, Properties: true})
	if failed := s.Snapshot(t.Context(), "1", []string{fs}); !errors.Is(failed[fs], endpoint.ErrPermission) {
		t.Fatalf("without permission: %v", failed)
	}
	zfs(t, "allow", "-u", "65534", senderPermissions, fs)
	one, two := snap(t, s, fs, "1"), snap(t, s, fs, "2")
	for _, kind := range []pdu.ReplicationGuaranteeKind{resumability, incremental} {
		for _, req := range []*pdu.SendReq{request(fs, kind, nil, one), request(fs, kind, one, two)} {
			send(t, s, req)
			complete(t, s, req)
		}
	}
	wantMarks(t, "completed", s, fs, "cursor 2")
	destroySnapshot(t, s, fs, one, "")
}
