package rpc

import (
	"context"
	"errors"
	"net"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
	"github.com/dualrepl/dualrepl/transportmux"
)

// controlServer is the control channel of one Serve: a gRPC server that accepts
// the connections that the label's handler hands over.
type controlServer struct {
	grpc     *grpc.Server
	requests context.Context // its end ends every connection and call
	conns    *handover
	served   chan struct{} // closed when grpc accepts no more
}

func (s *Server) startControl(requests context.Context, addr net.Addr) *controlServer {
	c := &controlServer{
		grpc:     grpc.NewServer(s.grpcOptions()...),
		requests: requests,
		conns:    &handover{conns: make(chan net.Conn), closed: make(chan struct{}), addr: addr},
		served:   make(chan struct{}),
	}
	c.grpc.RegisterService(s.guardService(&pdu.Replication_ServiceDesc, validated), controlService{lists: &keptList{}})
	for _, service := range s.services {
		c.grpc.RegisterService(s.guardService(service.desc, nil), service.impl)
	}
	go func() {
		defer close(c.served)
		_ = c.grpc.Serve(c.conns) // ends with conns, as shutdown wants
	}()
	return c
}

func (s *Server) grpcOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.Creds(originCredentials{}),
		grpc.UnknownServiceHandler(unknownMethod),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: keepaliveIdle, Timeout: keepaliveTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: keepaliveMinInterval, PermitWithoutStream: true}),
		grpc.ConnectionTimeout(preambleTimeout),
		grpc.MaxHeaderListSize(maxHeaderList),
		grpc.MaxRecvMsgSize(s.opts.Limits.MessageSize),
		grpc.MaxSendMsgSize(maxMessage),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.WaitForHandlers(true),
	}
}

// handle gives conn to gRPC, which closes it.
func (c *controlServer) handle(conn *controlConn) {
	if !c.conns.offer(conn) {
		_ = conn.Close()
	}
}

// shutdown lets the calls that run finish, until requests end, and waits.
func (c *controlServer) shutdown() {
	stop := context.AfterFunc(c.requests, c.grpc.Stop)
	defer stop()
	c.grpc.GracefulStop()
	<-c.served
}

// validated is the generated handlers' interceptor.
func validated(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if err := validate(req); err != nil {
		return nil, err
	}
	return next(ctx, req)
}

// controlService is the gRPC service of the base protocol. Its methods are those of the
// endpoint that a call's route leads to, but for two, and for the pages of version lists.
type controlService struct {
	lists                       *keptList
	pdu.UnsafeReplicationServer // a method that the protocol gains must not go unnoticed
}

// Ping implements pdu.ReplicationServer.
func (controlService) Ping(_ context.Context, req *pdu.PingReq) (*pdu.PingRes, error) {
	return &pdu.PingRes{Echo: req.GetMessage()}, nil
}

// ListFilesystems implements pdu.ReplicationServer.
func (controlService) ListFilesystems(ctx context.Context, req *pdu.ListFilesystemReq) (*pdu.ListFilesystemRes, error) {
	return endpointOf(ctx).ListFilesystems(ctx, req)
}

// DestroySnapshots implements pdu.ReplicationServer.
func (controlService) DestroySnapshots(ctx context.Context, req *pdu.DestroySnapshotsReq) (*pdu.DestroySnapshotsRes, error) {
	return endpointOf(ctx).DestroySnapshots(ctx, req)
}

// SendCompleted implements pdu.ReplicationServer.
func (controlService) SendCompleted(ctx context.Context, req *pdu.SendCompletedReq) (*pdu.SendCompletedRes, error) {
	return endpointOf(ctx).SendCompleted(ctx, req)
}

// ReplicationCursor implements pdu.ReplicationServer.
func (controlService) ReplicationCursor(ctx context.Context, req *pdu.ReplicationCursorReq) (*pdu.ReplicationCursorRes, error) {
	return endpointOf(ctx).ReplicationCursor(ctx, req)
}

// SendDry implements pdu.ReplicationServer.
func (controlService) SendDry(ctx context.Context, req *pdu.SendReq) (*pdu.SendRes, error) {
	sender, ok := endpointOf(ctx).(endpoint.Sender)
	if !ok {
		return nil, unimplemented("SendDry")
	}
	return sender.SendDry(ctx, req)
}

// controlConn is a connection that gRPC owns.
type controlConn struct {
	*transportmux.Conn
	origin  *origin
	onClose func()
}

// Close implements net.Conn.
func (c *controlConn) Close() error {
	c.onClose()
	return c.Conn.Close()
}

// handover is a net.Listener of connections that somebody else accepted.
type handover struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
	addr   net.Addr
}

// offer waits until conn is accepted; false: the listener is closed, and conn
// still the caller's.
func (h *handover) offer(conn net.Conn) bool {
	select {
	case h.conns <- conn:
		return true
	case <-h.closed:
		return false
	}
}

// Accept implements net.Listener.
func (h *handover) Accept() (net.Conn, error) {
	select {
	case conn := <-h.conns:
		return conn, nil
	case <-h.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (h *handover) Close() error {
	h.once.Do(func() { close(h.closed) })
	return nil
}

// Addr implements net.Listener.
func (h *handover) Addr() net.Addr { return h.addr }

// AuthType implements credentials.AuthInfo: gRPC keeps the origin of a connection for
// its calls.
func (*origin) AuthType() string { return "transport" }

// originOfCall returns what originCredentials gave to gRPC.
func originOfCall(ctx context.Context) *origin {
	if p, ok := peer.FromContext(ctx); ok {
		if o, ok := p.AuthInfo.(*origin); ok {
			return o
		}
	}
	return &origin{refusal: errNoOrigin}
}

// errNoOrigin: no call can come from elsewhere.
var errNoOrigin = errors.New("not a control connection")

// originCredentials pass an origin, whose client the transport has authenticated, on to
// the calls; they exchange no byte.
type originCredentials struct{}

// ServerHandshake implements credentials.TransportCredentials.
func (originCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, ok := conn.(*controlConn)
	if !ok {
		return nil, nil, errNoOrigin
	}
	return conn, c.origin, nil
}

// ClientHandshake implements credentials.TransportCredentials; no client uses it.
func (originCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("server's credentials")
}

// Info implements credentials.TransportCredentials.
func (originCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "transport"}
}

// Clone implements credentials.TransportCredentials.
func (c originCredentials) Clone() credentials.TransportCredentials { return c }

// OverrideServerName implements credentials.TransportCredentials.
func (originCredentials) OverrideServerName(string) error { return nil }
