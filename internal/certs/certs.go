package certs

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

// lifetime is how long the certificates are valid: long enough to go on with them
// for a while, short enough that nobody builds on them.
const lifetime = 365 * 24 * time.Hour

// Files are the paths of the PEM files of one side.
type Files struct{ CA, Cert, Key string }

// FilesOf returns the paths that Make writes to.
func FilesOf(dir, name string) Files {
	return Files{
		CA:   filepath.Join(dir, "ca.crt"),
		Cert: filepath.Join(dir, name+".crt"),
		Key:  filepath.Join(dir, name+".key"),
	}
}

// Make makes an authority and, signed by it, a certificate for each name, which
// is its common name and a DNS name, good for a server and a client on this machine.
// The files are for the owner's eyes only. The authority's own key is kept nowhere.
func Make(dir string, names ...string) error {
	ca, err := newAuthority()
	if err != nil {
		return err
	}
	if err := writePEM(FilesOf(dir, "").CA, "CERTIFICATE", ca.cert.Raw); err != nil {
		return err
	}
	for _, name := range names {
		if err := ca.issue(FilesOf(dir, name), name); err != nil {
			return err
		}
	}
	return nil
}

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the key of the certificate authority: %w", err)
	}
	template, err := newTemplate("dualrepl quickstart")
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

// issue makes a key and a certificate for name and writes them.
func (a *authority) issue(files Files, name string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make the key of %s: %w", name, err)
	}
	template, err := newTemplate(name)
	if err != nil {
		return err
	}
	template.DNSNames = []string{name}
	template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	cert, err := sign(template, a.cert, key, a.key)
	if err != nil {
		return err
	}
	return writePair(files, cert, key)
}

// newTemplate is what all the certificates have in common.
func newTemplate(name string) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make a serial number: %w", err)
	}
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    now.Add(-time.Hour), // another machine's clock may be behind
		NotAfter:     now.Add(lifetime),
	}, nil
}

func sign(template, parent *x509.Certificate, key, parentKey *ecdsa.PrivateKey) (*x509.Certificate, error) {
	raw, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		return nil, fmt.Errorf("sign the certificate of %s: %w", template.Subject.CommonName, err)
	}
	return x509.ParseCertificate(raw)
}

func writePair(files Files, cert *x509.Certificate, key *ecdsa.PrivateKey) error {
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("encode the key of %s: %w", cert.Subject.CommonName, err)
	}
	if err := writePEM(files.Cert, "CERTIFICATE", cert.Raw); err != nil {
		return err
	}
	return writePEM(files.Key, "PRIVATE KEY", raw)
}

// writePEM writes for the owner's eyes only, since keys are among what it writes.
func writePEM(path, kind string, raw []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: raw}), 0o600)
}
