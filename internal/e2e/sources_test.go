package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// module is the path of the module that is tested.
const module = "github.com/dualrepl/dualrepl"

// goPackage is what `go list -json` says about a package.
type goPackage struct {
	ImportPath          string
	Dir                 string
	GoFiles, EmbedFiles []string
	Module              *struct{ Main bool }
}

// listPackages returns those packages of the module that `go list` lists.
func listPackages(args ...string) (packages []goPackage, err error) {
	list := exec.Command("go", append([]string{"list", "-json=ImportPath,Dir,GoFiles,EmbedFiles,Module"}, args...)...)
	list.Stderr = os.Stderr
	out, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	for d := json.NewDecoder(bytes.NewReader(out)); d.More(); {
		var pkg goPackage
		if err := d.Decode(&pkg); err != nil {
			return nil, fmt.Errorf("output of go list: %w", err)
		}
		if pkg.Module != nil && pkg.Module.Main {
			packages = append(packages, pkg)
		}
	}
	return packages, nil
}

// dependOnProgram makes the result of a test depend on the program's source. The test
// cache of the go command knows only what this package imports, and what its tests
// (not its TestMain) open in the module: without this, a test that has passed would
// not be run again when the program has changed.
func dependOnProgram(t *testing.T) {
	t.Helper()
	if len(sources) == 0 {
		return // it was not built here, nor are these tests run by the go command
	}
	dependOnDirectories(t, sources)
	read(t, "go.mod")
	read(t, "go.sum")
	for _, pkg := range sources {
		for _, name := range append(pkg.GoFiles, pkg.EmbedFiles...) {
			if _, err := os.ReadFile(filepath.Join(pkg.Dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// dependOnDirectories makes the result of a test depend on which files and packages
// there are beside these: a directory's time changes with its list of names.
func dependOnDirectories(t *testing.T, packages []goPackage) {
	t.Helper()
	for _, pkg := range packages {
		for _, dir := range []string{pkg.Dir, filepath.Dir(pkg.Dir)} {
			if _, err := os.Stat(dir); err != nil {
				t.Fatal(err)
			}
		}
	}
}
