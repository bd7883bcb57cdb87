package prune

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

const day = 24 * time.Hour

func parseGrid(t testing.TB, text string) []Interval {
	t.Helper()
	intervals, err := ParseGrid(text)
	if err != nil {
		t.Fatal(err)
	}
	return intervals
}

func TestParseGrid(t *testing.T) {
	for text, want := range map[string][]Interval{
		"1x1h":                    {{1, time.Hour, 1}},
		"1x1h(keep=all)":          {{1, time.Hour, KeepAll}},
		"3x10m(keep=2)|24x1h":     {{3, 10 * time.Minute, 2}, {24, time.Hour, 1}},
		" 2 x 30 s ( keep = 5 ) ": {{2, 30 * time.Second, 5}},
		"7x1d | 4x1w\t|\n10x4w":   {{7, day, 1}, {4, 7 * day, 1}, {10, 28 * day, 1}},
		"1x1d(keep=all) | 1x1h":   {{1, day, KeepAll}, {1, time.Hour, 1}},
		"2562047x1h":              {{2562047, time.Hour, 1}},
		"1x1h(keep=all) | 24x1h | 30x1d | 6x30d": {
			{1, time.Hour, KeepAll}, {24, time.Hour, 1}, {30, day, 1}, {6, 30 * day, 1},
		},
	} {
		if got := parseGrid(t, text); !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}

func TestParseGridMistakes(t *testing.T) {
	for text, want := range map[string]string{
		"":                               "grid interval 1",
		"1x1h |":                         "grid interval 2",
		"| 1x1h":                         "grid interval 1",
		"1h":                             "REPEATxLENGTH",
		"x1h":                            "REPEATxLENGTH",
		"1x":                             "REPEATxLENGTH",
		"1x1":                            "REPEATxLENGTH",
		"1x1y":                           "REPEATxLENGTH",
		"1x1H":                           "REPEATxLENGTH",
		"1x1.5h":                         "REPEATxLENGTH",
		"1x-1h":                          "REPEATxLENGTH",
		"-1x1h":                          "REPEATxLENGTH",
		"1x1h(keep)":                     "REPEATxLENGTH",
		"1x1h(keep=)":                    "REPEATxLENGTH",
		"1x1h(keep=-1)":                  "REPEATxLENGTH",
		"1x1h(keep=some)":                "REPEATxLENGTH",
		"1x1h(keep=1":                    "REPEATxLENGTH",
		"1x1h(keep=1)(keep=1)":           "REPEATxLENGTH",
		"1x1h(count=1)":                  "REPEATxLENGTH",
		"0x1h":                           "the repeat count is 0",
		"1x0h":                           "the length is 0",
		"1x1h(keep=0)":                   "keep is 0",
		"9223372036854775808x1h":         "the repeat count is 9223372036854775808",
		"1x9223372036854775808s":         "the length is",
		"1x1h(keep=9223372036854775808)": "keep is",
		"1x106752d":                      "292 years",
		"1x9223372036854775807w":         "292 years",
		"2562048x1h":                     "292 years",
		"1x106751d | 1x106751d":          `grid interval 2, "1x106751d": the grid may be 292 years`,
		"24x1h | 1x1m":                   "is shorter than the one before",
		"1x2h(keep=all) | 1x3h | 1x1h":   "grid interval 3",
		"1x1h(keep=all) | 1x2h | 2x90m":  "is shorter than the one before",
	} {
		if _, err := ParseGrid(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error is %v, want one with %q", text, err, want)
		}
	}
}

// The oldest of each bucket stay; the first bucket is at the newest snapshot.
func TestGrid(t *testing.T) {
	var all []Snapshot
	for _, group := range []struct {
		names     string // the newest first
		age, step time.Duration
	}{
		{"a b c", 0, 20 * time.Minute},
		{"d e f g h i j", 1 * time.Hour, 17 * time.Minute},
		{"k l m n o p", 3 * time.Hour, 20 * time.Minute},
		{"q r s t u v w x y z", 5 * time.Hour, 18 * time.Minute},
		{"A B C D", 8 * time.Hour, 10 * time.Minute},
	} {
		for i, name := range strings.Fields(group.names) {
			all = append(all, snap(name, group.age+time.Duration(i)*group.step))
		}
	}
	want := "a b c j p z"
	if got := names(survivors(all, []Rule{Grid{Intervals: parseGrid(t, "1x1h(keep=all) | 2x2h | 1x3h")}})); got != want {
		t.Errorf("left are %q, want %q", got, want)
	}
}

func TestGridEdges(t *testing.T) {
	for name, test := range map[string]struct {
		grid string
		ages []time.Duration
		want []time.Duration // of the snapshots that stay
	}{
		"an edge belongs to the older bucket": {"3x10m", minutes(0, 10, 20, 30), minutes(0, 10, 20)},
		"of one bucket, the oldest stays":     {"2x10m", minutes(0, 3, 9, 10, 19), minutes(9, 19)},
		"keep 2":                              {"2x10m(keep=2)", minutes(0, 3, 9, 10), minutes(3, 9, 10)},
		"between intervals":                   {"1x10m | 1x1h", minutes(0, 9, 10, 69, 70), minutes(9, 69)},
		"empty buckets":                       {"100x1m", minutes(0, 50, 99, 100), minutes(0, 50, 99)},
		"one snapshot":                        {"1x1m", minutes(0), minutes(0)},
		"none":                                {"1x1m", nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var all []Snapshot
			for _, age := range test.ages {
				all = append(all, snap("s", age))
			}
			var got []time.Duration
			for _, s := range survivors(all, []Rule{Grid{Intervals: parseGrid(t, test.grid)}}) {
				got = append(got, noon.Sub(s.Creation))
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("left are ages %v, want %v", got, test.want)
			}
		})
	}
}

func minutes(n ...time.Duration) []time.Duration {
	for i := range n {
		n[i] *= time.Minute
	}
	return n
}

// What the grid does not match neither moves it nor takes a place in a bucket.
func TestGridRegex(t *testing.T) {
	all := []Snapshot{snap("m3", 0), snap("z2", time.Hour), snap("m2", 90*time.Minute), snap("z1", 2*time.Hour), snap("m1", 3*time.Hour)}
	rules := []Rule{Grid{Intervals: parseGrid(t, "2x1h"), Regex: re("^z")}}
	if got := names(survivors(all, rules)); got != "z2 z1" {
		t.Errorf("left are %q", got)
	}
}

// Times that are further apart than a Duration can tell are older than any grid.
func TestGridOfAges(t *testing.T) {
	all := []Snapshot{snap("new", 0), snap("old", 0)}
	all[1].Creation = time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC)
	if got := names(Destroy(all, []Rule{Grid{Intervals: []Interval{{1, math.MaxInt64, KeepAll}}}})); got != "old" {
		t.Errorf("destroyed %q", got)
	}
}

// Some months of snapshots, pruned whenever one is made, is thinned out to what the grid says.
func TestGridOverTime(t *testing.T) {
	rules := []Rule{Grid{Intervals: parseGrid(t, "1x1h(keep=all) | 24x1h | 7x1d | 4x7d")}}
	var all []Snapshot
	for i := range 60 * 24 * 4 {
		all = survivors(append(all, snap(fmt.Sprint(i), -time.Duration(i)*15*time.Minute)), rules)
	}
	if len(all) < 4+20+6+3 || len(all) > 4+24+7+4 {
		t.Errorf("%d snapshots are left: %s", len(all), names(all))
	}
	newest := all[len(all)-1].Creation
	if oldest := newest.Sub(all[0].Creation); oldest < 25*day || oldest > 37*day {
		t.Errorf("the oldest is %v old", oldest)
	}
}

func FuzzParseGrid(f *testing.F) {
	f.Fuzz(func(t *testing.T, text string) {
		intervals, err := ParseGrid(text)
		if err != nil {
			return
		}
		var total time.Duration
		for _, i := range intervals {
			if i.Repeat < 1 || i.Length < time.Second || i.Keep < 1 {
				t.Fatalf("%q: %v", text, i)
			}
			total += time.Duration(i.Repeat) * i.Length
		}
		grid := Grid{Intervals: intervals}
		if _, ok := grid.bucket(total); ok || total < time.Second {
			t.Fatalf("%q: the grid is %v long", text, total)
		}
		last, ok := grid.bucket(total - 1)
		if want := (bucket{len(intervals) - 1, time.Duration(intervals[len(intervals)-1].Repeat) - 1}); !ok || last != want {
			t.Fatalf("%q: the last bucket is %v, want %v", text, last, want)
		}
	})
}
