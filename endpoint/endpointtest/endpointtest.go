package endpointtest

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
)

// Sender is a sender under test. The suite makes all requests with t.Context();
// a Sender that needs more in it (a client identity) adds that itself.
type Sender struct {
	endpoint.Sender

	// Filesystem exists, is no placeholder and has no versions yet.
	Filesystem string

	// Snapshot changes the filesystem's data and makes a snapshot of it. The data
	// is not empty.
	Snapshot func(t *testing.T, name string)
}

// Receiver is a receiver under test. It is empty.
type Receiver struct {
	endpoint.Receiver

	// NoResume: a broken step leaves no resume token behind.
	NoResume bool
}

// hostilePaths are filesystem names that an endpoint must refuse without touching anything.
var hostilePaths = []string{
	"", "/", "/etc", "a/", "a//b", ".", "..", "../a", "a/../../b", "a/./b", "a@b", "a#b", "a\x00b", "a\nb",
	strings.Repeat("x", endpoint.MaxNameLength+1),
}

// listEntries lists filesystems and checks the form of the list. A filesystem whose
// parent is not offered has none in it.
func listEntries(t *testing.T, e endpoint.Endpoint) map[string]*pdu.Filesystem {
	t.Helper()
	res, err := e.ListFilesystems(t.Context(), &pdu.ListFilesystemReq{})
	if err != nil {
		t.Fatalf("ListFilesystems: %v", err)
	}
	seen := map[string]*pdu.Filesystem{}
	for _, fs := range res.GetFilesystems() {
		if err := endpoint.ValidateFilesystem(fs.GetPath()); err != nil {
			t.Fatalf("ListFilesystems: %v", err)
		}
		if seen[fs.Path] != nil {
			t.Fatalf("ListFilesystems: %q twice", fs.Path)
		}
		for path := range seen {
			if strings.HasPrefix(path, fs.Path+"/") {
				t.Fatalf("ListFilesystems: %q after its child %q", fs.Path, path)
			}
		}
		seen[fs.Path] = fs
	}
	return seen
}

// listVersions lists versions and checks the form of the list.
func listVersions(t *testing.T, e endpoint.Endpoint, path string) []*pdu.FilesystemVersion {
	t.Helper()
	res, err := e.ListFilesystemVersions(t.Context(), &pdu.ListFilesystemVersionsReq{Filesystem: path})
	if err != nil {
		t.Fatalf("ListFilesystemVersions(%q): %v", path, err)
	}
	var last uint64
	guids := map[uint64]bool{}
	for _, v := range res.GetVersions() {
		if err := checkVersion(v); err != nil {
			t.Fatalf("version %v: %v", v, err)
		}
		if v.CreateTXG < last {
			t.Fatalf("version %v: CreateTXG is less than %d before it", v, last)
		}
		last = v.CreateTXG
		if v.Type == pdu.FilesystemVersion_Snapshot && guids[v.Guid] {
			t.Fatalf("version %v: GUID of another snapshot", v)
		}
		guids[v.Guid] = guids[v.Guid] || v.Type == pdu.FilesystemVersion_Snapshot
	}
	return res.GetVersions()
}

func checkVersion(v *pdu.FilesystemVersion) error {
	if v.GetGuid() == 0 || v.GetCreateTXG() == 0 {
		return errors.New("GUID and CreateTXG are never 0")
	}
	if _, err := time.Parse(time.RFC3339, v.GetCreation()); err != nil {
		return err
	}
	return endpoint.ValidateVersionName(v.GetName())
}

// listSnapshots lists the versions that are snapshots.
func listSnapshots(t *testing.T, e endpoint.Endpoint, path string) []*pdu.FilesystemVersion {
	t.Helper()
	var snapshots []*pdu.FilesystemVersion
	for _, v := range listVersions(t, e, path) {
		if v.Type == pdu.FilesystemVersion_Snapshot {
			snapshots = append(snapshots, v)
		}
	}
	return snapshots
}

// receivedSnapshots is listSnapshots for a filesystem that may not be there.
func receivedSnapshots(t *testing.T, r Receiver, path string) []*pdu.FilesystemVersion {
	t.Helper()
	if fs := listEntries(t, r)[path]; fs == nil || fs.IsPlaceholder {
		return nil
	}
	return listSnapshots(t, r, path)
}

// snapshot makes a snapshot of the sender's filesystem and returns its version.
func (s Sender) snapshot(t *testing.T, name string) *pdu.FilesystemVersion {
	t.Helper()
	s.Snapshot(t, name)
	for _, v := range listSnapshots(t, s, s.Filesystem) {
		if v.Name == name {
			return v
		}
	}
	t.Fatalf("snapshot %q was made, and is not listed", name)
	return nil
}

// request is the request for a step; from nil is a full one.
func (s Sender) request(from, to *pdu.FilesystemVersion) *pdu.SendReq {
	return &pdu.SendReq{Filesystem: s.Filesystem, From: from, To: to, ReplicationConfig: protection()}
}

func protection() *pdu.ReplicationConfig {
	return &pdu.ReplicationConfig{Protection: &pdu.ReplicationConfigProtection{
		Initial:     pdu.ReplicationGuaranteeKind_GuaranteeResumability,
		Incremental: pdu.ReplicationGuaranteeKind_GuaranteeResumability,
	}}
}

// send starts a step that must start; the stream is closed at the end of the test.
func (s Sender) send(t *testing.T, req *pdu.SendReq) (*pdu.SendRes, io.ReadCloser) {
	t.Helper()
	res, stream, err := s.Send(t.Context(), req)
	if err != nil {
		t.Fatalf("Send(%v): %v", req, err)
	}
	t.Cleanup(func() { stream.Close() })
	return res, stream
}

// whole returns the stream of a step.
func (s Sender) whole(t *testing.T, req *pdu.SendReq) string {
	t.Helper()
	_, stream := s.send(t, req)
	defer stream.Close()
	data, err := io.ReadAll(stream)
	if err != nil {
		t.Fatalf("read the stream: %v", err)
	}
	return string(data)
}

// replicate does one whole step into the receiver's filesystem of the same name.
func replicate(t *testing.T, s Sender, r Receiver, from, to *pdu.FilesystemVersion) {
	t.Helper()
	res, stream := s.send(t, s.request(from, to))
	if err := receive(t.Context(), r, s.Filesystem, to, res, stream); err != nil {
		t.Fatalf("Receive of %q: %v", to.Name, err)
	}
}

func receive(ctx context.Context, r Receiver, path string, to *pdu.FilesystemVersion, res *pdu.SendRes, stream io.Reader) error {
	_, err := r.Receive(ctx, &pdu.ReceiveReq{
		Filesystem: path, To: to, ClearResumeToken: !res.GetUsedResumeToken(), ReplicationConfig: protection(),
	}, stream)
	return err
}

// wantErr fails the test unless err has target in its chain.
func wantErr(t *testing.T, what string, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Errorf("%s: error is %v, want %v", what, err, target)
	}
}

// wantRefused is for names that an endpoint may call invalid or unknown.
func wantRefused(t *testing.T, what string, err error) {
	t.Helper()
	if !errors.Is(err, endpoint.ErrInvalid) && !errors.Is(err, endpoint.ErrNotFound) {
		t.Errorf("%s: error is %v, want %v or %v", what, err, endpoint.ErrInvalid, endpoint.ErrNotFound)
	}
}

// cancelled is a context that has ended.
func cancelled(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

// testDestroy checks DestroySnapshots on either side: path has the snapshots.
func testDestroy(t *testing.T, e endpoint.Endpoint, path string, snapshots []*pdu.FilesystemVersion) {
	t.Helper()
	gone := &pdu.FilesystemVersion{Name: "never-was", Guid: 4711, CreateTXG: 1}
	bookmark := &pdu.FilesystemVersion{Type: pdu.FilesystemVersion_Bookmark, Name: snapshots[0].Name, Guid: snapshots[0].Guid}
	for _, bad := range []*pdu.FilesystemVersion{nil, bookmark} {
		_, err := e.DestroySnapshots(t.Context(), &pdu.DestroySnapshotsReq{
			Filesystem: path, Snapshots: []*pdu.FilesystemVersion{snapshots[0], bad},
		})
		wantErr(t, "DestroySnapshots with one that is no snapshot", err, endpoint.ErrInvalid)
	}
	if n := len(listSnapshots(t, e, path)); n != len(snapshots) {
		t.Fatalf("%d snapshots after refused requests, want %d", n, len(snapshots))
	}
	res, err := e.DestroySnapshots(t.Context(), &pdu.DestroySnapshotsReq{
		Filesystem: path, Snapshots: []*pdu.FilesystemVersion{gone, snapshots[0]},
	})
	if err != nil {
		t.Fatalf("DestroySnapshots: %v", err)
	}
	results := res.GetResults()
	if len(results) != 2 || results[0].GetSnapshot().GetName() != gone.Name || results[1].GetSnapshot().GetName() != snapshots[0].Name {
		t.Fatalf("DestroySnapshots: results are %v, want one for each snapshot in order", results)
	}
	if results[1].Error != "" {
		t.Errorf("DestroySnapshots: %v", results[1].Error)
	}
	if n := len(listSnapshots(t, e, path)); n != len(snapshots)-1 {
		t.Errorf("%d snapshots are left, want %d", n, len(snapshots)-1)
	}
}
