package config

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Numbers and durations that make sense in a configuration, whatever they are for.
const (
	minDuration = time.Second
	maxDuration = 366 * 24 * time.Hour
)

// maxNumbers are the largest numbers that make sense, by key. The smallest is 1.
var maxNumbers = map[string]int{
	"steps":              1000,
	"size_estimates":     1000,
	"count":              1_000_000, // of snapshots
	"level":              22,        // of zstd
	"connections":        65536,
	"requests":           65536,
	"pending_handshakes": 65536,
}

// sizeRanges are the sizes that make sense, by key.
var sizeRanges = map[string]struct{ least, most Size }{
	"message_size":    {64 << 10, 256 << 20},
	"buffer":          {64 << 10, 1 << 30},
	"max":             {1 << 10, 1 << 40},
	"bucket_capacity": {1 << 10, 1 << 30},
}

func (d *decoder) number(field string, n *yaml.Node) int {
	i, err := strconv.Atoi(n.Value)
	most := maxNumbers[lastKey(field)]
	switch {
	case n.Kind != yaml.ScalarNode || err != nil:
		d.fail(field, "must be a whole number, not "+kindName(n), fmt.Sprintf("use 1 to %d", most))
		return 0
	case i < 1 || i > most:
		d.fail(field, "is out of range: "+kindName(n), fmt.Sprintf("use 1 to %d", most))
		return 0
	}
	return i
}

func (d *decoder) size(field string, n *yaml.Node) Size {
	v, err := parseSize(n.Value)
	in := sizeRanges[lastKey(field)]
	switch {
	case n.Kind != yaml.ScalarNode || err != nil:
		hint := "write a number and a unit, such as 512KiB or 16MiB"
		if _, err := strconv.ParseUint(n.Value, 10, 64); err == nil {
			hint = fmt.Sprintf("say of what: %[1]sKiB or %[1]sMiB", clip(n.Value))
		}
		d.fail(field, "must be a size, not "+kindName(n), hint)
		return 0
	case v < in.least || v > in.most:
		d.fail(field, "is out of range: "+kindName(n), fmt.Sprintf("use %v to %v", in.least, in.most))
		return 0
	}
	return v
}

// sizeForm is a size as zrepl writes them: a number, and a unit in bytes (B) or bits (b, bit).
var sizeForm = regexp.MustCompile(`^([0-9]{1,15}(?:\.[0-9]{1,15})?) *(?:([KMGT]i?)?([Bb])|bit)$`)

// sizeFactors are what the prefixes of units stand for.
var sizeFactors = map[string]float64{
	"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40,
}

// parseSize reads sizes such as 512KiB, 1.5 GiB and 100 Mb, which is 12.5 MB.
func parseSize(s string) (Size, error) {
	m := sizeForm.FindStringSubmatch(s)
	if m == nil {
		return 0, strconv.ErrSyntax
	}
	v, err := strconv.ParseFloat(m[1], 64)
	if v *= sizeFactors[m[2]]; m[3] != "B" {
		v /= 8
	}
	return Size(min(v, 1<<62)), err // larger ones are all too large
}

// String writes it in the largest unit that it is a whole number of.
func (s Size) String() string {
	units, i := []string{"B", "KiB", "MiB", "GiB", "TiB"}, 0
	for ; s != 0 && s%1024 == 0 && i+1 < len(units); i++ {
		s /= 1024
	}
	return fmt.Sprintf("%d%s", int64(s), units[i])
}

func (d *decoder) duration(field string, n *yaml.Node) time.Duration {
	v, err := parseDuration(n.Value)
	switch {
	case n.Kind != yaml.ScalarNode || err != nil:
		hint := "write a number and a unit, such as 30s, 10m, 6h or 1d"
		if _, err := strconv.Atoi(n.Value); err == nil {
			hint = fmt.Sprintf("say of what: %[1]ss, %[1]sm, %[1]sh or %[1]sd", clip(n.Value))
		}
		d.fail(field, "must be a duration, not "+kindName(n), hint)
		return 0
	case v < minDuration || v > maxDuration:
		d.fail(field, "is out of range: "+kindName(n), "use 1s to 366d")
		return 0
	}
	return v
}

// durationUnits are those of zrepl's durations, which may stand apart from the number.
var durationUnits = map[string]time.Duration{
	"s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour, "w": 7 * 24 * time.Hour,
}

// parseDuration reads zrepl's durations (a whole number and a unit) and Go's.
func parseDuration(s string) (time.Duration, error) {
	if last := len(s) - 1; last > 0 {
		n, err := strconv.ParseInt(strings.TrimSpace(s[:last]), 10, 32)
		if unit, ok := durationUnits[s[last:]]; ok && err == nil && n <= int64(2*maxDuration/unit) {
			return time.Duration(n) * unit, nil
		}
	}
	return time.ParseDuration(s)
}
