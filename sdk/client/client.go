// Package client calls a Solo daemon: for Go programs, and for the command line.
//
//	c, err := client.New("unix:/var/lib/solo/solo.sock", client.WithTenant("acme"))
//	...
//	svc, err := c.Status(ctx, "echo")
//	var e *client.Error
//	if errors.As(err, &e) && e.Code == client.CodeNotFound { ... }
//
// The nouns: a [Client] makes the calls; requests and answers are the messages
// of package solov1; a refusal is an [*Error], the one that the daemon made. A
// daemon that cannot be reached is [ErrUnreachable], an answer that is not
// Solo's is [ErrProtocol], and a context that ended is the context's own error.
//
// The promises: a Client is safe for concurrent use and starts nothing of its
// own. It does not repeat a call that changes something. An answer is bounded
// before it is parsed: 8 MiB for an object, a reply or a record of a stream,
// 64 MiB for a page. A redirect is not followed, so a token goes nowhere but to
// the address that was given.
// [Client.WatchEvents] and [Client.WatchLogs] resume where a stream was cut:
// each record comes once, and none is left out.
package client

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/url"
	"time"

	"google.golang.org/protobuf/proto"

	solov1 "github.com/solo-run/solo/proto/solo/v1"
)

// Client makes calls to one daemon. [New] makes one.
type Client struct {
	transport transport
	rest      *rest
}

// transport carries calls by the name of their method in solo.v1.Solo, or one
// of the names below for what has none. It is the shape of a gRPC connection,
// so that one can stand in for REST.
type transport interface {
	// unary fills out, or returns an error of this package or the context.
	unary(ctx context.Context, method string, in, out proto.Message) error
	// watch yields records made by record until the consumer breaks, or an error
	// that is not a [*Gap] ends it.
	watch(ctx context.Context, method string, in proto.Message, record func() proto.Message) iter.Seq2[proto.Message, error]
	close()
}

// The methods of a transport.
const (
	methodDeploy       = "Deploy"
	methodCheck        = "Check"
	methodKill         = "Kill"
	methodStatus       = "Status"
	methodList         = "List"
	methodRestart      = "Restart"
	methodWatch        = "Watch"
	methodInvoke       = "Invoke"
	methodLogs         = "Logs"
	methodHealth       = "Health"
	methodShutdown     = "Shutdown"
	methodExplain      = "Explain"
	methodCrashes      = "Crashes"
	methodWait         = "Wait"
	methodTree         = "Tree"
	methodVerifyEvents = "VerifyEvents"
)

type config struct {
	tenant, token string
	timeout       time.Duration
	tls           *tls.Config
	reconnect     func(error, time.Duration)
	tap           func(json.RawMessage)
}

// Option changes what [New] makes.
type Option func(*config)

// WithTenant names the tenant of each call.
func WithTenant(tenant string) Option { return func(c *config) { c.tenant = tenant } }

// WithToken shows a capability with each call.
func WithToken(token string) Option { return func(c *config) { c.token = token } }

// WithTimeout bounds each call that is not a stream; 0 is no bound but the
// context's.
func WithTimeout(d time.Duration) Option { return func(c *config) { c.timeout = d } }

// WithTLS sets how an https address is spoken to: which authorities are
// trusted, and which certificate is shown.
func WithTLS(conf *tls.Config) Option { return func(c *config) { c.tls = conf.Clone() } }

// WithReconnect calls f before a stream that was cut connects again: why, and
// after which wait. A clean end has the cause io.EOF.
func WithReconnect(f func(cause error, wait time.Duration)) Option {
	return func(c *config) { c.reconnect = f }
}

// WithTap calls f with the JSON of each answer, verbatim, before the call
// returns it, and of each record before the stream yields it. Replies of
// services are not JSON of the daemon's and do not pass it. f is called by the
// goroutine of the call and must not keep the bytes.
func WithTap(f func(json.RawMessage)) Option { return func(c *config) { c.tap = f } }

// New makes a client for the daemon at addr: http://…, https://… or unix:PATH for
// REST, grpc://HOST:PORT, grpcs://HOST:PORT or grpc+unix:PATH for gRPC.
// It does not connect: each call does.
func New(addr string, opts ...Option) (*Client, error) {
	var c config
	for _, o := range opts {
		o(&c)
	}
	if isGRPC(addr) {
		t, err := newGRPC(addr, c)
		if err != nil {
			return nil, err
		}
		return &Client{transport: t}, nil
	}
	r, err := newREST(addr, c)
	if err != nil {
		return nil, err
	}
	return &Client{transport: r, rest: r}, nil
}

// Close drops the connections that no call uses.
func (c *Client) Close() { c.transport.close() }

// call is a unary call with the answer's type.
func call[T any, P interface {
	*T
	proto.Message
}](ctx context.Context, c *Client, method string, in proto.Message) (P, error) {
	out := P(new(T))
	if err := c.transport.unary(ctx, method, in, out); err != nil {
		return nil, err
	}
	return out, nil
}

func watch[T any, P interface {
	*T
	proto.Message
}](ctx context.Context, c *Client, method string, in proto.Message) iter.Seq2[P, error] {
	return func(yield func(P, error) bool) {
		for m, err := range c.transport.watch(ctx, method, in, func() proto.Message { return P(new(T)) }) {
			out, _ := m.(P)
			if !yield(out, err) {
				return
			}
		}
	}
}

// Deploy compiles a source, starts it and answers once it serves. A service_id
// that is live with another specification is a conflict. Cancelling ctx cancels
// the deploy.
func (c *Client) Deploy(ctx context.Context, req *solov1.DeployRequest) (*solov1.Service, error) {
	return call[solov1.Service](ctx, c, methodDeploy, req)
}

// Check compiles, vets and tests a source and says what a deploy of it would
// change. It changes nothing.
func (c *Client) Check(ctx context.Context, req *solov1.DeployRequest) (*solov1.CheckResult, error) {
	return call[solov1.CheckResult](ctx, c, methodCheck, req)
}

// Status shows one service.
func (c *Client) Status(ctx context.Context, serviceID string) (*solov1.Service, error) {
	return call[solov1.Service](ctx, c, methodStatus, &solov1.StatusRequest{ServiceId: serviceID})
}

// List shows a page of services, oldest first.
func (c *Client) List(ctx context.Context, req *solov1.ListRequest) (*solov1.ServiceList, error) {
	return call[solov1.ServiceList](ctx, c, methodList, req)
}

// Kill stops a service and answers once its processes are reaped.
func (c *Client) Kill(ctx context.Context, req *solov1.KillRequest) (*solov1.KillResult, error) {
	return call[solov1.KillResult](ctx, c, methodKill, req)
}

// Restart restarts a service at once, with a fresh budget and backoff.
func (c *Client) Restart(ctx context.Context, serviceID string) (*solov1.Service, error) {
	return call[solov1.Service](ctx, c, methodRestart, &solov1.RestartRequest{ServiceId: serviceID})
}

// Invoke calls a method of a service. The service's deadline is timeout_ms, or
// else that of ctx. Names of metadata come back in lower case.
func (c *Client) Invoke(ctx context.Context, req *solov1.InvokeRequest) (*solov1.InvokeReply, error) {
	return call[solov1.InvokeReply](ctx, c, methodInvoke, req)
}

// Events returns a page of the log: what follows since_id, from the first event
// where that is absent. next_since_id of the page continues it.
func (c *Client) Events(ctx context.Context, req *solov1.WatchRequest) (*solov1.EventPage, error) {
	return call[solov1.EventPage](ctx, c, methodWatch, req)
}

// WatchEvents yields what follows since_id, then each event as it comes; from
// now on where since_id is absent. A stream that is cut resumes; a first
// connection that fails, a refusal and the end of ctx end it with that error.
// Where retention has cut events away, a [*Gap] is yielded as the error and the
// stream goes on. limit is ignored.
func (c *Client) WatchEvents(ctx context.Context, req *solov1.WatchRequest) iter.Seq2[*solov1.Event, error] {
	return watch[solov1.Event](ctx, c, methodWatch, req)
}

// VerifyEvents has the daemon prove the hash chain of the whole log.
func (c *Client) VerifyEvents(ctx context.Context) (*solov1.VerifyReport, error) {
	return call[solov1.VerifyReport](ctx, c, methodVerifyEvents, nil)
}

// Logs returns a page of what services wrote.
func (c *Client) Logs(ctx context.Context, req *solov1.LogsRequest) (*solov1.LogPage, error) {
	return call[solov1.LogPage](ctx, c, methodLogs, req)
}

// WatchLogs yields the lines that follow since_id, then each line as it comes,
// on the terms of [Client.WatchEvents]. With since and no since_id it begins
// there. limit and tail are ignored; until is refused, since a stream has no end.
func (c *Client) WatchLogs(ctx context.Context, req *solov1.LogsRequest) iter.Seq2[*solov1.LogLine, error] {
	return watch[solov1.LogLine](ctx, c, methodLogs, req)
}

// Explain says why a service is in its state, what happens next by itself, and
// which calls would change it.
func (c *Client) Explain(ctx context.Context, serviceID string) (*solov1.Explanation, error) {
	return call[solov1.Explanation](ctx, c, methodExplain, &solov1.ExplainRequest{ServiceId: serviceID})
}

// Crashes shows a page of the last crashes of a service, oldest first.
func (c *Client) Crashes(ctx context.Context, req *solov1.CrashesRequest) (*solov1.CrashList, error) {
	return call[solov1.CrashList](ctx, c, methodCrashes, req)
}

// Wait answers once all that the request names holds at once. A wait that took
// too long is an [*Error] of code timeout, with the state that was reached.
func (c *Client) Wait(ctx context.Context, req *solov1.WaitRequest) (*solov1.WaitResult, error) {
	return call[solov1.WaitResult](ctx, c, methodWait, req)
}

// Tree shows what runs: the daemon's parts in start order, then tenants with
// their services.
func (c *Client) Tree(ctx context.Context) (*solov1.TreeNode, error) {
	return call[solov1.TreeNode](ctx, c, methodTree, &solov1.TreeRequest{})
}

// Health says how the daemon is: an answer also where the daemon fails.
func (c *Client) Health(ctx context.Context) (*solov1.Health, error) {
	return call[solov1.Health](ctx, c, methodHealth, &solov1.DaemonHealthRequest{})
}

// Shutdown stops the daemon as SIGTERM does.
func (c *Client) Shutdown(ctx context.Context) (*solov1.ShutdownResult, error) {
	return call[solov1.ShutdownResult](ctx, c, methodShutdown, &solov1.ShutdownRequest{})
}

// Backup writes a consistent copy of the running daemon to w, as a tar, and
// returns how many bytes it has. withKey puts the vault's key file into it: who has
// it then has every secret. A copy that is cut short is an error. REST only.
func (c *Client) Backup(ctx context.Context, withKey bool, w io.Writer) (int64, error) {
	if c.rest == nil {
		return 0, refuse("gRPC does not offer this call: use an address of http or unix")
	}
	query := url.Values{}
	if withKey {
		query.Set("with_key", "true")
	}
	return c.rest.copy(ctx, &request{method: "GET", path: "/backup", query: query, max: maxObject}, w)
}

// Upgrade has another binary take the daemon's place, "" the one that is installed
// where the running one was. It answers before that happens: the next
// system_started event after since_id is the new daemon's. REST only.
func (c *Client) Upgrade(ctx context.Context, binary string) (json.RawMessage, error) {
	body := json.RawMessage("{}")
	if binary != "" {
		text, err := json.Marshal(map[string]string{"binary": binary})
		if err != nil {
			return nil, err
		}
		body = text
	}
	return c.Raw(ctx, "POST", "/upgrade", nil, body)
}

// Raw makes a call that has no method here and returns the JSON of the answer,
// verbatim, at most 64 MiB. The path begins with a slash and is escaped; body
// is JSON, or nil.
func (c *Client) Raw(ctx context.Context, method, path string, query url.Values, body json.RawMessage) (json.RawMessage, error) {
	if path == "" || path[0] != '/' {
		return nil, fmt.Errorf("cannot call %q: a path begins with /", path)
	}
	if c.rest == nil {
		return nil, refuse("gRPC does not offer this call: use an address of http or unix")
	}
	return c.rest.raw(ctx, method, path, query, body)
}
