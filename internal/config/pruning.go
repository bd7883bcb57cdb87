package config

import (
	"fmt"
	"reflect"
	"regexp"

	"github.com/dualrepl/dualrepl/internal/prune"
)

// The types of KeepRule.
const (
	KeepNotReplicated = "not_replicated"
	KeepLastN         = "last_n"
	KeepGrid          = "grid"
	KeepRegex         = "regex"
)

// Pruning says which snapshots are kept; what no rule keeps is destroyed. A side without
// rules keeps all.
type Pruning struct {
	KeepSender   []KeepRule `yaml:"keep_sender"`   // push and pull
	KeepReceiver []KeepRule `yaml:"keep_receiver"` // push and pull
	Keep         []KeepRule `yaml:"keep"`          // snap
}

// KeepRule keeps some of a filesystem's snapshots.
type KeepRule struct {
	Type                 string `yaml:"type"`                    // one of the constants KeepNotReplicated to KeepRegex
	KeepSnapshotAtCursor bool   `yaml:"keep_snapshot_at_cursor"` // not_replicated: that of the replication cursor, too
	Count                int    `yaml:"count"`                   // last_n: the newest ones
	Grid                 string `yaml:"grid"`                    // grid: see prune.ParseGrid
	Regex                string `yaml:"regex"`                   // last_n, grid, regex: of names; "": all
	Negate               bool   `yaml:"negate"`                  // regex: those that do not match
}

// pruningShapes are by the type of the job.
var pruningShapes = map[string]shape{
	TypePush: {optional: []string{"keep_sender", "keep_receiver"}},
	TypePull: {optional: []string{"keep_sender", "keep_receiver"}},
	TypeSnap: {required: []string{"keep"}},
}

var keepShapes = map[string]shape{
	KeepNotReplicated: {optional: []string{"keep_snapshot_at_cursor"}},
	KeepLastN:         {required: []string{"count"}, optional: []string{"regex"}},
	KeepGrid:          {required: []string{"grid"}, optional: []string{"regex"}},
	KeepRegex:         {required: []string{"regex"}, optional: []string{"negate"}},
}

// rules are the lists of rules, by their keys.
func (p *Pruning) rules() map[string][]KeepRule {
	return map[string][]KeepRule{"keep_sender": p.KeepSender, "keep_receiver": p.KeepReceiver, "keep": p.Keep}
}

func (d *decoder) checkPruning(field string, job Job) {
	s := d.sectionOf(field, reflect.TypeFor[Pruning]())
	s.shaped(job.Type, "the pruning of a "+job.Type+" job", pruningShapes)
	for key, rules := range job.Pruning.rules() {
		for i, rule := range rules {
			item := fmt.Sprintf("%s[%d]", key, i)
			if s.sound(item) {
				d.checkKeep(join(field, item), key, rule, job.Endpoint.Type)
			}
		}
	}
}

// checkKeep checks a rule in the list that is the key's, for endpoints of the type.
func (d *decoder) checkKeep(field, list string, rule KeepRule, endpoint string) {
	s := d.sectionOf(field, reflect.TypeFor[KeepRule]())
	s.typed(rule.Type, "a %s rule", keepShapes)
	if rule.Type == KeepNotReplicated && list != "keep_sender" {
		s.fail("type", "only a sender has what is not replicated", "remove the rule, or move it to keep_sender of a push or pull job")
	}
	if endpoint == EndpointBtrfs && s.sound("keep_snapshot_at_cursor") && !rule.KeepSnapshotAtCursor {
		s.fail("keep_snapshot_at_cursor", "btrfs has no bookmarks: without that snapshot the next step would be in full", "remove it")
	}
	if _, err := regexp.Compile(rule.Regex); s.sound("regex") && err != nil {
		s.fail("regex", brief(err), "write a regular expression of Go (RE2), such as ^dr_")
	}
	s.grid(rule.Grid)
}

// grid checks the intervals of a grid.
func (s section) grid(text string) {
	if !s.sound("grid") {
		return
	}
	if _, err := prune.ParseGrid(text); err != nil {
		s.fail("grid", brief(err), "write intervals from new to old, such as 1x1h(keep=all) | 24x1h | 30x1d")
	}
}

// complete is for the pruning of the job that the section is.
func (p *Pruning) complete(job section) {
	for list, rules := range p.rules() {
		for i := range rules {
			key := fmt.Sprintf("pruning.%s[%d].keep_snapshot_at_cursor", list, i)
			if rules[i].Type == KeepNotReplicated && !job.given(key) {
				rules[i].KeepSnapshotAtCursor = true
			}
		}
	}
}
