package quickstart

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"
)

// TestMakeCerts: each side's certificate is good for the other, with the name that
// the configuration files use, and nobody else can read the files.
func TestMakeCerts(t *testing.T) {
	dir := t.TempDir()
	server, client, err := makeCerts(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		files certFiles
		name  string
		usage x509.ExtKeyUsage
	}{
		{server, serverName, x509.ExtKeyUsageServerAuth},
		{client, clientName, x509.ExtKeyUsageClientAuth},
	} {
		pair, err := tls.LoadX509KeyPair(tc.files.Cert, tc.files.Key)
		if err != nil {
			t.Fatal(err)
		}
		opts := x509.VerifyOptions{DNSName: tc.name, Roots: pool(t, tc.files.CA), KeyUsages: []x509.ExtKeyUsage{tc.usage}}
		if _, err := pair.Leaf.Verify(opts); err != nil {
			t.Errorf("%s: %v", tc.name, err)
		}
		if pair.Leaf.Subject.CommonName != tc.name {
			t.Errorf("common name is %q, want %q", pair.Leaf.Subject.CommonName, tc.name)
		}
	}
	files, _ := filepath.Glob(dir + "/*")
	for _, file := range files {
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", file, info.Mode(), err)
		}
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
