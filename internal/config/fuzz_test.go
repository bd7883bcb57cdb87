package config

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/dualrepl/dualrepl/internal/prune"
)

// FuzzConfig: whatever a file holds, Parse returns a configuration that is
// complete, or mistakes of which each says what and how to get out of it.
func FuzzConfig(f *testing.F) {
	f.Add([]byte(twoJobs))
	f.Add([]byte(hub))
	f.Add([]byte(streams))
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
		case receives != (job.Snapshotting == nil) || receives == job.Sends():
			t.Errorf("snapshotting: %+v", job)
		case active != (job.Replication.Concurrency.Steps > 0):
			t.Errorf("replication: %+v", job)
		}
		checkPlace(t, job)
		checkRules(t, job.Pruning)
	}
}

// checkPlace checks that it is known where the data lies.
func checkPlace(t *testing.T, job Job) {
	e, sends := job.Endpoint, job.Sends()
	known := false
	switch e.Type {
	case EndpointDir:
		known = sends != filepath.IsAbs(e.Root) && sends == filepath.IsAbs(e.Store) && sends == (len(e.Directories) > 0)
	case EndpointZFS:
		known = sends == (job.RootFS == "") && e.Root == "" && e.Store == ""
	case EndpointBtrfs:
		known = filepath.IsAbs(e.Root) && e.Store == ""
	}
	if !known || e.Program != "" && !filepath.IsAbs(e.Program) {
		t.Errorf("endpoint: %+v", job)
	}
}

// checkRules checks that rules can be made of what is configured.
func checkRules(t *testing.T, p Pruning) {
	for _, rules := range p.rules() {
		for _, rule := range rules {
			_, gridErr := prune.ParseGrid(rule.Grid)
			_, regexErr := regexp.Compile(rule.Regex)
			if (gridErr == nil) != (rule.Type == KeepGrid) || regexErr != nil || (rule.Count > 0) != (rule.Type == KeepLastN) {
				t.Errorf("rule: %+v: %v, %v", rule, gridErr, regexErr)
			}
		}
	}
}
