package config

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestEnvironment(t *testing.T) {
	for name, value := range map[string]string{
		"DUALREPL_GLOBAL_LOGGING_LEVEL":                              "debug",
		"DUALREPL_JOBS_BACKUPS_ENDPOINT_ROOT":                        "/Srv/Other.d",
		"DUALREPL_JOBS_DOCS_CONNECT_ADDRESS":                         "backup.example.org:9999",
		"DUALREPL_JOBS_DOCS_CONNECT_DIAL_TIMEOUT":                    "3s",
		"DUALREPL_JOBS_DOCS_SNAPSHOTTING_INTERVAL":                   "1d",
		"DUALREPL_JOBS_DOCS_REPLICATION_CONCURRENCY_STEPS":           "5",
		"DUALREPL_JOBS_DOCS_CONFLICT_RESOLUTION_INITIAL_REPLICATION": "fail",
	} {
		t.Setenv(name, value)
	}
	cfg := mustParse(t, twoJobs)
	sink, push := cfg.Jobs[0], cfg.Jobs[1]
	if cfg.Global.Logging.Level != "debug" || sink.Endpoint.Root != "/Srv/Other.d" {
		t.Errorf("got %+v and root %s", cfg.Global, sink.Endpoint.Root)
	}
	if push.Connect.Address != "backup.example.org:9999" || push.Connect.DialTimeout != 3*time.Second ||
		push.Snapshotting.Interval != 24*time.Hour || push.Snapshotting.Type != SnapshottingPeriodic {
		t.Errorf("got connect %+v and snapshotting %+v", push.Connect, push.Snapshotting)
	}
	if push.Replication.Concurrency.Steps != 5 || push.ConflictResolution.InitialReplication != InitialFail {
		t.Errorf("got %+v and %+v", push.Replication, push.ConflictResolution)
	}
}

// TestEnvironmentOfListeners: those of listeners, and switches.
func TestEnvironmentOfListeners(t *testing.T) {
	for name, value := range map[string]string{
		"DUALREPL_LISTENERS_MAIN_SERVE_LISTEN":              "127.0.0.1:9999",
		"DUALREPL_LISTENERS_MAIN_SERVE_LIMITS_MESSAGE_SIZE": "32MiB",
		"DUALREPL_JOBS_OFFERS_SERVE_ROUTE":                  "other",
		"DUALREPL_JOBS_FETCH_CONNECT_MUX":                   "false",
		"DUALREPL_JOBS_FETCH_CONNECT_ZSTD_LEVEL":            "1",
	} {
		t.Setenv(name, value)
	}
	cfg := mustParse(t, hub)
	serve, fetch := cfg.Listeners[0].Serve, cfg.Jobs[3].Connect
	if serve.Listen != "127.0.0.1:9999" || serve.Limits.MessageSize != 32<<20 || cfg.Jobs[1].Serve.Route != "other" ||
		fetch.Mux || fetch.Zstd.Level != 1 {
		t.Errorf("got %+v, %+v, %+v", serve, cfg.Jobs[1].Serve, fetch)
	}
}

// TestEnvironmentFillsIn: a value that the file leaves out, or whose section has
// none, can come from the environment.
func TestEnvironmentFillsIn(t *testing.T) {
	t.Setenv("DUALREPL_JOBS_A_B_C_D_SERVE_LISTENER_NAME", "Here")
	t.Setenv("DUALREPL_JOBS_A_B_C_D_ENDPOINT_ROOT", "/srv")
	cfg := mustParse(t, "jobs: [{name: a-B.c:d, type: sink, endpoint: {type: dir}, serve: {type: local, listener_name: }}]")
	if job := cfg.Jobs[0]; job.Serve.ListenerName != "Here" || job.Endpoint.Root != "/srv" {
		t.Errorf("got %+v, serve %+v", job, job.Serve)
	}
}

func TestEnvironmentMistakes(t *testing.T) {
	tests := []struct {
		name, variable, value, file string
		want                        string
	}{
		{
			"unknown", "DUALREPL_GLOBAL_LOGING_LEVEL", "debug", twoJobs,
			`environment variable DUALREPL_GLOBAL_LOGING_LEVEL: stands for no setting; did you mean "DUALREPL_GLOBAL_LOGGING_LEVEL"?`,
		}, {
			"unknown job", "DUALREPL_JOBS_MUSIC_CONNECT_ADDRESS", "a:1", twoJobs,
			"environment variable DUALREPL_JOBS_MUSIC_CONNECT_ADDRESS: stands for no setting; docs/config.md lists what there is",
		}, {
			"name of a job", "DUALREPL_JOBS_DOCS_NAME", "papers", twoJobs,
			"environment variable DUALREPL_JOBS_DOCS_NAME: stands for no setting; docs/config.md lists what there is",
		}, {
			"wrong value", "DUALREPL_JOBS_DOCS_CONNECT_ADDRESS", "backup", twoJobs,
			`environment variable DUALREPL_JOBS_DOCS_CONNECT_ADDRESS: jobs[1].connect.address: "backup" is not an address: missing port in address; write "HOST:PORT", such as "backup.example.org:8888" or "[fe80::1%eth0]:8888"`,
		}, {
			"wrong type", "DUALREPL_JOBS_DOCS_REPLICATION_CONCURRENCY_STEPS", "two", twoJobs,
			`environment variable DUALREPL_JOBS_DOCS_REPLICATION_CONCURRENCY_STEPS: jobs[1].replication.concurrency.steps: must be a whole number, not "two"; use 1 to 1000`,
		}, {
			"empty", "DUALREPL_GLOBAL_LOGGING_FORMAT", "", twoJobs,
			"environment variable DUALREPL_GLOBAL_LOGGING_FORMAT: global.logging.format: has no value; give it one, or remove the key",
		}, {
			"contradiction", "DUALREPL_JOBS_BACKUPS_CONNECT_ADDRESS", "backup:8888", twoJobs,
			"environment variable DUALREPL_JOBS_BACKUPS_CONNECT_ADDRESS: jobs[0].connect: is given beside serve; remove one of them: either this side begins a connection, or its peer does",
		}, {
			"two jobs", "DUALREPL_JOBS_A_B_TYPE", "sink", "jobs: [{name: a-b, type: push}, {name: a.b, type: push}]",
			"environment variable DUALREPL_JOBS_A_B_TYPE: stands for jobs.a-b.type and for jobs.a.b.type; rename one of the jobs",
		}, {
			"not a section", "DUALREPL_GLOBAL_LOGGING_LEVEL", "debug", "global: {logging: loud}\n" + strings.TrimLeft(twoJobs, "\n"),
			`test.yml:1:19: global.logging: must be a mapping of keys to values, not "loud"; write KEY: VALUE lines below it, or {KEY: VALUE}`,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv(test.variable, test.value)
			_, err := Parse("test.yml", []byte(test.file))
			if err == nil {
				t.Fatal("loads")
			}
			got := strings.Split(err.Error(), "\n")
			for _, line := range strings.Split(test.want, "\n") {
				if !slices.Contains(got, line) {
					t.Errorf("got\n%v\nwithout\n%s", err, line)
				}
			}
		})
	}
}

// TestEnvironmentOfNothing: what is no configuration has no settings to replace.
func TestEnvironmentOfNothing(t *testing.T) {
	t.Setenv("DUALREPL_GLOBAL_LOGGING_LEVEL", "debug")
	for _, file := range []string{"[]", "jobs", "null", "jobs: a", "jobs: [a, null, []]", "global: []"} {
		if cfg, err := Parse("test.yml", []byte(file)); err == nil {
			t.Errorf("%q loads: %v", file, cfg)
		}
	}
}
