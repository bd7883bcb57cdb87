package config

import (
	"fmt"
	"maps"
	"reflect"
	"slices"

	"go.yaml.in/yaml/v3"
)

// A shape says which keys a section of one type has, beside those that all have.
type shape struct{ required, optional []string }

// jobShapes leave connect and serve to checkWay.
var jobShapes = map[string]shape{
	TypePush: {
		required: []string{"filesystems", "snapshotting"},
		optional: []string{"connect", "serve", "send", "replication", "conflict_resolution", "pruning"},
	},
	TypePull: {
		required: []string{"interval"},
		optional: []string{"connect", "serve", "root_fs", "recv", "replication", "conflict_resolution", "pruning"},
	},
	TypeSink: {optional: []string{"connect", "serve", "root_fs", "recv"}},
	TypeSource: {
		required: []string{"filesystems", "snapshotting"},
		optional: []string{"connect", "serve", "send"},
	},
	TypeSnap: {required: []string{"filesystems", "snapshotting"}, optional: []string{"pruning"}},
}

var connectShapes = map[string]shape{
	TransportTCP: {
		required: []string{"address"},
		optional: []string{"dial_timeout", "route", "mux", "server_identity", "verbs", "zstd", "checksum"},
	},
	TransportTLS: {
		required: []string{"address", "ca", "cert", "key", "server_cn"},
		optional: []string{"dial_timeout", "route", "mux", "server_identity", "verbs", "zstd", "checksum"},
	},
	TransportLocal: {
		required: []string{"listener_name", "client_identity"},
		optional: []string{"route", "mux", "server_identity", "verbs"},
	},
}

var serveShapes = map[string]shape{
	TransportTCP:   {required: []string{"listen", "clients"}, optional: []string{"limits", "verbs"}},
	TransportTLS:   {required: []string{"listen", "ca", "cert", "key", "client_cns"}, optional: []string{"limits", "verbs"}},
	TransportLocal: {required: []string{"listener_name"}, optional: []string{"limits", "verbs"}},
	ServeShared:    {required: []string{"listener"}, optional: []string{"route", "default", "clients", "verbs"}},
}

// listenerShapes are those of serve of the listeners, which jobs share.
var listenerShapes = map[string]shape{
	TransportTCP:   serveShapes[TransportTCP],
	TransportTLS:   serveShapes[TransportTLS],
	TransportLocal: serveShapes[TransportLocal],
}

var monitoringShapes = map[string]shape{
	MonitoringPrometheus: {required: []string{"listen"}},
}

var snapshottingShapes = map[string]shape{
	SnapshottingPeriodic: {required: []string{"interval"}, optional: []string{"prefix"}},
	SnapshottingCron:     {required: []string{"cron"}, optional: []string{"prefix"}},
	SnapshottingManual:   {optional: []string{"prefix"}},
}

// shapesOf are the shapes of the sections whose own type decides on them.
var shapesOf = map[reflect.Type]map[string]shape{
	reflect.TypeFor[Job]():          jobShapes,
	reflect.TypeFor[Connect]():      connectShapes,
	reflect.TypeFor[Serve]():        serveShapes,
	reflect.TypeFor[Snapshotting](): snapshottingShapes,
	reflect.TypeFor[Monitoring]():   monitoringShapes,
	reflect.TypeFor[Endpoint]():     endpointShapes,
	reflect.TypeFor[KeepRule]():     keepShapes,
}

// keysOfType lists the names of the keys that a section may have, going by the type that
// the node gives: all there are, if that does not tell.
func keysOfType(section reflect.Type, n *yaml.Node) []string {
	keys, shapes, typ := namesOf(section), shapesOf[section], child(n, "type")
	if typ == nil {
		return keys
	}
	if _, ok := shapes[typ.Value]; !ok {
		return keys
	}
	return slices.DeleteFunc(keys, func(key string) bool { return isForeign(key, typ.Value, shapes) })
}

// isForeign reports whether only sections of other types have the key.
func isForeign(key, typ string, shapes map[string]shape) bool {
	types := typesWith(key, shapes)
	return len(types) > 0 && !slices.Contains(types, typ)
}

// examples say how a key that is missing would look.
var examples = map[string]string{
	"address":         `address: "HOST:PORT" of the peer`,
	"ca":              "ca: /PATH of the certificate authority's certificate (PEM)",
	"cert":            "cert: /PATH of this side's certificate (PEM)",
	"client_cns":      "client_cns: [NAME], the common names of the certificates that may connect",
	"client_identity": "client_identity: NAME, by which the passive job knows this one",
	"client":          "clients: [NAME], the client identity of the passive side",
	"clients":         `clients: {"IP ADDRESS or PREFIX": CLIENT}`,
	"connect":         `connect: {type: tcp, address: "HOST:PORT"}`,
	"directories":     "directories: {NAME: /PATH}, the directories to take snapshots of",
	"count":           "count: 10, for the newest ten",
	"cron":            `cron: "0 3 * * *", for three o'clock at night`,
	"filesystems":     `filesystems: {"<": true} for all of them`,
	"grid":            "grid: 1x1h(keep=all) | 24x1h | 30x1d",
	"interval":        "interval: 10m",
	"jobs":            "jobs: with at least one job",
	"keep":            "keep: [{type: last_n, count: 100}]",
	"key":             "key: /PATH of this side's private key (PEM)",
	"listen":          `listen: "HOST:PORT", or ":PORT" for all addresses`,
	"listener":        "listener: NAME of one of the listeners",
	"listener_name":   "listener_name: NAME, the same in the passive and the active job",
	"mux":             "mux: true: the active side calls back over the one connection",
	"name":            "name: NAME, which no other job has",
	"regex":           `regex: "^dr_", for the snapshots whose names begin so`,
	"root":            "root: /PATH of the directory that received data goes to",
	"root of btrfs":   "root: /PATH of a directory on btrfs",
	"root_fs":         "root_fs: POOL/DATASET that received data goes below",
	"serve":           `serve: {type: tcp, listen: ":8888", clients: {"IP ADDRESS or PREFIX": CLIENT}}`,
	"server_cn":       "server_cn: NAME, for which the peer's certificate is (a subject alternative name)",
	"server_identity": "server_identity: NAME, by which this job knows the active side",
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
	if !s.sound(key) || slices.Contains(words, value) {
		return
	}
	hint, ok := foreignWords[value]
	if !ok {
		hint = suggest(value, words)
	}
	s.fail(key, quote(value)+" is unknown", hint)
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
		if s.given(key) && isForeign(key, typ, shapes) {
			s.fail(key, noun+" has none", "remove it (it is for type "+enumerate(typesWith(key, shapes))+")")
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
