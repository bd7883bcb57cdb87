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

// ServeShared is the type of a Serve that has no listener of its own.
const ServeShared = "shared"

// The verbs of Serve: what a client may do.
const (
	VerbList    = "list"
	VerbSend    = "send"
	VerbReceive = "receive"
	VerbDestroy = "destroy"
)

// The words of Connect.Checksum.
const (
	ChecksumAuto   = "auto" // where the transport has none of its own
	ChecksumAlways = "always"
	ChecksumNever  = "never"
)

// MonitoringPrometheus is the type of a Monitoring.
const MonitoringPrometheus = "prometheus"

// The types of Snapshotting.
const (
	SnapshottingPeriodic = "periodic"
	SnapshottingCron     = "cron"
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
	DefaultFormat      = FormatText
	DefaultPrefix      = "dr_"
	DefaultDialTimeout = 10 * time.Second
	DefaultSteps       = 1
	DefaultEstimates   = 4 // as zrepl's
)

// DefaultLimits are those of a listener whose file sets none.
var DefaultLimits = Limits{Connections: 1024, Requests: 1024, MessageSize: 16 << 20, PendingHandshakes: 128}

// Config is a whole configuration. One that Load returned is complete and free
// of contradictions: what a job's type needs is there, and nothing else is.
type Config struct {
	Global    Global     `yaml:"global"`
	Listeners []Listener `yaml:"listeners"`
	Jobs      []Job      `yaml:"jobs"`
}

// Global holds the settings of the daemon itself.
type Global struct {
	Logging    Logging      `yaml:"logging"`
	Monitoring []Monitoring `yaml:"monitoring"`
}

// The types of Logging.
const (
	LoggingStderr = "stderr"
	LoggingStdout = "stdout"
	LoggingSyslog = "syslog" // the system's log
)

// The formats of Logging.
const (
	FormatText = "text"
	FormatJSON = "json"
)

// Logging says what is logged, where to and how.
type Logging struct {
	Type   string `yaml:"type"`   // one of the constants LoggingStderr to LoggingSyslog
	Level  string `yaml:"level"`  // debug, info, warn or error
	Format string `yaml:"format"` // FormatText or FormatJSON
	Time   bool   `yaml:"time"`   // lines begin with it
}

// Monitoring is where figures of the daemon can be read.
type Monitoring struct {
	Type   string `yaml:"type"`   // MonitoringPrometheus
	Listen string `yaml:"listen"` // [HOST]:PORT
}

// A Listener is one that several jobs share, each under a route of its own.
type Listener struct {
	Name  string `yaml:"name"`  // unique among the listeners
	Serve *Serve `yaml:"serve"` // never nil, and never ServeShared
}

// A Job is one active or passive task.
type Job struct {
	Name string `yaml:"name"` // unique in the file
	Type string `yaml:"type"` // one of the constants TypePush to TypeSnap
	Line int    // of the job in the file, from 1

	// Who begins a connection: this side (Connect) or its peer (Serve). A snap job has neither,
	// all others have one. Usually active jobs connect and passive ones serve; see Dialled.
	Connect *Connect `yaml:"connect"`
	Serve   *Serve   `yaml:"serve"`
	// Peer is the client identity of the passive side that an active job with Serve replicates
	// with; else "".
	Peer string

	Endpoint           Endpoint           `yaml:"endpoint"`
	RootFS             string             `yaml:"root_fs"`      // sink and pull: filesystem that everything received goes below; "" is none, but never for zfs
	Filesystems        Filter             `yaml:"filesystems"`  // push, source and snap
	Snapshotting       *Snapshotting      `yaml:"snapshotting"` // push, source and snap: never nil; else nil
	Replication        Replication        `yaml:"replication"`  // push and pull
	ConflictResolution ConflictResolution `yaml:"conflict_resolution"`
	Interval           time.Duration      `yaml:"interval,manual"` // pull: from one replication to the next; 0 is only on request
	Send               Send               `yaml:"send"`            // push and source
	Recv               Recv               `yaml:"recv"`            // sink and pull
	Pruning            Pruning            `yaml:"pruning"`         // push, pull and snap
}

// Active reports whether the job drives replication.
func (j Job) Active() bool { return j.Type == TypePush || j.Type == TypePull }

// Passive reports whether the job answers an active one.
func (j Job) Passive() bool { return j.Type == TypeSink || j.Type == TypeSource }

// Dialled reports whether it is the passive side that connects, so that the active one calls
// it over a connection that it did not begin.
func (j Job) Dialled() bool { return j.Active() && j.Serve != nil || j.Passive() && j.Connect != nil }

// Sends reports whether the job has a sender of its own.
func (j Job) Sends() bool { return j.Type == TypePush || j.Type == TypeSource || j.Type == TypeSnap }

// ReceiveRoot is the directory that a receiver with a dir or btrfs endpoint keeps
// its data in: the endpoint's root and, below it, root_fs.
func (j Job) ReceiveRoot() string {
	return filepath.Join(j.Endpoint.Root, filepath.FromSlash(j.RootFS))
}

// Connect says how a job reaches its peer.
type Connect struct {
	Type           string        `yaml:"type"`            // TransportTCP, TransportTLS or TransportLocal
	Address        string        `yaml:"address"`         // tcp, tls: HOST:PORT
	CA             string        `yaml:"ca"`              // tls: absolute path of a PEM file, as are the next two
	Cert           string        `yaml:"cert"`            // tls
	Key            string        `yaml:"key"`             // tls
	ServerCN       string        `yaml:"server_cn"`       // tls: name in the peer's certificate
	ListenerName   string        `yaml:"listener_name"`   // local: listener_name of the peer
	ClientIdentity string        `yaml:"client_identity"` // local: who this job is to the peer
	DialTimeout    time.Duration `yaml:"dial_timeout"`    // tcp, tls: never 0
	Route          string        `yaml:"route"`           // which of the jobs behind the peer's listener; "": its default
	Mux            bool          `yaml:"mux"`             // one connection for all; passive jobs: true
	ServerIdentity string        `yaml:"server_identity"` // passive jobs: who the peer is to this one; never ""
	Zstd           Zstd          `yaml:"zstd"`            // tcp, tls
	Checksum       string        `yaml:"checksum"`        // tcp, tls: one of the constants ChecksumAuto to ChecksumNever
	Verbs          []string      `yaml:"verbs"`           // passive jobs: as in Serve
}

// Zstd says whether streams are compressed.
type Zstd struct {
	Level int `yaml:"level"` // 1 to 22; 0: they are not
}

// Serve says how a job is reached.
type Serve struct {
	Type         string            `yaml:"type"`          // TransportTCP, TransportTLS, TransportLocal or ServeShared
	Listen       string            `yaml:"listen"`        // tcp, tls: [HOST]:PORT
	Clients      map[string]string `yaml:"clients"`       // tcp: IP address or CIDR prefix to client identity
	CA           string            `yaml:"ca"`            // tls: absolute path of a PEM file, as are the next two
	Cert         string            `yaml:"cert"`          // tls
	Key          string            `yaml:"key"`           // tls
	ClientCNs    []string          `yaml:"client_cns"`    // tls: common names that may connect
	ListenerName string            `yaml:"listener_name"` // local
	Limits       Limits            `yaml:"limits"`        // tcp, tls, local: none is 0

	Listener     string   `yaml:"listener"`       // shared: name of one of the listeners
	Route        string   `yaml:"route"`          // shared: unique on the listener, never ""
	Default      bool     `yaml:"default"`        // shared: for clients that name no route, too
	RouteClients []string `yaml:"clients,shared"` // shared: client identities; none: all that the listener lets in
	Verbs        []string `yaml:"verbs"`          // passive jobs: some of VerbList to VerbDestroy; none: all
}

// Limits bound what each client of a listener has at once.
type Limits struct {
	Connections       int  `yaml:"connections"`
	Requests          int  `yaml:"requests"`
	MessageSize       Size `yaml:"message_size"`       // of one control message
	PendingHandshakes int  `yaml:"pending_handshakes"` // of the listener: clients that are not known yet
}

// A Size is a number of bytes.
type Size int64

// Snapshotting says when snapshots are taken and how they are called.
type Snapshotting struct {
	Type     string        `yaml:"type"`     // SnapshottingPeriodic, SnapshottingCron or SnapshottingManual
	Prefix   string        `yaml:"prefix"`   // beginning of their names
	Interval time.Duration `yaml:"interval"` // periodic: from one snapshot to the next
	Cron     string        `yaml:"cron"`     // cron: see ParseCron
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
	Steps         int `yaml:"steps"`          // steps that are transferred; at least 1
	SizeEstimates int `yaml:"size_estimates"` // sizes of steps that are asked for; at least 1
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
