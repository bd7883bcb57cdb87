package config

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

// FuzzConfig: whatever a file holds, Parse returns a configuration that is
// complete, or mistakes of which each says what and how to get out of it.
func FuzzConfig(f *testing.F) {
	f.Add([]byte(twoJobs))
	f.Add([]byte(hub))
	for _, seed := range seeds(f) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg, err := Parse("fuzz.yml", data)
		if err == nil {
			checkComplete(t, cfg)
			return
		}
		var all Errors
		if !errors.As(err, &all) || len(all) == 0 {
			t.Fatalf("got %v, want Errors", err)
		}
		for _, e := range all {
			if e.Message == "" || e.Hint == "" {
				t.Errorf("%v: no message or no hint", e)
			}
		}
	})
}

// seeds are the sample files and those with mistakes.
func seeds(f *testing.F) [][]byte {
	var all [][]byte
	paths, err := filepath.Glob("../../docs/examples/*.yml")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		all = append(all, data)
	}
	archive, err := txtar.ParseFile(mistakesFile)
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range archive.Files {
		if filepath.Ext(file.Name) == ".yml" {
			all = append(all, file.Data)
		}
	}
	return all
}

// checkComplete checks what a caller relies on without looking.
func checkComplete(t *testing.T, cfg *Config) {
	if len(cfg.Jobs) == 0 {
		t.Error("no jobs")
	}
	for _, job := range cfg.Jobs {
		active, one := job.Active(), (job.Connect != nil) != (job.Serve != nil)
		receives := job.Type == TypePull || job.Type == TypeSink
		switch {
		case job.Name == "" || job.Line < 1:
			t.Errorf("no name or line: %+v", job)
		case one != (active || job.Passive()):
			t.Errorf("connect or serve: %+v", job)
		case (active && job.Serve != nil) != (job.Peer != ""):
			t.Errorf("peer: %+v", job)
		case job.Passive() && job.Connect != nil && (job.Connect.ServerIdentity == "" || !job.Connect.Mux):
			t.Errorf("connect of a passive job: %+v", job.Connect)
		case receives != filepath.IsAbs(job.Endpoint.Root) || receives == filepath.IsAbs(job.Endpoint.Store):
			t.Errorf("root or store: %+v", job)
		case receives != (job.Snapshotting == nil) || receives != (len(job.Endpoint.Directories) == 0):
			t.Errorf("snapshotting or directories: %+v", job)
		case active != (job.Replication.Concurrency.Steps > 0):
			t.Errorf("replication: %+v", job)
		}
	}
}
