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

// revised is next, or what comes before it by a clock that was set back: a time that was
// reckoned by a clock far ahead may be years away.
func (t timetable) revised(next, now time.Time) time.Time {
	if sooner := t(now, now); sooner.Before(next) && !sooner.IsZero() {
		return sooner
	}
	return next
}

// orRetry has a time soon after one that came to nothing, too.
func (t timetable) orRetry(failed *bool) timetable {
	return func(last, now time.Time) time.Time {
		next := t(last, now)
		if retry := now.Add(retryPause); *failed && retry.Before(next) {
			return retry
		}
		return next
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

// retryPause is until the next try where no snapshot could be taken: a pool or a disk may
// come later than the daemon, and a machine that runs by day may see no second time.
const retryPause = 5 * time.Minute

// everyAndOnWake calls fn also each time wake is signalled.
func everyAndOnWake(ctx context.Context, first time.Time, times timetable, wake <-chan struct{}, fn func()) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for next := first.Round(0); !next.IsZero(); { // by the clock on the wall, which goes on while the machine sleeps
		timer.Reset(min(time.Until(next), maxSleep))
		select {
		case <-ctx.Done():
			return
		case <-wake:
		case <-timer.C:
			if now := time.Now().Round(0); now.Before(next) {
				next = times.revised(next, now)
				continue
			}
		}
		fn()
		if now := time.Now().Round(0); !next.After(now) {
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
