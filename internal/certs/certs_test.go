package certs

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"
)

// TestMake: each side's certificate is good for the other, in both roles, and
// nobody else can read the files.
func TestMake(t *testing.T) {
	dir := t.TempDir()
	if err := Make(dir, "server", "client"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"server", "client"} {
		files := FilesOf(dir, name)
		pair, err := tls.LoadX509KeyPair(files.Cert, files.Key)
		if err != nil {
			t.Fatal(err)
		}
		for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
			opts := x509.VerifyOptions{DNSName: name, Roots: pool(t, files.CA), KeyUsages: []x509.ExtKeyUsage{usage}}
			if _, err := pair.Leaf.Verify(opts); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if pair.Leaf.Subject.CommonName != name {
			t.Errorf("common name is %q, want %q", pair.Leaf.Subject.CommonName, name)
		}
	}
	files, _ := filepath.Glob(dir + "/*")
	if len(files) != 5 {
		t.Errorf("made %q", files)
	}
	for _, file := range files {
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", file, info.Mode(), err)
		}
	}
}

func TestMakeNowhere(t *testing.T) {
	if err := Make(filepath.Join(t.TempDir(), "nowhere"), "server"); err == nil {
		t.Error("no error")
	}
}

func pool(t *testing.T, file string) *x509.CertPool {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		t.Fatalf("%s holds no certificate", file)
	}
	return pool
}
