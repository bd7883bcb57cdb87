package rpc

import (
	"strconv"

	"github.com/dualrepl/dualrepl/dataconn"
	"github.com/dualrepl/dualrepl/transport"
	"github.com/dualrepl/dualrepl/transportmux"
	ext "github.com/dualrepl/dualrepl/versionhandshake"
)

// sumAlgorithm is the one checksum that this side knows.
const sumAlgorithm = "crc64nvme"

// MaxLevel is zstd's highest level of compression.
const MaxLevel = 22

// Checksum says where the data channel has checksums of its own.
type Checksum int

// The zero value is ChecksumAuto. Both ends have to want a checksum.
const (
	ChecksumAuto   Checksum = iota // where the transport has none: over TCP, not over TLS
	ChecksumAlways                 // everywhere
	ChecksumNever                  // nowhere
)

func (c Checksum) on(w transport.Wire) bool {
	return c == ChecksumAlways || c == ChecksumAuto && !transport.ChecksIntegrity(w)
}

// common are the extensions that both sides offer alike.
func common(c Checksum, w transport.Wire) []string {
	lines := []string{ext.ExtensionStatus, ext.ExtensionReuse}
	if c.on(w) {
		lines = append(lines, ext.Line(ext.ExtensionSum, sumAlgorithm))
	}
	return lines
}

// offer is a server's.
func (o ServerOptions) offer(w transport.Wire) []string {
	if o.BaseProtocol {
		return nil
	}
	return append(common(o.Checksum, w), ext.ExtensionZstd, ext.ExtensionRoute, ext.ExtensionMux)
}

// offer is a client's. What has a value asks for something; it is not there unless it is wanted.
func (o ClientOptions) offer(w transport.Wire) []string {
	if o.BaseProtocol {
		return nil
	}
	lines := common(o.Checksum, w)
	if o.Level > 0 {
		lines = append(lines, ext.Line(ext.ExtensionZstd, strconv.Itoa(o.Level)))
	}
	if o.Route != "" {
		lines = append(lines, ext.Line(ext.ExtensionRoute, o.Route))
	}
	if o.Mux {
		lines = append(lines, ext.ExtensionMux)
	}
	return lines
}

// featuresOf are what both ends of a data connection agreed on. The level is that of the
// streams that this side sends.
func featuresOf(conn *transportmux.Conn, level int) dataconn.Features {
	on := func(name string) bool { _, on := conn.On(name); return on }
	f := dataconn.Features{
		Reuse:  on(ext.ExtensionReuse),
		Status: on(ext.ExtensionStatus),
		Zstd:   on(ext.ExtensionZstd),
	}
	sum, both := conn.On(ext.ExtensionSum)
	f.Sum = both && sum == sumAlgorithm
	if f.Zstd {
		f.Level = level
	}
	return f
}

// levelAsked is the level of compression that a client asks its server for; 0: none.
func levelAsked(conn *transportmux.Conn) int {
	value, _ := conn.On(ext.ExtensionZstd)
	level, err := strconv.Atoi(value)
	if err != nil || level < 1 || level > MaxLevel {
		return 0
	}
	return level
}
