package versionhandshake

import (
	"errors"
	"slices"
	"strings"
)

// The names of the extensions. A line of the banner is a name, or a name, "=" and a
// value. docs/protocol.md specifies each in section 5.
const (
	ExtensionReuse  = "dualrepl.reuse"  // many requests on one data connection
	ExtensionStatus = "dualrepl.status" // errors cross the data channel with code and details
	ExtensionSum    = "dualrepl.sum"    // checksums on the data channel; the value is the algorithm
	ExtensionZstd   = "dualrepl.zstd"   // compressed frames; a client's value is the level that it asks for
	ExtensionRoute  = "dualrepl.route"  // many handlers behind one listener; a client's value is the route that it names
	ExtensionMux    = "dualrepl.mux"    // one connection for all
)

// ErrExtension: the peer does not offer an extension without which there is no point in
// going on. Retrying does not help.
var ErrExtension = errors.New("the peer does not offer what is needed")

// Line is an extension's line of a banner. An empty value is none.
func Line(name, value string) string {
	if value == "" {
		return name
	}
	return name + "=" + value
}

// Find returns the value of the first of lines that is of the extension; false if there
// is none.
func Find(lines []string, name string) (value string, found bool) {
	i := slices.IndexFunc(lines, func(line string) bool {
		n, _, _ := strings.Cut(line, "=")
		return n == name
	})
	if i < 0 {
		return "", false
	}
	_, value, _ = strings.Cut(lines[i], "=")
	return value, true
}
