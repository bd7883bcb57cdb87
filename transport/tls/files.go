package tls

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
)

// Files names the PEM files of one side.
type Files struct {
	CA   string // certificates of the authorities that the peer's certificate must come from
	Cert string // our certificate, followed by intermediate ones if any
	Key  string // its private key

	// OnReloadError is called when the files changed and cannot be used; the
	// previous ones stay in use. It is called once for each different error. nil:
	// slog.Default gets a warning.
	OnReloadError func(error)
}

// material is the content of Files, and what it parses to.
type material struct {
	ca, cert, key []byte
	authorities   *x509.CertPool
	own           tls.Certificate
}

// A store holds the last usable content of its files.
type store struct {
	files Files

	mu       sync.Mutex
	current  *material
	reported string // the last error that was reported
}

// newStore fails if the files cannot be used now.
func newStore(files Files) (*store, error) {
	m, err := files.read()
	if err == nil {
		err = m.parse()
	}
	if err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	return &store{files: files, current: m}, nil
}

// get returns what the files hold now, or held when they last were usable. It
// compares the content, not the times of the files: a handshake costs far more
// than reading some kilobytes, and no change goes unnoticed.
func (s *store) get() *material {
	s.mu.Lock()
	err := s.refresh()
	if err == nil {
		s.reported = ""
	} else if err.Error() == s.reported {
		err = nil
	} else {
		s.reported = err.Error()
	}
	m := s.current
	s.mu.Unlock()
	if err != nil {
		s.report(fmt.Errorf("tls: the previous certificates stay in use: %w", err))
	}
	return m
}

func (s *store) refresh() error {
	m, err := s.files.read()
	if err != nil || m.equal(s.current) {
		return err
	}
	if err := m.parse(); err != nil {
		return err
	}
	s.current = m
	return nil
}

func (s *store) report(err error) {
	if s.files.OnReloadError != nil {
		s.files.OnReloadError(err)
		return
	}
	slog.Warn("certificates were not reloaded", "error", err)
}

func (f Files) read() (*material, error) {
	ca, err1 := os.ReadFile(f.CA)
	cert, err2 := os.ReadFile(f.Cert)
	key, err3 := os.ReadFile(f.Key)
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	return &material{ca: ca, cert: cert, key: key}, nil
}

func (m *material) equal(other *material) bool {
	return bytes.Equal(m.ca, other.ca) && bytes.Equal(m.cert, other.cert) && bytes.Equal(m.key, other.key)
}

func (m *material) parse() (err error) {
	m.authorities = x509.NewCertPool()
	if !m.authorities.AppendCertsFromPEM(m.ca) {
		return errors.New("the CA file holds no certificate")
	}
	m.own, err = tls.X509KeyPair(m.cert, m.key)
	if err != nil {
		return fmt.Errorf("certificate and key: %w", err)
	}
	return nil
}
