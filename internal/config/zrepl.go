package config

import (
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
)

// This file is about what zrepl's configuration files have and this one's do not.

// foreign are keys of zrepl that have no counterpart here, and what to do instead.
var foreign = map[string]string{
	"include":            "dualrepl reads one file: put the jobs of the others into it",
	"control":            "dualrepl has no control socket: remove it",
	"global.serve":       "dualrepl has no transport over SSH: remove it",
	"hooks":              "dualrepl runs no hooks: run them around `dualrepl snapshot JOB`, with snapshotting: {type: manual}",
	"timestamp_format":   "the format of timestamps is fixed (zrepl's dense): remove it",
	"timestamp_location": "timestamps are UTC: remove it",
	"color":              "logs have no colours: remove it",
	"facility":           "the facility is local0: remove it",
	"retry_interval":     "a connection to the system's log that broke is made anew by the next line: remove it",
	"listen_freebind":    "listen on an address that the machine has, or on all with :PORT",
	"handshake_timeout":  "the timeout of the handshake is fixed: remove it",
}

// asHere are values of those keys that mean what is so here anyway, by section and key.
var asHere = map[string]string{
	"snapshotting.hooks":              "",
	"snapshotting.timestamp_format":   "dense",
	"snapshotting.timestamp_location": "UTC",
	"logging.color":                   "false",
	"logging.facility":                "local0",
	"serve.listen_freebind":           "false",
	"monitoring.listen_freebind":      "false",
}

// isAsHere reports whether a key of the section, which is unknown, changes nothing.
func isAsHere(field string, key, value *yaml.Node) bool {
	section, _, _ := strings.Cut(lastKey(field), "[")
	want, ok := asHere[join(section, key.Value)]
	kind := yaml.ScalarNode
	if want == "" {
		kind = yaml.SequenceNode
	}
	return ok && value.Kind == kind && len(value.Content) == 0 && value.Value == want
}

// foreignWords are words of zrepl that have no counterpart here, and what to do instead.
var foreignWords = map[string]string{
	"ssh+stdinserver": "dualrepl has no transport over SSH: use tls, or tcp by way of a tunnel",
	"stdinserver":     "dualrepl has no transport over SSH: use tls, or tcp by way of a tunnel",
}

// hasForeignType reports whether the section's type, which is reported, says all there is to
// say about its keys.
func hasForeignType(section *yaml.Node) bool {
	typ := child(section, "type")
	return typ != nil && foreignWords[typ.Value] != ""
}

// outlets takes zrepl's list of logging outlets for the one that it holds: everything is
// logged to one place.
func (d *decoder) outlets(root *yaml.Node) {
	global := child(root, "global")
	if global == nil {
		return
	}
	list := child(global, "logging")
	switch {
	case list == nil || list.Kind != yaml.SequenceNode:
		return
	case len(list.Content) == 0:
		d.report(d.nodePlace(list), "global.logging", "is empty", "add {level: info}, or remove it")
		*list = yaml.Node{Kind: yaml.MappingNode, Line: list.Line, Column: list.Column}
		return
	}
	for i, more := range list.Content[1:] {
		d.report(d.nodePlace(more), fmt.Sprintf("global.logging[%d]", i+1), "logs go to one place", "remove all but one")
	}
	*list = *list.Content[0]
}
