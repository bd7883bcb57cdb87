package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// previousRelease is the commit of v0.1.0: a peer that this program must always
// understand.
const previousRelease = "d6d89a7d1a8560fb17b653198fb56c6d1869044e"

// TestPreviousRelease replicates with a program of the previous release at one end:
// pushed and pulled, over TCP and TLS, in full, incrementally, and across a break.
func TestPreviousRelease(t *testing.T) {
	dependOnProgram(t)
	previous := previousProgram(t)
	for _, direction := range []string{"push", "pull"} {
		for _, transport := range []string{"tcp", "tls"} {
			for name, builds := range map[string]builds{
				"an old active side":                    {active: previous, passive: program},
				"an old passive side":                   {active: program, passive: previous},
				"an old passive side that is to do all": {active: program, passive: previous, wishes: allExtensions},
			} {
				t.Run(direction+" over "+transport+" with "+name, func(t *testing.T) {
					t.Parallel()
					d := newDirectories(t)
					newPair(t, builds, direction, transport, d, d).replicate()
				})
			}
		}
	}
}

// previousProgram returns the path of the previous release's program, built from the
// git history.
func previousProgram(t *testing.T) string {
	t.Helper()
	for _, tool := range []string{"git", "tar"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("SKIPPED: building the previous release needs %s, which is not installed", tool)
		}
	}
	if out, err := exec.Command("git", "-C", "../..", "cat-file", "-e", previousRelease+"^{commit}").CombinedOutput(); err != nil {
		t.Skipf("SKIPPED: building the previous release needs the git history up to its commit %s, which is not here (git fetch --unshallow gets it): %v\n%s",
			previousRelease, err, out)
	}
	path, err := buildPrevious()
	if err != nil {
		t.Fatal("building the previous release: ", err)
	}
	return path
}

// buildPrevious builds once, into the directory that TestMain removes.
var buildPrevious = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(filepath.Dir(program), "previous")
	archive, path := dir+".tar", filepath.Join(dir, "dualrepl")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	build := exec.Command("go", "build", "-o", path, "./cmd/dualrepl")
	build.Dir = dir
	for _, cmd := range []*exec.Cmd{
		exec.Command("git", "-C", "../..", "archive", "--output", archive, previousRelease),
		exec.Command("tar", "-xf", archive, "-C", dir),
		build,
	} {
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("%s: %w\n%s", cmd, err, out)
		}
	}
	return path, nil
})
