package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/dualrepl/dualrepl/bench/internal/contender"
	"github.com/dualrepl/dualrepl/bench/internal/keeper"
	"github.com/dualrepl/dualrepl/bench/internal/report"
)

// TestMain runs the tests or, for the commands and the processes that they start, the
// program itself.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"bench": main})
}

// parsed is what --json prints.
type parsed struct {
	Machine     report.Machine
	Comparisons []struct {
		Title  string
		Series []struct {
			Name            string
			Figures, Ratios map[string]report.Spread
			Rounds          []json.RawMessage
		}
	}
}

// bench runs the program and returns its output.
func bench(t *testing.T, args ...string) []byte {
	t.Helper()
	out, err := command(args...)
	if err != nil {
		t.Fatalf("bench %v: %v", args, err)
	}
	return out
}

func command(args ...string) ([]byte, error) {
	var stderr bytes.Buffer
	cmd := exec.Command("bench", args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil && stderr.Len() > 0 {
		err = &failure{stderr.String()}
	}
	return out, err
}

type failure struct{ text string }

func (f *failure) Error() string { return f.text }

// benchJSON checks what all commands' JSON has: a positive figure in each place but
// those named, and as many rounds as asked for.
func benchJSON(t *testing.T, rounds int, zero []string, args ...string) (p parsed) {
	t.Helper()
	if err := json.Unmarshal(bench(t, append(args, "--json")...), &p); err != nil {
		t.Fatal(err)
	}
	if p.Machine.Cores < 1 {
		t.Errorf("the machine is %v", p.Machine)
	}
	for _, c := range p.Comparisons {
		for _, s := range c.Series {
			if len(s.Rounds) != rounds {
				t.Errorf("%s, %s: %d rounds, want %d", c.Title, s.Name, len(s.Rounds), rounds)
			}
			for name, spread := range s.Figures {
				if spread.Min < 0 || spread.Max == 0 && !slices.Contains(zero, name) {
					t.Errorf("%s, %s: %s is %v", c.Title, s.Name, name, spread)
				}
			}
		}
	}
	return p
}

// names are the series of a comparison.
func (p parsed) names(i int) (names []string) {
	for _, s := range p.Comparisons[i].Series {
		names = append(names, s.Name)
	}
	return names
}

// cpu is what a short work may not show: the kernel counts in ticks.
var cpu = []string{"CPU s/GiB client", "CPU s/GiB server", "CPU s client", "CPU s server", "CPU us/step", "CPU s"}

func TestStreamMovesCheckedContentThroughAll(t *testing.T) {
	p := benchJSON(t, 1, cpu, "stream", "--gib", "0.01", "--rounds", "1", "--source", "checked", "--sink", "checked",
		"--contender", strings.Join(contender.Names(), ","))
	if len(p.Comparisons) != 2 || !slices.Equal(p.names(0), contender.Names()) || !slices.Equal(p.names(1), contender.Names()) {
		t.Fatalf("comparisons are %v", p)
	}
	for _, s := range p.Comparisons[0].Series {
		_, toTLS := s.Ratios["speed/tls"]
		if want := slices.Contains(contender.OverTLS, s.Name); toTLS != want {
			t.Errorf("%s is compared with crypto/tls: %t, want %t", s.Name, toTLS, want)
		}
		if _, toTCP := s.Ratios["speed/tcp"]; !toTCP {
			t.Errorf("%s is not compared with tcp", s.Name)
		}
	}
}

func TestStreamEnds(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, kinds := range [][2]string{
		{"pipe", "pipe"}, {"file:" + file, "generated"}, {"generated", "file:" + file + ".copy"},
	} {
		t.Run(kinds[0]+" to "+kinds[1], func(t *testing.T) {
			p := benchJSON(t, 2, cpu, "stream", "--gib", "0.01", "--rounds", "2", "--contender", "dualrepl", "--source", kinds[0], "--sink", kinds[1])
			if _, ok := p.Comparisons[1].Series[0].Ratios["speed/dualrepl"]; !ok {
				t.Error("without tcp, the first contender is the reference")
			}
		})
	}
	if info, err := os.Stat(file + ".copy"); err != nil || info.Size() != 10737418 {
		t.Errorf("the file sink is %v; %v", info, err)
	}
}

func TestStreamTableChartAndProfiles(t *testing.T) {
	dir := t.TempDir()
	chart := filepath.Join(dir, "chart.svg")
	out := bench(t, "stream", "--gib", "0.01", "--rounds", "1", "--contender", "tcp,http/1.1", "--chart", chart, "--profile", dir)
	for _, want := range []string{"send 0.01 GiB", "receive 0.01 GiB", "speed/tcp", "http/1.1", "cores"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("there is no %q in\n%s", want, out)
		}
	}
	svg, err := os.ReadFile(chart)
	if err != nil {
		t.Fatal(err)
	}
	if err := xml.Unmarshal(svg, new(struct{ XMLName xml.Name })); err != nil {
		t.Errorf("the chart: %v", err)
	}
	for _, name := range []string{"tcp-send-client", "tcp-receive-server", "http-1.1-send-server"} {
		if info, err := os.Stat(filepath.Join(dir, name+".pprof")); err != nil || info.Size() == 0 {
			t.Errorf("profile %s: %v", name, err)
		}
	}
}

func TestSmall(t *testing.T) {
	p := benchJSON(t, 1, append(cpu, "connections/step"), "small", "--steps", "40", "--at-once", "1,8", "--rounds", "1")
	if len(p.Comparisons) != 2 {
		t.Fatalf("%d comparisons, want 2", len(p.Comparisons))
	}
	for _, s := range p.Comparisons[0].Series {
		// Others may open connections on this machine, too.
		if n := s.Figures["connections/step"]; s.Name == "tcp" && n.Median < 1 {
			t.Errorf("tcp opened %v connections a step", n.Median)
		}
	}
}

func TestControl(t *testing.T) {
	p := benchJSON(t, 1, []string{"bulk GiB/s"}, "control", "--in-flight", "1,4", "--duration", "50ms", "--rounds", "1")
	if len(p.Comparisons) != 4 || !slices.Equal(p.names(0), []string{"grpc", "dualrepl", "dualrepl mux"}) {
		t.Fatalf("comparisons are %v", p)
	}
	for i, c := range p.Comparisons {
		for _, s := range c.Series {
			if bulk := s.Figures["bulk GiB/s"].Median > 0; bulk != (i >= 2) {
				t.Errorf("%s, %s: bulk data ran: %t", c.Title, s.Name, bulk)
			}
		}
	}
}

func TestScale(t *testing.T) {
	p := benchJSON(t, 1, append(cpu, "seconds"), "scale", "--streams", "100", "--stream-mib", "1", "--gib", "0.1",
		"--filesystems", "20", "--versions", "10", "--listed", "70000")
	if len(p.Comparisons) != 4 {
		t.Fatalf("%d comparisons, want 4", len(p.Comparisons))
	}
	if got, want := p.names(1), []string{"send 0.001 GiB", "send 0.1 GiB", "receive 0.001 GiB", "receive 0.1 GiB"}; !slices.Equal(got, want) {
		t.Errorf("long streams are %v, want %v", got, want)
	}
}

// A buffer that holds what the line carries during a stall keeps it busy.
func TestBursty(t *testing.T) {
	p := benchJSON(t, 1, nil, "bursty", "--line", "16", "--size", "4", "--burst", "2", "--stall", "100ms", "--buffer", "0,4", "--rounds", "1")
	if len(p.Comparisons) != 3 || !slices.Equal(p.names(0), []string{"no buffer", "4 MiB"}) {
		t.Fatalf("comparisons are %v", p)
	}
	for _, c := range p.Comparisons {
		for _, s := range c.Series {
			if busy := s.Figures["line busy %"].Median; busy > 105 {
				t.Errorf("%s, %s: the line is busy %v %% of the time", c.Title, s.Name, busy)
			}
		}
	}
}

// The smallest data set, with every keeper that is installed.
func TestDir(t *testing.T) {
	programs := map[string][]string{
		"dualrepl": {"go"}, "rsync daemon": {"rsync"}, "rsync local": {"rsync"}, "restic": {"restic"}, "cp -a": {"cp"},
		"rsync ssh": {"rsync", "ssh", "ssh-keygen", "/usr/sbin/sshd"},
	}
	for _, k := range keeper.Kinds {
		t.Run(k.Name, func(t *testing.T) {
			for _, program := range programs[k.Name] {
				if _, err := exec.LookPath(program); err != nil {
					t.Skipf("SKIPPED: %v", err)
				}
			}
			if os.Getuid() != 0 {
				t.Skip("SKIPPED: needs root")
			}
			dir := t.TempDir()
			zero := append(cpu, "wire MB", "new disk MiB", "seconds")
			p := benchJSON(t, 1, zero, "dir", "--scale", "0.001", "--warm-up=false", "--keeper", k.Name, "--active", dir, "--passive", dir)
			if k.Name != "cp -a" && len(p.Comparisons) != 5 {
				t.Errorf("%d works, want 5", len(p.Comparisons))
			}
			if disk := p.Comparisons[0].Series[0].Figures["new disk MiB"].Median; disk < 1.5 || disk > 10 {
				t.Errorf("the first version takes %v MiB, want about 2.3", disk)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v; %v", left, err)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	for _, test := range []struct {
		want string
		args []string
	}{
		{"carrier pigeon", []string{"stream", "--contender", "carrier pigeon"}},
		{"not generated, random, text, pipe, checked or file:PATH", []string{"stream", "--source", "tape"}},
		{"not send or receive", []string{"stream", "--direction", "up"}},
		{"at least 1", []string{"stream", "--rounds", "0"}},
		{"unknown command", []string{"plan"}},
		{"not one of", []string{"scale", "--work", "sleep"}},
		{"must be at least 1", []string{"bursty", "--burst", "0"}},
		{"no keeper", []string{"dir", "--keeper", "tape"}},
		{"may be needed", []string{"dir", "--rounds", "1000000"}},
		{"no such file", []string{"stream", "--source", "file:/does/not/exist", "--gib", "0.001"}},
	} {
		t.Run(test.want, func(t *testing.T) {
			_, err := command(test.args...)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("bench %v: error is %v, want one with %q", test.args, err, test.want)
			}
		})
	}
}

func TestHelpHasExamplesAndLegends(t *testing.T) {
	for name, legend := range map[string]string{
		"stream": contender.Legend(), "small": "", "control": "a bare gRPC connection", "scale": "", "bursty": "out of step", "dir": keeper.Legend(),
	} {
		help := string(bench(t, name, "--help"))
		if !strings.Contains(help, "bench "+name) || !strings.Contains(help, legend) {
			t.Errorf("bench %s --help has no example or no legend:\n%s", name, help)
		}
	}
}

// A stream that is cut short must not count as moved.
func TestCountedSink(t *testing.T) {
	for _, test := range []struct {
		wrote, want int64
		ok          bool
	}{{10, 10, true}, {9, 10, false}, {11, 10, false}, {0, 0, true}} {
		sink, err := openSink("generated", test.want)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(sink, neverEnding{}, test.wrote); err != nil {
			t.Fatal(err)
		}
		if err := sink.Close(); (err == nil) != test.ok {
			t.Errorf("%d of %d bytes: %v", test.wrote, test.want, err)
		}
	}
}

type neverEnding struct{}

func (neverEnding) Read(p []byte) (int, error) { return len(p), nil }
