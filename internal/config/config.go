package config

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// DefaultPath is the file that is read when none is named.
const DefaultPath = "/etc/dualrepl/dualrepl.yml"

// maxFileSize bounds a configuration file, in bytes: some thousand directories.
// It bounds everything that is made of one as well, since the tree has no aliases.
const maxFileSize = 256 << 10

// The types of jobs.
const (
	TypePush   = "push"   // active side, sender
	TypePull   = "pull"   // active side, receiver
	TypeSink   = "sink"   // passive side, receiver
	TypeSource = "source" // passive side, sender
	TypeSnap   = "snap"   // takes snapshots, replicates nothing
)

// The types of Connect and Serve.
const (
	TransportTCP   = "tcp"
	TransportTLS   = "tls"
	TransportLocal = "local" // within one daemon
)

// EndpointDir is the type of an Endpoint that keeps directories.
const EndpointDir = "dir"

// The types of Snapshotting.
const (
	SnapshottingPeriodic = "periodic"
	SnapshottingManual   = "manual"
)

// The guarantees of Protection.
const (
	GuaranteeResumability = "guarantee_resumability"
	GuaranteeIncremental  = "guarantee_incremental"
	GuaranteeNothing      = "guarantee_nothing"
)

// The policies of ConflictResolution.
const (
	InitialMostRecent = "most_recent"
	InitialAll        = "all"
	InitialFail       = "fail"
)

// What a setting is when the file leaves it out.
const (
	DefaultLevel       = "info"
	DefaultFormat      = "text"
	DefaultPrefix      = "dr_"
	DefaultDialTimeout = 10 * time.Second
	DefaultSteps       = 1
)

// Config is a whole configuration. One that Load returned is complete and free
// of contradictions: what a job's type needs is there, and nothing else is.
type Config struct {
	Global Global `yaml:"global"`
	Jobs   []Job  `yaml:"jobs"`
}

// Global holds the settings of the daemon itself.
type Global struct {
	Logging Logging `yaml:"logging"`
}

// Logging says what is logged and how.
type Logging struct {
	Level  string `yaml:"level"`  // debug, info, warn or error
	Format string `yaml:"format"` // text or json
}

// A Job is one active or passive task.
type Job struct {
	Name string `yaml:"name"` // unique in the file
	Type string `yaml:"type"` // one of the constants TypePush to TypeSnap
	Line int    // of the job in the file, from 1

	Connect            *Connect           `yaml:"connect"` // push and pull: never nil; else nil
	Serve              *Serve             `yaml:"serve"`   // sink and source: never nil; else nil
	Endpoint           Endpoint           `yaml:"endpoint"`
	RootFS             string             `yaml:"root_fs"`      // sink and pull: filesystem that everything received goes below; "" is none
	Filesystems        Filter             `yaml:"filesystems"`  // push, source and snap
	Snapshotting       *Snapshotting      `yaml:"snapshotting"` // push, source and snap: never nil; else nil
	Replication        Replication        `yaml:"replication"`  // push and pull
	ConflictResolution ConflictResolution `yaml:"conflict_resolution"`
	Interval           time.Duration      `yaml:"interval,manual"` // pull: from one replication to the next; 0 is only on request
}

// ReceiveRoot is the directory that a receiver with a dir endpoint keeps its
// data in: the endpoint's root and, below it, root_fs.
func (j Job) ReceiveRoot() string {
	return filepath.Join(j.Endpoint.Root, filepath.FromSlash(j.RootFS))
}

// Connect says how an active job reaches its passive side.
type Connect struct {
	Type           string        `yaml:"type"`            // TransportTCP, TransportTLS or TransportLocal
	Address        string        `yaml:"address"`         // tcp, tls: HOST:PORT
	CA             string        `yaml:"ca"`              // tls: absolute path of a PEM file, as are the next two
	Cert           string        `yaml:"cert"`            // tls
	Key            string        `yaml:"key"`             // tls
	ServerCN       string        `yaml:"server_cn"`       // tls: name in the passive side's certificate
	ListenerName   string        `yaml:"listener_name"`   // local: listener_name of the passive job
	ClientIdentity string        `yaml:"client_identity"` // local: who this job is to the passive job
	DialTimeout    time.Duration `yaml:"dial_timeout"`    // tcp, tls: never 0
}

// Serve says how a passive job is reached.
type Serve struct {
	Type         string            `yaml:"type"`          // TransportTCP, TransportTLS or TransportLocal
	Listen       string            `yaml:"listen"`        // tcp, tls: [HOST]:PORT
	Clients      map[string]string `yaml:"clients"`       // tcp: IP address or CIDR prefix to client identity
	CA           string            `yaml:"ca"`            // tls: absolute path of a PEM file, as are the next two
	Cert         string            `yaml:"cert"`          // tls
	Key          string            `yaml:"key"`           // tls
	ClientCNs    []string          `yaml:"client_cns"`    // tls: common names that may connect
	ListenerName string            `yaml:"listener_name"` // local
}

// Endpoint is where a job's data lies. Paths are absolute.
type Endpoint struct {
	Type        string            `yaml:"type"`        // EndpointDir
	Root        string            `yaml:"root"`        // sink and pull: where received data goes
	Store       string            `yaml:"store"`       // push, source and snap: where snapshots are kept
	Directories map[string]string `yaml:"directories"` // push, source and snap: filesystem to directory
}

// Snapshotting says when snapshots are taken and how they are called.
type Snapshotting struct {
	Type     string        `yaml:"type"`     // SnapshottingPeriodic or SnapshottingManual
	Prefix   string        `yaml:"prefix"`   // beginning of their names
	Interval time.Duration `yaml:"interval"` // periodic: from one snapshot to the next
}

// Replication says how an active job replicates.
type Replication struct {
	Protection  Protection  `yaml:"protection"`
	Concurrency Concurrency `yaml:"concurrency"`
}

// Protection says what a step guarantees while it runs and after it broke: one
// of the constants GuaranteeResumability to GuaranteeNothing.
type Protection struct {
	Initial     string `yaml:"initial"`     // full steps
	Incremental string `yaml:"incremental"` // all others
}

// Concurrency bounds how much is done at once.
type Concurrency struct {
	Steps int `yaml:"steps"` // steps that are transferred; at least 1
}

// ConflictResolution says what to do where the two sides leave a choice.
type ConflictResolution struct {
	InitialReplication string `yaml:"initial_replication"` // one of the constants InitialMostRecent to InitialFail
}

// Load reads the configuration file at path, or at DefaultPath if path is empty,
// and applies the environment to it. If the file can be read, the error is an
// Errors that lists everything that is wrong with it.
func Load(path string) (*Config, error) {
	if path == "" {
		path = DefaultPath
	}
	data, err := readFile(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	return Parse(path, data)
}

// readFile refuses what would have it wait for a writer, or read on for ever.
func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if t := info.Mode().Type(); t != 0 && t != fs.ModeNamedPipe {
		return nil, fmt.Errorf("%s is neither a file nor a pipe", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxFileSize+1)) // one more, so that Parse sees that it is too long
}
