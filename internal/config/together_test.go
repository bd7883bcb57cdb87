package config

import (
	"strings"
	"testing"
)

// TestApart: jobs may be neighbours in everything that they may not share.
func TestApart(t *testing.T) {
	cfg := mustParse(t, `
jobs:
  - name: east
    type: pull
    interval: 1h
    root_fs: east
    endpoint: {type: dir, root: /srv/dualrepl}
    connect: {type: tcp, address: "east.example.org:8888"}
  - name: east-2
    type: pull
    interval: 1h
    root_fs: east-2
    endpoint: {type: dir, root: /srv/dualrepl}
    connect: {type: tcp, address: "east.example.org:8888"}
  - name: inside
    type: source
    endpoint: {type: dir, store: /var/lib/dualrepl/inside, directories: {docs: /home/alice/docs}}
    filesystems: {"<": true}
    snapshotting: {type: manual}
    serve: {type: tcp, listen: "127.0.0.1:8888", clients: {"127.0.0.1": alice}}
  - name: outside
    type: source
    endpoint: {type: dir, store: /var/lib/dualrepl/outside, directories: {docs: /home/alice/docs}}
    filesystems: {"<": true}
    snapshotting: {type: manual}
    serve: {type: tcp, listen: "192.0.2.1:8888", clients: {"192.0.2.0/24": "site-*"}}
  - name: inside-copy
    type: push
    endpoint: {type: dir, store: /var/lib/dualrepl/inside/, directories: {docs: /home/alice/docs/, music: /srv/music}}
    filesystems: {"<": true}
    snapshotting: {type: periodic, interval: 1h}
    connect: {type: tcp, address: "east.example.org:8888"}
  - name: other-port
    type: sink
    endpoint: {type: dir, root: /srv/dualrepl/west}
    serve: {type: tcp, listen: ":8889", clients: {"127.0.0.1": alice}}
`)
	if got := len(cfg.Jobs); got != 6 {
		t.Errorf("%d jobs", got)
	}
}

// TestApartWhereUnsound: what is wrong by itself is reported once, not compared.
func TestApartWhereUnsound(t *testing.T) {
	_, err := Parse("test.yml", []byte(`
jobs:
  - {name: a, type: sink, endpoint: {type: dir, root: srv}, serve: {type: tcp, listen: ":0", clients: {"::1": a}}}
  - {name: b, type: sink, endpoint: {type: dir, root: srv}, serve: {type: tcp, listen: ":0", clients: {"::1": a}}}
  - {name: c, type: sink, endpoint: {type: dir, root: /c}, root_fs: /, serve: {type: local, listener_name: c}}
  - {name: d, type: sink, endpoint: {type: dir, root: /c}, serve: {type: local, listener_name: d}}
`))
	if err == nil {
		t.Fatal("loads")
	}
	for line := range strings.SplitSeq(err.Error(), "\n") {
		if strings.Contains(line, "of jobs[") || strings.Contains(line, "taken by") {
			t.Error(line)
		}
	}
}

// TestLoop: two jobs of one daemon do not send what they receive.
func TestLoop(t *testing.T) {
	const zfs = `
jobs:
  - {name: out, type: push, connect: {type: local, listener_name: here, client_identity: me}, filesystems: FILTER, snapshotting: {type: manual}}
  - {name: in, type: sink, root_fs: tank/sink, serve: {type: local, listener_name: here}}
`
	const pull = `
jobs:
  - {name: in, type: pull, interval: 1h, root_fs: tank/sink, connect: {type: local, listener_name: here, client_identity: me}}
  - {name: out, type: source, serve: {type: local, listener_name: here}, filesystems: FILTER, snapshotting: {type: manual}}
`
	const btrfs = `
jobs:
  - name: out
    type: push
    endpoint: {type: btrfs, root: /srv}
    connect: {type: local, listener_name: here, client_identity: me}
    filesystems: FILTER
    snapshotting: {type: manual}
  - {name: in, type: sink, endpoint: {type: btrfs, root: /srv/tank/sink}, serve: {type: local, listener_name: here}}
`
	for filter, loops := range map[string]bool{
		`{"<": true}`:                          true,
		`{"tank<": true}`:                      true,
		`{"tank<": true, "tank/sink": false}`:  true,
		`{"tank<": true, "tank/sink<": false}`: false,
		`{"<": true, "tank/sink<": false}`:     false,
		`{"tank/home<": true}`:                 false,
		`{"tank": true}`:                       false,
		`{"tank/sink/other<": true}`:           false, // what another client has sent
	} {
		for key, text := range map[string]string{"jobs[0].filesystems": zfs, "jobs[0].root_fs": pull, "jobs[0].filesystems:": btrfs} {
			_, err := Parse("test.yml", []byte(strings.Replace(text, "FILTER", filter, 1)))
			if got := err != nil; got != loops || got && !strings.Contains(err.Error(), key) {
				t.Errorf("%s%s: %v", text, filter, err)
			}
		}
	}
	apart := strings.Replace(btrfs, "root: /srv/tank/sink", "root: /mnt", 1)
	mustParse(t, strings.Replace(apart, "FILTER", `{"<": true}`, 1))
}
