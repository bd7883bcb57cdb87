package config

import (
	"fmt"

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
	"facility":           "logs go to standard output or error: remove it",
	"retry_interval":     "logs go to standard output or error: remove it",
	"listen_freebind":    "listen on an address that the machine has, or on all with :PORT",
	"handshake_timeout":  "the timeout of the handshake is fixed: remove it",
}

// foreignWords are words of zrepl that have no counterpart here, and what to do instead.
var foreignWords = map[string]string{
	"ssh+stdinserver": "dualrepl has no transport over SSH: use tls, or tcp by way of a tunnel",
	"stdinserver":     "dualrepl has no transport over SSH: use tls, or tcp by way of a tunnel",
	"syslog":          "use stdout: systemd's journal, for one, has what is written there",
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
