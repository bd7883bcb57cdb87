package daemon

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
)

// newStore returns a job whose store has two versions of the filesystem docs.
func newStore(t *testing.T) (*place, *Job) {
	t.Helper()
	p := newPlace(t)
	job, err := Open(p.config(pushToSink), "docs", p.logger())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"one", "two"} {
		p.write(name, "content of "+name)
		if _, err := job.Snapshot(t.Context(), false, nil); err != nil {
			t.Fatal(err)
		}
	}
	return p, job
}

func TestListAndRestore(t *testing.T) {
	p, job := newStore(t)
	list, err := job.List(t.Context())
	if err != nil || len(list) != 1 || len(list[0].Versions) != 2 {
		t.Fatalf("%+v, %v", list, err)
	}
	for version, want := range map[string]int64{"": 2, list[0].Versions[0].Name: 1} {
		var done, total uint64
		report, err := job.Restore(t.Context(), "docs", version, p.path("restored"+version), func(_ string, d, t uint64) { done, total = d, t })
		if err != nil || report.Files != want {
			t.Errorf("version %q: %+v, %v", version, report, err)
		}
		if done != total || done != uint64(report.Bytes) {
			t.Errorf("version %q: progress ended at %d of %d, restored %d", version, done, total, report.Bytes)
		}
	}
	if _, err := job.Restore(t.Context(), "docs", "never", p.path("never"), nil); !errors.Is(err, endpoint.ErrNotFound) {
		t.Errorf("error is %v", err)
	}
}

// TestRestoreRefuses: before anything is written, and with what there is instead.
func TestRestoreRefuses(t *testing.T) {
	p, job := newStore(t)
	if err := os.Symlink(p.path("source"), p.path("link")); err != nil {
		t.Fatal(err)
	}
	versions, err := job.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		filesystem, version, target, want string
		invalid                           bool
	}{
		{"docs", "", "source/new", "of job docs", true},
		{"docs", "", "source", "source is not empty", false},
		{"dogs", "", "source", "source is a directory of job docs; restore to a directory apart", true},
		{"docs", "", "link/new", "link/new lies in " + p.path("source") + " of job docs", true},
		{"docs", "", "store/docs/new", "of job docs", true},
		{"docs", "", "store", "is a directory of job docs", true},
		{"docs", "", "received/new", "of job backups", true},
		{"docs", "", ".", " contains " + p.path("received") + " of job backups", true},
		{"docs", "", "no/parent", "parent directory of", false},
		{"/docs", "", "new", "empty component", true},
		{"docs/..", "", "new", `".."`, true},
		{"docs", "../one", "new", "../one", true},
		{"dogs", "", "new", "there is only docs", false},
		{"docs", "never", "new", "version docs@never; there are: " + versions[0].Versions[0].Name + ", " + versions[0].Versions[1].Name, false},
	} {
		_, err := job.Restore(t.Context(), tc.filesystem, tc.version, p.path(tc.target), nil)
		if err == nil || !strings.Contains(err.Error(), tc.want) || errors.Is(err, endpoint.ErrInvalid) != tc.invalid {
			t.Errorf("%s@%s to %s: error is %v, want one with %q", tc.filesystem, tc.version, tc.target, err, tc.want)
		}
		if _, err := os.Stat(p.path("new")); err == nil {
			t.Fatalf("%s@%s: something was made", tc.filesystem, tc.version)
		}
	}
}

// TestRestoreHome: what was lost goes back to its place, which may be named by other jobs,
// too, and lie in other directories.
func TestRestoreHome(t *testing.T) {
	p, _ := newStore(t)
	cfg := p.config(pushToSink + `
  - name: copy
    type: push
    connect: {type: tcp, address: "192.0.2.1:8888"}
    endpoint: {type: dir, store: DIR/store, directories: {docs: DIR/source, below: DIR/source/below}}
    filesystems: {"<": true}
    snapshotting: {type: manual}
`)
	job, err := Open(cfg, "docs", p.logger())
	if err != nil {
		t.Fatal(err)
	}
	for _, lose := range []func(string) error{
		os.RemoveAll,
		func(path string) error { return errors.Join(os.RemoveAll(path), os.Mkdir(path, 0o755)) },
	} {
		if err := lose(p.path("source")); err != nil {
			t.Fatal(err)
		}
		if report, err := job.Restore(t.Context(), "docs", "", p.path("source"), nil); err != nil || report.Files != 2 {
			t.Errorf("%+v, %v", report, err)
		}
	}
}

// spoil makes manifests unreadable.
func spoil(t *testing.T, manifests ...string) {
	t.Helper()
	for _, manifest := range manifests {
		if err := os.Chmod(manifest, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(manifest, []byte("spoilt"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRestoreNewestOfDamaged: where a version cannot be read, nobody knows which is the
// newest; those that can be read can still be named.
func TestRestoreNewestOfDamaged(t *testing.T) {
	p, job := newStore(t)
	manifests, err := filepath.Glob(job.Store() + "/docs/@*/manifest")
	if err != nil || len(manifests) != 2 {
		t.Fatalf("%q, %v", manifests, err)
	}
	slices.Sort(manifests)
	name := func(i int) string { return filepath.Base(filepath.Dir(manifests[i]))[1:] }

	spoil(t, manifests[1])
	_, err = job.Restore(t.Context(), "docs", "", p.path("new"), nil)
	want := "name a version to restore; there is only " + name(0)
	if err == nil || !strings.Contains(err.Error(), "of docs, "+name(1)+" cannot be read") || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("error is %v, want %s", err, want)
	}
	if _, err := job.Restore(t.Context(), "docs", name(1), p.path("new"), nil); err == nil || !strings.Contains(err.Error(), name(1)) {
		t.Errorf("of the damaged one: %v", err)
	}
	if report, err := job.Restore(t.Context(), "docs", name(0), p.path("new"), nil); err != nil || report.Files != 1 {
		t.Errorf("of the other: %+v, %v", report, err)
	}

	spoil(t, manifests[0])
	_, err = job.Restore(t.Context(), "docs", "", p.path("none"), nil)
	if err == nil || !strings.Contains(err.Error(), "all versions of docs are damaged: "+name(0)) || strings.Contains(err.Error(), "there are") {
		t.Errorf("of none: %v", err)
	}
	if _, err := os.Stat(p.path("none")); err == nil {
		t.Error("something was made")
	}
}

func TestNewestOfNothing(t *testing.T) {
	if _, err := newest("docs", nil, nil); !errors.Is(err, endpoint.ErrNotFound) || !strings.Contains(err.Error(), "docs has no version yet") {
		t.Errorf("error is %v", err)
	}
}

// TestSnapshotProgress: how much there will be is guessed from the version before.
func TestSnapshotProgress(t *testing.T) {
	p, job := newStore(t)
	p.write("three", "more")
	var totals []uint64
	if _, err := job.Snapshot(t.Context(), false, func(_ string, _, total uint64) { totals = append(totals, total) }); err != nil {
		t.Fatal(err)
	}
	if want := uint64(len("content of one" + "content of two")); len(totals) == 0 || totals[0] != want {
		t.Errorf("totals %d, want %d", totals, want)
	}
}

func TestEnumerate(t *testing.T) {
	for want, names := range map[string][]string{
		"there is none":   nil,
		"there is only a": {"a"},
		"there are: a, b": {"a", "b"},
		"there are 12, at last: c, c, c, c, c, c, c, c, c, c": {"a", "b", "c", "c", "c", "c", "c", "c", "c", "c", "c", "c"},
	} {
		if got := enumerate(names); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// TestListOfNothing: a store that nothing came to yet is no error.
func TestListOfNothing(t *testing.T) {
	p := newPlace(t)
	job, err := Open(p.config(pushToSink), "backups", p.logger())
	if err != nil {
		t.Fatal(err)
	}
	if list, err := job.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("%v, %v", list, err)
	}
	if all, err := job.Verify(t.Context(), nil); err != nil || len(all) != 0 {
		t.Errorf("%v, %v", all, err)
	}
}

// TestSinkStore: a sink keeps its clients apart, whatever they are called; what no
// client has sent is left alone.
func TestSinkStore(t *testing.T) {
	p := newPlace(t)
	cfg := p.config(strings.Replace(pushToSink, "client_identity: alice", `client_identity: "fe80::1%eth0"`, 1))
	stop := p.start(cfg)
	p.logs.await(t, "replication done", 1)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(p.path("received/lost@found"), 0o700); err != nil {
		t.Fatal(err)
	}
	sink, err := Open(cfg, "backups", p.logger())
	if err != nil {
		t.Fatal(err)
	}
	list, err := sink.List(t.Context())
	if err != nil || len(list) != 1 || list[0].Name != "fe80::1%eth0/docs" {
		t.Fatalf("%+v, %v", list, err)
	}
	if all, err := sink.Verify(t.Context(), nil); err != nil || len(all) == 0 || !all[0].Good() {
		t.Errorf("%+v, %v", all, err)
	}
	if _, err := sink.Restore(t.Context(), list[0].Name, "", p.path("restored"), nil); err != nil {
		t.Error(err)
	}
	_, err = sink.Restore(t.Context(), "fe80::1%eth0/dogs", "", p.path("never"), nil)
	if want := "filesystem fe80::1%eth0/dogs; there is only fe80::1%eth0/docs"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error is %v, want %s", err, want)
	}
	_, err = sink.Restore(t.Context(), list[0].Name, "", p.path("restored"), nil)
	if want := "job backups: " + list[0].Name + ": "; err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("error is %v, want %s", err, want)
	}
	for _, name := range []string{"docs", "../received/x", "a@b/docs", ""} {
		if _, err := sink.Restore(t.Context(), name, "", p.path("never"), nil); !errors.Is(err, endpoint.ErrInvalid) {
			t.Errorf("filesystem %q: %v", name, err)
		}
	}
}

// TestVerify: damage of one version does not keep the other from being looked at.
func TestVerify(t *testing.T) {
	_, job := newStore(t)
	all, err := job.Verify(t.Context(), nil)
	if err != nil || len(all) != 2 || !all[0].Good() || !all[1].Good() {
		t.Fatalf("%+v, %v", all, err)
	}
	files, err := filepath.Glob(job.Store() + "/docs/@*/tree/two")
	if err != nil || len(files) != 1 {
		t.Fatalf("%q, %v", files, err)
	}
	if err := os.Remove(files[0]); err != nil {
		t.Fatal(err)
	}
	all, err = job.Verify(t.Context(), nil)
	if err != nil || len(all) != 2 || !all[0].Good() || all[1].Good() {
		t.Errorf("a missing file: %+v, %v", all, err)
	}
}

// TestVerifyBesideReplication: bookmarks are verified too; a replication cursor that has
// moved on meanwhile is nothing to complain of.
func TestVerifyBesideReplication(t *testing.T) {
	_, job := newStore(t)
	sender, err := job.newSender()
	if err != nil {
		t.Fatal(err)
	}
	list, err := sender.ListFilesystemVersions(t.Context(), &pdu.ListFilesystemVersionsReq{Filesystem: "docs"})
	if err != nil {
		t.Fatal(err)
	}
	sent := &pdu.SendReq{Filesystem: "docs", To: list.Versions[0]}
	if _, err := sender.SendCompleted(t.Context(), &pdu.SendCompletedReq{OriginalReq: sent}); err != nil {
		t.Fatal(err)
	}
	all, err := job.Verify(t.Context(), nil)
	if err != nil || len(all) != 3 || !slices.ContainsFunc(all, func(v Verified) bool { return v.Bookmark && v.Good() }) {
		t.Fatalf("%+v, %v", all, err)
	}
	sent.To = list.Versions[1]
	move := sync.OnceFunc(func() {
		if _, err := sender.SendCompleted(t.Context(), &pdu.SendCompletedReq{OriginalReq: sent}); err != nil {
			t.Error(err)
		}
	})
	all, err = job.Verify(t.Context(), func(string, uint64, uint64) { move() })
	if err != nil || len(all) != 2 {
		t.Errorf("after the cursor moved: %+v, %v", all, err)
	}
}

// TestVerifyUnreadableManifest: what cannot even be looked at is an error.
func TestVerifyUnreadableManifest(t *testing.T) {
	_, job := newStore(t)
	manifests, _ := filepath.Glob(job.Store() + "/docs/@*/manifest")
	slices.Sort(manifests)
	data, err := os.ReadFile(manifests[1])
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)-1] ^= 1
	if err := os.Chmod(manifests[1], 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(manifests[1], data, 0); err != nil {
		t.Fatal(err)
	}
	all, err := job.Verify(t.Context(), nil)
	if err == nil || len(all) != 2 || !all[0].Good() || all[1].Good() {
		t.Errorf("%+v, %v", all, err)
	}
}

func TestVerifyInterrupted(t *testing.T) {
	_, job := newStore(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	interrupted := errors.New("interrupted")
	cancel(interrupted)
	if _, err := job.Verify(ctx, nil); !errors.Is(err, interrupted) {
		t.Errorf("error is %v", err)
	}
}
