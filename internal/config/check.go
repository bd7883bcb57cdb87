package config

import (
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/dualrepl/dualrepl/internal/paths"
)

// check looks for mistakes in what could be decoded.
func (d *decoder) check(cfg *Config) {
	if d.broken[""] {
		return // not a configuration at all
	}
	d.checkGlobal(cfg.Global)
	d.checkJobs(cfg.Jobs)
}

func (d *decoder) checkGlobal(g Global) {
	s := d.sectionOf("global.logging", reflect.TypeFor[Logging]())
	s.oneOf("level", g.Logging.Level, []string{"debug", "info", "warn", "error"})
	s.oneOf("format", g.Logging.Format, []string{"text", "json"})
}

func (d *decoder) checkJobs(jobs []Job) {
	root := d.sectionOf("", reflect.TypeFor[Config]())
	switch {
	case !root.given("jobs"):
		root.missing("jobs", "add "+examples["jobs"])
	case root.sound("jobs") && len(jobs) == 0:
		root.fail("jobs", "is empty", "add at least one job")
	}
	for i, job := range jobs {
		if field := fmt.Sprintf("jobs[%d]", i); !d.broken[field] {
			d.checkJob(d.sectionOf(field, reflect.TypeFor[Job]()), job)
		}
	}
	d.checkTogether(jobs)
}

func (d *decoder) checkJob(s section, job Job) {
	if !s.given("name") {
		s.missing("name", "add "+examples["name"])
	}
	s.word("name", job.Name)
	s.typed(job.Type, "a %s job", jobShapes)
	if s.sound("connect") {
		d.checkConnect(join(s.field, "connect"), job.Connect)
	}
	if s.sound("serve") {
		d.checkServe(join(s.field, "serve"), job.Serve)
	}
	if s.sound("endpoint") {
		d.checkEndpoint(join(s.field, "endpoint"), job)
	}
	if s.sound("snapshotting") {
		d.checkSnapshotting(join(s.field, "snapshotting"), job.Snapshotting)
	}
	s.filesystem("root_fs", job.RootFS)
	s.filter(job.Filesystems, job.Endpoint.Directories)
	d.checkReplication(s.field, job)
}

func (d *decoder) checkConnect(field string, c *Connect) {
	s := d.sectionOf(field, reflect.TypeFor[Connect]())
	s.typed(c.Type, "a %s connection", connectShapes)
	s.address("address", c.Address)
	s.path("ca", c.CA)
	s.path("cert", c.Cert)
	s.path("key", c.Key)
	s.identity("client_identity", c.ClientIdentity)
}

func (d *decoder) checkServe(field string, c *Serve) {
	s := d.sectionOf(field, reflect.TypeFor[Serve]())
	s.typed(c.Type, "a %s listener", serveShapes)
	s.address("listen", c.Listen)
	s.path("ca", c.CA)
	s.path("cert", c.Cert)
	s.path("key", c.Key)
	s.clients(c.Clients)
	if s.sound("client_cns") && len(c.ClientCNs) == 0 {
		s.fail("client_cns", "is empty, so that nobody may connect", "add "+examples["client_cns"])
	}
	for i, cn := range c.ClientCNs {
		s.identity(fmt.Sprintf("client_cns[%d]", i), cn)
	}
}

func (d *decoder) checkEndpoint(field string, job Job) {
	s := d.sectionOf(field, reflect.TypeFor[Endpoint]())
	if !s.given("type") {
		s.missing("type", "add type: "+EndpointDir)
	}
	s.oneOf("type", job.Endpoint.Type, []string{EndpointDir})
	s.shaped(job.Type, "the endpoint of a "+job.Type+" job", dirShapes)
	s.path("root", job.Endpoint.Root)
	s.path("store", job.Endpoint.Store)
	s.directories(job.Endpoint)
}

func (d *decoder) checkSnapshotting(field string, c *Snapshotting) {
	s := d.sectionOf(field, reflect.TypeFor[Snapshotting]())
	s.typed(c.Type, "%s snapshotting", snapshottingShapes)
	s.word("prefix", c.Prefix)
}

func (d *decoder) checkReplication(job string, c Job) {
	guarantees := []string{GuaranteeResumability, GuaranteeIncremental, GuaranteeNothing}
	s := d.sectionOf(join(job, "replication.protection"), reflect.TypeFor[Protection]())
	s.oneOf("initial", c.Replication.Protection.Initial, guarantees)
	s.oneOf("incremental", c.Replication.Protection.Incremental, guarantees)
	s = d.sectionOf(join(job, "conflict_resolution"), reflect.TypeFor[ConflictResolution]())
	s.oneOf("initial_replication", c.ConflictResolution.InitialReplication, []string{InitialMostRecent, InitialAll, InitialFail})
}

// directories checks the names and paths of a sender's directories, and that its
// snapshots do not contain each other.
func (s section) directories(e Endpoint) {
	if s.sound("directories") && len(e.Directories) == 0 {
		s.fail("directories", "is empty", "add "+examples["directories"])
	}
	for name, path := range e.Directories {
		key := element("directories", name)
		s.filesystem(key, name)
		s.path(key, path)
		if !s.sound(key) || !s.sound("store") {
			continue
		}
		switch {
		case inside(e.Store, path):
			s.fail(key, "contains the store "+quote(e.Store)+", so that snapshots would contain snapshots", "move the store elsewhere")
		case inside(path, e.Store):
			s.fail(key, "lies in the store "+quote(e.Store), "name the directory whose data is to be kept")
		}
	}
}

// inside reports whether path is dir or lies below it, going by their names.
func inside(path, dir string) bool {
	return paths.Within(filepath.Clean(path), filepath.Clean(dir))
}

// filter checks that each rule concerns a directory: both are written in one
// place, and a rule that concerns none is a typing error that would silently
// replicate less, or more, than was meant.
func (s section) filter(f Filter, directories map[string]string) {
	names := slices.Sorted(maps.Keys(directories))
	for _, rule := range f {
		key := element("filesystems", rule.Pattern)
		root, _ := strings.CutSuffix(rule.Pattern, "<")
		if root != "" || rule.Pattern == "" {
			s.filesystem(key, root)
		}
		matched := func(name string) bool { return rule.specificity(name) > 0 }
		if s.sound(key) && len(names) > 0 && !slices.ContainsFunc(names, matched) {
			s.fail(key, "matches none of the directories", suggest(root, names))
		}
	}
	if s.sound("filesystems") && len(names) > 0 && !slices.ContainsFunc(names, f.Match) {
		s.fail("filesystems", "selects none of the directories", "add "+examples["filesystems"])
	}
}
