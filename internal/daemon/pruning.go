package daemon

import (
	"context"
	"errors"
	"regexp"
	"slices"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/internal/config"
	"github.com/dualrepl/dualrepl/internal/prune"
)

// newRules makes rules of those of the job, by side.
func (j *Job) newRules() (map[string][]prune.Rule, error) {
	all := map[string][]prune.Rule{}
	for side, rules := range j.rulesOf() {
		for _, r := range rules {
			rule, err := newRule(r)
			if err != nil {
				return nil, err
			}
			all[side] = append(all[side], rule)
		}
	}
	return all, nil
}

func newRule(k config.KeepRule) (prune.Rule, error) {
	names, err := regexp.Compile(k.Regex)
	if err != nil {
		return nil, err
	}
	switch k.Type {
	case config.KeepNotReplicated:
		return prune.NotReplicated{ReleaseCursor: !k.KeepSnapshotAtCursor}, nil
	case config.KeepLastN:
		return prune.LastN{Count: k.Count, Regex: names}, nil
	case config.KeepGrid:
		intervals, err := prune.ParseGrid(k.Grid)
		return prune.Grid{Intervals: intervals, Regex: names}, err
	default:
		return prune.Regex{Regex: names, Negate: k.Negate}, nil
	}
}

// rulesOf are the job's rules by the side that they are for.
func (j *Job) rulesOf() map[string][]config.KeepRule {
	p := j.conf.Pruning
	return map[string][]config.KeepRule{prune.Sender: slices.Concat(p.KeepSender, p.Keep), prune.Receiver: p.KeepReceiver}
}

// pruneSides prunes both sides of a replication. Where the other one could not be reached,
// the job's own is pruned even so if it can be: a sender, that would fill up meanwhile.
func (s *service) pruneSides(ctx context.Context, ends sides, reached bool) {
	if reached || s.sends() {
		s.prune(ctx, prune.Target{Name: prune.Sender, Endpoint: ends.sender, Cursors: ends.sender})
	}
	if reached {
		s.prune(ctx, prune.Target{Name: prune.Receiver, Endpoint: ends.receiver, Cursors: ends.sender})
	}
}

// pruneSnapshots prunes what a job keeps that replicates nothing.
func (s *service) pruneSnapshots(ctx context.Context) {
	s.prune(ctx, prune.Target{Name: prune.Sender, Endpoint: s.handler})
}

// prune leaves what was destroyed to the pruning's own log and says what failed.
func (s *service) prune(ctx context.Context, target prune.Target) {
	target.Rules = s.rules[target.Name]
	if len(target.Rules) == 0 || ctx.Err() != nil {
		return
	}
	report, err := prune.Run(ctx, target, s.logger)
	switch {
	case err != nil && ctx.Err() != nil:
		s.logger.Info("pruning stopped, the next one goes on from there", "side", target.Name)
		return
	case errors.Is(err, endpoint.ErrPermission):
		s.logger.Warn("pruning is not permitted, all snapshots stay", "side", target.Name, "err", err, "way_out", s.permission(target.Name))
	default:
		for _, err := range parts(err) {
			s.logger.Error("pruning failed", "side", target.Name, "err", err)
		}
	}
	s.metrics.pruned(report, err)
}

// permission is how one side gets the other, or itself, to destroy snapshots.
func (s *service) permission(side string) string {
	own := prune.Receiver
	if s.sends() {
		own = prune.Sender
	}
	if side == own {
		return "run the daemon as a user that may destroy snapshots, or remove the rules for this side"
	}
	return "permit `destroy` in the `verbs` of the passive side, or remove the rules for it"
}
