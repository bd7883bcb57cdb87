package quickstart

import (
	"os"
	"testing"
	"time"

	"github.com/dualrepl/dualrepl/internal/daemon"
)

func TestParseStat(t *testing.T) {
	for _, tc := range []struct {
		stat string
		want time.Duration
		ok   bool
	}{
		{"7 (dualrepl) S 1 7 7 0 -1 4194560 1 0 0 0 150 25 0 0 20 0", 1750 * time.Millisecond, true},
		{"7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 1 2 0 0 20 0", 30 * time.Millisecond, true},
		{"7 (dualrepl) S 1 7", 0, false},
		{"7 (dualrepl) S 1 7 7 0 -1 4194560 1 0 0 0 x 25 0 0", 0, false},
		{"7 (dualrepl) S 1 7 7 0 -1 4194560 1 0 0 0 150 x 0 0", 0, false},
		{"", 0, false},
	} {
		got, err := parseStat([]byte(tc.stat))
		if got != tc.want || (err == nil) != tc.ok {
			t.Errorf("parseStat(%q) = %v, %v", tc.stat, got, err)
		}
	}
}

func TestProcessCPU(t *testing.T) {
	if _, err := processCPU(os.Getpid()); err != nil {
		t.Error(err)
	}
	if _, err := processCPU(-1); err == nil {
		t.Error("no error for no process")
	}
}

func TestFigures(t *testing.T) {
	transfer := Transfer{
		Duration:  2 * time.Second,
		Channels:  daemon.Channels{DataSent: 512 << 20},
		ActiveCPU: time.Second, PassiveCPU: 2 * time.Second,
	}
	if throughput, cpu, ok := transfer.Figures(); throughput != 0.25 || cpu != 6 || !ok {
		t.Errorf("%v, %v, %v", throughput, cpu, ok)
	}
	transfer.Channels.DataSent = 1000
	if _, _, ok := transfer.Figures(); ok {
		t.Error("figures from too little data")
	}
}
