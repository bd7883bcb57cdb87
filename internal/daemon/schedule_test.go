package daemon

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/dualrepl/dualrepl/internal/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestEvery: the first call is on time, the others on a grid, and a call that takes
// too long loses the times that it covered.
func TestEvery(t *testing.T) {
	for _, tc := range []struct {
		name  string
		first time.Duration   // from now
		takes []time.Duration // of each call
		want  []time.Duration // when they begin
	}{
		{"at once", 0, []time.Duration{0, 0, 0}, []time.Duration{0, 10, 20}},
		{"later", 3, []time.Duration{0, 0}, []time.Duration{3, 13}},
		{"was due", -5, []time.Duration{0, 0}, []time.Duration{0, 5}},
		{"slow but in time", 0, []time.Duration{9, 0}, []time.Duration{0, 10}},
		{"too slow", 0, []time.Duration{25, 0, 0}, []time.Duration{0, 30, 40}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				start := time.Now()
				var got []time.Duration
				every(ctx, start.Add(tc.first*time.Second), intervals(10*time.Second), func() {
					got = append(got, time.Since(start)/time.Second)
					time.Sleep(tc.takes[len(got)-1] * time.Second)
					if len(got) == len(tc.takes) {
						cancel()
					}
				})
				if !slices.Equal(got, tc.want) {
					t.Errorf("called after %v seconds, want %v", got, tc.want)
				}
			})
		})
	}
}

// TestEveryAndOnWake: what is called in between leaves the grid as it is.
func TestEveryAndOnWake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		start := time.Now()
		wake := make(chan struct{}, 1)
		go func() { time.Sleep(13 * time.Second); signal(wake) }()
		var got []time.Duration
		everyAndOnWake(ctx, start, intervals(10*time.Second), wake, func() {
			if got = append(got, time.Since(start)/time.Second); len(got) == 4 {
				cancel()
			}
		})
		if want := []time.Duration{0, 10, 13, 20}; !slices.Equal(got, want) {
			t.Errorf("called after %v seconds, want %v", got, want)
		}
	})
}

// TestTimetable: each type of snapshotting has its times, which those that a call
// covered fall out of.
func TestTimetable(t *testing.T) {
	for _, tc := range []struct {
		snapshotting config.Snapshotting
		want         []time.Duration // after midnight
	}{
		{config.Snapshotting{Type: config.SnapshottingPeriodic, Interval: 6 * time.Hour}, []time.Duration{0, 6, 12, 24}},
		{config.Snapshotting{Type: config.SnapshottingCron, Cron: "CRON_TZ=UTC 0 3,12,15 * * *"}, []time.Duration{3, 12, 15, 27}},
	} {
		synctest.Test(t, func(t *testing.T) {
			times, err := newTimetable(&tc.snapshotting)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			midnight, first := time.Now(), time.Now() // as synctest begins
			if tc.snapshotting.Type == config.SnapshottingCron {
				first = times(first, first)
			}
			var got []time.Duration
			every(ctx, first, times, func() {
				got = append(got, time.Since(midnight)/time.Hour)
				switch len(got) {
				case 3:
					time.Sleep(7 * time.Hour)
				case 4:
					cancel()
				}
			})
			if !slices.Equal(got, tc.want) {
				t.Errorf("%+v: called after %v hours, want %v", tc.snapshotting, got, tc.want)
			}
		})
	}
	if times, err := newTimetable(&config.Snapshotting{Type: config.SnapshottingManual}); times != nil || err != nil {
		t.Errorf("by hand: %v", err)
	}
	if _, err := newTimetable(&config.Snapshotting{Type: config.SnapshottingCron, Cron: "never"}); err == nil {
		t.Error("never is a time")
	}
}

// TestRevised: a clock that is set back does not put off what is due for as long as it was
// ahead.
func TestRevised(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	cron, err := newTimetable(&config.Snapshotting{Type: config.SnapshottingCron, Cron: "CRON_TZ=UTC 0 3 * * *"})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		times      timetable
		next, want time.Duration // from now
	}{
		{intervals(time.Hour), 10 * time.Minute, 10 * time.Minute},
		{intervals(time.Hour), time.Hour, time.Hour},
		{intervals(time.Hour), 365 * 24 * time.Hour, time.Hour},
		{cron, 15 * time.Hour, 15 * time.Hour},
		{cron, (15 + 240) * time.Hour, 15 * time.Hour},
		{func(time.Time, time.Time) time.Time { return time.Time{} }, time.Hour, time.Hour},
	} {
		if got := tc.times.revised(now.Add(tc.next), now).Sub(now); got != tc.want {
			t.Errorf("next in %v becomes %v, want %v", tc.next, got, tc.want)
		}
	}
}

// TestRetry: what came to nothing is tried again soon, and then goes on as usual.
func TestRetry(t *testing.T) {
	for interval, want := range map[time.Duration][]time.Duration{
		time.Minute:    {0, 1, 2, 3, 4},
		24 * time.Hour: {0, 5, 10, 10 + 24*60, 10 + 2*24*60},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			start, failed := time.Now(), false
			var got []time.Duration
			every(ctx, start, intervals(interval).orRetry(&failed), func() {
				got = append(got, time.Since(start)/time.Minute)
				failed = len(got) < 3
				if len(got) == len(want) {
					cancel()
				}
			})
			if !slices.Equal(got, want) {
				t.Errorf("every %v: called after %v minutes, want %v", interval, got, want)
			}
		})
	}
}

// TestEveryWithoutTime: a timetable that is at its end calls nobody any more.
func TestEveryWithoutTime(t *testing.T) {
	calls := 0
	every(t.Context(), time.Now(), func(time.Time, time.Time) time.Time { return time.Time{} }, func() { calls++ })
	if calls != 1 {
		t.Errorf("%d calls, want 1", calls)
	}
}

func TestEveryEndsBeforeTheFirstCall(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	every(ctx, time.Now().Add(time.Hour), intervals(time.Hour), func() { t.Error("called") })
}

// TestOnWake: signals that come while fn works are one call, and none is lost.
func TestOnWake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		wake := make(chan struct{}, 1)
		calls := 0
		go onWake(ctx, wake, func() { calls++; time.Sleep(time.Minute) })
		signal(wake)
		synctest.Wait() // it works on the first
		signal(wake)
		signal(wake)
		time.Sleep(time.Hour)
		cancel()
		synctest.Wait()
		if calls != 2 {
			t.Errorf("%d calls, want 2", calls)
		}
	})
}

func TestSnapshotName(t *testing.T) {
	berlin := time.FixedZone("", 3600)
	at := time.Date(2026, 11, 21, 0, 30, 5, 7_900_000, berlin)
	if got, want := snapshotName("dr_", at), "dr_20261120_233005_007"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
