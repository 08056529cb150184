package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	solov1 "github.com/solo-run/solo/proto/solo/v1"
	"github.com/solo-run/solo/sdk/client"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve answers on a unix socket, and gives a client for it.
func serve(t *testing.T, h http.HandlerFunc, opts ...client.Option) *client.Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(h)
	srv.Listener.Close()
	srv.Listener = l
	srv.Start()
	c := mustNew(t, "unix:"+path, opts...)
	t.Cleanup(func() { c.Close(); srv.CloseClientConnections(); srv.Close() })
	return c
}

func mustNew(t *testing.T, addr string, opts ...client.Option) *client.Client {
	t.Helper()
	c, err := client.New(addr, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// answer writes a fixed answer.
func answer(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

const refusalBody = `{"error":"not_found","message":"no such service","timestamp":"2026-03-01T12:00:00Z","details":{"service_id":"x"}}`

// Ensure that each call makes its request, and reads its answer.
func TestCalls(t *testing.T) {
	svc := `{"service_id":"a b","state":"running","pid":7,"artifact":null,"last_exit":null,"isolation":{"cgroup":"on"},"new_field":[1],"metadata":{}}`
	one := func(m proto.Message, err error) []any { return []any{m, err} }
	tests := []struct {
		name, want, answer string
		call               func(context.Context, *client.Client) []any
		check              proto.Message
	}{
		{"Status", "GET /services/a%20b", svc,
			func(ctx context.Context, c *client.Client) []any { return one(c.Status(ctx, "a b")) },
			&solov1.Service{ServiceId: "a b", State: "running", Pid: proto.Int32(7), Isolation: map[string]string{"cgroup": "on"}}},
		{"Status that would climb", "GET /services/%2E%2E", svc,
			func(ctx context.Context, c *client.Client) []any { return one(c.Status(ctx, "..")) }, nil},
		{"Status with a slash", "GET /services/a%2Fb%3Fc", svc,
			func(ctx context.Context, c *client.Client) []any { return one(c.Status(ctx, "a/b?c")) }, nil},
		{"Restart", "POST /services/a/restart", svc,
			func(ctx context.Context, c *client.Client) []any { return one(c.Restart(ctx, "a")) }, nil},
		{"List", "GET /services?limit=5&offset=2&state=failed", `{"services":[],"total":2,"limit":5,"offset":2}`,
			func(ctx context.Context, c *client.Client) []any {
				return one(c.List(ctx, &solov1.ListRequest{State: "failed", Limit: 5, Offset: 2}))
			}, &solov1.ServiceList{Total: 2, Limit: 5, Offset: 2}},
		{"List all", "GET /services", `{"services":[],"total":0,"limit":100,"offset":0}`,
			func(ctx context.Context, c *client.Client) []any { return one(c.List(ctx, nil)) }, &solov1.ServiceList{Limit: 100}},
		{"Kill", "DELETE /services/a", `{"service_id":"a","status":"killed"}`,
			func(ctx context.Context, c *client.Client) []any {
				return one(c.Kill(ctx, &solov1.KillRequest{ServiceId: "a"}))
			}, &solov1.KillResult{ServiceId: "a", Status: "killed"}},
		{"Kill at once", "DELETE /services/a?force=true&purge=true&timeout_ms=0", `{"service_id":"a","status":"killed"}`,
			func(ctx context.Context, c *client.Client) []any {
				return one(c.Kill(ctx, &solov1.KillRequest{ServiceId: "a", TimeoutMs: proto.Int64(0), Force: true, Purge: true}))
			}, nil},
		{"Events", "GET /events?event_type=service_started&limit=2&service_id=a&since_id=0", `{"events":[{"id":18446744073709551615,"payload":{"a":1},"causation_id":null}],"next_since_id":3,"last_id":9}`,
			func(ctx context.Context, c *client.Client) []any {
				p, err := c.Events(ctx, &solov1.WatchRequest{SinceId: proto.Uint64(0), ServiceId: "a", EventType: "service_started", Limit: 2})
				p.GetEvents()[0].Payload = nil
				return one(p, err)
			}, &solov1.EventPage{Events: []*solov1.Event{{Id: 18446744073709551615}}, NextSinceId: 3, LastId: 9}},
		{"VerifyEvents", "GET /events/verify", `{"ok":false,"first_id":1,"last_id":4,"head":"ab","bad_id":3}`,
			func(ctx context.Context, c *client.Client) []any { return one(c.VerifyEvents(ctx)) },
			&solov1.VerifyReport{FirstId: 1, LastId: 4, Head: "ab", BadId: proto.Uint64(3)}},
		{"Logs", "GET /logs?instance=2&level=warn&limit=3&service_id=a&since_id=5&tail=true&text=x+y", `{"logs":[{"id":6,"line":"x y"}],"next_since_id":6}`,
			func(ctx context.Context, c *client.Client) []any {
				return one(c.Logs(ctx, &solov1.LogsRequest{ServiceId: "a", Instance: 2, Level: "warn", Text: "x y", SinceId: proto.Uint64(5), Limit: 3, Tail: true}))
			}, &solov1.LogPage{Logs: []*solov1.LogLine{{Id: 6, Line: "x y"}}, NextSinceId: 6}},
		{"Health", "GET /health", `{"status":"ok"}`,
			func(ctx context.Context, c *client.Client) []any { return one(c.Health(ctx)) }, &solov1.Health{Status: "ok"}},
		{"Shutdown", "POST /shutdown", `{"status":"stopping"}`,
			func(ctx context.Context, c *client.Client) []any { return one(c.Shutdown(ctx)) }, &solov1.ShutdownResult{Status: "stopping"}},
		{"Check", "POST /services/a/check", `{"ok":true,"diagnostics":[],"findings":[],"warnings":[],"changes":[{"field":"restart","from":null,"to":"temporary"}]}`,
			func(ctx context.Context, c *client.Client) []any {
				r, err := c.Check(ctx, &solov1.DeployRequest{ServiceId: proto.String("a")})
				if got := r.GetChanges()[0].GetTo().GetStringValue(); got != "temporary" {
					err = errors.Join(err, fmt.Errorf("to = %q", got))
				}
				r.Changes = nil
				return one(r, err)
			}, &solov1.CheckResult{Ok: true}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got *http.Request
			var tapped string
			c := serve(t, func(w http.ResponseWriter, r *http.Request) {
				got = r
				answer(200, tt.answer)(w, r)
			}, client.WithTenant("acme"), client.WithToken("solo_x"), client.WithTap(func(m json.RawMessage) { tapped = string(m) }))
			out := tt.call(t.Context(), c)
			if out[1] != nil {
				t.Fatal(out[1])
			}
			if line := got.Method + " " + got.URL.RequestURI(); line != tt.want {
				t.Errorf("request %q, want %q", line, tt.want)
			}
			for name, want := range map[string]string{"X-Tenant-ID": "acme", "Authorization": "Bearer solo_x", "Accept": "application/json"} {
				if v := got.Header.Get(name); v != want {
					t.Errorf("%s: %q, want %q", name, v, want)
				}
			}
			if tapped != tt.answer {
				t.Errorf("tapped %q, want the answer as it came", tapped)
			}
			if tt.check != nil && !proto.Equal(out[0].(proto.Message), tt.check) {
				t.Errorf("got  %v\nwant %v", out[0], tt.check)
			}
		})
	}
}

// Ensure that a deploy's body is the JSON of the contract: text as text, numbers
// as numbers, and nothing that was not said.
func TestDeployBody(t *testing.T) {
	var got map[string]any
	var contentType string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		contentType = r.Header.Get("Content-Type")
		if err := json.NewDecoder(r.Body).Decode(&got); err != nil {
			t.Error(err)
		}
		answer(201, `{"service_id":"echo","state":"running"}`)(w, r)
	})
	req := &solov1.DeployRequest{
		ServiceId: proto.String("echo"),
		Code:      []byte("package main // <&> \u2028 \x00 \"é\"\n"),
		Files:     map[string][]byte{"a/b.txt": []byte("x\r\n"), "empty": nil},
		Restart:   proto.String("transient"),
		Limits:    &solov1.LimitsRequest{MemoryMb: proto.Int32(64), DataMb: proto.Int32(0)},
		Backoff:   &solov1.BackoffRequest{Factor: proto.Float64(1.5)},
		Env:       map[string]string{"A": "1"},
	}
	svc, err := c.Deploy(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if svc.GetServiceId() != "echo" {
		t.Errorf("service %v", svc)
	}
	want := map[string]any{
		"service_id": "echo", "code": string(req.GetCode()), "restart": "transient",
		"files":   map[string]any{"a/b.txt": "x\r\n", "empty": ""},
		"limits":  map[string]any{"memory_mb": 64.0, "data_mb": 0.0},
		"backoff": map[string]any{"factor": 1.5}, "env": map[string]any{"A": "1"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("body %v\nwant %v", got, want)
	}
	if contentType != "application/json" {
		t.Errorf("content type %q", contentType)
	}
}

// Ensure that what would be another request than was meant is not sent at all.
func TestRefusedUnsent(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) { t.Errorf("sent %s %s", r.Method, r.URL) })
	ctx := t.Context()
	last := func(_ any, err error) error { return err }
	for name, err := range map[string]error{
		"kill without id":      last(c.Kill(ctx, &solov1.KillRequest{})),
		"status without id":    last(c.Status(ctx, "")),
		"check without id":     last(c.Check(ctx, &solov1.DeployRequest{})),
		"invoke nothing":       last(c.Invoke(ctx, &solov1.InvokeRequest{ServiceId: "a"})),
		"code not UTF-8":       last(c.Deploy(ctx, &solov1.DeployRequest{Code: []byte("ab\xff")})),
		"file not UTF-8":       last(c.Deploy(ctx, &solov1.DeployRequest{Files: map[string][]byte{"a.go": []byte("\xed\xa0\x80")}})),
		"metadata name":        last(c.Invoke(ctx, &solov1.InvokeRequest{ServiceId: "a", Method: "m", Metadata: map[string]string{"a b": ""}})),
		"metadata value":       last(c.Invoke(ctx, &solov1.InvokeRequest{ServiceId: "a", Method: "m", Metadata: map[string]string{"a": "x\r\nHost: y"}})),
		"content type smuggle": last(c.Invoke(ctx, &solov1.InvokeRequest{ServiceId: "a", Method: "m", ContentType: "a\nb"})),
	} {
		var e *client.Error
		if !errors.As(err, &e) || e.Code != client.CodeInvalidRequest || e.Status != 0 {
			t.Errorf("%s: %v, want invalid_request of the client's own", name, err)
		}
	}
	_, err := c.Deploy(ctx, &solov1.DeployRequest{Code: []byte("aé\xff")})
	if want := "code is not UTF-8 at byte 3"; err == nil || err.Error() != want {
		t.Errorf("error %v, want %q", err, want)
	}
}

func TestInvoke(t *testing.T) {
	body := []byte("\x00\xff raw")
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		got, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		if r.URL.EscapedPath() != "/services/a/invoke/Say%2FIt" || string(got) != string(body) || r.Header.Get("Content-Type") != "image/x" ||
			r.Header.Get("X-Solo-Meta-Trace") != "t1" || r.Header.Get("X-Timeout-Ms") != "1500" {
			t.Errorf("%s %q %v", r.URL.EscapedPath(), got, r.Header)
		}
		w.Header().Set("Content-Type", "image/y")
		w.Header().Set("X-Solo-Meta-Cost", "3")
		w.Write(append(got, '!'))
	})
	got, err := c.Invoke(t.Context(), &solov1.InvokeRequest{ServiceId: "a", Method: "Say/It", Body: body, ContentType: "image/x",
		Metadata: map[string]string{"trace": "t1"}, TimeoutMs: proto.Int64(1500)})
	if err != nil {
		t.Fatal(err)
	}
	want := &solov1.InvokeReply{Body: append(body, '!'), ContentType: "image/y", Metadata: map[string]string{"cost": "3"}}
	if !proto.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// Ensure that the service learns the caller's deadline, and that nothing is made
// up where there is none.
func TestInvokeDeadline(t *testing.T) {
	var header http.Header
	c := serve(t, func(_ http.ResponseWriter, r *http.Request) { header = r.Header })
	call := func(ctx context.Context) string {
		t.Helper()
		if _, err := c.Invoke(ctx, &solov1.InvokeRequest{ServiceId: "a", Method: "m"}); err != nil {
			t.Fatal(err)
		}
		return header.Get("X-Timeout-Ms")
	}
	if got := call(t.Context()); got != "" {
		t.Errorf("without a deadline: %q", got)
	}
	if _, ok := header["Content-Type"]; ok {
		t.Errorf("without a content type: %q", header["Content-Type"])
	}
	for in, want := range map[time.Duration][2]int{time.Hour: {300000, 300000}, time.Minute: {59000, 60000}} {
		ctx, cancel := context.WithTimeout(t.Context(), in)
		var ms int
		if _, err := fmt.Sscan(call(ctx), &ms); err != nil || ms < want[0] || ms > want[1] {
			t.Errorf("deadline of %v: %d (%v), want within %v", in, ms, err, want)
		}
		cancel()
	}
}

// Ensure that Raw gives the bytes of the answer, and the refusal as an Error.
func TestRaw(t *testing.T) {
	const body = "{ \"a\" :1.0,\n \"n\": 18446744073709551615 }\n"
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		sent, _ := io.ReadAll(r.Body)
		if r.URL.Path == "/none" {
			answer(404, refusalBody)(w, r)
			return
		}
		if r.Method != "PATCH" || r.URL.RequestURI() != "/services/x?a=1" || string(sent) != `{"b":2}` {
			t.Errorf("%s %s %s", r.Method, r.URL, sent)
		}
		answer(200, body)(w, r)
	})
	got, err := c.Raw(t.Context(), "PATCH", "/services/x", url.Values{"a": {"1"}}, json.RawMessage(`{"b":2}`))
	if err != nil || string(got) != body {
		t.Errorf("got %q, %v", got, err)
	}
	var e *client.Error
	if _, err := c.Raw(t.Context(), "GET", "/none", nil, nil); !errors.As(err, &e) || e.Code != client.CodeNotFound {
		t.Errorf("error %v", err)
	}
	if _, err := c.Raw(t.Context(), "GET", "none", nil, nil); err == nil || !strings.HasPrefix(err.Error(), "cannot") {
		t.Errorf("error %v", err)
	}
}

func TestNewErrors(t *testing.T) {
	for _, addr := range []string{"", "localhost:8080", "ftp://x", "http://", "http://u:p@x", "http://x?y=1", "unix:", "unix:/" + strings.Repeat("a", 107)} {
		if c, err := client.New(addr); err == nil {
			c.Close()
			t.Errorf("New(%q) succeeded", addr)
		}
	}
	for _, opt := range []client.Option{client.WithToken("a\nb"), client.WithTenant("é")} {
		if _, err := client.New("unix:/x", opt); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("error %v", err)
		}
	}
}

// Ensure that TLS is verified, and that an address may have a prefix.
func TestHTTPS(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer(200, `{"status":"`+r.URL.Path+`"}`)(w, r)
	}))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	defer srv.Close()
	strange := mustNew(t, srv.URL)
	if _, err := strange.Health(t.Context()); !errors.Is(err, client.ErrUnreachable) {
		t.Errorf("a certificate of nobody: %v", err)
	}
	known := mustNew(t, srv.URL+"/solo/", client.WithTLS(srv.Client().Transport.(*http.Transport).TLSClientConfig))
	h, err := known.Health(t.Context())
	if err != nil || h.GetStatus() != "/solo/health" {
		t.Errorf("got %v, %v", h, err)
	}
}
