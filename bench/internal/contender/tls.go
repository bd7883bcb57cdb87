package contender

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"

	"github.com/dualrepl/dualrepl/internal/certs"
	dualtls "github.com/dualrepl/dualrepl/transport/tls"
)

// The ends' names in certificates.
const (
	serverName = "server"
	clientName = "client"
)

// MakeCertificates makes what the contenders over TLS need.
func MakeCertificates(dir string) error { return certs.Make(dir, serverName, clientName) }

func tlsFiles(dir, name string) dualtls.Files {
	f := certs.FilesOf(dir, name)
	return dualtls.Files{CA: f.CA, Cert: f.Cert, Key: f.Key}
}

func rawTLS(certificates string) Contender {
	return Contender{
		Name:  ReferenceTLS,
		About: "as tcp, over TLS 1.3 (both sides authenticated)",
		Serve: onListener(func(ctx context.Context, l net.Listener, ends Ends) error {
			config, err := tlsConfig(certificates, serverName)
			if err != nil {
				return err
			}
			return serveRaw(ctx, tls.NewListener(l, config), ends, dataSize)
		}),
		Dial: func(_ context.Context, address string) (Client, error) {
			config, err := tlsConfig(certificates, clientName)
			if err != nil {
				return nil, err
			}
			return rawClient{dataSize, func(ctx context.Context) (halfCloser, error) {
				conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", address)
				if err != nil {
					return nil, err
				}
				return conn.(*tls.Conn), nil //nolint:forcetypeassert // as documented
			}}, nil
		},
	}
}

// tlsConfig is what package transport/tls makes of the same files.
func tlsConfig(dir, name string) (*tls.Config, error) {
	files := certs.FilesOf(dir, name)
	cert, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(files.CA)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("%s: no certificate", files.CA)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{cert}, RootCAs: pool, ClientCAs: pool, ServerName: serverName,
		ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13,
	}, nil
}
