package grpc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	rpc "google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/reflection"

	"github.com/solo-run/solo/pkg/gateway"
	"github.com/solo-run/solo/pkg/identity"
	"github.com/solo-run/solo/pkg/solo"
	solov1 "github.com/solo-run/solo/proto/solo/v1"
)

// Logger is the part of the daemon's log that the gateway writes to.
type Logger interface {
	Error(msg string, args ...any)
}

// Config is what a [Server] works with.
type Config struct {
	Engine gateway.Engine
	Log    Logger
	// Meter is told of each request; nil is nobody.
	Meter gateway.Meter
	// RequireCapability has a tenant's name prove nothing by itself.
	RequireCapability bool
	// Addr is host:port, "" for no TCP; port 0 takes any that is free.
	Addr string
	// Socket is the path of the unix socket, "" for none.
	Socket string
	// Listeners take the place of Addr and Socket where they are set.
	Listeners gateway.Listeners
	// ShutdownTimeout is how long calls under way have once Run is to end.
	ShutdownTimeout func() time.Duration
}

// keepalivePeriod is how often a client may ping, with and without a call
// (contract 5).
const keepalivePeriod = 10 * time.Second

// healthPeriod is how often the health service looks whether the daemon is ready.
const healthPeriod = 250 * time.Millisecond

// Server serves the API. Listen, then Run.
type Server struct {
	solov1.UnimplementedSoloServer

	cfg       Config
	rpc       *rpc.Server
	health    *health.Server
	ops       map[string]solo.Operation
	listeners gateway.Listeners
	streams   context.Context
	stop      context.CancelFunc
}

// New returns a server.
func New(cfg Config) *Server {
	s := &Server{cfg: cfg, health: health.NewServer(), ops: map[string]solo.Operation{}}
	s.streams, s.stop = context.WithCancel(context.Background())
	for _, op := range solo.Operations() {
		if rpc := op.FullRPC(); rpc != "" {
			s.ops[rpc] = op
		}
	}
	s.rpc = rpc.NewServer(
		rpc.Creds(peerCredentials{}), rpc.MaxRecvMsgSize(solo.MaxDeployBody), rpc.MaxConcurrentStreams(4096),
		rpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: keepalivePeriod * 9 / 10, PermitWithoutStream: true}),
		rpc.UnaryInterceptor(s.unary), rpc.StreamInterceptor(s.stream),
	)
	solov1.RegisterSoloServer(s.rpc, s)
	solov1.RegisterVaultServer(s.rpc, &vaultServer{s: s})
	solov1.RegisterCapabilitiesServer(s.rpc, &capabilitiesServer{s: s})
	healthpb.RegisterHealthServer(s.rpc, s.health)
	reflection.Register(s.rpc)
	return s
}

// Listen binds both addresses, so that a start that cannot fails at once.
func (s *Server) Listen() (err error) {
	if s.cfg.Listeners != nil {
		s.listeners = s.cfg.Listeners
		return nil
	}
	s.listeners, err = gateway.Listen(s.cfg.Addr, s.cfg.Socket)
	return err
}

// Addr is the TCP address that is listened on, "" for none.
func (s *Server) Addr() string { return s.listeners.Addr() }

// Close gives up listeners of a server that is not run.
func (s *Server) Close() error { return s.listeners.Close() }

// Run serves until ctx ends. Then streams end, calls under way get
// ShutdownTimeout, and what is left is cut.
func (s *Server) Run(ctx context.Context) error {
	var group errgroup.Group
	failed := make(chan error, len(s.listeners))
	for _, l := range s.listeners {
		group.Go(func() error {
			err := s.rpc.Serve(l)
			if err != nil {
				failed <- err
				return fmt.Errorf("cannot serve on %s: %w", l.Addr(), err)
			}
			return nil
		})
	}
	look := time.NewTicker(healthPeriod)
	defer look.Stop()
	for serving := true; serving; {
		s.tellHealth()
		select {
		case <-look.C:
		case <-ctx.Done():
			serving = false
		case <-failed:
			serving = false
		}
	}
	s.health.Shutdown()
	s.stop()
	timer := time.AfterFunc(max(s.cfg.ShutdownTimeout(), time.Millisecond), s.rpc.Stop)
	s.rpc.GracefulStop()
	timer.Stop()
	return group.Wait()
}

func (s *Server) tellHealth() {
	status := healthpb.HealthCheckResponse_NOT_SERVING
	if s.cfg.Engine.Ready() {
		status = healthpb.HealthCheckResponse_SERVING
	}
	s.health.SetServingStatus("", status)
	s.health.SetServingStatus(solov1.Solo_ServiceDesc.ServiceName, status)
}

// peerCredentials ask the kernel who connected, and encrypt nothing: TCP is
// loopback only.
type peerCredentials struct{}

type peerInfo struct {
	credentials.CommonAuthInfo
	peer identity.Peer
}

func (peerInfo) AuthType() string { return "peer" }

func (peerCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return conn, peerInfo{peer: identity.PeerOf(conn)}, nil
}

func (peerCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("these credentials are a server's")
}

func (peerCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "insecure"}
}
func (c peerCredentials) Clone() credentials.TransportCredentials { return c }
func (peerCredentials) OverrideServerName(string) error           { return nil }

// proofs is what a call shows beside its message.
func proofs(ctx context.Context) identity.Proofs {
	p := identity.Proofs{Peer: identity.Peer{UID: -1}}
	if from, ok := peer.FromContext(ctx); ok {
		if info, ok := from.AuthInfo.(peerInfo); ok {
			p.Peer = info.peer
		}
	}
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		p.Tokens, p.Headers = md.Get("authorization"), md.Get("x-tenant-id")
	}
	return p
}

// principalKey finds the caller in a call's context.
type principalKey struct{}

func caller(ctx context.Context) solo.Principal {
	p, _ := ctx.Value(principalKey{}).(solo.Principal)
	return p
}

// admit finds out who is calling the method, and whether it is for them.
func (s *Server) admit(ctx context.Context, fullMethod string, msg any) (context.Context, error) {
	if !strings.HasPrefix(fullMethod, "/solo.v1.") {
		return ctx, nil // health and reflection need no proof
	}
	op, ok := s.ops[fullMethod]
	if !ok {
		return ctx, solo.Errorf(solo.CodeNotFound, "there is no such method")
	}
	p := proofs(ctx)
	if req, ok := msg.(*solov1.DeployRequest); ok {
		p.Body = req.TenantId
	}
	if op.Permission == solo.PermissionNone && !s.access().Shown(p) {
		return ctx, nil
	}
	who, err := s.access().Identify(op, p)
	if err != nil {
		return ctx, err
	}
	ctx = context.WithValue(ctx, principalKey{}, who)
	if msg == nil {
		return ctx, nil // a stream's message comes later: see authorize
	}
	return ctx, s.authorize(ctx, op, msg)
}

func (s *Server) access() gateway.Access {
	return gateway.Access{Engine: s.cfg.Engine, RequireCapability: s.cfg.RequireCapability}
}

// authorize holds the operation against what the caller's capability allows.
func (s *Server) authorize(ctx context.Context, op solo.Operation, msg any) error {
	name, method := "", ""
	switch m := msg.(type) {
	case interface{ GetServiceId() string }:
		name = m.GetServiceId()
	case interface{ GetKey() string }:
		name = m.GetKey()
	}
	if m, ok := msg.(interface{ GetMethod() string }); ok {
		method = m.GetMethod()
	}
	return s.access().Authorize(op, caller(ctx), name, method)
}

func (s *Server) unary(ctx context.Context, req any, info *rpc.UnaryServerInfo, next rpc.UnaryHandler) (resp any, err error) {
	began := time.Now()
	defer func() {
		panicked := recover()
		if panicked != nil {
			err = solo.Internal(fmt.Errorf("panic: %v\n%s", panicked, debug.Stack()))
		}
		s.measure(info.FullMethod, err, time.Since(began))
		err = s.told(info.FullMethod, nil, err)
	}()
	if ctx, err = s.admit(ctx, info.FullMethod, req); err != nil {
		return nil, err
	}
	return next(ctx, req)
}

// measure tells the meter of a call of one of our methods.
func (s *Server) measure(method string, err error, took time.Duration) {
	op, ours := s.ops[method]
	if s.cfg.Meter == nil || !ours {
		return
	}
	s.cfg.Meter.Request("grpc", op.Name, solo.CodeOf(err), took)
}

// told makes the status that the caller is given, and logs what it does not say.
func (s *Server) told(method string, panicked any, err error) error {
	if panicked != nil {
		err = solo.Internal(fmt.Errorf("panic: %v\n%s", panicked, debug.Stack()))
	}
	if err == nil {
		return nil
	}
	if e := solo.AsError(err); !isStatus(err) && (e.Code == solo.CodeInternal || errors.Unwrap(e) != nil) {
		s.cfg.Log.Error("a call failed", "method", method, "code", string(e.Code), "message", e.Message, "cause", errors.Unwrap(e))
	}
	return statusOf(err)
}

// admitted is a stream whose caller is known. A stream's message comes after its
// start, so that a deploy's tenant is not needed here: no stream is a deploy.
type admitted struct {
	rpc.ServerStream
	ctx context.Context
}

func (a admitted) Context() context.Context { return a.ctx }

func (s *Server) stream(srv any, st rpc.ServerStream, info *rpc.StreamServerInfo, next rpc.StreamHandler) (err error) {
	defer func() { err = s.told(info.FullMethod, recover(), err) }()
	ctx, err := s.admit(st.Context(), info.FullMethod, nil)
	if err != nil {
		return err
	}
	ctx, cancel := s.cfg.Engine.While(ctx, caller(ctx))
	defer cancel()
	defer context.AfterFunc(s.streams, cancel)()
	return next(srv, admitted{st, ctx})
}
