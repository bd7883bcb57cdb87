// Package config reads the daemon's configuration: a YAML file, and environment
// variables that replace single values of it.
//
// It is strict. What a Config holds is complete and free of contradictions; for
// anything else, Load returns an Errors that lists every mistake with its place,
// the field, and the way out. Only what makes the file no tree of plain values
// (broken syntax, aliases, tags) is reported by itself, before all else.
// docs/config.md describes every key.
//
// Two libraries share the work. yaml.v3 parses the file into a tree whose nodes
// know their line and column and whose keys are as the user wrote them; the
// structs of this package are filled from that tree. viper answers for the
// environment: for each single value of the tree, DUALREPL_ and the value's path
// in capitals name the variable that replaces it. The file is kept from viper,
// which would turn the filesystem Pool/A.b into pool/a with a key b, and knows no
// lines.
package config
