package e2e

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestReadme runs what the README says one can run in an empty directory, as it is
// printed but for the port.
func TestReadme(t *testing.T) {
	s := newDocs(t)
	out := s.script(s.block("README.md", "## Use it"))
	for _, want := range []string{"push.yml is good", "alice/docs@dr_", ": good: 1 file", "is restored to restored"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if note, err := os.ReadFile(s.path("restored/note")); err != nil || string(note) != "hello\n" {
		t.Errorf("restored %q, %v", note, err)
	}
}

// TestCertificates makes the certificates by the recipe of docs/config.md and
// replicates with them as docs/examples/source.yml and pull.yml say.
func TestCertificates(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("SKIPPED: the recipe for certificates needs openssl, which is not installed")
	}
	s := newDocs(t)
	for _, dir := range []string{"etc/dualrepl", "home/alice/docs", "home/alice/music"} {
		if err := os.MkdirAll(s.path(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s.script("cd etc/dualrepl\n" + s.block("docs/config.md", "## Certificates"))
	if err := os.WriteFile(s.path("home/alice/docs/note"), []byte("hello\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.example("source.yml")
	s.example("pull.yml")
	s.script(`
		dualrepl snapshot home --config source.yml
		dualrepl daemon --config source.yml &
		dualrepl replicate fetch --config pull.yml
		dualrepl restore fetch alice/docs restored --config pull.yml
		kill $!
		cmp restored/note home/alice/docs/note`)
}

// TestArchitecture: the table of docs/architecture.md has every package.
func TestArchitecture(t *testing.T) {
	packages, err := listPackages(module + "/...")
	if err != nil {
		t.Fatal(err)
	}
	dependOnDirectories(t, packages)
	doc := read(t, "docs/architecture.md")
	for _, pkg := range packages {
		if name := strings.TrimPrefix(pkg.ImportPath, module+"/"); !strings.Contains(doc, "`"+name+"`") {
			t.Errorf("docs/architecture.md does not list %s", name)
		}
	}
}

// docs tries what the documentation says, in a directory of its own.
type docs struct {
	t       *testing.T
	dir     string
	address string // instead of those that the documentation listens on
}

func newDocs(t *testing.T) *docs {
	t.Helper()
	dependOnProgram(t)
	return &docs{t: t, dir: t.TempDir(), address: freeAddress(t)}
}

func (s *docs) path(name string) string { return filepath.Join(s.dir, name) }

// block is the first block of shell commands below a title.
func (s *docs) block(file, title string) string {
	s.t.Helper()
	_, rest, _ := strings.Cut(read(s.t, file), "\n"+title+"\n")
	_, rest, _ = strings.Cut(rest, "\n```sh\n")
	block, _, ok := strings.Cut(rest, "\n```\n")
	if !ok {
		s.t.Fatalf("%s has no ```sh block below %q", file, title)
	}
	return strings.ReplaceAll(block, "127.0.0.1:8888", s.address)
}

// script runs commands until the first fails, with dualrepl among the programs, and
// ends what they leave in the background.
func (s *docs) script(text string) string {
	s.t.Helper()
	cmd := exec.Command("sh", "-ec", "trap 'kill $! 2>/dev/null || true' EXIT\n"+text)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(program)+":"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.t.Fatalf("%v\n%s\n%s", err, text, out)
	}
	return string(out)
}

// example copies an example, for this directory and address.
func (s *docs) example(name string) {
	s.t.Helper()
	_, port, _ := net.SplitHostPort(s.address)
	text := strings.NewReplacer(
		"127.0.0.1:8889", "127.0.0.1:"+port,
		" /etc/", " "+s.dir+"/etc/", " /home/", " "+s.dir+"/home/", " /srv/", " "+s.dir+"/srv/", " /var/", " "+s.dir+"/var/",
	).Replace(read(s.t, "docs/examples/"+name))
	if err := os.WriteFile(s.path(name), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// read returns a file of the repository.
func read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("../..", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
