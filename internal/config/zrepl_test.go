package config

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// TestOutlets: zrepl's list of outlets is read as the one that it holds.
func TestOutlets(t *testing.T) {
	t.Setenv("DUALREPL_GLOBAL_LOGGING_LEVEL", "debug")
	for text, want := range map[string]Logging{
		"[{type: stdout, level: warn, format: human, time: false}]": {LoggingStdout, "debug", FormatText, false},
		"[{type: stdout, format: logfmt, time: true}]":              {LoggingStdout, "debug", FormatText, true},
		"[{type: stderr, format: json}]":                            {LoggingStderr, "debug", FormatJSON, true},
		"[{type: syslog, format: human, facility: local0}]":         {LoggingSyslog, "debug", FormatText, false},
		"[{type: syslog, format: human, time: true}]":               {LoggingSyslog, "debug", FormatText, true},
		"{format: json}": {LoggingStderr, "debug", FormatJSON, true},
	} {
		cfg := mustParse(t, "global: {logging: "+text+"}"+twoJobs)
		if cfg.Global.Logging != want {
			t.Errorf("%s: got %+v, want %+v", text, cfg.Global.Logging, want)
		}
	}
}

// TestAsHere: what zrepl's keys ask for is accepted where it is so anyway, and only there.
func TestAsHere(t *testing.T) {
	file := func(logging, monitoring, serve, snapshotting string) string {
		return "global: {logging: [{type: stdout" + logging + "}], monitoring: [{type: prometheus, listen: ':9811'" + monitoring + "}]}\n" +
			"jobs:\n- {name: a, type: source, filesystems: {'<': true}, snapshotting: {type: periodic, interval: 10m" + snapshotting + "}," +
			" serve: {type: tcp, listen: ':8888', clients: {'10.0.0.1': a}" + serve + "}}\n"
	}
	mustParse(t, file(", color: false", ", listen_freebind: false", ", listen_freebind: false",
		", hooks: [], timestamp_format: dense, timestamp_location: UTC"))
	for _, text := range []string{
		file(", color: true", "", "", ""),
		file(", facility: daemon", "", "", ""),
		file("", ", listen_freebind: true", "", ""),
		file("", "", ", listen_freebind: true", ""),
		file("", "", "", ", hooks: [{type: command}]"),
		file("", "", "", ", hooks: ''"),
		file("", "", "", ", timestamp_format: iso-8601"),
		file("", "", "", ", timestamp_format: [dense]"),
		file("", "", "", ", timestamp_location: Europe/Berlin"),
		file(", hooks: []", "", "", ""),
	} {
		if _, err := Parse("zrepl.yml", []byte(text)); err == nil || !strings.Contains(err.Error(), "unknown key; ") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// TestForeignType: a section of a type that zrepl alone has is one mistake, and not one for
// each of its keys.
func TestForeignType(t *testing.T) {
	_, err := Parse("zrepl.yml", []byte("jobs:\n- {name: a, type: pull, root_fs: a, interval: 1h, connect: {type: ssh+stdinserver, host: h, user: root, port: 22}}\n"))
	if err == nil || strings.Count(err.Error(), "\n") > 0 || !strings.Contains(err.Error(), "use tls, or tcp by way of a tunnel") {
		t.Errorf("got %v", err)
	}
}

func TestDurationsOfZrepl(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"10m": 10 * time.Minute, " 10 m ": 10 * time.Minute, "1 d": 24 * time.Hour, "2w": 14 * 24 * time.Hour, "90s": 90 * time.Second,
		"1h30m": 90 * time.Minute, "1.5h": 90 * time.Minute,
		"": -1, "d": -1, "1 h 30 m": -1, "1y": -1, "99999999999999w": -1, "1.5d": -1,
	} {
		got, err := parseDuration(strings.TrimSpace(text))
		if err != nil {
			got = -1
		}
		if got != want {
			t.Errorf("%q: got %v, want %v", text, got, want)
		}
	}
}

// TestZreplSamples: the samples for those who come from zrepl are files of zrepl's: they
// have no key that zrepl does not know, which it would refuse, and all that it wants.
func TestZreplSamples(t *testing.T) {
	paths, err := filepath.Glob("../../docs/examples/zrepl*.yml")
	if err != nil || len(paths) < 2 {
		t.Fatalf("found %v, %v", paths, err)
	}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var doc yaml.Node
		if err := yaml.Unmarshal(data, &doc); err != nil {
			t.Fatal(err)
		}
		eachKey(doc.Content[0], "", func(key string) {
			if !slices.ContainsFunc(keysOfZrepl, func(r *regexp.Regexp) bool { return r.MatchString(key) }) {
				t.Errorf("%s: zrepl has no %s", path, key)
			}
		})
		for _, job := range mustLoad(t, path).Jobs {
			wantOfZrepl(t, path, job)
		}
	}
}

func mustLoad(t *testing.T, path string) *Config {
	t.Helper()
	cfg, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// wantOfZrepl checks for what zrepl requires and this program does not.
func wantOfZrepl(t *testing.T, path string, job Job) {
	t.Helper()
	prunes := len(job.Pruning.KeepSender) > 0 && len(job.Pruning.KeepReceiver) > 0 || len(job.Pruning.Keep) > 0
	switch {
	case !job.Passive() && !prunes:
		t.Errorf("%s: job %s: no pruning", path, job.Name)
	case job.Endpoint.Type != EndpointZFS:
		t.Errorf("%s: job %s: a %s endpoint", path, job.Name, job.Endpoint.Type)
	case job.Snapshotting != nil && job.Snapshotting.Type == SnapshottingPeriodic && job.Snapshotting.Prefix == DefaultPrefix:
		t.Errorf("%s: job %s: no prefix", path, job.Name)
	}
}

// eachKey calls fn with the path of each key, without places in lists.
func eachKey(n *yaml.Node, path string, fn func(path string)) {
	for i, child := range n.Content {
		switch {
		case n.Kind == yaml.SequenceNode:
			eachKey(child, path, fn)
		case n.Kind == yaml.MappingNode && i%2 == 1:
			key := join(path, n.Content[i-1].Value)
			fn(key)
			eachKey(child, key, fn)
		}
	}
}

// keysOfZrepl are those of zrepl 0.6 and 0.7, by its documentation.
var keysOfZrepl = []*regexp.Regexp{
	regexp.MustCompile(`^(global|jobs)$`),
	regexp.MustCompile(`^global\.(logging(\.(type|level|format|time|color))?|monitoring(\.(type|listen|listen_freebind))?)$`),
	regexp.MustCompile(`^jobs\.(name|type|connect|serve|filesystems|root_fs|interval|snapshotting|send|recv|pruning|replication|conflict_resolution)$`),
	regexp.MustCompile(`^jobs\.connect\.(type|address|ca|cert|key|server_cn|dial_timeout|listener_name|client_identity)$`),
	regexp.MustCompile(`^jobs\.serve\.(type|listen|listen_freebind|ca|cert|key|client_cns|handshake_timeout|listener_name|clients(\..+)?)$`),
	regexp.MustCompile(`^jobs\.filesystems\.[^#@]+$`),
	regexp.MustCompile(`^jobs\.snapshotting\.(type|prefix|interval|cron|hooks|timestamp_format|timestamp_location)$`),
	regexp.MustCompile(`^jobs\.send\.(encrypted|raw|send_properties|backup_properties|large_blocks|compressed|embedded_data|saved)$`),
	regexp.MustCompile(`^jobs\.recv\.(properties(\.inherit|\.override(\..+)?)?|placeholder(\.encryption)?)$`),
	regexp.MustCompile(`^jobs\.(send|recv)\.bandwidth_limit(\.(max|bucket_capacity))?$`),
	regexp.MustCompile(`^jobs\.pruning\.(keep|keep_sender|keep_receiver)(\.(type|count|regex|negate|grid|keep_snapshot_at_cursor))?$`),
	regexp.MustCompile(`^jobs\.replication(\.protection(\.(initial|incremental))?|\.concurrency(\.(steps|size_estimates))?)?$`),
	regexp.MustCompile(`^jobs\.conflict_resolution\.initial_replication$`),
}
