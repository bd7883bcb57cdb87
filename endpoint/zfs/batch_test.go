package zfs

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
)

func TestBatches(t *testing.T) {
	long := strings.Repeat("x", 1023) // with its separator, 64 fit
	tests := []struct {
		names []string
		want  []int
	}{
		{nil, nil},
		{[]string{"a"}, []int{1}},
		{slices.Repeat([]string{long}, 64), []int{64}},
		{slices.Repeat([]string{long}, 130), []int{64, 64, 2}},
	}
	for _, tt := range tests {
		var sizes []int
		for batch := range batches(tt.names) {
			sizes = append(sizes, len(batch))
		}
		if !slices.Equal(sizes, tt.want) {
			t.Errorf("%d names: batches of %v, want %v", len(tt.names), sizes, tt.want)
		}
	}
	for range batches(slices.Repeat([]string{long}, 130)) {
		break
	}
}

func TestInBatches(t *testing.T) {
	bad := errors.New("bad")
	var done []string
	calls := 0
	names := strings.Split("a b c d e f g h", " ")
	failed := inBatches(t.Context(), names, func(names []string) error {
		if calls++; slices.Contains(names, "c") || slices.Contains(names, "h") {
			return bad
		}
		done = append(done, names...)
		return nil
	})
	if !maps.Equal(failed, map[string]error{"c": bad, "h": bad}) || strings.Join(done, "") != "abdefg" {
		t.Errorf("failed: %v; done: %v", failed, done)
	}
	if calls > 11 {
		t.Errorf("%d calls", calls)
	}
}

func TestInBatchesContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	calls := 0
	failed := inBatches(ctx, []string{"a", "b"}, func([]string) error {
		calls++
		cancel()
		return ctx.Err()
	})
	if calls != 1 || failed["a"] != context.Canceled || failed["b"] != context.Canceled {
		t.Errorf("%d calls, %v", calls, failed)
	}
}
