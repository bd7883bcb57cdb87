package daemon

import (
	"context"
	"strings"
	"time"
)

// every calls fn at the time first and then once an interval, until ctx ends. A
// call that takes longer than the interval makes the times fall out that it
// covered.
func every(ctx context.Context, first time.Time, interval time.Duration, fn func()) {
	everyAndOnWake(ctx, first, interval, nil, fn)
}

// everyAndOnWake calls fn also each time wake is signalled.
func everyAndOnWake(ctx context.Context, first time.Time, interval time.Duration, wake <-chan struct{}, fn func()) {
	timer := time.NewTimer(time.Until(first))
	defer timer.Stop()
	for next := first; ; {
		select {
		case <-ctx.Done():
			return
		case <-wake:
		case <-timer.C:
		}
		fn()
		if now := time.Now(); !next.After(now) {
			next = following(next, interval, now)
		}
		timer.Reset(time.Until(next))
	}
}

// following returns the first time after now that is a multiple of interval after
// last, and not last itself.
func following(last time.Time, interval time.Duration, now time.Time) time.Time {
	missed := max(0, now.Sub(last)/interval)
	return last.Add((missed + 1) * interval)
}

// onWake calls fn each time wake is signalled, until ctx ends.
func onWake(ctx context.Context, wake <-chan struct{}, fn func()) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-wake:
			fn()
		}
	}
}

// signal wakes onWake, now or, if it is at work, after that. The channel has room for one.
func signal(wake chan<- struct{}) {
	select {
	case wake <- struct{}{}:
	default: // it will be woken anyway
	}
}

// snapshotTime is how the time stands in a snapshot's name, in UTC, but for the
// point before the milliseconds: Go cannot format them behind anything else.
const snapshotTime = "20060102_150405.000"

// snapshotName returns prefix20060102_150405_000.
func snapshotName(prefix string, at time.Time) string {
	return prefix + strings.Replace(at.UTC().Format(snapshotTime), ".", "_", 1)
}
