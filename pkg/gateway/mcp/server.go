package mcp

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/solo-run/solo/docs"
	"github.com/solo-run/solo/pkg/solo"
)

const (
	sessionHeader = "Mcp-Session-Id"
	cancelled     = "notifications/cancelled"
	initialize    = "initialize"
)

// instructions are what a client tells its model beside the tools.
const instructions = `Solo compiles Go programs (package main, one file is enough), runs them confined and supervised, and keeps their log.
The loop: check a source; deploy it; invoke its methods; when something is wrong, explain and logs say why; mend the source and deploy again.
Answers hold "next": calls that make sense now. A result that was cut says "truncated" and how to read on.
Before you write a service, read the resource solo://guide: it is one page.`

// Server serves POST /mcp. [New] makes one.
type Server struct {
	calls http.Handler
	tools map[string]*tool
	http  http.Handler

	mu sync.Mutex
	// running are the requests that a notification can cancel.
	running map[ticket]*context.CancelFunc
}

// ticket is a request in the words of a cancellation: who sent it, and its id.
type ticket struct{ session, tenant, capability, id string }

// incoming is the request that carries a call of a tool.
type incoming struct {
	request *http.Request
	// ctx ends when the caller has gone or has cancelled.
	ctx context.Context
	// principal is who is calling: REST finds it in ctx.
	principal solo.Principal
	// id is the request's, for the daemon's log.
	id string
}

type incomingKey struct{}

// New returns a server over calls, which serves the REST routes of the table.
// version is the daemon's own.
func New(version string, calls http.Handler) *Server {
	s := &Server{calls: calls, tools: map[string]*tool{}, running: map[ticket]*context.CancelFunc{}}
	server := sdk.NewServer(&sdk.Implementation{Name: "solo", Title: "Solo", Version: version}, &sdk.ServerOptions{
		Instructions: instructions,
		// What is listed and read is that of the caller.
		SetCacheable: func(_ context.Context, _ sdk.Request, c *sdk.Cacheable) { c.CacheScope = "private" },
		// Nothing changes while a session lasts, since there are no sessions.
		Capabilities: &sdk.ServerCapabilities{Tools: &sdk.ToolCapabilities{}, Resources: &sdk.ResourceCapabilities{}},
	})
	for _, op := range solo.Operations() {
		if !op.Tool {
			continue
		}
		t := newTool(op)
		s.tools[t.def.Name] = t
	}
	for _, t := range s.tools {
		server.AddTool(t.def, s.handler(t))
	}
	s.addResources(server)
	server.AddReceivingMiddleware(noSubscriptions, s.scoped)
	s.http = sdk.NewStreamableHTTPHandler(func(*http.Request) *sdk.Server { return server }, &sdk.StreamableHTTPOptions{
		Stateless: true, PropagateRequestCancellation: true, MaxRequestBodyBytes: solo.MaxMCPBody,
	})
	return s
}

// noSubscriptions refuses what would hold a request open for nothing: no list ever
// changes.
func noSubscriptions(next sdk.MethodHandler) sdk.MethodHandler {
	return func(ctx context.Context, method string, req sdk.Request) (sdk.Result, error) {
		if method == "subscriptions/listen" {
			return nil, &rpcError{Code: codeMethodNotFound, Message: "nothing here changes by itself: read the events instead"}
		}
		return next(ctx, method, req)
	}
}

// scoped lists the tools that the caller's capability leaves of use.
func (s *Server) scoped(next sdk.MethodHandler) sdk.MethodHandler {
	return func(ctx context.Context, method string, req sdk.Request) (sdk.Result, error) {
		out, err := next(ctx, method, req)
		list, ok := out.(*sdk.ListToolsResult)
		if err != nil || !ok {
			return out, err
		}
		in, ok := ctx.Value(incomingKey{}).(*incoming)
		if !ok {
			return nil, solo.Errorf(solo.CodeInternal, "a list without its request")
		}
		list.Tools = slices.DeleteFunc(list.Tools, func(t *sdk.Tool) bool { return !s.offers(in.principal, t.Name) })
		return list, nil
	}
}

// offers tells whether there is a tool that may be of use to the caller. What of it
// is allowed, each call decides.
func (s *Server) offers(p solo.Principal, name string) bool {
	t := s.tools[name]
	if t == nil || p.Rights == nil || t.op.Resource == "" {
		return t != nil
	}
	kind, _, _ := strings.Cut(t.op.Resource, "/")
	return p.Rights.AllowsSome(t.op.Permission, kind)
}

// envelope is as much of a message as tells what to do with it.
type envelope struct {
	ID     json.RawMessage `json:"id"`
	Method string          `json:"method"`
	Params json.RawMessage `json:"params"`
}

// Serve implements [gateway.Agents]: it serves one POST, whose body is bounded
// already.
func (s *Server) Serve(w http.ResponseWriter, r *http.Request, p solo.Principal) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		refuse(w, codeParseError, "the body did not arrive whole")
		return
	}
	if !json.Valid(body) {
		refuse(w, codeParseError, "the body is not JSON")
		return
	}
	var m envelope
	if err := json.Unmarshal(body, &m); err != nil {
		refuse(w, codeInvalidRequest, "the body is not one message of JSON-RPC; batches are not taken")
		return
	}
	at := ticket{session: r.Header.Get(sessionHeader), tenant: p.Tenant, capability: p.Capability}
	switch m.Method {
	case cancelled:
		s.cancel(at, m.Params)
		w.WriteHeader(http.StatusAccepted)
		return
	case initialize:
		w.Header().Set(sessionHeader, rand.Text())
	}
	ctx, stop := context.WithCancel(r.Context())
	defer stop()
	if at.session != "" && len(m.ID) > 0 {
		at.id = string(m.ID)
		defer s.track(at, stop)()
	}
	in := &incoming{request: r, ctx: ctx, principal: p, id: w.Header().Get("X-Request-Id")}
	r = r.WithContext(context.WithValue(ctx, incomingKey{}, in))
	r.Body = io.NopCloser(bytes.NewReader(body))
	s.http.ServeHTTP(w, r)
}

// track lets a notification stop a request until the func is called.
func (s *Server) track(at ticket, stop context.CancelFunc) func() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running[at] = &stop
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.running[at] == &stop {
			delete(s.running, at)
		}
	}
}

// cancel stops the request that a notification names; one that is through is no
// error.
func (s *Server) cancel(at ticket, params json.RawMessage) {
	var p struct {
		RequestID json.RawMessage `json:"requestId"`
	}
	if json.Unmarshal(params, &p) != nil {
		return
	}
	at.id = string(p.RequestID)
	s.mu.Lock()
	stop := s.running[at]
	s.mu.Unlock()
	if stop != nil {
		(*stop)()
	}
}

// handler calls a tool.
func (s *Server) handler(t *tool) sdk.ToolHandler {
	return func(ctx context.Context, req *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
		in, ok := ctx.Value(incomingKey{}).(*incoming)
		if !ok {
			return nil, solo.Errorf(solo.CodeInternal, "a call without its request")
		}
		args, err := parseArguments(req.Params.Arguments)
		if err != nil {
			return s.refusal(in, t, nil, errorBody(err)), nil
		}
		work, done := reportProgress(ctx, in.ctx, req)
		defer done()
		return s.run(work, in, t, args), nil
	}
}

// run makes the call of a tool and words its answer.
func (s *Server) run(ctx context.Context, in *incoming, t *tool, args *arguments) *sdk.CallToolResult {
	if t.prepare != nil {
		t.prepare(args)
	}
	q, err := t.request(args)
	if err != nil {
		return s.refusal(in, t, args, errorBody(err))
	}
	r := s.call(ctx, in, q)
	if r.status >= 300 {
		return s.refusal(in, t, args, r.problem(in.id))
	}
	out, err := t.shape(args, r)
	if err != nil {
		return s.refusal(in, t, args, errorBody(err))
	}
	return s.result(in, out, false)
}

// reportProgress has the work under ctx told to a caller that gave a token for it,
// until done is called. about is the context that leads to the caller's answer.
func reportProgress(about, ctx context.Context, req *sdk.CallToolRequest) (work context.Context, done func()) {
	token := req.Params.GetProgressToken()
	if token == nil {
		return ctx, func() {}
	}
	var mu sync.Mutex
	over, n := false, 0
	work = solo.WithProgress(ctx, func(stage solo.Stage) {
		mu.Lock()
		defer mu.Unlock()
		if over {
			return
		}
		n++
		// A caller that does not hear of it gets its answer all the same.
		_ = req.Session.NotifyProgress(about, &sdk.ProgressNotificationParams{ProgressToken: token, Progress: float64(n), Message: string(stage)})
	})
	return work, func() {
		mu.Lock()
		defer mu.Unlock()
		over = true
	}
}

// addResources offers what is read rather than called.
func (s *Server) addResources(server *sdk.Server) {
	server.AddResource(&sdk.Resource{
		URI: "solo://guide", Name: "guide", Title: "How to write a service", MIMEType: "text/markdown",
		Description: "The author's guide, on one page: read it before you write a service.",
	}, func(context.Context, *sdk.ReadResourceRequest) (*sdk.ReadResourceResult, error) {
		return text("solo://guide", "text/markdown", docs.Agents), nil
	})
	for _, r := range resources() {
		if strings.Contains(r.uri, "{") {
			server.AddResourceTemplate(&sdk.ResourceTemplate{
				URITemplate: r.uri, Name: r.name, Description: r.doc, MIMEType: "application/json",
			}, s.reader(r))
			continue
		}
		server.AddResource(&sdk.Resource{URI: r.uri, Name: r.name, Description: r.doc, MIMEType: "application/json"}, s.reader(r))
	}
}

func text(uri, media, body string) *sdk.ReadResourceResult {
	return &sdk.ReadResourceResult{Contents: []*sdk.ResourceContents{{URI: uri, MIMEType: media, Text: body}}}
}
