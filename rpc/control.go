package rpc

import (
	"context"
	"errors"
	"net"
	"path"
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
	pdu.RegisterReplicationServer(c.grpc, controlService{Endpoint: s.handler, lists: &keptList{}})
	go func() {
		defer close(c.served)
		_ = c.grpc.Serve(c.conns) // ends with conns, as shutdown wants
	}()
	return c
}

func (s *Server) grpcOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.Creds(identityCredentials{}),
		grpc.UnaryInterceptor(s.intercept),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: keepaliveIdle, Timeout: keepaliveTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: keepaliveMinInterval, PermitWithoutStream: true}),
		grpc.ConnectionTimeout(preambleTimeout),
		grpc.MaxRecvMsgSize(maxRequest),
		grpc.MaxSendMsgSize(maxMessage),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.WaitForHandlers(true),
	}
}

// handle gives conn to gRPC, which closes it.
func (c *controlServer) handle(conn *transportmux.Conn) {
	// gRPC's own Stop waits for connections that are not HTTP/2 yet; the end of
	// requests does not.
	stop := context.AfterFunc(c.requests, func() { _ = conn.Close() })
	if !c.conns.offer(&controlConn{Conn: conn, onClose: stop}) {
		stop()
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

// intercept is every control call's way to the handler.
func (s *Server) intercept(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (res any, err error) {
	c := call{clientOf(ctx), transportmux.LabelControl, path.Base(info.FullMethod), req}
	err = s.guard(ctx, c, func(ctx context.Context) (err error) {
		res, err = next(ctx, req)
		return err
	})
	return res, toStatus(err)
}

// controlService is the gRPC service: an endpoint's methods are the protocol's,
// but for two, and for the pages of version lists.
type controlService struct {
	endpoint.Endpoint
	lists                       *keptList
	pdu.UnsafeReplicationServer // a method that the protocol gains must not go unnoticed
}

// Ping implements pdu.ReplicationServer.
func (controlService) Ping(_ context.Context, req *pdu.PingReq) (*pdu.PingRes, error) {
	return &pdu.PingRes{Echo: req.GetMessage()}, nil
}

// SendDry implements pdu.ReplicationServer.
func (s controlService) SendDry(ctx context.Context, req *pdu.SendReq) (*pdu.SendRes, error) {
	sender, ok := s.Endpoint.(endpoint.Sender)
	if !ok {
		return nil, unimplemented("SendDry")
	}
	return sender.SendDry(ctx, req)
}

// controlConn is a connection that gRPC owns.
type controlConn struct {
	*transportmux.Conn
	onClose func() bool
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

// clientIdentity is what gRPC keeps of a connection for its calls.
type clientIdentity string

// AuthType implements credentials.AuthInfo.
func (clientIdentity) AuthType() string { return "transport" }

func clientOf(ctx context.Context) string {
	if p, ok := peer.FromContext(ctx); ok {
		if id, ok := p.AuthInfo.(clientIdentity); ok {
			return string(id)
		}
	}
	return ""
}

// identityCredentials pass the client identity, which the transport has
// authenticated, on to the calls; they exchange no byte.
type identityCredentials struct{}

// ServerHandshake implements credentials.TransportCredentials.
func (identityCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, ok := conn.(*controlConn)
	if !ok {
		return nil, nil, errors.New("not a control connection")
	}
	return conn, clientIdentity(c.ClientIdentity), nil
}

// ClientHandshake implements credentials.TransportCredentials; no client uses it.
func (identityCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("server's credentials")
}

// Info implements credentials.TransportCredentials.
func (identityCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "transport"}
}

// Clone implements credentials.TransportCredentials.
func (c identityCredentials) Clone() credentials.TransportCredentials { return c }

// OverrideServerName implements credentials.TransportCredentials.
func (identityCredentials) OverrideServerName(string) error { return nil }
