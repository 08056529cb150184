package rest_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/solo-run/solo/pkg/gateway/rest"
	"github.com/solo-run/solo/pkg/solo"
)

// engine is a scripted engine: what a test does not set answers plainly.
type engine struct {
	mu     sync.Mutex
	err    error
	seen   []string
	events []solo.Event
	first  uint64
	wake   chan struct{}
	ready  bool
	health string
	invoke func(ctx context.Context, p solo.Principal, id string, req *solo.InvokeRequest) (*solo.InvokeReply, error)
	deploy func(ctx context.Context, p solo.Principal, req *solo.DeployRequest) (*solo.Service, bool, error)
}

func (e *engine) note(format string, args ...any) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.seen = append(e.seen, fmt.Sprintf(format, args...))
	return e.err
}

func (e *engine) Deploy(ctx context.Context, p solo.Principal, req *solo.DeployRequest) (*solo.Service, bool, error) {
	if e.deploy != nil {
		return e.deploy(ctx, p, req)
	}
	return &solo.Service{ServiceID: *req.ServiceID}, true, e.note("deploy %s %s", p.Tenant, *req.ServiceID)
}
func (e *engine) Check(_ context.Context, p solo.Principal, id string, _ *solo.DeployRequest) (*solo.CheckResult, error) {
	return &solo.CheckResult{OK: true}, e.note("check %s %s", p.Tenant, id)
}
func (e *engine) List(_ context.Context, p solo.Principal, state string, limit, offset int) (*solo.ServiceList, error) {
	return &solo.ServiceList{Services: []solo.Service{}}, e.note("list %s %q %d %d", p.Tenant, state, limit, offset)
}
func (e *engine) Status(_ context.Context, p solo.Principal, id string) (*solo.Service, error) {
	return &solo.Service{ServiceID: id}, e.note("status %s %s", p.Tenant, id)
}
func (e *engine) Restart(_ context.Context, p solo.Principal, id string) (*solo.Service, error) {
	return &solo.Service{ServiceID: id}, e.note("restart %s %s", p.Tenant, id)
}
func (e *engine) Kill(_ context.Context, p solo.Principal, id string, o solo.KillOptions) (*solo.KillResult, error) {
	timeout := "own"
	if o.Timeout != nil {
		timeout = o.Timeout.String()
	}
	return &solo.KillResult{ServiceID: id, Status: "killed"}, e.note("kill %s %s %s %v %v", p.Tenant, id, timeout, o.Force, o.Purge)
}
func (e *engine) Invoke(ctx context.Context, p solo.Principal, id string, req *solo.InvokeRequest) (*solo.InvokeReply, error) {
	if e.invoke != nil {
		return e.invoke(ctx, p, id, req)
	}
	return &solo.InvokeReply{Body: req.Body, ContentType: req.ContentType}, e.err
}
func (e *engine) Explain(_ context.Context, p solo.Principal, id string) (*solo.Explanation, error) {
	return &solo.Explanation{ServiceID: id}, e.note("explain %s %s", p.Tenant, id)
}
func (e *engine) Crashes(_ context.Context, p solo.Principal, id string, limit, offset int) (*solo.CrashList, error) {
	return &solo.CrashList{Crashes: []solo.Crash{}, Limit: limit, Offset: offset}, e.note("crashes %s %s %d %d", p.Tenant, id, limit, offset)
}
func (e *engine) Wait(ctx context.Context, p solo.Principal, req *solo.WaitRequest) (*solo.WaitResult, error) {
	if req.TimeoutMS != nil {
		<-ctx.Done() // as long as the caller waits
		return nil, ctx.Err()
	}
	return &solo.WaitResult{}, e.note("wait %s %s", p.Tenant, *req.ServiceID)
}
func (e *engine) Tree(_ context.Context, p solo.Principal) (*solo.TreeNode, error) {
	return &solo.TreeNode{Name: "solod", Children: []solo.TreeNode{}}, e.note("tree %s", p.Tenant)
}
func (e *engine) Events(_ context.Context, q solo.EventQuery) (solo.EventPage, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	page := solo.EventPage{Events: []solo.Event{}, NextSinceID: q.SinceID, LastID: uint64(len(e.events))}
	for _, ev := range e.events[min(q.SinceID, page.LastID):] {
		if len(page.Events) == q.Limit {
			break
		}
		if q.Tenant == "" || ev.TenantID == q.Tenant {
			page.Events = append(page.Events, ev)
		}
		page.NextSinceID = ev.ID
	}
	return page, e.err
}
func (e *engine) WaitEvents(ctx context.Context, after uint64) error {
	for {
		e.mu.Lock()
		wake := e.wake
		n := len(e.events)
		e.mu.Unlock()
		if uint64(n) > after {
			return nil
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
func (e *engine) append(tenant string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.events = append(e.events, solo.Event{ID: uint64(len(e.events) + 1), TenantID: tenant, Type: "app.x", Payload: map[string]any{"x": strings.Repeat("x", 500)}})
	close(e.wake)
	e.wake = make(chan struct{})
}
func (e *engine) FirstEventID() uint64 { return e.first }
func (e *engine) LastEventID() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return uint64(len(e.events))
}
func (e *engine) VerifyEvents(context.Context) (*solo.VerifyReport, error) {
	return &solo.VerifyReport{OK: true}, e.err
}
func (e *engine) Logs(_ context.Context, q solo.LogQuery) (solo.LogPage, error) {
	return solo.LogPage{Logs: []solo.LogLine{}}, e.note("logs %s %s %d %s %q %d %v", q.Tenant, q.ServiceID, q.Instance, q.Level, q.Text, q.Limit, q.Tail)
}
func (e *engine) WaitLogs(ctx context.Context, _ string, _ uint64) error {
	<-ctx.Done()
	return ctx.Err()
}
func (e *engine) LastLogID() uint64 { return 0 }
func (e *engine) Health(context.Context) *solo.Health {
	return &solo.Health{Status: e.health, Version: "v"}
}
func (e *engine) Authenticate(token string) (solo.Principal, error) {
	return solo.Principal{}, solo.Errorf(solo.CodeUnauthenticated, "no")
}
func (e *engine) Denied(p solo.Principal, op solo.Operation, resource string) error {
	return solo.Errorf(solo.CodePermissionDenied, "no %s on %s", op.Permission, resource)
}
func (e *engine) Verified(solo.Principal) error { return nil }
func (e *engine) While(ctx context.Context, _ solo.Principal) (context.Context, context.CancelFunc) {
	return context.WithCancel(ctx)
}
func (e *engine) StoreSecret(_ context.Context, p solo.Principal, req *solo.SecretRequest) (*solo.Secret, error) {
	return &solo.Secret{Key: *req.Key, Version: 1}, e.note("secrets set %s %s", p.Tenant, *req.Key)
}
func (e *engine) Secrets(_ context.Context, p solo.Principal, limit, offset int) (*solo.SecretList, error) {
	return &solo.SecretList{Secrets: []string{}}, e.note("secrets list %s %d %d", p.Tenant, limit, offset)
}
func (e *engine) Secret(_ context.Context, p solo.Principal, name string) (*solo.Secret, error) {
	return &solo.Secret{Key: name}, e.note("secrets get %s %s", p.Tenant, name)
}
func (e *engine) RevealSecret(_ context.Context, p solo.Principal, name string, key solo.Sensitive) (*solo.RevealedSecret, error) {
	return solo.Reveal(solo.Secret{Key: name}, solo.Sensitive("v")), e.note("secrets reveal %s %s %d", p.Tenant, name, len(key))
}
func (e *engine) RevokeSecret(_ context.Context, p solo.Principal, name string) (*solo.RevokedSecret, error) {
	return &solo.RevokedSecret{Key: name}, e.note("secrets rm %s %s", p.Tenant, name)
}
func (e *engine) UnlockVault(_ context.Context, p solo.Principal, passphrase solo.Sensitive) (*solo.VaultStatus, error) {
	return &solo.VaultStatus{}, e.note("vault unlock %d", len(passphrase))
}
func (e *engine) RotateVault(_ context.Context, p solo.Principal, passphrase solo.Sensitive) (*solo.VaultStatus, error) {
	return &solo.VaultStatus{}, e.note("vault rotate %d", len(passphrase))
}
func (e *engine) Grant(_ context.Context, p solo.Principal, req *solo.CapabilityRequest) (*solo.CapabilityGrant, error) {
	return &solo.CapabilityGrant{}, e.note("cap grant %s", p.Tenant)
}
func (e *engine) Attenuate(_ context.Context, p solo.Principal, req *solo.CapabilityRequest) (*solo.CapabilityGrant, error) {
	return &solo.CapabilityGrant{}, e.note("cap attenuate %s", p.Tenant)
}
func (e *engine) VerifyCapability(_ context.Context, p solo.Principal, req *solo.VerifyRequest) (*solo.VerifyResult, error) {
	return &solo.VerifyResult{}, e.note("cap verify %s", p.Tenant)
}
func (e *engine) Capabilities(_ context.Context, p solo.Principal, limit, offset int) (*solo.CapabilityList, error) {
	return &solo.CapabilityList{Capabilities: []solo.Capability{}}, e.note("cap list %s", p.Tenant)
}
func (e *engine) RevokeCapability(_ context.Context, p solo.Principal, id string) (*solo.RevokedCapability, error) {
	return &solo.RevokedCapability{ID: id}, e.note("cap revoke %s %s", p.Tenant, id)
}
func (e *engine) Usage(_ context.Context, p solo.Principal, q solo.UsageQuery) (*solo.UsageReport, error) {
	id := "a,\"b"
	return &solo.UsageReport{Usage: []solo.UsageRow{{TenantID: "t", ServiceID: &id, CPUSeconds: 1.5, Calls: 2}}}, e.note("usage %s %v %d", p.Tenant, q.ByService, q.Limit)
}
func (e *engine) Metrics(_ context.Context, p solo.Principal, accept string) (string, []byte, error) {
	return "text/plain; version=0.0.4", []byte("solo_up 1\n"), e.note("metrics %q %s", p.Tenant, accept)
}
func (e *engine) Ready() bool { return e.ready }
func (e *engine) Begin(p solo.Principal, key string, request []byte, secret bool) (*solo.Answer, func(*solo.Answer) error, error) {
	if key == "before" {
		return &solo.Answer{Status: 201, Body: []byte(`{"first":true}`)}, nil, nil
	}
	return nil, func(a *solo.Answer) error {
		if a == nil {
			return e.note("finish nothing")
		}
		return e.note("finish %d", a.Status)
	}, e.note("begin %s %s %d", p.Tenant, key, len(request))
}
func (e *engine) Backup(_ context.Context, p solo.Principal, withKey bool, w io.Writer) error {
	io.WriteString(w, "tar")
	return e.note("backup %v", p.Operator)
}
func (e *engine) Upgrade(_ context.Context, p solo.Principal, binary string) (*solo.UpgradeResult, error) {
	return &solo.UpgradeResult{}, e.note("upgrade %v %s", p.Operator, binary)
}
func (e *engine) Shutdown(p solo.Principal) error { return e.note("shutdown %v", p.Operator) }

// journal is the daemon's log.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Debug(string, ...any) {}
func (j *journal) Error(msg string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	fmt.Fprintln(&j.text, append([]any{msg}, args...)...)
}
func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

type fixture struct {
	t      testing.TB
	engine *engine
	log    *journal
	url    string
	socket string
	stop   func()
}

func serve(t testing.TB) *fixture {
	t.Helper()
	return serveWith(t, func(*rest.Config) {})
}

func serveWith(t testing.TB, change func(*rest.Config)) *fixture {
	t.Helper()
	f := &fixture{t: t, engine: &engine{wake: make(chan struct{}), ready: true, health: solo.HealthOK}, log: &journal{}, socket: filepath.Join(t.TempDir(), "s")}
	cfg := rest.Config{Engine: f.engine, Log: f.log, Addr: "127.0.0.1:0", Socket: f.socket, ShutdownTimeout: func() time.Duration { return 2 * time.Second }, Heartbeat: 20 * time.Millisecond}
	change(&cfg)
	s := rest.New(cfg)
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	f.url = "http://" + s.Addr()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	f.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(f.stop)
	return f
}

// do makes a request; headers are "Name: value".
func (f *fixture) do(method, path, body string, headers ...string) (*http.Response, string) {
	f.t.Helper()
	return f.with(http.DefaultClient, f.url, method, path, body, headers...)
}

func (f *fixture) operator(method, path, body string, headers ...string) (*http.Response, string) {
	f.t.Helper()
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", f.socket)
	}}}
	return f.with(c, "http://solo", method, path, body, headers...)
}

func (f *fixture) with(c *http.Client, base, method, path, body string, headers ...string) (*http.Response, string) {
	f.t.Helper()
	req, err := http.NewRequest(method, base+path, strings.NewReader(body))
	if err != nil {
		f.t.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Add(name, value)
	}
	resp, err := c.Do(req)
	if err != nil {
		f.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	return resp, string(text)
}

const tenant = "X-Tenant-ID: t"

func TestEveryCodeHasItsStatus(t *testing.T) {
	f := serve(t)
	want := map[solo.Code]int{
		"invalid_request": 400, "unauthenticated": 401, "permission_denied": 403, "not_found": 404, "timeout": 408, "conflict": 409,
		"too_large": 413, "compile_failed": 422, "tests_failed": 422, "policy_violation": 422, "start_failed": 422, "rate_limited": 429,
		"quota_exceeded": 429, "internal": 500, "service_error": 502, "storage_unavailable": 503, "overloaded": 503, "circuit_open": 503,
		"shutting_down": 503, "not_running": 503, "not_ready": 503, "unavailable": 503, "deadline_exceeded": 504,
	}
	if len(want) != len(solo.Codes()) {
		t.Fatalf("the table here has %d codes, there are %d", len(want), len(solo.Codes()))
	}
	for _, code := range solo.Codes() {
		f.engine.err = solo.Errorf(code, "why").With("a", 1).Because(errors.New("the inside"))
		resp, text := f.do("GET", "/services/s", "", tenant)
		var body map[string]any
		if err := json.Unmarshal([]byte(text), &body); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if resp.StatusCode != want[code] || body["error"] != string(code) || body["message"] != "why" || body["timestamp"] == nil || fmt.Sprint(body["details"]) != "map[a:1]" || len(body) != 4 {
			t.Errorf("%s: %d %s, want %d", code, resp.StatusCode, text, want[code])
		}
		if code == solo.CodeShuttingDown && resp.Header.Get("Retry-After") != "1" {
			t.Errorf("shutting_down without Retry-After")
		}
	}
	f.engine.err = solo.Errorf(solo.CodeRateLimited, "x").Retry(1200 * time.Millisecond)
	if resp, _ := f.do("GET", "/services/s", "", tenant); resp.Header.Get("Retry-After") != "2" {
		t.Errorf("Retry-After %q, want whole seconds upwards", resp.Header.Get("Retry-After"))
	}
	f.engine.err = errors.New("a secret of the inside")
	resp, text := f.do("GET", "/services/s", "", tenant, "X-Request-Id: my-id.1")
	if resp.StatusCode != 500 || strings.Contains(text, "secret") || !strings.Contains(text, `"details":{}`) {
		t.Errorf("an unknown error: %d %s", resp.StatusCode, text)
	}
	if resp.Header.Get("X-Request-Id") != "my-id.1" || !strings.Contains(f.log.String(), "my-id.1") || !strings.Contains(f.log.String(), "a secret of the inside") {
		t.Errorf("the cause is not logged under the request's id: %s", f.log)
	}
}

func TestAPanicIsInternal(t *testing.T) {
	f := serve(t)
	f.engine.invoke = func(context.Context, solo.Principal, string, *solo.InvokeRequest) (*solo.InvokeReply, error) {
		panic("oh")
	}
	if resp, text := f.do("POST", "/services/s/invoke/m", "", tenant); resp.StatusCode != 500 || !strings.Contains(text, `"error":"internal"`) {
		t.Errorf("%d %s", resp.StatusCode, text)
	}
	if !strings.Contains(f.log.String(), "panic: oh") {
		t.Error("it is not logged")
	}
}

func TestRequestsThatWillNotDo(t *testing.T) {
	f := serve(t)
	long := strings.Repeat("a", 129)
	for _, tc := range []struct {
		method, path, body string
		headers            []string
		status             int
		want               string
	}{
		{"GET", "/nowhere", "", nil, 404, "not_found"},
		{"PATCH", "/services", "", []string{tenant}, 405, "invalid_request"},
		{"GET", "/services", "", nil, 401, "unauthenticated"},
		{"GET", "/services", "", []string{"X-Tenant-ID: -x"}, 400, "X-Tenant-ID"},
		{"GET", "/services", "", []string{tenant, "X-Tenant-ID: u"}, 403, "permission_denied"},
		{"GET", "/services", "", []string{tenant, "Authorization: Bearer solo_x"}, 401, "unauthenticated"},
		{"GET", "/services?limit=0", "", []string{tenant}, 400, `"field":"limit"`},
		{"GET", "/services?limit=1001", "", []string{tenant}, 400, `"field":"limit"`},
		{"GET", "/services?limit=1&limit=2", "", []string{tenant}, 400, "more than once"},
		{"GET", "/services?state=dead", "", []string{tenant}, 400, `"field":"state"`},
		{"GET", "/services?state=%zz", "", []string{tenant}, 400, "query"},
		{"GET", "/services", "", []string{tenant, "Accept: text/html"}, 406, "invalid_request"},
		{"GET", "/services/" + long, "", []string{tenant}, 400, "129 bytes"},
		{"GET", "/services/a%2Fb", "", []string{tenant}, 400, "service_id"},
		{"GET", "/services/a%252Fb", "", []string{tenant}, 400, "service_id"},
		{"GET", "/services/a%00", "", []string{tenant}, 400, "service_id"},
		{"GET", "/services/%D0%B0", "", []string{tenant}, 400, "service_id"},
		{"GET", "/services/%2e%2e", "", []string{tenant}, 400, "service_id"},
		{"POST", "/services/s/invoke/" + long, "", []string{tenant}, 400, "method"},
		{"POST", "/services/s/invoke/m", "", []string{tenant, "X-Timeout-Ms: 300001"}, 400, "X-Timeout-Ms"},
		{"POST", "/services/s/invoke/m", "", []string{tenant, "Content-Encoding: gzip"}, 415, "Content-Encoding"},
		{"DELETE", "/services/s?timeout_ms=x", "", []string{tenant}, 400, "timeout_ms"},
		{"DELETE", "/services/s?force=maybe", "", []string{tenant}, 400, "force"},
		{"GET", "/events?since_id=-1", "", []string{tenant}, 400, "since_id"},
		{"GET", "/events", "", []string{tenant, "Last-Event-ID: x"}, 400, "Last-Event-ID"},
		{"GET", "/events", "", []string{tenant, "Accept: text/html"}, 406, "event-stream"},
		{"GET", "/logs?level=loud&since=yesterday", "", []string{tenant}, 400, "RFC 3339"},
		{"POST", "/shutdown", "", []string{tenant}, 403, "operator"},
		{"POST", "/services", "{}", []string{tenant, "Content-Type: text/plain"}, 415, "application/json"},

		{"POST", "/services", `{"service_id":"s","tenant_id":"t"}`, []string{"Origin: https://evil.example"}, 403, "another origin"},
		{"POST", "/services", `{"service_id":"s","tenant_id":"t"}`, []string{"Sec-Fetch-Site: cross-site"}, 403, "another origin"},
		{"DELETE", "/services/s", "", []string{tenant, "Sec-Fetch-Site: cross-site"}, 403, "another origin"},

		{"POST", "/services", "", []string{tenant}, 400, "empty"},
		{"POST", "/services", "[]", []string{tenant}, 400, "must be an object"},
		{"POST", "/services", "null", []string{tenant}, 400, "not null"},
		{"POST", "/services", `{"service_id":"s"`, []string{tenant}, 400, "not JSON: line 1, byte 17"},
		{"POST", "/services", `{"service_id":"s"} {}`, []string{tenant}, 400, "not JSON"},
		{"POST", "/services", "{\"code\":\"\xff\"}", []string{tenant}, 400, "UTF-8"},
		{"POST", "/services", `{"service_id":"s","service_id":"t"}`, []string{tenant}, 400, `"field":"service_id","message":"is there twice"`},
		{"POST", "/services", `{"Service_ID":"s"}`, []string{tenant}, 400, `\"service_id\" is`},
		{"POST", "/services", `{"nonsense":[{"a":[1]}],"code":1}`, []string{tenant}, 400, `"fields":[{"field":"nonsense","message":"is not a known key"},{"field":"code","message":"must be a string"}]`},
		{"POST", "/services", `{"limits":{"memory_mb":"64"}}`, []string{tenant}, 400, `"field":"limits.memory_mb","message":"must be a whole number"`},
		{"POST", "/services", `{"limits":{"memory_mb":1.5}}`, []string{tenant}, 400, "limits.memory_mb"},
		{"POST", "/services", `{"limits":{"memory_mb":99999999999999999999}}`, []string{tenant}, 400, "limits.memory_mb"},
		{"POST", "/services", `{"backoff":{"factor":1e999}}`, []string{tenant}, 400, "backoff.factor"},
		{"POST", "/services", `{"env":{"A":1,"B":"x","B":"y"}}`, []string{tenant}, 400, `"field":"env.B","message":"is there twice"`},
		{"POST", "/services", `{"env":[]}`, []string{tenant}, 400, `"field":"env"`},
		{"POST", "/services", `{"service_id":"s","tenant_id":"u"}`, []string{tenant}, 403, "permission_denied"},
		{"POST", "/services", `{"service_id":"s"}`, nil, 401, "unauthenticated"},
	} {
		resp, text := f.do(tc.method, tc.path, tc.body, tc.headers...)
		if resp.StatusCode != tc.status || !strings.Contains(text, tc.want) {
			t.Errorf("%s %.60s %.60s: %d %s; want %d %s", tc.method, tc.path, tc.body, resp.StatusCode, text, tc.status, tc.want)
		}
		if resp.Header.Get("X-Request-Id") == "" || !strings.Contains(text, `"timestamp"`) || !strings.Contains(text, `"details":{`) {
			t.Errorf("%s %.60s: the envelope is not whole: %s", tc.method, tc.path, text)
		}
	}
	if len(f.engine.seen) != 0 {
		t.Errorf("the engine was asked: %q", f.engine.seen)
	}
	resp, _ := f.do("PATCH", "/services", "", tenant)
	if allow := resp.Header.Get("Allow"); !strings.Contains(allow, "POST") || !strings.Contains(allow, "GET") {
		t.Errorf("405 without Allow: %q", allow)
	}
}

func TestRequestsThatDo(t *testing.T) {
	f := serve(t)
	for _, tc := range []struct {
		method, path, body string
		headers            []string
		status             int
		want               string
	}{
		{"POST", "/services", `{"service_id":"s","code":"x","env":null,"limits":{"memory_mb":null}}`, []string{tenant}, 201, "deploy t s"},
		{"POST", "/services", `{"service_id":"s","tenant_id":"u"}`, []string{"Content-Type: application/json; charset=utf-8"}, 201, "deploy u s"},
		{"POST", "/services", `{"service_id":"s"}`, []string{tenant, "Content-Type: application/x-www-form-urlencoded"}, 201, "deploy t s"},
		{"POST", "/services/s/check", `{"code":"x"}`, []string{tenant}, 200, "check t s"},
		{"GET", "/services?state=running&limit=5&offset=2", "", []string{tenant}, 200, `list t "running" 5 2`},
		{"GET", "/services/s", "ignored", []string{tenant, "Accept: application/*"}, 200, "status t s"},
		{"POST", "/services/s/restart", "", []string{tenant}, 200, "restart t s"},
		{"DELETE", "/services/s?timeout_ms=0&force=true&purge=true", "", []string{tenant}, 200, "kill t s 0s true true"},
		{"DELETE", "/services/s", "", []string{tenant}, 200, "kill t s own false false"},
		{"GET", "/logs?service_id=s&instance=2&level=warn&text=x&limit=7&tail=true", "", []string{tenant, "Accept: application/json"}, 200, `logs t s 2 warn "x" 7 true`},
	} {
		f.engine.seen = nil
		resp, text := f.do(tc.method, tc.path, tc.body, tc.headers...)
		if resp.StatusCode != tc.status || len(f.engine.seen) != 1 || f.engine.seen[0] != tc.want {
			t.Errorf("%s %s: %d %s %q, want %d %q", tc.method, tc.path, resp.StatusCode, text, f.engine.seen, tc.status, tc.want)
		}
	}
	f.engine.seen = nil
	if resp, _ := f.operator("POST", "/shutdown", ""); resp.StatusCode != 200 || f.engine.seen[0] != "shutdown true" {
		t.Errorf("the operator's shutdown: %d %q", resp.StatusCode, f.engine.seen)
	}
	f.engine.seen = nil
	if resp, _ := f.operator("GET", "/services", ""); resp.StatusCode != 200 || f.engine.seen[0] != `list  "" 100 0` {
		t.Errorf("the operator's list: %q", f.engine.seen)
	}
	if info, err := os.Stat(f.socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket is %v, %v", info, err)
	}
}

func TestHealth(t *testing.T) {
	f := serve(t)
	if _, text := f.do("GET", "/health", ""); text != "{\"status\":\"ok\"}\n" {
		t.Errorf("without a proof: %s", text)
	}
	if _, text := f.do("GET", "/health", "", tenant); !strings.Contains(text, `"version":"v"`) {
		t.Errorf("with a proof: %s", text)
	}
	if _, text := f.operator("GET", "/health", ""); !strings.Contains(text, `"version":"v"`) {
		t.Errorf("for the operator: %s", text)
	}
	f.engine.ready, f.engine.health = false, solo.HealthStarting
	for path, want := range map[string]int{"/health": 200, "/health/live": 200, "/health/ready": 503} {
		if resp, text := f.do("GET", path, ""); resp.StatusCode != want || strings.Contains(text, "error") {
			t.Errorf("while starting, %s: %d %s, want %d", path, resp.StatusCode, text, want)
		}
	}
	f.engine.health = solo.HealthFailing
	if resp, _ := f.do("GET", "/health", ""); resp.StatusCode != 503 {
		t.Errorf("while failing: %d", resp.StatusCode)
	}
}

func TestInvokePassesThrough(t *testing.T) {
	f := serve(t)
	var got *solo.InvokeRequest
	f.engine.invoke = func(_ context.Context, _ solo.Principal, _ string, req *solo.InvokeRequest) (*solo.InvokeReply, error) {
		got = req
		return &solo.InvokeReply{Body: req.Body, ContentType: "image/x", Metadata: map[string]string{
			"X-Solo-Meta-A": "b", "Set-Cookie": "no", "X-Solo-Meta-Bad": "a\r\nb: c", "X-Solo-Meta-Bad\r\n": "x",
		}}, nil
	}
	body := string([]byte{0, 1, 0xff, '\n'})
	resp, text := f.do("POST", "/services/s/invoke/a%20b%2Fc", body, tenant, "Content-Type: text/x", "X-Timeout-Ms: 1500", "X-Solo-Meta-Trace: t1", "X-Request-Id: r1", "Cookie: c")
	if resp.StatusCode != 200 || text != body || resp.Header.Get("Content-Type") != "image/x" {
		t.Errorf("%d %q %s", resp.StatusCode, text, resp.Header.Get("Content-Type"))
	}
	if resp.Header.Get("X-Solo-Meta-A") != "b" || resp.Header.Get("Set-Cookie") != "" || resp.Header.Get("X-Solo-Meta-Bad") != "" {
		t.Errorf("headers %v", resp.Header)
	}
	if got.Method != "a b/c" || got.ContentType != "text/x" || got.Timeout != 1500*time.Millisecond ||
		fmt.Sprint(got.Metadata) != "map[X-Solo-Meta-Trace:t1 caller:tenant:t request_id:r1]" {
		t.Errorf("the service is told %+v", got)
	}
}

// A body over the bound is refused while the client is still sending it, and the
// client comes to read the refusal.
func TestTooLargeReachesWhoStillSends(t *testing.T) {
	f := serve(t)
	for name, chunked := range map[string]bool{"with a length": false, "without": true} {
		size := solo.MaxInvokeBody + 4<<20
		var body io.Reader = bytes.NewReader(make([]byte, size))
		if chunked {
			body = io.MultiReader(body) // hides the length
		}
		req, err := http.NewRequest("POST", f.url+"/services/s/invoke/m", body)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Tenant-ID", "t")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != 413 || !strings.Contains(string(text), `"limit":8388608`) {
			t.Errorf("%s: %d %s", name, resp.StatusCode, text)
		}
	}
	if resp, text := f.do("POST", "/services/s/invoke/m", strings.Repeat("x", solo.MaxInvokeBody), tenant); resp.StatusCode != 200 || len(text) != solo.MaxInvokeBody {
		t.Errorf("as large as may be: %d, %d bytes", resp.StatusCode, len(text))
	}
}

func TestACallerThatGoesAwayEndsItsDeploy(t *testing.T) {
	f := serve(t)
	entered, left := make(chan struct{}), make(chan error, 1)
	f.engine.deploy = func(ctx context.Context, _ solo.Principal, _ *solo.DeployRequest) (*solo.Service, bool, error) {
		close(entered)
		<-ctx.Done()
		left <- ctx.Err()
		return nil, false, ctx.Err()
	}
	ctx, cancel := context.WithCancel(t.Context())
	req, _ := http.NewRequestWithContext(ctx, "POST", f.url+"/services", strings.NewReader(`{"service_id":"s"}`))
	req.Header.Set("X-Tenant-ID", "t")
	go func() { <-entered; cancel() }()
	if _, err := http.DefaultClient.Do(req); !errors.Is(err, context.Canceled) {
		t.Errorf("the caller: %v", err)
	}
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("the deploy: %v", err)
	}
}

// stream opens a stream and returns its lines.
func (f *fixture) stream(path string, headers ...string) (*bufio.Scanner, func()) {
	f.t.Helper()
	req, err := http.NewRequest("GET", f.url+path, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	req.Header.Set("X-Tenant-ID", "t")
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		f.t.Fatal(err)
	}
	if ct := resp.Header.Get("Content-Type"); resp.StatusCode != 200 || !strings.HasPrefix(ct, "text/event-stream") || resp.Header.Get("X-Accel-Buffering") != "no" {
		f.t.Fatalf("%d %s", resp.StatusCode, ct)
	}
	return bufio.NewScanner(resp.Body), func() { resp.Body.Close() }
}

// ids reads n records of a stream.
func ids(t testing.TB, lines *bufio.Scanner, n int) string {
	t.Helper()
	var out []string
	for len(out) < n && lines.Scan() {
		if id, ok := strings.CutPrefix(lines.Text(), "id: "); ok {
			if !lines.Scan() || lines.Text() != "event: app.x" || !lines.Scan() || !strings.HasPrefix(lines.Text(), `data: {"id":`+id+",") {
				t.Fatalf("after id %s comes %q", id, lines.Text())
			}
			out = append(out, id)
		}
	}
	return strings.Join(out, " ")
}

func TestStreams(t *testing.T) {
	f := serve(t)
	for range 3 {
		f.engine.append("t")
	}
	f.engine.append("other")
	f.engine.append("t")

	fromFirst, done := f.stream("/events?since_id=0")
	defer done()
	if got := ids(t, fromFirst, 4); got != "1 2 3 5" {
		t.Errorf("from the first: %s", got)
	}
	resumed, done := f.stream("/events?since_id=1", "Last-Event-ID: 2")
	defer done()
	if got := ids(t, resumed, 2); got != "3 5" {
		t.Errorf("resumed: %s", got)
	}
	now, done := f.stream("/events")
	defer done()
	if !now.Scan() || !strings.HasPrefix(now.Text(), ":") {
		t.Fatalf("the first line is %q", now.Text())
	}
	f.engine.append("t")
	for name, s := range map[string]*bufio.Scanner{"from the first": fromFirst, "resumed": resumed, "from now": now} {
		if got := ids(t, s, 1); got != "6" {
			t.Errorf("%s, live: %s", name, got)
		}
	}
	// A silent stream says that it is there, without an id.
	for now.Scan() && now.Text() != ": heartbeat" {
	}
	if now.Text() != ": heartbeat" {
		t.Error("no heartbeat")
	}
	// The end of the server is the end of its streams.
	ended := make(chan struct{})
	go func() {
		for now.Scan() {
		}
		close(ended)
	}()
	began := time.Now()
	f.stop()
	<-ended
	if took := time.Since(began); took > time.Second {
		t.Errorf("the streams held the server for %v", took)
	}
}

func TestAReaderThatDoesNotReadDelaysNobody(t *testing.T) {
	f := serve(t)
	conn, err := net.Dial("tcp", strings.TrimPrefix(f.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /events?since_id=0 HTTP/1.1\r\nHost: x\r\nX-Tenant-ID: t\r\n\r\n")
	lines, done := f.stream("/events?since_id=0")
	defer done()
	const n = 5000
	go func() {
		for range n {
			f.engine.append("t")
		}
	}()
	// About 3 MB, more than the sockets hold for the one that does not read.
	if got := strings.Fields(ids(t, lines, n)); len(got) != n || got[n-1] != fmt.Sprint(n) {
		t.Errorf("the one that reads got %d records", len(got))
	}
}

func TestListenRefuses(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	stale := filepath.Join(dir, "stale")
	l, err := net.Listen("unix", stale)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	taken := filepath.Join(dir, "taken")
	busy, err := net.Listen("unix", taken)
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	l.Close()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	for _, tc := range []struct {
		name string
		cfg  rest.Config
		want string
	}{
		{"a file in the way", rest.Config{Socket: file}, "no socket"},
		{"another's socket", rest.Config{Socket: taken}, "another process"},
		{"another's port", rest.Config{Addr: tcp.Addr().String()}, "in use"},
		{"a stale socket", rest.Config{Socket: stale}, ""},
	} {
		tc.cfg.Engine, tc.cfg.Log = &engine{}, &journal{}
		s := rest.New(tc.cfg)
		err := s.Listen()
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", tc.name, err)
		}
		s.Close()
	}
}

func TestAnIdempotencyKey(t *testing.T) {
	f := serve(t)
	post := func(keys ...string) (*http.Response, string) {
		t.Helper()
		req, err := http.NewRequest("POST", f.url+"/services", strings.NewReader(`{"service_id":"s","code":"package main"}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Tenant-ID", "t")
		for _, k := range keys {
			req.Header.Add("Idempotency-Key", k)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, string(text)
	}
	if resp, text := post("before"); resp.StatusCode != 201 || text != `{"first":true}` || resp.Header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("a key that was used: %d %s", resp.StatusCode, text)
	}
	if resp, _ := post("new"); resp.StatusCode/100 != 2 || resp.Header.Get("Idempotent-Replayed") != "" {
		t.Errorf("a new key: %d", resp.StatusCode)
	}
	for name, keys := range map[string][]string{"two": {"a", "b"}, "long": {strings.Repeat("k", 256)}, "empty": {""}} {
		if resp, text := post(keys...); resp.StatusCode != 400 || !strings.Contains(text, "Idempotency-Key") {
			t.Errorf("%s: %d %s", name, resp.StatusCode, text)
		}
	}
}

func BenchmarkInvoke(b *testing.B) {
	f := serve(b)
	e := echo.New()
	e.POST("/echo", func(c echo.Context) error {
		body, err := io.ReadAll(c.Request().Body)
		if err != nil {
			return err
		}
		return c.Blob(200, "application/octet-stream", body)
	})
	bare, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	server := &http.Server{Handler: e}
	go server.Serve(bare)
	defer server.Close()
	transport := &http.Transport{MaxIdleConnsPerHost: 128}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	body := strings.Repeat("x", 1024)
	for name, url := range map[string]string{"solo": f.url + "/services/s/invoke/m", "echo": "http://" + bare.Addr().String() + "/echo"} {
		b.Run(name, func(b *testing.B) {
			b.SetParallelism(32)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					req, _ := http.NewRequest("POST", url, strings.NewReader(body))
					req.Header.Set("X-Tenant-ID", "t")
					resp, err := client.Do(req)
					if err != nil {
						b.Error(err)
						return
					}
					io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
			})
		})
	}
}
