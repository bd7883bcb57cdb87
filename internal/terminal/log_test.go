package terminal

import (
	"errors"
	"strings"
	"testing"
)

func TestLogger(t *testing.T) {
	var b strings.Builder
	logger := NewLogger(&b).With("job", "docs")
	logger.Info("not for people")
	logger.Warn("trying again", "failed", 1, "err", errors.New("connection\nlost"))
	logger.WithGroup("g").With("filesystem", "a").Error("given up")
	logger.Warn("on")
	want := `dualrepl: trying again: connection\nlost (job docs, failed 1)
dualrepl: given up (job docs, filesystem a)
dualrepl: on (job docs)
`
	if b.String() != want {
		t.Errorf("logged\n%swant\n%s", &b, want)
	}
}
