package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/internal/config"
	"github.com/dualrepl/dualrepl/internal/prune"
)

// prunedPush takes a snapshot each second; %s is the sink's serve.
const prunedPush = `
global: {monitoring: [{type: prometheus, listen: "%s"}]}
jobs:
  - name: backups
    type: sink
    endpoint: {type: dir, root: DIR/received}
    serve: {type: local, listener_name: here%s}
  - name: docs
    type: push
    connect: {type: local, listener_name: here, client_identity: alice}
    endpoint: {type: dir, store: DIR/store, directories: {docs: DIR/source}}
    filesystems: {"<": true}
    snapshotting: {type: periodic, prefix: dr_, interval: 1s}
    pruning:
      keep_sender: [{type: not_replicated}, {type: regex, regex: "^by_hand"}]
      keep_receiver: [{type: last_n, count: 2}]
`

// versions are the names of the versions below a directory of the place.
func (p *place) versions(filesystem string) []string {
	p.t.Helper()
	paths, err := filepath.Glob(p.path(filesystem) + "/@*")
	if err != nil {
		p.t.Fatal(err)
	}
	for i, path := range paths {
		paths[i] = filepath.Base(path)
	}
	return paths
}

// TestPruning: after each replication, both sides have what the rules keep.
func TestPruning(t *testing.T) {
	p := newPlace(t)
	page := freeAddress(t)
	cfg := p.config(fmt.Sprintf(prunedPush, page, ""))
	job, err := Open(cfg, "docs", p.logger())
	if err != nil {
		t.Fatal(err)
	}
	job.conf.Snapshotting = &config.Snapshotting{Prefix: "by_hand_"}
	if _, err := job.Snapshot(t.Context(), false, nil); err != nil {
		t.Fatal(err)
	}
	stop := p.start(cfg)
	p.logs.await(t, "side=receiver", 2)
	p.logs.await(t, "side=sender", 2)
	if figures := scrape(t, page); !strings.Contains(figures, `dualrepl_prunings_total{job="docs",result="done",side="receiver"}`) ||
		!strings.Contains(figures, `dualrepl_snapshots_destroyed_total{job="docs",side="sender"} `) {
		t.Errorf("figures:\n%s", figures)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if logs := p.logs.String(); strings.Contains(logs, "level=ERROR") {
		t.Errorf("logs:\n%s", logs)
	}
	// One more of each may have come since the last pruning.
	sent, received := p.versions("store/docs"), p.versions("received/alice/docs")
	if n := len(sent); n < 2 || n > 4 || !strings.HasPrefix(sent[0], "@by_hand_") {
		t.Errorf("the sender has %v", sent)
	}
	if n := len(received); n < 2 || n > 3 {
		t.Errorf("the receiver has %v", received)
	}
}

// TestPruningNotPermitted: a sink that lets its clients destroy nothing keeps all, and
// the push goes on and says what to do.
func TestPruningNotPermitted(t *testing.T) {
	p := newPlace(t)
	p.start(p.config(fmt.Sprintf(prunedPush, freeAddress(t), ", verbs: [list, receive]")))
	p.logs.await(t, "pruning is not permitted, all snapshots stay", 2)
	p.logs.await(t, "replication done", 5)
	if logs := p.logs.String(); !strings.Contains(logs, "permit `destroy` in the `verbs` of the passive side") {
		t.Errorf("logs:\n%s", logs)
	}
	if got := p.versions("received/alice/docs"); len(got) < 5 {
		t.Errorf("the receiver has %v", got)
	}
}

const prunedSnap = `
jobs:
  - name: docs
    type: snap
    endpoint: {type: dir, store: DIR/store, directories: {docs: DIR/source}}
    filesystems: {"<": true}
    snapshotting: {type: cron, cron: "* * * * * *"}
    pruning: {keep: [{type: last_n, count: 2}]}
`

// TestSnapPrunes: a job that only takes snapshots, by the clock, prunes after each.
func TestSnapPrunes(t *testing.T) {
	p := newPlace(t)
	stop := p.start(p.config(prunedSnap))
	p.logs.await(t, "snapshots destroyed", 2)
	if err := stop(); err != nil {
		t.Error(err)
	}
	if got := p.versions("store/docs"); len(got) < 2 || len(got) > 3 {
		t.Errorf("kept %v", got)
	}
}

// TestPruningWithoutPeer: a push job keeps its own side from filling up; a pull job
// prunes nothing that depends on the other side.
func TestPruningWithoutPeer(t *testing.T) {
	p := newPlace(t)
	cfg := p.config(strings.NewReplacer(
		"type: snap", `type: push
    connect: {type: tcp, address: "127.0.0.1:1"}`,
		"keep:", "keep_sender:",
	).Replace(prunedSnap))
	job, err := Open(cfg, "docs", p.logger())
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := job.Snapshot(t.Context(), false, nil); err != nil {
			t.Fatal(err)
		}
	}
	s, err := openService(job, newMetrics())
	if err != nil {
		t.Fatal(err)
	}
	s.pruneSides(t.Context(), sides{sender: s.handler.(endpoint.Sender)}, false)
	if got := p.versions("store/docs"); len(got) != 2 {
		t.Errorf("kept %v", got)
	}
	s.conf.Type = config.TypePull
	s.pruneSides(t.Context(), sides{}, false) // would panic if it asked anybody
	if err := os.RemoveAll(p.path("store")); err != nil {
		t.Fatal(err)
	}
	s.conf.Type = config.TypePush
	s.pruneSides(t.Context(), sides{sender: s.handler.(endpoint.Sender)}, false)
	if logs := p.logs.String(); !strings.Contains(logs, `msg="pruning failed" job=docs side=sender`) {
		t.Errorf("a store that is gone:\n%s", logs)
	}
}

func TestNewRule(t *testing.T) {
	names := regexp.MustCompile("^dr_")
	for _, tc := range []struct {
		rule config.KeepRule
		want prune.Rule
	}{
		{config.KeepRule{Type: config.KeepNotReplicated, KeepSnapshotAtCursor: true}, prune.NotReplicated{}},
		{config.KeepRule{Type: config.KeepNotReplicated}, prune.NotReplicated{ReleaseCursor: true}},
		{config.KeepRule{Type: config.KeepLastN, Count: 3, Regex: "^dr_"}, prune.LastN{Count: 3, Regex: names}},
		{config.KeepRule{Type: config.KeepRegex, Regex: "^dr_", Negate: true}, prune.Regex{Regex: names, Negate: true}},
		{
			config.KeepRule{Type: config.KeepGrid, Regex: "^dr_", Grid: "2x1h"},
			prune.Grid{Intervals: []prune.Interval{{Repeat: 2, Length: time.Hour, Keep: 1}}, Regex: names},
		},
	} {
		if got, err := newRule(tc.rule); err != nil || !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%+v: got %+v, %v", tc.rule, got, err)
		}
	}
	for _, bad := range []config.KeepRule{{Type: config.KeepGrid, Grid: "daily"}, {Type: config.KeepRegex, Regex: "("}} {
		job := &Job{conf: config.Job{Pruning: config.Pruning{Keep: []config.KeepRule{bad}}}}
		if rules, err := job.newRules(); err == nil {
			t.Errorf("%+v: got %v", bad, rules)
		}
	}
}
