package config

import (
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/endpoint/dir"
	"github.com/dualrepl/dualrepl/internal/paths"
)

// The types of Endpoint.
const (
	EndpointDir   = "dir"   // directories
	EndpointZFS   = "zfs"   // datasets, by the zfs program
	EndpointBtrfs = "btrfs" // subvolumes, by the btrfs program
)

// The words of Placeholder.Encryption.
const (
	EncryptionUnspecified = "unspecified" // placeholders are made only where that decides nothing
	EncryptionOff         = "off"
	EncryptionInherit     = "inherit"
)

// What a setting of streams is when the file leaves it out. Directories do without a
// buffer: no program stands between their files and the wire.
const (
	DefaultBuffer         = 16 << 20 // of zfs and btrfs
	DefaultBucketCapacity = 128 << 10
)

// Endpoint is where a job's data lies. Paths are absolute.
type Endpoint struct {
	Type        string            `yaml:"type"`        // one of the constants EndpointDir to EndpointBtrfs
	Root        string            `yaml:"root"`        // btrfs; dir of sink and pull: where received data goes
	Store       string            `yaml:"store"`       // dir of push, source and snap: where snapshots are kept
	Directories map[string]string `yaml:"directories"` // dir of push, source and snap: filesystem to directory
	Program     string            `yaml:"program"`     // zfs and btrfs; "": the one in PATH
}

// Send says how a sender sends. The switches are for zfs: each is an option of `zfs send`.
type Send struct {
	Encrypted        bool `yaml:"encrypted"`         // encrypted datasets only, as they are
	Raw              bool `yaml:"raw"`               // -w
	SendProperties   bool `yaml:"send_properties"`   // -p
	BackupProperties bool `yaml:"backup_properties"` // -b
	LargeBlocks      bool `yaml:"large_blocks"`      // -L
	Compressed       bool `yaml:"compressed"`        // -c
	EmbeddedData     bool `yaml:"embedded_data"`     // -e
	Saved            bool `yaml:"saved"`             // -S

	Buffer         Size           `yaml:"buffer,off"` // read ahead of the wire, for each stream; 0: none
	BandwidthLimit BandwidthLimit `yaml:"bandwidth_limit"`
}

// Recv says how a receiver receives.
type Recv struct {
	Properties     Properties     `yaml:"properties"`  // zfs
	Placeholder    Placeholder    `yaml:"placeholder"` // zfs
	Buffer         Size           `yaml:"buffer,off"`  // read ahead from the wire, for each stream; 0: none
	BandwidthLimit BandwidthLimit `yaml:"bandwidth_limit"`
}

// Properties are those of datasets that are received.
type Properties struct {
	Inherit  []string          `yaml:"inherit"`  // left to what the dataset inherits, whatever the stream has
	Override map[string]string `yaml:"override"` // set, whatever the stream has
}

// Placeholder says how datasets are made that stand in for what was not sent.
type Placeholder struct {
	Encryption string `yaml:"encryption"` // one of the constants EncryptionUnspecified to EncryptionInherit
}

// BandwidthLimit bounds what all streams of a job take together.
type BandwidthLimit struct {
	Max            Size `yaml:"max,off"`         // a second; 0: no limit
	BucketCapacity Size `yaml:"bucket_capacity"` // what may go at once, after a pause
}

var endpointShapes = map[string]shape{
	EndpointDir:   {optional: []string{"root", "store", "directories"}},
	EndpointZFS:   {optional: []string{"program"}},
	EndpointBtrfs: {optional: []string{"root", "program"}},
}

// dirShapes are the shapes of a dir endpoint, by the type of its job.
var dirShapes = map[string]shape{
	TypePush:   {required: []string{"store", "directories"}},
	TypeSource: {required: []string{"store", "directories"}},
	TypeSnap:   {required: []string{"store", "directories"}},
	TypeSink:   {required: []string{"root"}},
	TypePull:   {required: []string{"root"}},
}

// sendShapes and recvShapes are by the type of the endpoint.
var (
	sendShapes = map[string]shape{
		EndpointDir:   {},
		EndpointBtrfs: {},
		EndpointZFS: {optional: []string{
			"encrypted", "raw", "send_properties", "backup_properties", "large_blocks", "compressed", "embedded_data", "saved",
		}},
	}
	recvShapes = map[string]shape{
		EndpointDir:   {},
		EndpointBtrfs: {},
		EndpointZFS:   {optional: []string{"properties", "placeholder"}},
	}
)

// assume makes a job without an endpoint one of zfs, as in zrepl, before anything is
// checked.
func (d *decoder) assume(cfg *Config) {
	for i := range cfg.Jobs {
		if s := d.jobAt(i); !s.given("endpoint") && !d.meant[join(s.field, "endpoint")] {
			cfg.Jobs[i].Endpoint.Type = EndpointZFS
		}
	}
}

// checkEndpoint checks the endpoint of the job that the section is, and what depends on
// its type.
func (d *decoder) checkEndpoint(job section, conf Job) {
	if job.sound("endpoint") {
		s := d.sectionOf(join(job.field, "endpoint"), reflect.TypeFor[Endpoint]())
		s.typed(conf.Endpoint.Type, "a %s endpoint", endpointShapes)
		s.place(conf)
	}
	job.filesystem("root_fs", conf.RootFS, conf.Endpoint.Type)
	if conf.receives() && conf.Endpoint.Type == EndpointZFS && !job.given("root_fs") {
		job.missing("root_fs", "add "+examples["root_fs"])
	}
	if job.sound("send") {
		d.checkSend(join(job.field, "send"), conf)
	}
	if job.sound("recv") {
		d.checkRecv(join(job.field, "recv"), conf)
	}
}

// receives reports whether the job has a receiver of its own.
func (j Job) receives() bool { return j.Type == TypeSink || j.Type == TypePull }

// place checks where the data lies.
func (s section) place(job Job) {
	switch e := job.Endpoint; {
	case e.Type == EndpointDir:
		s.shaped(job.Type, "the endpoint of a "+job.Type+" job", dirShapes)
	case e.Type == EndpointBtrfs && !s.given("root"):
		s.missing("root", "add "+examples["root of btrfs"])
	}
	s.path("root", job.Endpoint.Root)
	s.path("store", job.Endpoint.Store)
	s.path("program", job.Endpoint.Program)
	s.directories(job.Endpoint)
}

func (d *decoder) checkSend(field string, job Job) {
	s := d.sectionOf(field, reflect.TypeFor[Send]())
	s.shaped(job.Endpoint.Type, "a "+job.Endpoint.Type+" endpoint", sendShapes)
	s.limit()
}

func (d *decoder) checkRecv(field string, job Job) {
	s := d.sectionOf(field, reflect.TypeFor[Recv]())
	s.shaped(job.Endpoint.Type, "a "+job.Endpoint.Type+" endpoint", recvShapes)
	s.limit()
	s.properties(job.Recv.Properties)
	s.oneOf("placeholder.encryption", job.Recv.Placeholder.Encryption,
		[]string{EncryptionUnspecified, EncryptionOff, EncryptionInherit})
}

// limit checks that a bandwidth limit limits something.
func (s section) limit() {
	if s.sound("bandwidth_limit") && !s.given("bandwidth_limit.max") {
		s.missing("bandwidth_limit.max", "add max: 10 MiB, which is a second's, or remove bandwidth_limit")
	}
}

// propertyForm is the name of a property, which becomes an argument of the zfs program.
var propertyForm = regexp.MustCompile(`^[a-z0-9][a-z0-9:_.+-]{0,254}$`)

func (s section) properties(p Properties) {
	const hint = "write a property's name, such as mountpoint or org.example:note"
	for i, name := range p.Inherit {
		if key := fmt.Sprintf("properties.inherit[%d]", i); s.sound(key) && !propertyForm.MatchString(name) {
			s.fail(key, quote(name)+" is no property", hint)
		}
	}
	for name := range p.Override {
		switch key := element("properties.override", name); {
		case !s.sound(key):
		case !propertyForm.MatchString(name):
			s.fail(key, quote(name)+" is no property", hint)
		case slices.Contains(p.Inherit, name):
			s.fail(key, "is in inherit, too", "remove one of them")
		}
	}
}

// filesystem checks a name that is the key or the value of a setting, for an endpoint of
// the type.
func (s section) filesystem(key, name, typ string) {
	if !s.sound(key) {
		return
	}
	validate := dir.ValidateFilesystem // btrfs reserves the same name
	if typ == EndpointZFS {
		validate = endpoint.ValidateFilesystem
	}
	if err := validate(name); err != nil {
		reason := strings.Replace(err.Error(), endpoint.ErrInvalid.Error()+": ", "", 1) // which says nothing here
		s.fail(key, reason, "write names separated by single slashes, such as pool/alice")
	}
}

// directories checks the names and paths of a sender's directories, and that its
// snapshots do not contain each other.
func (s section) directories(e Endpoint) {
	if s.sound("directories") && len(e.Directories) == 0 {
		s.fail("directories", "is empty", "add "+examples["directories"])
	}
	for name, path := range e.Directories {
		key := element("directories", name)
		s.filesystem(key, name, EndpointDir)
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

// filter checks the patterns of a job. Where its directories stand in the same file, a
// pattern that concerns none of them is a typing error that would silently replicate
// less, or more, than was meant.
func (s section) filter(job Job) {
	names := slices.Sorted(maps.Keys(job.Endpoint.Directories))
	for _, rule := range job.Filesystems {
		key := element("filesystems", rule.Pattern)
		root, _ := strings.CutSuffix(rule.Pattern, "<")
		if root != "" || rule.Pattern == "" {
			s.filesystem(key, root, job.Endpoint.Type)
		}
		matched := func(name string) bool { return rule.specificity(name) > 0 }
		if s.sound(key) && len(names) > 0 && !slices.ContainsFunc(names, matched) {
			s.fail(key, "matches none of the directories", suggest(root, names))
		}
	}
	switch {
	case !s.sound("filesystems"):
	case len(names) > 0 && !slices.ContainsFunc(names, job.Filesystems.Match):
		s.fail("filesystems", "selects none of the directories", "add "+examples["filesystems"])
	case !slices.ContainsFunc(job.Filesystems, func(r Rule) bool { return r.Include }):
		s.fail("filesystems", "selects nothing", "add "+examples["filesystems"])
	}
}

// completeStreams is for the job that the section is.
func (j *Job) completeStreams(s section) {
	switch {
	case j.Type == TypePush || j.Type == TypeSource:
		j.Send.Buffer = s.buffer("send.buffer", j.Send.Buffer, j.Endpoint.Type)
		j.Send.BandwidthLimit.complete()
	case j.receives():
		j.Recv.Buffer = s.buffer("recv.buffer", j.Recv.Buffer, j.Endpoint.Type)
		j.Recv.BandwidthLimit.complete()
		if j.Endpoint.Type == EndpointZFS {
			setDefault(&j.Recv.Placeholder.Encryption, EncryptionUnspecified)
		}
	}
}

// buffer is the size that the file gives, or what it is otherwise.
func (s section) buffer(key string, size Size, typ string) Size {
	if s.given(key) || typ == EndpointDir {
		return size
	}
	return DefaultBuffer
}

func (l *BandwidthLimit) complete() {
	if l.Max == 0 {
		l.BucketCapacity = 0
		return
	}
	setDefault(&l.BucketCapacity, DefaultBucketCapacity)
}
