package quickstart

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// The common names in the certificates. The client's is its identity at the
// passive side, and so a directory there.
const (
	serverName = "passive-side"
	clientName = "active-side"
)

// certLifetime is how long the certificates are valid: long enough to go on with
// them for a while, short enough that nobody builds on them.
const certLifetime = 365 * 24 * time.Hour

// certFiles are the paths of one side's PEM files.
type certFiles struct{ CA, Cert, Key string }

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// makeCerts makes a small certificate authority and, signed by it, a certificate
// for each side, in PEM files in dir. The authority's own key is kept nowhere.
func makeCerts(dir string) (server, client certFiles, err error) {
	ca, err := newAuthority()
	if err != nil {
		return certFiles{}, certFiles{}, err
	}
	caFile := filepath.Join(dir, "ca.crt")
	if err := writePEM(caFile, "CERTIFICATE", ca.cert.Raw); err != nil {
		return certFiles{}, certFiles{}, err
	}
	if server, err = ca.issue(dir, caFile, serverName); err != nil {
		return certFiles{}, certFiles{}, err
	}
	client, err = ca.issue(dir, caFile, clientName)
	return server, client, err
}

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the key of the certificate authority: %w", err)
	}
	template, err := certTemplate("dualrepl quickstart")
	if err != nil {
		return nil, err
	}
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign
	cert, err := sign(template, template, key, key)
	if err != nil {
		return nil, err
	}
	return &authority{cert: cert, key: key}, nil
}

// issue makes a key and a certificate for name and writes them to dir.
func (a *authority) issue(dir, caFile, name string) (certFiles, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return certFiles{}, fmt.Errorf("make the key of %s: %w", name, err)
	}
	template, err := certTemplate(name)
	if err != nil {
		return certFiles{}, err
	}
	template.DNSNames = []string{name}
	template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	cert, err := sign(template, a.cert, key, a.key)
	if err != nil {
		return certFiles{}, err
	}
	return writePair(dir, caFile, name, cert, key)
}

// certTemplate is what all the certificates have in common.
func certTemplate(name string) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make a serial number: %w", err)
	}
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    now.Add(-time.Hour), // another machine's clock may be behind
		NotAfter:     now.Add(certLifetime),
	}, nil
}

func sign(template, parent *x509.Certificate, key, parentKey *ecdsa.PrivateKey) (*x509.Certificate, error) {
	raw, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		return nil, fmt.Errorf("sign the certificate of %s: %w", template.Subject.CommonName, err)
	}
	return x509.ParseCertificate(raw)
}

func writePair(dir, caFile, name string, cert *x509.Certificate, key *ecdsa.PrivateKey) (certFiles, error) {
	files := certFiles{CA: caFile, Cert: filepath.Join(dir, name+".crt"), Key: filepath.Join(dir, name+".key")}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return certFiles{}, fmt.Errorf("encode the key of %s: %w", name, err)
	}
	if err := writePEM(files.Cert, "CERTIFICATE", cert.Raw); err != nil {
		return certFiles{}, err
	}
	return files, writePEM(files.Key, "PRIVATE KEY", raw)
}

// writePEM writes for the owner's eyes only, since keys are among what it writes.
func writePEM(path, kind string, raw []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: raw}), 0o600)
}
