package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// A decoder turns the tree of a file into the structs of this package, whose
// tags say what keys there are. It goes on after a mistake, so that all are found.
type decoder struct {
	file   string
	places map[string]place      // by field, of every setting that is given
	origin map[*yaml.Node]string // environment variable that the node was made of
	broken map[string]bool       // fields with a mistake
	meant  map[string]bool       // fields whose key is probably there, misspelt
	errs   Errors
}

// A place is where a setting was given.
type place struct {
	line, column int
	env          string
}

func newDecoder(file string) *decoder {
	return &decoder{
		file:   file,
		places: map[string]place{},
		origin: map[*yaml.Node]string{},
		broken: map[string]bool{},
		meant:  map[string]bool{},
	}
}

// report notes a mistake at a place.
func (d *decoder) report(at place, field, message, hint string) {
	d.errs = append(d.errs, &Error{
		File: d.file, Line: at.line, Column: at.column, Env: at.env,
		Field: field, Message: message, Hint: hint,
	})
}

// fail notes a mistake in the value of a field that is given.
func (d *decoder) fail(field, message, hint string) {
	d.broken[field] = true
	d.report(d.places[field], field, message, hint)
}

// nodePlace is where the node lies, in the file or in the environment.
func (d *decoder) nodePlace(n *yaml.Node) place {
	if env := d.origin[n]; env != "" {
		return place{env: env}
	}
	return place{line: n.Line, column: n.Column}
}

// pairPlace is where a reader looks for a key with this value: at the value if
// that is one word, at the key if more follows.
func (d *decoder) pairPlace(key, value *yaml.Node) place {
	if value.Kind == yaml.ScalarNode || d.origin[value] != "" {
		return d.nodePlace(value)
	}
	return d.nodePlace(key)
}

// value decodes a node, whose place is noted, into v.
func (d *decoder) value(field string, n *yaml.Node, v reflect.Value) {
	if n.Kind == yaml.ScalarNode && (n.Tag == "!!null" || n.Value == "") {
		d.fail(field, "has no value", "give it one, or remove the key")
		return
	}
	switch to := v.Addr().Interface().(type) {
	case *string:
		*to = d.text(field, n)
	case *int:
		*to = d.number(field, n)
	case *bool:
		*to = d.truth(field, n, "true turns it on, false off")
	case *time.Duration:
		*to = d.duration(field, n)
	case *Size:
		*to = d.size(field, n)
	case *Filter:
		*to = d.filter(field, n)
	case *map[string]string:
		*to = d.names(field, n)
	default:
		if v.Kind() == reflect.Slice {
			d.list(field, n, v)
			return
		}
		d.section(field, n, v)
	}
}

// section decodes a mapping into a struct, or into a new struct that v points to.
func (d *decoder) section(field string, n *yaml.Node, v reflect.Value) {
	if v.Kind() == reflect.Pointer {
		v.Set(reflect.New(v.Type().Elem()))
		v = v.Elem()
	}
	keys := keysOfNode(v.Type(), n)
	d.pairs(field, n, join, func(name, value *yaml.Node) {
		i := slices.IndexFunc(keys, func(k key) bool { return k.name == name.Value })
		switch {
		case i < 0 && (isAsHere(field, name, value) || hasForeignType(n)):
			return
		case i < 0:
			d.unknown(field, name, keysOfType(v.Type(), n))
			return
		}
		member := join(field, name.Value)
		d.places[member] = d.pairPlace(name, value)
		if slices.Contains(zeros[keys[i].zero], value.Value) {
			return
		}
		d.value(member, value, v.Field(keys[i].field))
	})
}

// unknown reports a key that is not among the known ones.
func (d *decoder) unknown(field string, n *yaml.Node, known []string) {
	hint, ok := foreign[n.Value]
	if !ok {
		hint, ok = foreign[join(field, n.Value)]
	}
	if !ok {
		hint = suggest(n.Value, known)
		d.meant[join(field, nearest(n.Value, known))] = true
	}
	d.report(d.nodePlace(n), join(field, clip(n.Value)), "unknown key", hint)
}

// pairs calls fn for each key of a mapping that is there for the first time. Name
// is the name of a key's field: join or element.
func (d *decoder) pairs(field string, n *yaml.Node, name func(field, key string) string, fn func(key, value *yaml.Node)) {
	if n.Kind != yaml.MappingNode {
		d.fail(field, "must be a mapping of keys to values, not "+kindName(n), "write KEY: VALUE lines below it, or {KEY: VALUE}")
		return
	}
	first := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		line, again := first[key.Value]
		switch {
		case key.Kind != yaml.ScalarNode:
			d.broken[field] = true
			d.report(d.nodePlace(key), field, "a key must be one word, not "+kindName(key), "quote it")
		case again:
			d.report(d.nodePlace(key), name(field, clip(key.Value)), fmt.Sprintf("given twice, first in line %d", line), "remove one of them")
		default:
			first[key.Value] = key.Line
			fn(key, value)
		}
	}
}

// list decodes a sequence into a slice.
func (d *decoder) list(field string, n *yaml.Node, v reflect.Value) {
	if n.Kind != yaml.SequenceNode {
		d.fail(field, "must be a list, not "+kindName(n), "begin each item with a dash, or write [A, B]")
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
	for i, item := range n.Content {
		at := fmt.Sprintf("%s[%d]", field, i)
		d.places[at] = d.nodePlace(item)
		d.value(at, item, v.Index(i))
	}
}

// names decodes a mapping whose keys are names of the user's, kept as they are written.
func (d *decoder) names(field string, n *yaml.Node) map[string]string {
	m := map[string]string{}
	d.pairs(field, n, element, func(key, value *yaml.Node) {
		entry, s := element(field, key.Value), ""
		d.places[entry] = d.pairPlace(key, value)
		d.value(entry, value, reflect.ValueOf(&s).Elem())
		m[key.Value] = s
	})
	return m
}

func (d *decoder) filter(field string, n *yaml.Node) Filter {
	var f Filter
	d.pairs(field, n, element, func(key, value *yaml.Node) {
		entry := element(field, key.Value)
		d.places[entry] = d.pairPlace(key, value)
		include := d.truth(entry, value, "true replicates it, false leaves it out")
		d.broken[field] = d.broken[field] || d.broken[entry]
		f = append(f, Rule{Pattern: key.Value, Include: include})
	})
	return f
}

// text takes a scalar as it is written: a name such as 2024 or true needs no quotes.
func (d *decoder) text(field string, n *yaml.Node) string {
	switch {
	case n.Kind != yaml.ScalarNode:
		d.fail(field, "must be text, not "+kindName(n), "write one value")
	case strings.ContainsFunc(n.Value, isControl):
		d.fail(field, "contains a control character", "remove it")
	default:
		return n.Value
	}
	return ""
}

func (d *decoder) truth(field string, n *yaml.Node, hint string) bool {
	if n.Value != "true" && n.Value != "false" {
		d.fail(field, "must be true or false, not "+kindName(n), hint)
	}
	return n.Value == "true"
}

// A key is a known key of a section.
type key struct {
	name  string
	field int    // of the struct
	zero  string // one of zeros, if the value may also be a word for 0
	only  string // type of the section that the field is for, where types differ in the value's kind
}

// zeros are the words that stand for 0, by how a tag calls them.
var zeros = map[string][]string{
	"manual": {"manual"},
	"off":    {"off", "0", "-1", "-1 B", "-1B"},
}

// keysOf lists the keys of a section in the order of its struct.
func keysOf(section reflect.Type) []key {
	var keys []key
	for i := range section.NumField() {
		tag, ok := section.Field(i).Tag.Lookup("yaml")
		if !ok {
			continue
		}
		k := key{field: i}
		k.name, k.only, _ = strings.Cut(tag, ",")
		if zeros[k.only] != nil {
			k.zero, k.only = k.only, ""
		}
		keys = append(keys, k)
	}
	return keys
}

// keysOfNode lists the keys of a section, those first that are for the type that the node
// gives, and none that are for another.
func keysOfNode(section reflect.Type, n *yaml.Node) []key {
	typ := ""
	if t := child(n, "type"); t != nil {
		typ = t.Value
	}
	keys := slices.DeleteFunc(keysOf(section), func(k key) bool { return k.only != "" && k.only != typ })
	slices.SortStableFunc(keys, func(a, b key) int { return strings.Compare(b.only, a.only) })
	return keys
}

// namesOf lists the names of the keys of a section.
func namesOf(section reflect.Type) []string {
	var names []string
	for _, k := range keysOf(section) {
		if k.only == "" {
			names = append(names, k.name)
		}
	}
	return names
}

// join names a key of a section.
func join(field, key string) string {
	if field == "" {
		return key
	}
	return field + "." + key
}

// lastKey is the key at the end of a field's path.
func lastKey(field string) string { return field[strings.LastIndexByte(field, '.')+1:] }

// element names an entry of a mapping whose keys are names of the user's.
func element(field, key string) string {
	return fmt.Sprintf("%s[%q]", field, key)
}

// kindName says what a node is, the way a user would.
func kindName(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	return quote(n.Value)
}
