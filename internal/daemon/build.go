package daemon

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/dualrepl/dualrepl/internal/config"
	"github.com/dualrepl/dualrepl/pdu"
	"github.com/dualrepl/dualrepl/rpc"
	"github.com/dualrepl/dualrepl/transport"
	"github.com/dualrepl/dualrepl/transport/local"
	"github.com/dualrepl/dualrepl/transport/tcp"
	"github.com/dualrepl/dualrepl/transport/tls"
)

// This file is where the words of a configuration become what they mean.

// locals are the transports within this daemon, by the name of their listener.
type locals map[string]*local.Transport

// newLocals makes a transport for each listener within the daemon.
func newLocals(cfg *config.Config) locals {
	all := make(locals)
	add := func(s *config.Serve) {
		if s != nil && s.Type == config.TransportLocal {
			all[s.ListenerName] = local.New("")
		}
	}
	for _, l := range cfg.Listeners {
		add(l.Serve)
	}
	for _, j := range cfg.Jobs {
		add(j.Serve)
	}
	return all
}

func newConnecter(c *config.Connect, within locals) (transport.Connecter, error) {
	switch c.Type {
	case config.TransportTCP:
		connecter := tcp.NewConnecter(c.Address)
		connecter.DialTimeout = c.DialTimeout
		return connecter, nil
	case config.TransportTLS:
		connecter, err := tls.NewConnecter(c.Address, c.ServerCN, tls.Files{CA: c.CA, Cert: c.Cert, Key: c.Key})
		if err != nil {
			return nil, err
		}
		connecter.DialTimeout = c.DialTimeout
		return connecter, nil
	case config.TransportLocal:
		if t, ok := within[c.ListenerName]; ok {
			return t.ConnecterAs(c.ClientIdentity), nil
		}
		return nil, withinOnly(c.ListenerName)
	}
	return nil, fmt.Errorf("unknown transport %q", c.Type)
}

func withinOnly(listener string) error {
	return &explained{fmt.Sprintf("listener %q is inside the daemon, which replicates this job itself", listener), ErrWithin}
}

func listen(ctx context.Context, s *config.Serve, within locals) (transport.Listener, error) {
	switch s.Type {
	case config.TransportTCP:
		clients, err := tcp.ParseClientMap(s.Clients)
		if err != nil {
			return nil, err
		}
		return tcp.Listen(ctx, s.Listen, clients)
	case config.TransportTLS:
		return tls.Listen(ctx, s.Listen, tls.Files{CA: s.CA, Cert: s.Cert, Key: s.Key}, s.ClientCNs)
	case config.TransportLocal:
		if t, ok := within[s.ListenerName]; ok {
			return t.Listener(), nil
		}
		return nil, withinOnly(s.ListenerName)
	}
	return nil, fmt.Errorf("unknown transport %q", s.Type)
}

// checksums are the words for where the data channel has checksums.
var checksums = map[string]rpc.Checksum{
	config.ChecksumAuto:   rpc.ChecksumAuto,
	config.ChecksumAlways: rpc.ChecksumAlways,
	config.ChecksumNever:  rpc.ChecksumNever,
}

// newClient returns a client that connects as c says.
func newClient(c *config.Connect, within locals, logger *slog.Logger) (*rpc.Client, error) {
	connecter, err := newConnecter(c, within)
	if err != nil {
		return nil, err
	}
	return rpc.NewClient(connecter, rpc.ClientOptions{
		Logger:       logger,
		Route:        c.Route,
		Mux:          c.Mux,
		PeerIdentity: c.ServerIdentity,
		Level:        c.Zstd.Level,
		Checksum:     checksums[c.Checksum],
	})
}

func newServer(l config.Limits, logger *slog.Logger) *rpc.Server {
	return rpc.NewServer(nil, rpc.ServerOptions{
		Grace:  GracePeriod,
		Logger: logger,
		Limits: rpc.Limits{
			Connections:       l.Connections,
			Requests:          l.Requests,
			MessageSize:       int(l.MessageSize),
			PendingHandshakes: l.PendingHandshakes,
		},
	})
}

// newVerbs are what clients may do; nil is everything.
func newVerbs(words []string) []rpc.Verb {
	var verbs []rpc.Verb
	for _, word := range words {
		verbs = append(verbs, rpc.Verb(word))
	}
	return verbs
}

// guarantees are the words for what a step guarantees.
var guarantees = map[string]pdu.ReplicationGuaranteeKind{
	config.GuaranteeResumability: pdu.ReplicationGuaranteeKind_GuaranteeResumability,
	config.GuaranteeIncremental:  pdu.ReplicationGuaranteeKind_GuaranteeIncrementalReplication,
	config.GuaranteeNothing:      pdu.ReplicationGuaranteeKind_GuaranteeNothing,
}

func newProtection(p config.Protection) *pdu.ReplicationConfig {
	return &pdu.ReplicationConfig{Protection: &pdu.ReplicationConfigProtection{
		Initial:     guarantees[p.Initial],
		Incremental: guarantees[p.Incremental],
	}}
}
