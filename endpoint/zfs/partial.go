package zfs

import (
	"context"
	"fmt"

	"github.com/dualrepl/dualrepl/endpoint"
)

// dropPartial drops the beginning of a broken step, and returns what is then there: nil
// if that was all that there was.
func (r *Receiver) dropPartial(ctx context.Context, target *dataset) (*dataset, error) {
	if _, err := r.program.run(ctx, "receive", "-A", target.name); err != nil {
		return nil, fmt.Errorf("drop the beginning of a broken step: %w", receiveError(err, &streamHead{}))
	}
	left, err := r.inspect(ctx, target.name)
	if err != nil || left == nil || left.placeholder {
		return left, err
	}
	return left, r.restorePlaceholder(ctx, left)
}

// restorePlaceholder makes a dataset a placeholder again that was one before a full
// step onto it began. zfs does so itself, unless the machine failed; zrepl does not. What
// has no snapshot, and had the beginning of a step, can be nothing else: zfs lets a full
// step begin only on what it may replace.
func (r *Receiver) restorePlaceholder(ctx context.Context, d *dataset) error {
	versions, err := r.program.versions(ctx, d.name)
	if err != nil || len(snapshotNames(versions)) > 0 {
		return err
	}
	_, err = r.program.run(ctx, "set", placeholderProperty+"="+placeholderOn, d.name)
	d.placeholder = err == nil
	return err
}

// prepareResumed is for the rest of a full step. Its beginning has replaced nothing yet;
// what it is going to replace must be a placeholder, or nothing: have no snapshots.
func (r *Receiver) prepareResumed(ctx context.Context, target *dataset, head *streamHead) error {
	if !target.placeholder {
		versions, err := r.program.versions(ctx, target.name)
		if err != nil {
			return err
		}
		if len(snapshotNames(versions)) > 0 {
			return fmt.Errorf("%w: %s has versions already; a full step would replace them", endpoint.ErrFailedPrecondition, target.name)
		}
	}
	// The rest does not say whether the beginning had properties.
	out, err := r.program.run(ctx, "get", "-H", "-s", "received", "-o", "value", "mountpoint", target.name)
	head.properties = head.properties || len(out) > 0
	return err
}
