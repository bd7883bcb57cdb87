package config

import (
	"reflect"
	"testing"
)

// streams has every key about endpoints and their streams.
const streams = `
jobs:
  - name: prod
    type: push
    connect: {type: tcp, address: "a:1"}
    filesystems: {"tank<": true, "tank/tmp<": false}
    snapshotting: {type: manual}
    send:
      encrypted: true
      raw: true
      send_properties: true
      backup_properties: true
      large_blocks: true
      compressed: true
      embedded_data: true
      saved: true
      buffer: 64MiB
      bandwidth_limit: {max: 23.5 MiB, bucket_capacity: 1 MiB}
  - name: offers
    type: source
    serve: {type: local, listener_name: here}
    endpoint: {type: btrfs, root: /srv, program: /opt/btrfs}
    filesystems: {"<": true}
    snapshotting: {type: manual}
    send: {bandwidth_limit: {max: 100 Mb}}
  - name: backups
    type: sink
    root_fs: tank/backups
    endpoint: {type: zfs, program: /opt/zfs}
    serve: {type: local, listener_name: there}
    recv:
      properties:
        inherit: [mountpoint, "org.example:note"]
        override: {compression: lz4, canmount: "off"}
      placeholder: {encryption: inherit}
      buffer: off
      bandwidth_limit: {max: -1}
  - name: fetch
    type: pull
    interval: 1h
    root_fs: from/a
    connect: {type: tcp, address: "a:1"}
    endpoint: {type: btrfs, root: /srv/fetched}
    recv: {buffer: 128 KiB, bandwidth_limit: {max: "-1 B", bucket_capacity: 64 KiB}}
  - name: plain
    type: sink
    root_fs: tank/plain
    serve: {type: local, listener_name: elsewhere}
`

// TestStreams: every key about endpoints and their streams arrives, and what is left
// out is there.
func TestStreams(t *testing.T) {
	cfg := mustParse(t, streams)
	endpoints := []Endpoint{
		{Type: EndpointZFS},
		{Type: EndpointBtrfs, Root: "/srv", Program: "/opt/btrfs"},
		{Type: EndpointZFS, Program: "/opt/zfs"},
		{Type: EndpointBtrfs, Root: "/srv/fetched"},
		{Type: EndpointZFS},
	}
	sends := map[string]Send{
		"prod": {
			Encrypted: true, Raw: true, SendProperties: true, BackupProperties: true,
			LargeBlocks: true, Compressed: true, EmbeddedData: true, Saved: true,
			Buffer: 64 << 20, BandwidthLimit: BandwidthLimit{Max: 47 << 19, BucketCapacity: 1 << 20},
		},
		"offers": {Buffer: DefaultBuffer, BandwidthLimit: BandwidthLimit{Max: 12_500_000, BucketCapacity: DefaultBucketCapacity}},
	}
	recvs := map[string]Recv{
		"backups": {
			Properties: Properties{
				Inherit:  []string{"mountpoint", "org.example:note"},
				Override: map[string]string{"compression": "lz4", "canmount": "off"},
			},
			Placeholder: Placeholder{EncryptionInherit},
		},
		"fetch": {Buffer: 128 << 10},
		"plain": {Buffer: DefaultBuffer, Placeholder: Placeholder{EncryptionUnspecified}},
	}
	for i, job := range cfg.Jobs {
		if !reflect.DeepEqual(job.Endpoint, endpoints[i]) {
			t.Errorf("%s: got endpoint %+v", job.Name, job.Endpoint)
		}
		if !reflect.DeepEqual(job.Send, sends[job.Name]) || !reflect.DeepEqual(job.Recv, recvs[job.Name]) {
			t.Errorf("%s: got send %+v, recv %+v", job.Name, job.Send, job.Recv)
		}
	}
	if root := cfg.Jobs[3].ReceiveRoot(); root != "/srv/fetched/from/a" {
		t.Errorf("fetch receives into %s", root)
	}
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]Size{
		"512KiB": 512 << 10, "16 MiB": 16 << 20, "1.5GiB": 3 << 29, "2TiB": 2 << 40,
		"12345 B": 12345, "16MB": 16e6, "100 Mb": 12.5e6, "64Kib": 8 << 10, "800 bit": 100,
		"999999999999999TiB": 1 << 62,
		"":                   -1, "16": -1, "MiB": -1, "-1 MiB": -1, "1e3 MiB": -1, "16 mib": -1, "1.MiB": -1, "1 Mbit": -1, "1MiB ": -1,
	} {
		got, err := parseSize(text)
		if err != nil {
			got = -1
		}
		if got != want {
			t.Errorf("%q: got %d, want %d", text, got, want)
		}
	}
}

func TestSizeString(t *testing.T) {
	for size, want := range map[Size]string{0: "0B", 1000: "1000B", 1 << 10: "1KiB", 3 << 19: "1536KiB", 1 << 30: "1GiB", 5 << 50: "5120TiB"} {
		if got := size.String(); got != want {
			t.Errorf("%d: got %s, want %s", int64(size), got, want)
		}
	}
}

// TestEndpointOfTheEnvironment: a job that leaves its endpoint to the environment has one.
func TestEndpointOfTheEnvironment(t *testing.T) {
	t.Setenv("DUALREPL_JOBS_BACKUPS_ENDPOINT_TYPE", "dir")
	t.Setenv("DUALREPL_JOBS_BACKUPS_ENDPOINT_ROOT", "/srv")
	t.Setenv("DUALREPL_JOBS_BACKUPS_RECV_BUFFER", "off")
	t.Setenv("DUALREPL_JOBS_BACKUPS_RECV_BANDWIDTH_LIMIT_MAX", "1 MiB")
	cfg := mustParse(t, `jobs: [{name: backups, type: sink, serve: {type: local, listener_name: here}}]`)
	want := Recv{BandwidthLimit: BandwidthLimit{Max: 1 << 20, BucketCapacity: DefaultBucketCapacity}}
	if job := cfg.Jobs[0]; job.Endpoint.Root != "/srv" || !reflect.DeepEqual(job.Recv, want) {
		t.Errorf("got %+v", job)
	}
}
