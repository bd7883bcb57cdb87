package daemon

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/dualrepl/dualrepl/endpoint/dir"
	"github.com/dualrepl/dualrepl/internal/config"
	"github.com/dualrepl/dualrepl/pdu"
	"github.com/dualrepl/dualrepl/transport"
	"github.com/dualrepl/dualrepl/transport/local"
	"github.com/dualrepl/dualrepl/transport/tcp"
	"github.com/dualrepl/dualrepl/transport/tls"
)

// This file is where the words of a configuration become what they mean.

// locals are the transports within this daemon, by the name of their listener.
type locals map[string]*local.Transport

// newLocals makes a transport for each passive job that is served within the daemon.
func newLocals(jobs []config.Job) locals {
	all := make(locals)
	for _, j := range jobs {
		if j.Serve != nil && j.Serve.Type == config.TransportLocal {
			all[j.Serve.ListenerName] = local.New("")
		}
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
		return nil, &explained{fmt.Sprintf("listener %q is inside the daemon, which replicates this job itself", c.ListenerName), ErrWithin}
	}
	return nil, fmt.Errorf("unknown transport %q", c.Type)
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
		return within[s.ListenerName].Listener(), nil
	}
	return nil, fmt.Errorf("unknown transport %q", s.Type)
}

func newSender(j config.Job, logger *slog.Logger) (*dir.Sender, error) {
	return dir.NewSender(dir.SenderOptions{
		Store:       j.Endpoint.Store,
		Directories: j.Endpoint.Directories,
		Job:         j.Name,
		Logger:      logger,
		Filter:      j.Filesystems.Match,
	})
}

// newReceiver keeps the clients of a sink apart; a pull job has one peer.
func newReceiver(j config.Job, logger *slog.Logger) (*dir.Receiver, error) {
	return dir.NewReceiver(dir.ReceiverOptions{
		Root:      j.ReceiveRoot(),
		Job:       j.Name,
		Logger:    logger,
		PerClient: j.Type == config.TypeSink,
	})
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
