package tls

import (
	"bytes"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/dualrepl/dualrepl/transport"
	"github.com/dualrepl/dualrepl/transport/transporttest"
)

// certificates returns the DER bytes of what both peers presented.
func (r result) certificates(t *testing.T) (server, client []byte) {
	t.Helper()
	if r.connectErr != nil || r.acceptErr != nil || r.identity != "alice" {
		t.Fatalf("connecting: %v, %v, identity %q", r.connectErr, r.acceptErr, r.identity)
	}
	return presented(r.client), presented(r.server)
}

func presented(w transport.Wire) []byte {
	return w.(*wire).ConnectionState().PeerCertificates[0].Raw
}

// TestFailure14CertificatesReadOnce replaces the authority and both certificates
// on disk: without reading them again, either side would refuse the other.
func TestFailure14CertificatesReadOnce(t *testing.T) {
	s := newSetup(t)
	server1, client1 := s.connect(t, s.connecter).certificates(t)

	renewed := transporttest.NewAuthority(t)
	s.issue(t, renewed, "server")
	s.issue(t, renewed, "alice")
	server2, client2 := s.connect(t, s.connecter).certificates(t)

	if bytes.Equal(server1, server2) {
		t.Error("the listener presents its old certificate")
	}
	if bytes.Equal(client1, client2) {
		t.Error("the connecter presents its old certificate")
	}
	if n := len(s.reloadErrors); n != 0 {
		t.Errorf("%d errors were reported: %v", n, <-s.reloadErrors)
	}
}

func TestUnusableFilesLeaveOldOnesInUse(t *testing.T) {
	s := newSetup(t)
	server1, _ := s.connect(t, s.connecter).certificates(t)
	key, err := os.ReadFile(s.server.Key)
	if err != nil {
		t.Fatal(err)
	}

	s.issue(t, s.authority, "server")
	newKey, err := os.ReadFile(s.server.Key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, s.server.Key, key) // the certificate is new, the key not yet
	for range 2 {
		if server, _ := s.connect(t, s.connecter).certificates(t); !bytes.Equal(server, server1) {
			t.Error("a certificate without its key is presented")
		}
	}
	s.wantReported(t, "certificate and key")

	write(t, s.server.Key, newKey)
	if server, _ := s.connect(t, s.connecter).certificates(t); bytes.Equal(server, server1) {
		t.Error("the old certificate is presented, although the new one is complete")
	}

	write(t, s.server.CA, nil)
	s.connect(t, s.connecter).certificates(t)
	s.wantReported(t, "holds no certificate")
	if err := os.Remove(s.server.CA); err != nil {
		t.Fatal(err)
	}
	s.connect(t, s.connecter).certificates(t)
	s.wantReported(t, "no such file")
}

// wantReported expects exactly one error since the last call.
func (s *setup) wantReported(t *testing.T, text string) {
	t.Helper()
	if n := len(s.reloadErrors); n != 1 {
		t.Fatalf("%d errors were reported, want 1", n)
	}
	if err := <-s.reloadErrors; !strings.Contains(err.Error(), text) {
		t.Errorf("error %q was reported, want one with %q", err, text)
	}
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestReloadErrorIsLoggedByDefault(t *testing.T) {
	var log strings.Builder
	previous := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	defer slog.SetDefault(previous)

	s := newSetup(t)
	files := s.client
	files.OnReloadError = nil
	store, err := newStore(files)
	if err != nil {
		t.Fatal(err)
	}
	write(t, files.CA, nil)
	if store.get() != store.get() {
		t.Error("the certificates changed")
	}
	if got := strings.Count(log.String(), "certificates were not reloaded"); got != 1 {
		t.Errorf("%d records, want 1: %s", got, log.String())
	}
}

func TestUnusableFilesAtStart(t *testing.T) {
	s := newSetup(t)
	missing, swapped, empty := s.client, s.client, s.client
	missing.Key += ".gone"
	swapped.Key = s.server.Key
	empty.CA = s.client.Key
	for name, files := range map[string]Files{"missing": missing, "swapped": swapped, "empty": empty} {
		if _, err := NewConnecter("127.0.0.1:1", "server", files); err == nil {
			t.Errorf("%s: NewConnecter succeeds", name)
		}
		if l, err := Listen(t.Context(), "127.0.0.1:0", files, nil); err == nil {
			l.Close()
			t.Errorf("%s: Listen succeeds", name)
		}
	}
}
