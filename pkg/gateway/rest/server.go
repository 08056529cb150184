package rest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/labstack/echo/v4"
	"golang.org/x/sync/errgroup"

	"github.com/solo-run/solo/pkg/gateway"
	"github.com/solo-run/solo/pkg/identity"
)

// Logger is the part of the daemon's log that the gateway writes to.
type Logger interface {
	Debug(msg string, args ...any)
	Error(msg string, args ...any)
}

// Config is what a [Server] works with.
type Config struct {
	Engine gateway.Engine
	Log    Logger
	// Meter is told of each request; nil is nobody.
	Meter gateway.Meter
	// Agents makes the handler of POST /mcp over all the other routes; nil is none.
	Agents func(routes http.Handler) gateway.Agents
	// LLMs is the text of /llms.txt.
	LLMs string
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
	// Heartbeat is how often a stream that is silent says so; 0 is 15 s.
	Heartbeat time.Duration
}

// Bounds of a connection.
const (
	headerTime = 5 * time.Second
	maxHeader  = 64 << 10
	idleTime   = 2 * time.Minute
	// bodyTime bounds how long a body may take to arrive.
	bodyTime = time.Minute
)

// Server serves the API. Listen, then Run.
type Server struct {
	cfg       Config
	http      *http.Server
	listeners gateway.Listeners
	// streams ends when the streams have to.
	streams  context.Context
	stop     context.CancelFunc
	requests atomic.Uint64
	boot     string
	// agents serves POST /mcp, nil where nobody does.
	agents gateway.Agents
	// draining is set once no connection is kept any longer, active counts those with
	// a request.
	draining atomic.Bool
	active   atomic.Int64
}

type peerKey struct{}

// New returns a server over the table of operations. It panics where table and
// handlers do not match: that is no state to start in.
func New(cfg Config) *Server {
	if cfg.Heartbeat <= 0 {
		cfg.Heartbeat = 15 * time.Second
	}
	s := &Server{cfg: cfg, boot: strings.ToLower(rand.Text()[:8])}
	s.streams, s.stop = context.WithCancel(context.Background())
	e := echo.New()
	e.HideBanner, e.HidePort = true, true
	e.HTTPErrorHandler = func(err error, c echo.Context) { s.fail(&call{Context: c, server: s}, routeError(err, c)) }
	if err := s.routes(e); err != nil {
		panic(err)
	}
	if cfg.Agents != nil {
		s.agents = cfg.Agents(e)
	}
	s.http = &http.Server{
		Handler: e, ReadHeaderTimeout: headerTime, MaxHeaderBytes: maxHeader, IdleTimeout: idleTime,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, peerKey{}, identity.PeerOf(c))
		},
		ErrorLog: nil,
	}
	return s
}

// quietTime is how long no request has to be under way before the connections that
// are idle are closed: one that is being sent must not meet a close. drainTime is
// how long callers who never pause are waited for.
const (
	quietTime = 20 * time.Millisecond
	drainWait = time.Second
)

// drain tells callers with each answer that the connection ends, and returns when
// all is quiet.
func (s *Server) drain() {
	s.draining.Store(true)
	for _, l := range s.listeners {
		l.Close()
	}
	quiet := time.Now()
	for end := time.Now().Add(drainWait); time.Now().Before(end); time.Sleep(quietTime / 10) {
		if s.active.Load() > 0 {
			quiet = time.Now()
		} else if time.Since(quiet) >= quietTime {
			return
		}
	}
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
	failed := make(chan struct{})
	for _, l := range s.listeners {
		group.Go(func() error {
			err := s.http.Serve(l)
			if errors.Is(err, http.ErrServerClosed) || s.draining.Load() {
				return nil
			}
			close(failed)
			return fmt.Errorf("cannot serve on %s: %w", l.Addr(), err)
		})
	}
	select {
	case <-ctx.Done():
	case <-failed:
	}
	s.stop()
	if ctx.Err() != nil {
		s.drain()
	}
	grace, cancel := context.WithTimeout(context.Background(), max(s.cfg.ShutdownTimeout(), time.Millisecond))
	defer cancel()
	if s.http.Shutdown(grace) != nil {
		s.http.Close()
	}
	return group.Wait()
}
