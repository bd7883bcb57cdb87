package config

import (
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
)

// A shape says which keys a section of one type has, beside those that all have.
type shape struct{ required, optional []string }

var jobShapes = map[string]shape{
	TypePush: {
		required: []string{"connect", "endpoint", "filesystems", "snapshotting"},
		optional: []string{"replication", "conflict_resolution"},
	},
	TypePull: {
		required: []string{"connect", "endpoint", "interval"},
		optional: []string{"root_fs", "replication", "conflict_resolution"},
	},
	TypeSink:   {required: []string{"serve", "endpoint"}, optional: []string{"root_fs"}},
	TypeSource: {required: []string{"serve", "endpoint", "filesystems", "snapshotting"}},
	TypeSnap:   {required: []string{"endpoint", "filesystems", "snapshotting"}},
}

var connectShapes = map[string]shape{
	TransportTCP:   {required: []string{"address"}, optional: []string{"dial_timeout"}},
	TransportTLS:   {required: []string{"address", "ca", "cert", "key", "server_cn"}, optional: []string{"dial_timeout"}},
	TransportLocal: {required: []string{"listener_name", "client_identity"}},
}

var serveShapes = map[string]shape{
	TransportTCP:   {required: []string{"listen", "clients"}},
	TransportTLS:   {required: []string{"listen", "ca", "cert", "key", "client_cns"}},
	TransportLocal: {required: []string{"listener_name"}},
}

// dirShapes are the shapes of a dir endpoint, by the type of its job.
var dirShapes = map[string]shape{
	TypePush:   {required: []string{"store", "directories"}},
	TypeSource: {required: []string{"store", "directories"}},
	TypeSnap:   {required: []string{"store", "directories"}},
	TypeSink:   {required: []string{"root"}},
	TypePull:   {required: []string{"root"}},
}

var snapshottingShapes = map[string]shape{
	SnapshottingPeriodic: {required: []string{"interval"}, optional: []string{"prefix"}},
	SnapshottingManual:   {optional: []string{"prefix"}},
}

// examples say how a key that is missing would look.
var examples = map[string]string{
	"address":         `address: "HOST:PORT" of the passive side`,
	"ca":              "ca: /PATH of the certificate authority's certificate (PEM)",
	"cert":            "cert: /PATH of this side's certificate (PEM)",
	"client_cns":      "client_cns: [NAME], the common names of the certificates that may connect",
	"client_identity": "client_identity: NAME, by which the passive job knows this one",
	"clients":         `clients: {"IP ADDRESS or PREFIX": CLIENT}`,
	"connect":         `connect: {type: tcp, address: "HOST:PORT"}`,
	"directories":     "directories: {NAME: /PATH}, the directories to take snapshots of",
	"endpoint":        "endpoint: {type: dir, ...}, where the data lies",
	"filesystems":     `filesystems: {"<": true} for all of them`,
	"interval":        "interval: 10m",
	"jobs":            "jobs: with at least one job",
	"key":             "key: /PATH of this side's private key (PEM)",
	"listen":          `listen: "HOST:PORT", or ":PORT" for all addresses`,
	"listener_name":   "listener_name: NAME, the same in the passive and the active job",
	"name":            "name: NAME, which no other job has",
	"root":            "root: /PATH of the directory that received data goes to",
	"serve":           `serve: {type: tcp, listen: ":8888", clients: {"IP ADDRESS or PREFIX": CLIENT}}`,
	"server_cn":       "server_cn: NAME, the common name of the passive side's certificate",
	"snapshotting":    "snapshotting: {type: periodic, interval: 10m}, or {type: manual}",
	"store":           "store: /PATH of the directory that snapshots are kept in",
}

// A section is a mapping of the file whose values are being checked.
type section struct {
	*decoder
	field string
	keys  []string // known ones
}

func (d *decoder) sectionOf(field string, t reflect.Type) section {
	return section{d, field, namesOf(t)}
}

func (s section) given(key string) bool {
	_, ok := s.places[join(s.field, key)]
	return ok
}

// sound reports whether the key is given and could be decoded.
func (s section) sound(key string) bool {
	return s.given(key) && !s.broken[join(s.field, key)]
}

func (s section) fail(key, message, hint string) {
	s.decoder.fail(join(s.field, key), message, hint)
}

// missing reports a key that is not given, unless its misspelling was reported.
func (s section) missing(key, hint string) {
	if field := join(s.field, key); !s.meant[field] {
		s.report(s.places[s.field], field, "missing", hint)
	}
}

// oneOf checks a value that must be one of a few words.
func (s section) oneOf(key, value string, words []string) {
	if s.sound(key) && !slices.Contains(words, value) {
		s.fail(key, quote(value)+" is unknown", suggest(value, words))
	}
}

// typed checks the type of a section and then that it has the keys of its type.
func (s section) typed(value, noun string, shapes map[string]shape) {
	types := slices.Sorted(maps.Keys(shapes))
	if !s.given("type") {
		s.missing("type", "add type: "+enumerate(types))
		return
	}
	s.oneOf("type", value, types)
	s.shaped(value, fmt.Sprintf(noun, value), shapes)
}

// shaped checks that the section has the keys that its type needs, and no
// others. The noun is what messages call a section of the type.
func (s section) shaped(typ, noun string, shapes map[string]shape) {
	own, ok := shapes[typ]
	if !ok {
		return
	}
	for _, key := range own.required {
		if !s.given(key) {
			s.missing(key, "add "+examples[key])
		}
	}
	for _, key := range s.keys {
		if others := typesWith(key, shapes); s.given(key) && len(others) > 0 && !slices.Contains(others, typ) {
			s.fail(key, noun+" has none", "remove it (it is for type "+enumerate(others)+")")
		}
	}
}

// typesWith lists the types that have a key, sorted. It is empty for keys that all have.
func typesWith(key string, shapes map[string]shape) []string {
	var types []string
	for t, s := range shapes {
		if slices.Contains(s.required, key) || slices.Contains(s.optional, key) {
			types = append(types, t)
		}
	}
	slices.Sort(types)
	return types
}

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
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
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

// checkTogether checks what jobs must have apart and what they must have in common.
func (d *decoder) checkTogether(jobs []Job) {
	names, listens, locals := map[string]int{}, map[string]int{}, map[string]int{}
	for i, job := range jobs {
		d.unique(names, i, "name", job.Name, "give each job a name of its own")
		if job.Serve != nil {
			d.unique(listens, i, "serve.listen", job.Serve.Listen, "give each passive job a port of its own")
			d.unique(locals, i, "serve.listener_name", job.Serve.ListenerName, "give each passive job a listener_name of its own")
		}
	}
	for i, job := range jobs {
		if job.Connect != nil {
			d.local(i, job, jobs, locals)
		}
	}
}

// unique notes the value of jobs[i].key in seen and reports a second one.
func (d *decoder) unique(seen map[string]int, i int, key, value, hint string) {
	s := section{decoder: d, field: fmt.Sprintf("jobs[%d]", i)}
	if !s.sound(key) {
		return
	}
	if first, again := seen[value]; again {
		s.fail(key, fmt.Sprintf("%s is taken by jobs[%d]", quote(value), first), hint)
		return
	}
	seen[value] = i
}

// local checks that a job that connects within the daemon has a passive job of
// the opposite kind there.
func (d *decoder) local(i int, job Job, jobs []Job, listeners map[string]int) {
	s := section{decoder: d, field: fmt.Sprintf("jobs[%d].connect", i)}
	if !s.sound("listener_name") {
		return
	}
	name := job.Connect.ListenerName
	passive, ok := listeners[name]
	opposite := map[string]string{TypePush: TypeSink, TypePull: TypeSource}[job.Type]
	switch {
	case !ok:
		s.fail("listener_name", "no job serves "+quote(name), suggestListener(name, listeners))
	case opposite != "" && jobs[passive].Type != opposite:
		s.fail("listener_name", fmt.Sprintf("%s is a %s job's", quote(name), jobs[passive].Type), "a "+job.Type+" job needs a "+opposite+" job")
	}
}

func suggestListener(name string, listeners map[string]int) string {
	if len(listeners) == 0 {
		return "add a passive job with serve: {type: local, listener_name: " + clip(name) + "}"
	}
	return suggest(name, slices.Sorted(maps.Keys(listeners)))
}
