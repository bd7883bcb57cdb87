package config

import (
	"fmt"
	"reflect"

	"github.com/dualrepl/dualrepl/transport"
)

// check looks for mistakes in what could be decoded.
func (d *decoder) check(cfg *Config) {
	if d.broken[""] {
		return // not a configuration at all
	}
	d.checkGlobal(cfg.Global)
	for i, l := range cfg.Listeners {
		if field := fmt.Sprintf("listeners[%d]", i); !d.broken[field] {
			d.checkListener(d.sectionOf(field, reflect.TypeFor[Listener]()), l)
		}
	}
	d.checkJobs(cfg.Jobs)
	d.checkTogether(cfg)
}

func (d *decoder) checkGlobal(g Global) {
	s := d.sectionOf("global.logging", reflect.TypeFor[Logging]())
	s.oneOf("type", g.Logging.Type, []string{LoggingStderr, LoggingStdout, LoggingSyslog})
	s.oneOf("level", g.Logging.Level, []string{"debug", "info", "warn", "error"})
	s.oneOf("format", g.Logging.Format, []string{FormatText, FormatJSON, "human", "logfmt"})
	for i, m := range g.Monitoring {
		s := d.sectionOf(fmt.Sprintf("global.monitoring[%d]", i), reflect.TypeFor[Monitoring]())
		if !d.broken[s.field] {
			s.typed(m.Type, "%s monitoring", monitoringShapes)
			s.address("listen", m.Listen)
		}
	}
}

func (d *decoder) checkListener(s section, l Listener) {
	if !s.given("name") {
		s.missing("name", "add name: NAME, which no other listener has")
	}
	s.word("name", l.Name)
	if !s.given("serve") {
		s.missing("serve", "add "+examples["serve"])
	}
	if !s.sound("serve") {
		return
	}
	serve := d.checkServe(join(s.field, "serve"), l.Serve, listenerShapes)
	if serve.given("verbs") {
		serve.fail("verbs", "a listener that jobs share has none", "give each job its own, in its serve")
	}
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
}

func (d *decoder) checkJob(s section, job Job) {
	if !s.given("name") {
		s.missing("name", "add "+examples["name"])
	}
	s.word("name", job.Name)
	s.typed(job.Type, "a %s job", jobShapes)
	d.checkWay(s, job)
	d.checkEndpoint(s, job)
	if s.sound("snapshotting") {
		d.checkSnapshotting(join(s.field, "snapshotting"), job.Snapshotting)
	}
	s.filter(job)
	d.checkReplication(s.field, job)
	if s.sound("pruning") {
		d.checkPruning(join(s.field, "pruning"), job)
	}
}

// checkWay checks that a job and its peer meet in one way.
func (d *decoder) checkWay(s section, job Job) {
	usual, other := "connect", "serve"
	if job.Passive() {
		usual, other = other, usual
	}
	switch replicates := job.Active() || job.Passive(); {
	case replicates && s.given(usual) && s.given(other):
		s.fail(other, "is given beside "+usual, "remove one of them: either this side begins a connection, or its peer does")
	case replicates && !s.given(usual) && !s.given(other):
		s.missing(usual, "add "+examples[usual])
	}
	if s.sound("connect") {
		d.checkConnect(join(s.field, "connect"), job)
	}
	if s.sound("serve") {
		d.checkJobServe(join(s.field, "serve"), job)
	}
}

func (d *decoder) checkConnect(field string, job Job) {
	c, s := job.Connect, d.sectionOf(field, reflect.TypeFor[Connect]())
	s.typed(c.Type, "a %s connection", connectShapes)
	s.address("address", c.Address)
	s.path("ca", c.CA)
	s.path("cert", c.Cert)
	s.path("key", c.Key)
	s.identity("client_identity", c.ClientIdentity)
	s.identity("server_identity", c.ServerIdentity)
	s.route(c.Route)
	s.oneOf("checksum", c.Checksum, []string{ChecksumAuto, ChecksumAlways, ChecksumNever})
	s.verbs(job, c.Verbs)
	if s.sound("zstd") && !s.given("zstd.level") {
		s.missing("zstd.level", "add level: 3, or another one up to 22")
	}
	switch {
	case job.Passive():
		s.calledBack(c)
	case job.Active() && s.given("server_identity"):
		s.fail("server_identity", "a "+job.Type+" job has none", "remove it (it is for type sink or source)")
	}
}

// calledBack checks the connect of a passive job.
func (s section) calledBack(c *Connect) {
	switch {
	case !s.given("mux"):
		s.missing("mux", "add "+examples["mux"])
	case s.sound("mux") && !c.Mux:
		s.fail("mux", "a passive job needs it to connect", "write "+examples["mux"])
	}
	named := c.Type == TransportTLS && transport.ValidateClientIdentity(c.ServerCN) == nil // by default
	if !named && !s.given("server_identity") {
		s.missing("server_identity", "add "+examples["server_identity"])
	}
}

// checkServe checks what a job and a listener that jobs share have in common.
func (d *decoder) checkServe(field string, c *Serve, shapes map[string]shape) section {
	s := d.sectionOf(field, reflect.TypeFor[Serve]())
	s.typed(c.Type, "a %s listener", shapes)
	s.address("listen", c.Listen)
	s.path("ca", c.CA)
	s.path("cert", c.Cert)
	s.path("key", c.Key)
	if c.Type != ServeShared {
		s.clients(c.Clients)
	}
	if s.sound("client_cns") && len(c.ClientCNs) == 0 {
		s.fail("client_cns", "is empty, so that nobody may connect", "add "+examples["client_cns"])
	}
	for i, cn := range c.ClientCNs {
		s.identity(fmt.Sprintf("client_cns[%d]", i), cn)
	}
	return s
}

func (d *decoder) checkJobServe(field string, job Job) {
	c, s := job.Serve, d.checkServe(field, job.Serve, serveShapes)
	s.route(c.Route)
	s.routeClients(c.RouteClients)
	if c.Type == ServeShared && job.Active() && !s.given("clients") {
		s.missing("clients", "add "+examples["client"])
	}
	if job.Active() && c.Default {
		s.fail("default", "a "+job.Type+" job cannot be it", "remove it: its peer names the route "+quote(job.routeName()))
	}
	s.verbs(job, c.Verbs)
}

func (d *decoder) checkSnapshotting(field string, c *Snapshotting) {
	s := d.sectionOf(field, reflect.TypeFor[Snapshotting]())
	s.typed(c.Type, "%s snapshotting", snapshottingShapes)
	s.word("prefix", c.Prefix)
	s.cron(c.Cron)
}

func (d *decoder) checkReplication(job string, c Job) {
	guarantees := []string{GuaranteeResumability, GuaranteeIncremental, GuaranteeNothing}
	s := d.sectionOf(join(job, "replication.protection"), reflect.TypeFor[Protection]())
	s.oneOf("initial", c.Replication.Protection.Initial, guarantees)
	s.oneOf("incremental", c.Replication.Protection.Incremental, guarantees)
	s = d.sectionOf(join(job, "conflict_resolution"), reflect.TypeFor[ConflictResolution]())
	s.oneOf("initial_replication", c.ConflictResolution.InitialReplication, []string{InitialMostRecent, InitialAll, InitialFail})
}
