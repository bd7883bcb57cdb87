package config

import (
	"fmt"
	"time"
)

// complete sets what the file leaves out.
func (d *decoder) complete(cfg *Config) {
	setDefault(&cfg.Global.Logging.Level, DefaultLevel)
	setDefault(&cfg.Global.Logging.Format, DefaultFormat)
	for i := range cfg.Jobs {
		cfg.Jobs[i].Line = d.places[fmt.Sprintf("jobs[%d]", i)].line
		cfg.Jobs[i].complete()
	}
}

func (j *Job) complete() {
	if j.Snapshotting != nil {
		setDefault(&j.Snapshotting.Prefix, DefaultPrefix)
	}
	if j.Connect == nil {
		return
	}
	if j.Connect.Type != TransportLocal {
		setDefault(&j.Connect.DialTimeout, DefaultDialTimeout)
	}
	setDefault(&j.Replication.Protection.Initial, GuaranteeResumability)
	setDefault(&j.Replication.Protection.Incremental, GuaranteeResumability)
	setDefault(&j.Replication.Concurrency.Steps, DefaultSteps)
	setDefault(&j.ConflictResolution.InitialReplication, InitialMostRecent)
}

func setDefault[T string | int | time.Duration](v *T, value T) {
	if *v == *new(T) {
		*v = value
	}
}
