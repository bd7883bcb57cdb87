package keeper

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestNamed(t *testing.T) {
	if all, err := Named(nil); err != nil || len(all) != len(Kinds) {
		t.Errorf("Named(nil) has %d kinds; %v", len(all), err)
	}
	two, err := Named([]string{"restic", "dualrepl"})
	if err != nil || len(two) != 2 || two[0].Name != "dualrepl" {
		t.Errorf("Named = %v; %v", two, err)
	}
	if _, err := Named([]string{"tape"}); err == nil || !strings.Contains(err.Error(), "tape") {
		t.Errorf("error is %v", err)
	}
}

func TestLegendHasEach(t *testing.T) {
	for _, k := range Kinds {
		if !strings.Contains(Legend(), k.Name) || !strings.Contains(Legend(), k.About) {
			t.Errorf("the legend has nothing about %s", k.Name)
		}
	}
}

func TestPlainCopyKeepsOneVersion(t *testing.T) {
	p := Places{Source: t.TempDir(), Active: t.TempDir(), Passive: t.TempDir()}
	if err := os.WriteFile(filepath.Join(p.Source, "file"), []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	k := &plainCopy{places: p}
	if _, err := k.Keep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Keep(t.Context()); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("a second version: %v", err)
	}
	if _, err := k.Verify(t.Context()); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("Verify: %v", err)
	}
	restored := filepath.Join(t.TempDir(), "restored")
	if _, err := k.Restore(t.Context(), restored); err != nil {
		t.Fatal(err)
	}
	if content, err := os.ReadFile(filepath.Join(restored, "file")); err != nil || string(content) != "content" {
		t.Errorf("restored %q; %v", content, err)
	}
}

func TestAwaitEndsWithItsContext(t *testing.T) {
	address, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := await(ctx, address); err == nil {
		t.Error("nobody listens, and await found somebody")
	}
}
