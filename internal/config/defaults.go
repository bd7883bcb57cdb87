package config

// complete sets what the file leaves out.
func (d *decoder) complete(cfg *Config) {
	d.completeLogging(&cfg.Global.Logging)
	for _, l := range cfg.Listeners {
		if l.Serve != nil {
			l.Serve.complete(l.Name)
		}
	}
	for i := range cfg.Jobs {
		s := d.jobAt(i)
		cfg.Jobs[i].Line = d.places[s.field].line
		cfg.Jobs[i].complete(s)
		cfg.Jobs[i].Peer = peer(cfg.Jobs[i], cfg.Jobs)
	}
}

func (d *decoder) completeLogging(l *Logging) {
	setDefault(&l.Type, LoggingStderr)
	setDefault(&l.Level, DefaultLevel)
	if l.Format != FormatJSON {
		l.Format = FormatText // zrepl's words for it, too
	}
	if !(section{decoder: d, field: "global.logging"}).given("time") {
		l.Time = l.Type != LoggingSyslog // which knows it
	}
}

// complete is for the job that the section is.
func (j *Job) complete(s section) {
	j.completeStreams(s)
	j.Pruning.complete(s)
	if j.Snapshotting != nil {
		setDefault(&j.Snapshotting.Prefix, DefaultPrefix)
	}
	if j.Serve != nil {
		j.Serve.complete(j.Name)
	}
	if j.Connect != nil {
		j.Connect.complete(j.Passive())
	}
	if j.Active() {
		j.completeReplication()
	}
}

func (j *Job) completeReplication() {
	setDefault(&j.Replication.Protection.Initial, GuaranteeResumability)
	setDefault(&j.Replication.Protection.Incremental, GuaranteeResumability)
	setDefault(&j.Replication.Concurrency.Steps, DefaultSteps)
	setDefault(&j.Replication.Concurrency.SizeEstimates, DefaultEstimates)
	setDefault(&j.ConflictResolution.InitialReplication, InitialMostRecent)
}

func (c *Connect) complete(passive bool) {
	if passive && c.Type == TransportTLS {
		setDefault(&c.ServerIdentity, c.ServerCN)
	}
	if c.Type != TransportLocal {
		setDefault(&c.DialTimeout, DefaultDialTimeout)
		setDefault(&c.Checksum, ChecksumAuto)
	}
}

// complete is for the serve of what has the name.
func (c *Serve) complete(name string) {
	if c.Type == ServeShared {
		setDefault(&c.Route, name)
		return
	}
	setDefault(&c.Limits.Connections, DefaultLimits.Connections)
	setDefault(&c.Limits.Requests, DefaultLimits.Requests)
	setDefault(&c.Limits.MessageSize, DefaultLimits.MessageSize)
	setDefault(&c.Limits.PendingHandshakes, DefaultLimits.PendingHandshakes)
}

func setDefault[T comparable](v *T, value T) {
	if *v == *new(T) {
		*v = value
	}
}
