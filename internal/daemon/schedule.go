package daemon

import (
	"context"
	"strings"
	"time"

	"github.com/dualrepl/dualrepl/internal/config"
)

// A timetable tells the first of its times that is after now. Last is one of them, or
// when it began; the zero time is none.
type timetable func(last, now time.Time) time.Time

// intervals are the times that are a multiple of interval after the last one.
func intervals(interval time.Duration) timetable {
	return func(last, now time.Time) time.Time {
		missed := max(0, now.Sub(last)/interval)
		return last.Add((missed + 1) * interval)
	}
}

// newTimetable is when a job takes snapshots; nil: only when asked to.
func newTimetable(s *config.Snapshotting) (timetable, error) {
	switch s.Type {
	case config.SnapshottingPeriodic:
		return intervals(s.Interval), nil
	case config.SnapshottingCron:
		schedule, err := config.ParseCron(s.Cron)
		return func(_, now time.Time) time.Time { return schedule.Next(now) }, err
	}
	return nil, nil
}

// every calls fn at the time first and then at those of the timetable, until ctx ends. A
// call that takes long makes the times fall out that it covered.
func every(ctx context.Context, first time.Time, times timetable, fn func()) {
	everyAndOnWake(ctx, first, times, nil, fn)
}

// maxSleep is how late a time of the day is noticed after the machine slept, or its clock
// was set.
const maxSleep = time.Minute

// everyAndOnWake calls fn also each time wake is signalled.
func everyAndOnWake(ctx context.Context, first time.Time, times timetable, wake <-chan struct{}, fn func()) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for next := first; !next.IsZero(); {
		timer.Reset(min(time.Until(next), maxSleep))
		select {
		case <-ctx.Done():
			return
		case <-wake:
		case <-timer.C:
			if time.Now().Before(next) {
				continue
			}
		}
		fn()
		if now := time.Now(); !next.After(now) {
			next = times(next, now)
		}
	}
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
