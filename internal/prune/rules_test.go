package prune

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/dualrepl/dualrepl/pdu"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// noon is when the newest snapshot of a test was made.
var noon = time.Date(2024, 2, 29, 12, 0, 0, 0, time.UTC)

// snap is a replicated snapshot that is as old as age says. What is older has a lower
// CreateTXG and, as endpoints tell them, no fraction of a second.
func snap(name string, age time.Duration) Snapshot {
	creation := noon.Add(-age)
	return Snapshot{Creation: creation, Replicated: true, Version: &pdu.FilesystemVersion{
		Name: name, Guid: uint64(creation.UnixNano()), CreateTXG: uint64(creation.Unix()), Creation: creation.Format(time.RFC3339),
	}}
}

// snaps are snapshots an hour apart, the newest first.
func snaps(names string) []Snapshot {
	var all []Snapshot
	for i, name := range strings.Fields(names) {
		all = append(all, snap(name, time.Duration(i)*time.Hour))
	}
	return all
}

func names(snapshots []Snapshot) string {
	var all []string
	for _, s := range snapshots {
		all = append(all, s.Version.Name)
	}
	return strings.Join(all, " ")
}

// survivors are the snapshots that Destroy leaves, in the order of snapshots.
func survivors(snapshots []Snapshot, rules []Rule) []Snapshot {
	doomed := map[*pdu.FilesystemVersion]bool{}
	for _, s := range Destroy(snapshots, rules) {
		doomed[s.Version] = true
	}
	return slices.DeleteFunc(slices.Clone(snapshots), func(s Snapshot) bool { return doomed[s.Version] })
}

func re(expression string) *regexp.Regexp { return regexp.MustCompile(expression) }

func TestDestroy(t *testing.T) {
	const list = "z5 m2 z4 z3 m1 z2 z1" // the newest first
	for name, test := range map[string]struct {
		rules []Rule
		want  string // that is destroyed, the oldest first
	}{
		"no rules":             {nil, ""},
		"last 2":               {[]Rule{LastN{Count: 2}}, "z1 z2 m1 z3 z4"},
		"last 3 of some":       {[]Rule{LastN{Count: 3, Regex: re("^z")}}, "z1 z2 m1 m2"},
		"last of more":         {[]Rule{LastN{Count: 100}}, ""},
		"last of more of some": {[]Rule{LastN{Count: 100, Regex: re("^z")}}, "m1 m2"},
		"last 0":               {[]Rule{LastN{}}, "z1 z2 m1 z3 z4 m2 z5"},
		"regex":                {[]Rule{Regex{Regex: re("^m")}}, "z1 z2 z3 z4 z5"},
		"regex within":         {[]Rule{Regex{Regex: re("[12]")}}, "z3 z4 z5"},
		"regex negated":        {[]Rule{Regex{Regex: re("^z"), Negate: true}}, "z1 z2 z3 z4 z5"},
		"no regex":             {[]Rule{Regex{}}, ""},
		"matches nothing":      {[]Rule{Regex{Regex: re("^x")}}, "z1 z2 m1 z3 z4 m2 z5"},
		"either":               {[]Rule{Regex{Regex: re("^m")}, LastN{Count: 1}, LastN{Count: 2, Regex: re("^z")}}, "z1 z2 z3"},
		"all replicated":       {[]Rule{NotReplicated{}}, "z1 z2 m1 z3 z4 m2 z5"},
		"grid":                 {[]Rule{Grid{Intervals: []Interval{{2, time.Hour, 1}}, Regex: re("^z")}}, "z1 z2 m1 z3 z4 m2"},
		"grid matches nothing": {[]Rule{Grid{Intervals: []Interval{{100, time.Hour, 1}}, Regex: re("^x")}}, "z1 z2 m1 z3 z4 m2 z5"},
		"empty grid":           {[]Rule{Grid{}}, "z1 z2 m1 z3 z4 m2 z5"},
	} {
		t.Run(name, func(t *testing.T) {
			all := snaps(list)
			if got := names(Destroy(all, test.rules)); got != test.want {
				t.Errorf("destroyed %q, want %q", got, test.want)
			}
			if names(all) != list {
				t.Error("the argument was changed")
			}
		})
	}
}

func TestNotReplicated(t *testing.T) {
	all := snaps("new cursor old")
	all[0].Replicated, all[1].AtCursor = false, true
	if got := names(Destroy(all, []Rule{NotReplicated{}})); got != "old" {
		t.Errorf("destroyed %q", got)
	}
	if got := names(Destroy(all, []Rule{NotReplicated{ReleaseCursor: true}})); got != "old cursor" {
		t.Errorf("with ReleaseCursor: destroyed %q", got)
	}
	if got := names(Destroy(all, []Rule{NotReplicated{ReleaseCursor: true}, NotReplicated{}})); got != "old" {
		t.Errorf("with both: destroyed %q", got)
	}
}

// Snapshots of the same time are as old as their CreateTXG says.
func TestSameTime(t *testing.T) {
	a, b, c := snap("a", 0), snap("b", 0), snap("c", 0)
	a.Version.CreateTXG, b.Version.CreateTXG, c.Version.CreateTXG = 3, 1, 2
	if got := names(Destroy([]Snapshot{a, b, c}, []Rule{LastN{Count: 1}})); got != "b c" {
		t.Errorf("the last one: destroyed %q", got)
	}
	if got := names(Destroy([]Snapshot{a, b, c}, []Rule{Grid{Intervals: []Interval{{1, time.Hour, 1}}}})); got != "c a" {
		t.Errorf("a bucket: destroyed %q", got)
	}
}

// randomRules are one to four rules; stable if no grid moves between runs.
func randomRules(random *rand.Rand) (rules []Rule, stable bool) {
	expressions := []*regexp.Regexp{nil, re("^a"), re("^b"), re("[13579]$")}
	stable = true
	for range 1 + random.IntN(4) {
		expression := expressions[random.IntN(len(expressions))]
		switch random.IntN(4) {
		case 0:
			rules = append(rules, LastN{Count: random.IntN(10), Regex: expression})
		case 1:
			rules = append(rules, Regex{Regex: expression, Negate: random.IntN(2) == 0})
		case 2:
			rules = append(rules, NotReplicated{ReleaseCursor: random.IntN(2) == 0})
		case 3:
			grid := Grid{Regex: expression}
			for range 1 + random.IntN(3) {
				grid.Intervals = append(grid.Intervals, Interval{1 + random.IntN(5), time.Duration(1+random.IntN(40)) * time.Minute, 1 + random.IntN(3)})
			}
			if random.IntN(2) == 0 {
				grid.Intervals[0].Keep = KeepAll
			}
			stable = stable && grid.Intervals[0].Keep == KeepAll
			rules = append(rules, grid)
		}
	}
	return rules, stable
}

// randomSnapshots were replicated up to one of them.
func randomSnapshots(random *rand.Rand) []Snapshot {
	all := make([]Snapshot, random.IntN(60))
	for i := range all {
		all[i] = snap(fmt.Sprintf("%c%d", 'a'+rune(random.IntN(3)), i), time.Duration(random.IntN(300))*time.Minute)
	}
	if len(all) == 0 {
		return all
	}
	slices.SortStableFunc(all, order)
	cursor := random.IntN(len(all))
	all[cursor].AtCursor = true
	for i := range all {
		all[i].Replicated = i <= cursor
	}
	random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

func TestDestroyProperties(t *testing.T) {
	for seed := range uint64(1000) {
		random := rand.New(rand.NewPCG(seed, 0))
		rules, stable := randomRules(random)
		all := randomSnapshots(random)
		left := survivors(all, rules)
		if len(left)+len(Destroy(all, rules)) != len(all) {
			t.Fatalf("seed %d: %d of %d are left of which %d are destroyed", seed, len(left), len(all), len(Destroy(all, rules)))
		}
		if again := Destroy(left, rules); stable && len(again) > 0 {
			t.Fatalf("seed %d: a second run destroys %q of %q", seed, names(again), names(left))
		}
		for _, rule := range rules {
			for _, s := range survivors(all, []Rule{rule}) {
				if !slices.Contains(left, s) {
					t.Fatalf("seed %d: %T alone keeps %q", seed, rule, s.Version.Name)
				}
			}
		}
		random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		if got := survivors(all, rules); len(got) != len(left) {
			t.Fatalf("seed %d: in another order %d are left, not %d", seed, len(got), len(left))
		}
	}
}
