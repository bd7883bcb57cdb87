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
