// Package gateway is what the gateways have in common: the engine as they see it,
// who may do what, and how they listen.
//
// Each gateway below it speaks one wire, and offers the operations of
// solo.Operations over it.
package gateway

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/solo-run/solo/pkg/identity"
	"github.com/solo-run/solo/pkg/solo"
)

// Engine does the work. Its errors are *[solo.Error], or become internal.
type Engine interface {
	Deploy(ctx context.Context, p solo.Principal, req *solo.DeployRequest) (service *solo.Service, created bool, err error)
	Check(ctx context.Context, p solo.Principal, serviceID string, req *solo.DeployRequest) (*solo.CheckResult, error)
	List(ctx context.Context, p solo.Principal, state string, limit, offset int) (*solo.ServiceList, error)
	Status(ctx context.Context, p solo.Principal, serviceID string) (*solo.Service, error)
	Restart(ctx context.Context, p solo.Principal, serviceID string) (*solo.Service, error)
	Kill(ctx context.Context, p solo.Principal, serviceID string, opts solo.KillOptions) (*solo.KillResult, error)
	Invoke(ctx context.Context, p solo.Principal, serviceID string, req *solo.InvokeRequest) (*solo.InvokeReply, error)
	Explain(ctx context.Context, p solo.Principal, serviceID string) (*solo.Explanation, error)
	Crashes(ctx context.Context, p solo.Principal, serviceID string, limit, offset int) (*solo.CrashList, error)
	Wait(ctx context.Context, p solo.Principal, req *solo.WaitRequest) (*solo.WaitResult, error)
	Tree(ctx context.Context, p solo.Principal) (*solo.TreeNode, error)
	Events(ctx context.Context, q solo.EventQuery) (solo.EventPage, error)
	WaitEvents(ctx context.Context, after uint64) error
	FirstEventID() uint64
	LastEventID() uint64
	VerifyEvents(ctx context.Context) (*solo.VerifyReport, error)
	Logs(ctx context.Context, q solo.LogQuery) (solo.LogPage, error)
	WaitLogs(ctx context.Context, tenant string, after uint64) error
	LastLogID() uint64
	Health(ctx context.Context) *solo.Health
	Usage(ctx context.Context, p solo.Principal, q solo.UsageQuery) (*solo.UsageReport, error)
	// Authenticate returns who holds a token; Denied records that a capability did not
	// allow something, and returns the refusal; Verified that one did.
	Authenticate(token string) (solo.Principal, error)
	Denied(p solo.Principal, op solo.Operation, resource string) error
	Verified(p solo.Principal) error
	// While ends its context with the proof of the caller.
	While(ctx context.Context, p solo.Principal) (context.Context, context.CancelFunc)
	StoreSecret(ctx context.Context, p solo.Principal, req *solo.SecretRequest) (*solo.Secret, error)
	Secrets(ctx context.Context, p solo.Principal, limit, offset int) (*solo.SecretList, error)
	Secret(ctx context.Context, p solo.Principal, name string) (*solo.Secret, error)
	RevealSecret(ctx context.Context, p solo.Principal, name string, key solo.Sensitive) (*solo.RevealedSecret, error)
	RevokeSecret(ctx context.Context, p solo.Principal, name string) (*solo.RevokedSecret, error)
	UnlockVault(ctx context.Context, p solo.Principal, passphrase solo.Sensitive) (*solo.VaultStatus, error)
	RotateVault(ctx context.Context, p solo.Principal, passphrase solo.Sensitive) (*solo.VaultStatus, error)
	Grant(ctx context.Context, p solo.Principal, req *solo.CapabilityRequest) (*solo.CapabilityGrant, error)
	Attenuate(ctx context.Context, p solo.Principal, req *solo.CapabilityRequest) (*solo.CapabilityGrant, error)
	VerifyCapability(ctx context.Context, p solo.Principal, req *solo.VerifyRequest) (*solo.VerifyResult, error)
	Capabilities(ctx context.Context, p solo.Principal, limit, offset int) (*solo.CapabilityList, error)
	RevokeCapability(ctx context.Context, p solo.Principal, id string) (*solo.RevokedCapability, error)
	Metrics(ctx context.Context, p solo.Principal, accept string) (contentType string, body []byte, err error)
	Ready() bool
	Begin(p solo.Principal, key string, request []byte, secret bool) (first *solo.Answer, finish func(*solo.Answer) error, err error)
	Backup(ctx context.Context, p solo.Principal, withKey bool, w io.Writer) error
	Upgrade(ctx context.Context, p solo.Principal, binary string) (*solo.UpgradeResult, error)
	Shutdown(p solo.Principal) error
}

// Meter is told of each request that was answered; code is "" where it has
// succeeded. Streams are not requests: they end when their reader goes.
type Meter interface {
	Request(wire, operation string, code solo.Code, took time.Duration)
}

// Agents serves messages of agents, in the name of who is calling. What they ask for
// comes back as calls of their own.
type Agents interface {
	Serve(w http.ResponseWriter, r *http.Request, p solo.Principal)
}

// Access decides who is calling, and what is for them.
type Access struct {
	Engine Engine
	// RequireCapability has a tenant's name prove nothing by itself.
	RequireCapability bool
}

// Shown tells whether something is shown that could prove who is calling, for the
// operations that need no proof and say more to who has one.
func (a Access) Shown(p identity.Proofs) bool {
	return len(p.Tokens) > 0 || p.Peer.Operator() || len(p.Headers) > 0 && !a.RequireCapability
}

// Identify finds out who is calling.
func (a Access) Identify(op solo.Operation, proofs identity.Proofs) (solo.Principal, error) {
	p, err := identity.Policy{Token: a.Engine.Authenticate, RequireCapability: a.RequireCapability}.Resolve(proofs)
	if err != nil {
		return p, err
	}
	return p, a.Admits(op, p)
}

// Admits tells whether the operation is for the caller at all; [Access.Authorize]
// tells what of it.
func (a Access) Admits(op solo.Operation, p solo.Principal) error {
	if op.Permission == solo.PermissionOperator && !p.Operator {
		return solo.Errorf(solo.CodePermissionDenied, "only the operator may do this: a peer on the daemon's unix socket")
	}
	return nil
}

// Authorize holds the operation against what the caller's capability allows. name
// is the service or secret of the call, "" for none; method that of an invoke.
func (a Access) Authorize(op solo.Operation, p solo.Principal, name, method string) error {
	if p.Rights == nil || op.Resource == "" {
		return nil
	}
	kind, wild := strings.CutSuffix(op.Resource, "/{id}")
	resource := kind
	if wild {
		if name == "" && op.Filtered {
			if p.Rights.AllowsSome(op.Permission, kind) {
				return a.Engine.Verified(p)
			}
			return a.Engine.Denied(p, op, kind+"/*")
		}
		// A * that no glob but one of all names matches.
		resource = kind + "/" + cmp.Or(name, "*")
	}
	if !p.Rights.Allows(op.Permission, resource, method) {
		return a.Engine.Denied(p, op, resource)
	}
	return a.Engine.Verified(p)
}

// Listeners are where a gateway listens.
type Listeners []net.Listener

// Listen binds host:port, where port 0 takes any that is free, and the path of a
// unix socket; "" is none of either. A start that cannot listen fails at once.
func Listen(addr, socket string) (Listeners, error) {
	var ls Listeners
	if addr != "" {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return nil, fmt.Errorf("cannot listen on %s: %w", addr, err)
		}
		ls = append(ls, l)
	}
	if socket != "" {
		l, err := listenUnix(socket)
		if err != nil {
			ls.Close()
			return nil, err
		}
		ls = append(ls, l)
	}
	return ls, nil
}

// Addr is the TCP address that is listened on, "" for none.
func (ls Listeners) Addr() string {
	for _, l := range ls {
		if l.Addr().Network() == "tcp" {
			return l.Addr().String()
		}
	}
	return ""
}

// Close gives up listeners that nobody serves.
func (ls Listeners) Close() error {
	var errs []error
	for _, l := range ls {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}

// listenUnix listens on a socket that only the daemon's user and root may open. A
// file that a daemon left is removed, one that answers is not.
func listenUnix(path string) (net.Listener, error) {
	if info, err := os.Lstat(path); err == nil {
		if info.Mode().Type() != fs.ModeSocket {
			return nil, fmt.Errorf("cannot listen on %s: a file that is no socket is in the way", path)
		}
		conn, err := net.DialTimeout("unix", path, time.Second)
		if err == nil {
			conn.Close()
			return nil, fmt.Errorf("cannot listen on %s: another process does", path)
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return nil, fmt.Errorf("cannot listen on %s: %w", path, err)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("cannot remove a stale socket: %w", err)
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("cannot keep the socket private: %w", err)
	}
	return l, nil
}
