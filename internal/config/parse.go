package config

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// Parse is Load for the content of a file that errors call name.
func Parse(name string, data []byte) (*Config, error) {
	d := newDecoder(name)
	var cfg Config
	if root := d.tree(data); root != nil {
		d.outlets(root)
		d.override(root)
		d.value("", root, reflect.ValueOf(&cfg).Elem())
		d.assume(&cfg)
		d.check(&cfg)
		d.complete(&cfg)
	}
	if len(d.errs) > 0 {
		d.errs.sort()
		return nil, d.errs
	}
	return &cfg, nil
}

// tree makes a tree of a file. It returns nil, and has noted why, if it cannot.
func (d *decoder) tree(data []byte) *yaml.Node {
	if len(data) > maxFileSize {
		d.report(place{}, "", "is larger than 256 KiB", "this is not a configuration of dualrepl")
		return nil
	}
	if i := invalidUTF8(data); i >= 0 {
		line := bytes.Count(data[:i], []byte("\n")) + 1
		d.report(place{line: line, column: i - bytes.LastIndexByte(data[:i], '\n')}, "", "is not UTF-8", "save the file as UTF-8")
		return nil
	}
	return d.parse(data)
}

// invalidUTF8 is the offset of the first byte that is not UTF-8, or -1.
func invalidUTF8(data []byte) int {
	for i := 0; i < len(data); {
		r, size := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && size == 1 {
			return i
		}
		i += size
	}
	return -1
}

func (d *decoder) parse(data []byte) *yaml.Node {
	var doc yaml.Node
	file := yaml.NewDecoder(bytes.NewReader(data))
	switch err := file.Decode(&doc); {
	case errors.Is(err, io.EOF):
		d.report(place{}, "", "is empty", "add "+examples["jobs"])
		return nil
	case err != nil:
		d.syntax(data, err)
		return nil
	}
	if err := file.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		d.report(place{}, "", "holds more than one document", "remove what follows the line ---")
		return nil
	}
	root := doc.Content[0]
	d.places[""] = d.nodePlace(root)
	if d.plain(root); len(d.errs) > 0 {
		return nil
	}
	return root
}

var syntaxLine = regexp.MustCompile(`line (\d+): `)

// syntax reports what the parser did not understand.
func (d *decoder) syntax(data []byte, err error) {
	at := place{line: brokenLine(data)}
	message := strings.TrimPrefix(err.Error(), "yaml: ")
	if m := syntaxLine.FindStringSubmatchIndex(message); m != nil {
		if at.line == 0 {
			at.line, _ = strconv.Atoi(message[m[2]:m[3]]) // the pattern has only digits there
		}
		message = message[m[1]:]
	}
	d.report(at, "", "not YAML: "+message, "check indentation (spaces, no tabs), colons, brackets and quotes around there")
}

// What brokenLine may cost: tries, and bytes a try.
const (
	maxTries    = 500
	maxTryBytes = 64 << 10
)

// brokenLine is the line after which a file has no chance to be YAML any more, or
// 0 if that takes too long to find. The parser's own line is often that where the
// surrounding block began.
func brokenLine(data []byte) int {
	lines := bytes.SplitAfter(data, []byte("\n"))
	if len(data) > maxTryBytes || len(lines) > maxTries {
		return 0
	}
	end := len(data)
	for n := len(lines); n > 0; n-- {
		end -= len(lines[n-1])
		if yaml.Unmarshal(data[:end], new(yaml.Node)) == nil {
			return n
		}
	}
	return 0
}

// plain reports every use of what makes YAML more than a tree of plain values:
// one cannot see in an alias or a tag what it stands for, and a few hundred
// bytes of aliases can stand for gigabytes.
func (d *decoder) plain(n *yaml.Node) {
	switch {
	case n.Kind == yaml.AliasNode:
		d.report(d.nodePlace(n), "", "the alias *"+clip(n.Value)+" is not supported", "write the value out")
	case n.Tag == "!!merge":
		d.report(d.nodePlace(n), "", "the merge key << is not supported", `write the keys out (for all filesystems, the pattern is "<")`)
	case n.Anchor != "":
		d.report(d.nodePlace(n), "", "the anchor &"+clip(n.Anchor)+" is not supported", "remove it")
	case n.Style&yaml.TaggedStyle != 0:
		d.report(d.nodePlace(n), "", "the tag "+clip(n.Tag)+" is not supported", "remove it")
	}
	for _, child := range n.Content {
		d.plain(child)
	}
}
