package terminal

import (
	"math"
	"testing"
	"time"
)

func TestBytes(t *testing.T) {
	for _, tc := range []struct {
		n    uint64
		want string
	}{
		{0, "0 B"},
		{1, "1 B"},
		{1000, "1000 B"},
		{1023, "1023 B"},
		{1024, "1.00 KiB"},
		{1536, "1.50 KiB"},
		{10 << 10, "10.0 KiB"},
		{100 << 10, "100 KiB"},
		{1000 << 10, "0.98 MiB"},
		{1<<20 - 1, "1.00 MiB"},
		{812 << 20, "812 MiB"},
		{5 << 30, "5.00 GiB"},
		{3 << 40, "3.00 TiB"},
		{math.MaxUint64, "16.0 EiB"},
	} {
		if got := Bytes(tc.n); got != tc.want {
			t.Errorf("Bytes(%d) = %q, want %q", tc.n, got, tc.want)
		}
	}
}

func TestDuration(t *testing.T) {
	for _, tc := range []struct {
		d    time.Duration
		want string
	}{
		{0, "0 ms"},
		{850 * time.Millisecond, "850 ms"},
		{3240 * time.Millisecond, "3.2 s"},
		{59949 * time.Millisecond, "59.9 s"},
		{59999 * time.Millisecond, "1m00s"},
		{123 * time.Second, "2m03s"},
		{time.Hour - time.Millisecond, "1h00m"},
		{65 * time.Minute, "1h05m"},
		{50 * time.Hour, "50h00m"},
		{-3 * time.Second, "-3.0 s"},
	} {
		if got := Duration(tc.d); got != tc.want {
			t.Errorf("Duration(%d) = %q, want %q", tc.d, got, tc.want)
		}
	}
}
