package config

import (
	"reflect"
	"testing"
	"time"
)

func TestPruning(t *testing.T) {
	cfg := mustParse(t, `
jobs:
  - name: prod
    type: push
    connect: {type: tcp, address: "a:1"}
    filesystems: {"tank<": true}
    snapshotting: {type: cron, prefix: night_, cron: "30 3 * * *"}
    pruning:
      keep_sender:
        - type: not_replicated
        - {type: last_n, count: 10}
        - {type: not_replicated, keep_snapshot_at_cursor: false}
      keep_receiver:
        - {type: grid, grid: 1x1h(keep=all) | 24x1h, regex: "^night_"}
        - {type: regex, negate: true, regex: "^night_"}
  - name: local
    type: snap
    endpoint: {type: dir, store: /store, directories: {x: /x}}
    filesystems: {"<": true}
    snapshotting: {type: manual}
    pruning: {keep: []}
`)
	want := Pruning{
		KeepSender: []KeepRule{
			{Type: KeepNotReplicated, KeepSnapshotAtCursor: true},
			{Type: KeepLastN, Count: 10},
			{Type: KeepNotReplicated},
		},
		KeepReceiver: []KeepRule{
			{Type: KeepGrid, Grid: "1x1h(keep=all) | 24x1h", Regex: "^night_"},
			{Type: KeepRegex, Regex: "^night_", Negate: true},
		},
	}
	if got := cfg.Jobs[0].Pruning; !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if got := *cfg.Jobs[0].Snapshotting; got != (Snapshotting{Type: SnapshottingCron, Prefix: "night_", Cron: "30 3 * * *"}) {
		t.Errorf("snapshotting: got %+v", got)
	}
	if got := cfg.Jobs[1].Pruning; len(got.Keep) > 0 {
		t.Errorf("got %+v", got)
	}
}

func TestParseCron(t *testing.T) {
	noon := time.Date(2026, time.March, 4, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]string{
		"TZ=UTC 30 3 * * *":           "2026-03-05T03:30:00Z",
		"CRON_TZ=UTC 0 0 1 * *":       "2026-04-01T00:00:00Z",
		"TZ=UTC */20 * * * * *":       "2026-03-04T12:00:20Z", // six fields: seconds first
		"TZ=UTC 0 12 * * sun":         "2026-03-08T12:00:00Z",
		"TZ=Europe/Berlin 0 14 * * *": "2026-03-04T13:00:00Z",
		"":                            "", "* * * *": "", "@daily": "", "TZ=UTC": "", "CRON_TZ=0": "", "60 * * * *": "", "TZ=Nowhere 0 0 * * *": "",
	} {
		got := ""
		if schedule, err := ParseCron(text); err == nil {
			got = schedule.Next(noon).UTC().Format(time.RFC3339)
		}
		if got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}
