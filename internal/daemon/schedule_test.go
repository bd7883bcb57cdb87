package daemon

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
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
				every(ctx, start.Add(tc.first*time.Second), 10*time.Second, func() {
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
		everyAndOnWake(ctx, start, 10*time.Second, wake, func() {
			if got = append(got, time.Since(start)/time.Second); len(got) == 4 {
				cancel()
			}
		})
		if want := []time.Duration{0, 10, 13, 20}; !slices.Equal(got, want) {
			t.Errorf("called after %v seconds, want %v", got, want)
		}
	})
}

func TestEveryEndsBeforeTheFirstCall(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	every(ctx, time.Now().Add(time.Hour), time.Hour, func() { t.Error("called") })
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
