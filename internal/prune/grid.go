package prune

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// KeepAll is the Keep of an interval that keeps all of its snapshots.
const KeepAll = math.MaxInt

// An Interval is a part of a grid: buckets of the same length in a row.
type Interval struct {
	Repeat int           // how many buckets; at least 1
	Length time.Duration // of each; more than 0
	Keep   int           // how many snapshots each keeps, the oldest ones; at least 1, or KeepAll
}

// Grid keeps some snapshots of each bucket. The buckets lie side by side along the age of
// the snapshots that the grid matches, counted from the newest of them, which is at the
// beginning of the first bucket. A snapshot at the edge of two belongs to the older
// bucket; one that is older than the last bucket is not kept.
type Grid struct {
	Intervals []Interval     // as ParseGrid returns them; none: nothing is kept
	Regex     *regexp.Regexp // of names; nil: matches all
}

func (g Grid) keep(snapshots []Snapshot, kept []bool) {
	newest := -1
	for i, s := range snapshots {
		if matches(g.Regex, s) {
			newest = i
		}
	}
	inBucket := map[bucket]int{}
	for i, s := range snapshots[:newest+1] {
		if !matches(g.Regex, s) {
			continue
		}
		b, ok := g.bucket(snapshots[newest].Creation.Sub(s.Creation))
		if ok && inBucket[b] < g.Intervals[b.interval].Keep {
			kept[i] = true
			inBucket[b]++
		}
	}
}

// A bucket is named by its interval and its place in that.
type bucket struct {
	interval int
	place    time.Duration
}

// bucket finds the bucket of an age. False: it is older than all.
func (g Grid) bucket(age time.Duration) (bucket, bool) {
	for i, interval := range g.Intervals {
		length := time.Duration(interval.Repeat) * interval.Length
		if age < length {
			return bucket{i, age / interval.Length}, true
		}
		age -= length
	}
	return bucket{}, false
}

// gridInterval is the notation of one interval: repeat, length, unit and keep.
var gridInterval = regexp.MustCompile(`^\s*(\d+)\s*x\s*(\d+)\s*([smhdw])\s*(?:\(\s*keep\s*=\s*(all|\d+)\s*\)\s*)?$`)

// gridUnits are the units of a length. Days and weeks are of 24 hours each, as the ages of
// snapshots know no time zone.
var gridUnits = map[string]time.Duration{
	"s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour, "w": 7 * 24 * time.Hour,
}

// ParseGrid reads the notation of a grid: intervals from the newest to the oldest, with
// | between them, each as REPEATxLENGTH or REPEATxLENGTH(keep=N), where N may be all and
// is 1 by default, as in
//
//	1x1h(keep=all) | 24x1h | 30x1d | 6x30d
//
// The units of a length are s, m, h, d and w. Buckets may not get shorter as they get
// older, unless all before keep all: it would be a mistake. All buckets together may be
// 292 years long.
func ParseGrid(text string) ([]Interval, error) {
	var intervals []Interval
	var total time.Duration
	for part := range strings.SplitSeq(text, "|") {
		interval, err := parseInterval(part)
		if err == nil {
			err = follows(interval, intervals)
		}
		if err == nil {
			total, err = extend(total, interval)
		}
		if err != nil {
			return nil, fmt.Errorf("grid interval %d, %q: %w", len(intervals)+1, strings.TrimSpace(part), err)
		}
		intervals = append(intervals, interval)
	}
	return intervals, nil
}

func parseInterval(text string) (Interval, error) {
	m := gridInterval.FindStringSubmatch(text)
	if m == nil {
		return Interval{}, errors.New("is not of the form REPEATxLENGTH(keep=COUNT), such as 24x1h or 1x1h(keep=all)")
	}
	repeat, err := positive("the repeat count", m[1])
	if err != nil {
		return Interval{}, err
	}
	length, err := positive("the length", m[2])
	if err != nil {
		return Interval{}, err
	}
	unit := gridUnits[m[3]]
	if length > math.MaxInt64/int64(unit) {
		return Interval{}, errTooLong
	}
	keep, err := parseKeep(m[4])
	return Interval{Repeat: int(min(repeat, math.MaxInt)), Length: time.Duration(length) * unit, Keep: keep}, err
}

func parseKeep(text string) (int, error) {
	switch text {
	case "":
		return 1, nil
	case "all":
		return KeepAll, nil
	}
	keep, err := positive("keep", text)
	return int(min(keep, math.MaxInt)), err
}

func positive(what, digits string) (int64, error) {
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%s is %s, and has to be from 1 to %d", what, digits, int64(math.MaxInt64))
	}
	return n, nil
}

// follows checks that the interval may stand after those before it.
func follows(interval Interval, before []Interval) error {
	if len(before) == 0 || interval.Length >= before[len(before)-1].Length {
		return nil
	}
	for _, b := range before {
		if b.Keep != KeepAll {
			return errors.New("is shorter than the one before it: intervals get longer as they get older")
		}
	}
	return nil
}

var errTooLong = errors.New("the grid may be 292 years long at most")

// extend adds the interval to the length of the grid.
func extend(total time.Duration, interval Interval) (time.Duration, error) {
	if int64(interval.Repeat) > int64(math.MaxInt64-total)/int64(interval.Length) {
		return 0, errTooLong
	}
	return total + time.Duration(interval.Repeat)*interval.Length, nil
}
