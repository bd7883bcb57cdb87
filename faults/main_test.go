package faults

import (
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2/client"
	"go.uber.org/goleak"
)

// proxies makes proxies in the process of toxiproxy.
var proxies *toxiproxy.Client

func TestMain(m *testing.M) {
	code, err := runWithProxies(m)
	if err == nil && code == 0 {
		http.DefaultClient.CloseIdleConnections() // those to toxiproxy
		err = goleak.Find()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func runWithProxies(m *testing.M) (code int, err error) {
	flag.Parse()
	// The tests wait more than they compute.
	if err := flag.Set("test.parallel", strconv.Itoa(50*runtime.GOMAXPROCS(0))); err != nil {
		return 0, err
	}
	dir, err := os.MkdirTemp("", "dualrepl-faults-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	stop, err := startToxiproxy(filepath.Join(dir, "toxiproxy"))
	if err != nil {
		return 0, fmt.Errorf("start toxiproxy: %w", err)
	}
	defer stop()
	return m.Run(), nil
}

// startToxiproxy builds toxiproxy as path and runs it.
func startToxiproxy(path string) (stop func(), err error) {
	build := exec.Command("go", "build", "-o", path, "github.com/Shopify/toxiproxy/v2/cmd/server")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, out)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	address := l.Addr().String()
	l.Close()
	_, port, _ := net.SplitHostPort(address)
	cmd := exec.Command(path, "-host", "127.0.0.1", "-port", port)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	proxies = toxiproxy.NewClient(address)
	stop = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	}
	for range 500 {
		if _, err = proxies.Proxies(); err == nil {
			return stop, nil
		}
		time.Sleep(20 * time.Millisecond) // nothing tells when another process listens
	}
	stop()
	return nil, err
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
