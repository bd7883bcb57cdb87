package daemon

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/internal/config"
)

// others are jobs whose endpoints are programs, which are not there.
const others = `
jobs:
  - name: tank
    type: snap
    endpoint: {type: zfs, program: DIR/nowhere}
    filesystems: {"tank<": true}
    snapshotting: {type: manual}
  - name: backups
    type: sink
    root_fs: tank/backups
    endpoint: {type: zfs, program: DIR/nowhere}
    serve: {type: local, listener_name: here}
    recv: {bandwidth_limit: {max: 10 MiB}}
  - name: srv
    type: source
    endpoint: {type: btrfs, root: DIR/srv}
    filesystems: {"<": true}
    snapshotting: {type: manual}
    serve: {type: local, listener_name: there}
    send: {buffer: off}
  - name: copies
    type: pull
    interval: manual
    root_fs: of/srv
    endpoint: {type: btrfs, root: DIR/copies}
    connect: {type: local, listener_name: there, client_identity: copies}
`

// TestOtherEndpoints: where their data lies, and what is around their streams.
func TestOtherEndpoints(t *testing.T) {
	p := newPlace(t)
	jobs := OpenAll(p.config(others), p.logger())
	for i, want := range []struct {
		store  string
		buffer int64
		limit  bool
	}{
		{"", 0, false},
		{"tank/backups", config.DefaultBuffer, true},
		{p.path("srv"), 0, false},
		{p.path("copies/of/srv"), config.DefaultBuffer, false},
	} {
		job := jobs[i]
		if around := job.flow(); job.Store() != want.store || around.Buffer != want.buffer || (around.Limit != nil) != want.limit {
			t.Errorf("%s: store %q, %+v", job.Name(), job.Store(), around)
		}
	}
}

// TestOtherEndpointsFail: with the job's name, and without a directory being taken for a
// dataset.
func TestOtherEndpointsFail(t *testing.T) {
	p := newPlace(t)
	for _, name := range []string{"tank", "backups"} {
		job, err := Open(p.config(others), name, p.logger())
		if err != nil {
			t.Fatal(err)
		}
		_, listErr := job.List(t.Context())
		_, takeErr := job.Snapshot(t.Context(), false, nil)
		if name == "backups" {
			takeErr = listErr
		}
		for _, err := range []error{listErr, takeErr} {
			if err == nil || !strings.Contains(err.Error(), "job "+name) || !strings.Contains(err.Error(), p.path("nowhere")) {
				t.Errorf("%s: error is %v", name, err)
			}
		}
	}
}

// TestOnlyDirectories: what other endpoints do by themselves is told, not tried.
func TestOnlyDirectories(t *testing.T) {
	p := newPlace(t)
	for _, tc := range []struct {
		job  string
		ask  func(*Job) error
		want string
	}{
		{"tank", func(j *Job) error { _, err := j.Verify(t.Context(), nil); return err }, "`zpool scrub`"},
		{"tank", func(j *Job) error { _, err := j.Snapshot(t.Context(), true, nil); return err }, "snapshot --full is for directories"},
		{"backups", func(j *Job) error { _, err := j.Restore(t.Context(), "a", "", p.path("a"), nil); return err }, "`zfs clone`"},
		{"srv", func(j *Job) error { _, err := j.Verify(t.Context(), nil); return err }, "`btrfs scrub`"},
		{"copies", func(j *Job) error { _, err := j.Restore(t.Context(), "a", "", p.path("a"), nil); return err }, "`btrfs subvolume snapshot`"},
	} {
		job, err := Open(p.config(others), tc.job, p.logger())
		if err != nil {
			t.Fatal(err)
		}
		if err := tc.ask(job); !errors.Is(err, ErrJob) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: error is %v, want one that says %q", tc.job, err, tc.want)
		}
	}
}

// fakeDatasets fails one snapshot.
type fakeDatasets struct{}

func (fakeDatasets) Filesystems(context.Context) ([]string, error) {
	return []string{"tank", "tank/a"}, nil
}

func (fakeDatasets) Snapshot(_ context.Context, _ string, filesystems []string) map[string]error {
	return map[string]error{filesystems[0]: endpoint.ErrNoSpace}
}

// TestDatasets: one that fails is told, and does not keep the others from theirs.
func TestDatasets(t *testing.T) {
	d := datasets{fakeDatasets{}}
	filesystems, err := d.Filesystems(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	taken := d.take(t.Context(), "dr_1", filesystems)
	if len(taken) != 2 || !errors.Is(taken[0].Err, endpoint.ErrNoSpace) || !strings.Contains(taken[0].Err.Error(), "snapshot of tank:") {
		t.Fatalf("%+v", taken)
	}
	if got := taken[1]; got.Err != nil || got.Filesystem != "tank/a" || got.Version != "dr_1" || got.Report != nil {
		t.Errorf("%+v", got)
	}
	p := newPlace(t)
	s := &service{Job: &Job{logger: p.logger()}}
	s.logSnapshots(append(taken, taken[1]))
	if logs := p.logs.String(); strings.Count(logs, "\n") != 1 || !strings.Contains(logs, `msg="snapshots taken" version=dr_1 filesystems=2`) {
		t.Errorf("logs:\n%s", logs)
	}
}
