package mcp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/solo-run/solo/pkg/solo"
)

// asked is a call of REST that a tool made.
type asked struct {
	target string
	header http.Header
	body   string
}

// fixture is a server whose REST is a test's own func.
type fixture struct {
	t     *testing.T
	url   string
	calls []asked
	// principal is who is calling.
	principal solo.Principal
	rest      http.HandlerFunc
}

func serve(t *testing.T, rest http.HandlerFunc) *fixture {
	f := &fixture{t: t, rest: rest}
	s := New("v", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		f.calls = append(f.calls, asked{r.Method + " " + r.URL.RequestURI(), r.Header, string(body)})
		if f.rest != nil {
			f.rest(w, r)
			return
		}
		io.WriteString(w, "{}")
	}))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.Serve(w, r, f.principal) }))
	t.Cleanup(srv.Close)
	f.url = srv.URL
	return f
}

func (f *fixture) connect() *sdk.ClientSession {
	f.t.Helper()
	client := sdk.NewClient(&sdk.Implementation{Name: "test", Version: "1"}, nil)
	s, err := client.Connect(f.t.Context(), &sdk.StreamableClientTransport{Endpoint: f.url}, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { s.Close() })
	return s
}

// call calls a tool and returns its text.
func (f *fixture) call(tool, args string) (text string, failed bool) {
	f.t.Helper()
	s := f.connect()
	r, err := s.CallTool(f.t.Context(), &sdk.CallToolParams{Name: tool, Arguments: json.RawMessage(args)})
	if err != nil {
		f.t.Fatal(err)
	}
	return r.Content[0].(*sdk.TextContent).Text, r.IsError
}

// Every row that is marked so is a tool, and its schema is one that every client and
// model takes.
func TestToolsAreStrict(t *testing.T) {
	s := serve(t, nil).connect()
	tools := map[string]*sdk.Tool{}
	for tool, err := range s.Tools(t.Context(), nil) {
		if err != nil {
			t.Fatal(err)
		}
		tools[tool.Name] = tool
		if !regexp.MustCompile(`^[a-z_]{1,64}$`).MatchString(tool.Name) || tool.Description == "" || tool.Annotations == nil {
			t.Errorf("the tool %+v is described by halves", tool)
		}
		text, err := json.Marshal(tool.InputSchema)
		if err != nil {
			t.Fatal(err)
		}
		var schema map[string]any
		if err := json.Unmarshal(text, &schema); err != nil {
			t.Fatal(err)
		}
		if schema["type"] != "object" {
			t.Errorf("%s takes a %v", tool.Name, schema["type"])
		}
		strict(t, tool.Name, schema)
	}
	for _, op := range solo.Operations() {
		if op.Tool != (tools[toolName(op.Name)] != nil) {
			t.Errorf("%s is a tool: %v, and offered: %v", op.Name, op.Tool, !op.Tool)
		}
	}
}

func strict(t *testing.T, at string, schema map[string]any) {
	for key := range schema {
		switch key {
		case "type", "properties", "required", "additionalProperties", "items", "description", "enum", "format", "maximum":
		default:
			t.Errorf("%s: %q is not for every client", at, key)
		}
	}
	kind, ok := schema["type"].(string)
	if !ok {
		t.Errorf("%s: the type is %v", at, schema["type"])
	}
	switch kind {
	case "array":
		items, ok := schema["items"].(map[string]any)
		if !ok {
			t.Fatalf("%s: an array without items", at)
		}
		strict(t, at+"[]", items)
	case "object":
		properties, ok := schema["properties"].(map[string]any)
		more, open := schema["additionalProperties"].(map[string]any)
		if !ok && !open || ok && schema["additionalProperties"] != false {
			t.Fatalf("%s: an object that takes anything", at)
		}
		if open {
			strict(t, at+".*", more)
		}
		for name, p := range properties {
			if name == "tenant_id" {
				t.Errorf("%s: who is calling is no argument", at)
			}
			strict(t, at+"."+name, p.(map[string]any))
		}
		required, _ := schema["required"].([]any)
		for _, name := range required {
			if properties[name.(string)] == nil {
				t.Errorf("%s: %v is required and not described", at, name)
			}
		}
	case "string", "integer", "number", "boolean":
	default:
		t.Errorf("%s: the type is %q", at, kind)
	}
}

// The arguments of a tool become the request that a client of REST would send.
func TestArgumentsBecomeRequests(t *testing.T) {
	for _, tc := range []struct{ tool, args, target, body string }{
		{"status", `{"service_id":"a"}`, "GET /services/a", ""},
		{"status", `{"service_id":"a/../b c%"}`, "GET /services/a%2F..%2Fb%20c%25", ""},
		{"status", `{"service_id":".."}`, "GET /services/%2E%2E", ""},
		{"list", `{}`, "GET /services", ""},
		{"list", `{"state":"failed","limit":5,"offset":null}`, "GET /services?limit=5&state=failed", ""},
		{"list", `{"limit":"5"}`, "GET /services?limit=5", ""},
		{"kill", `{"service_id":"a","force":true,"timeout_ms":7}`, "DELETE /services/a?force=true&timeout_ms=7", ""},
		{"deploy", `{"service_id":"a","code":"x <y>"}`, "POST /services", `{"code":"x <y>","service_id":"a"}`},
		{"deploy", `{"service_id":"a","files":{"m.go":"x"},"limits":{"memory_mb":9},"Code":1}`, "POST /services", `{"Code":1,"files":{"m.go":"x"},"limits":{"memory_mb":9},"service_id":"a"}`},
		{"check", `{"service_id":"a","code":"x"}`, "POST /services/a/check", `{"code":"x"}`},
		{"wait", `{"service_id":"a","until":{"state":"running"},"since_id":3}`, "POST /wait", `{"service_id":"a","since_id":3,"until":{"state":"running"}}`},
		{"invoke", `{"service_id":"a","method":"m/n","body":"[1]","timeout_ms":50}`, "POST /services/a/invoke/m%2Fn", `[1]`},
		{"invoke", `{"service_id":"a","method":"m","body":{"x":1}}`, "POST /services/a/invoke/m", `{"x":1}`},
		{"invoke", `{"service_id":"a","method":"m"}`, "POST /services/a/invoke/m", ``},
		{"logs", `{"service_id":"a"}`, "GET /logs?limit=100&service_id=a&tail=true", ""},
		{"logs", `{"since_id":4,"limit":9,"text":"x&y"}`, "GET /logs?limit=9&since_id=4&text=x%26y", ""},
		{"logs", `{"limit":100000}`, "GET /logs?limit=200&tail=true", ""},
		{"events", `{"since_id":0}`, "GET /events?limit=20&since_id=0", ""},
		{"crashes", `{"service_id":"a"}`, "GET /services/a/crashes?limit=20", ""},
	} {
		f := serve(t, nil)
		f.call(tc.tool, tc.args)
		if len(f.calls) != 1 {
			t.Errorf("%s %s makes %d calls", tc.tool, tc.args, len(f.calls))
			continue
		}
		got := f.calls[0]
		if got.target != tc.target || got.body != tc.body {
			t.Errorf("%s %s asks %s %q, want %s %q", tc.tool, tc.args, got.target, got.body, tc.target, tc.body)
		}
		if strings.HasPrefix(tc.target, "GET /logs") && got.header.Get("Accept") != "application/json" {
			t.Errorf("%s asks for a stream", tc.tool)
		}
		if tc.tool == "invoke" && (got.header.Get("Content-Type") != "application/json" || strings.Contains(tc.args, "timeout") != (got.header.Get("X-Timeout-Ms") == "50")) {
			t.Errorf("%s %s sends %v", tc.tool, tc.args, got.header)
		}
	}
}

// What does not fit is told, all of it, and nothing is called.
func TestBadArguments(t *testing.T) {
	for _, tc := range []struct {
		tool, args string
		fields     []string
	}{
		{"status", `{}`, []string{"service_id"}},
		{"status", `{"service_id":null}`, []string{"service_id"}},
		{"status", `{"service_id":"a","tenant_id":"b"}`, []string{"tenant_id"}},
		{"list", `{"limit":1.5,"state":7,"x":1}`, []string{"limit", "state", "x"}},
		{"kill", `{"service_id":"a","force":"perhaps"}`, []string{"force"}},
		{"deploy", `{"service_id":"a","tenant_id":"b","code":"x"}`, []string{"tenant_id"}},
		{"invoke", `{"service_id":"a"}`, []string{"method"}},
		{"tree", `{"a":1,"a":2}`, []string{"a"}},
	} {
		f := serve(t, nil)
		text, failed := f.call(tc.tool, tc.args)
		var out struct {
			Error  string
			Fields []solo.Field
		}
		if err := json.Unmarshal([]byte(text), &out); err != nil {
			t.Fatal(err)
		}
		var fields []string
		for _, field := range out.Fields {
			fields = append(fields, field.Field)
		}
		if !failed || out.Error != "invalid_request" || !slices.Equal(fields, tc.fields) || len(f.calls) != 0 {
			t.Errorf("%s %s: %s after %d calls", tc.tool, tc.args, text, len(f.calls))
		}
	}
	if _, err := parseArguments(json.RawMessage(`[]`)); err == nil {
		t.Error("a list is taken for arguments")
	}
}

// A refusal reaches the model with its code, its places and what to do.
func TestRefusals(t *testing.T) {
	for _, code := range solo.Codes() {
		f := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(http.StatusTeapot)
			fmt.Fprintf(w, `{"error":%q,"message":"why","timestamp":"x","details":{"diagnostics":[{"file":"m.go","line":3,"column":4,"message":"bad","rule":"r","advice":"mend it"},{"file":null,"line":null,"column":null,"message":"more"}],"message":"taken","log_tail":["l"],"exit":{"reason":"panic","code":null,"log_tail":["x"],"oom":false}}}`, code)
		})
		text, failed := f.call("deploy", `{"service_id":"a","code":"x"}`)
		var out struct {
			Error, Message string
			Diagnostics    []string
			Exit           map[string]any
			LogTail        any `json:"log_tail"`
			RetryAfter     int `json:"retry_after_s"`
			Next           []step
		}
		if err := json.Unmarshal([]byte(text), &out); err != nil {
			t.Fatal(err)
		}
		if !failed || out.Error != string(code) || out.Message != "why" || out.RetryAfter != 7 || out.LogTail != nil || len(out.Exit) != 2 ||
			!slices.Equal(out.Diagnostics, []string{"m.go:3:4: bad [r]; mend it", "more"}) || out.Next == nil {
			t.Errorf("%s: %s", code, text)
		}
	}
}

// What is no answer of REST's says nothing of the inside.
func TestTheInsideStaysInside(t *testing.T) {
	for name, rest := range map[string]http.HandlerFunc{
		"text":  func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "secret path", 500) },
		"panic": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"other": func(http.ResponseWriter, *http.Request) { panic("secret") },
		"cut":   func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"secret":`) },
		"long": func(w http.ResponseWriter, _ *http.Request) {
			for range maxReply>>20 + 1 {
				if _, err := w.Write(make([]byte, 1<<20)); err != nil {
					return
				}
			}
		},
	} {
		text, failed := serve(t, rest).call("status", `{"service_id":"a"}`)
		want := `"error":"internal"`
		if name == "long" {
			want = `"error":"too_large"`
		}
		if !failed || !strings.Contains(text, want) || strings.Contains(text, "secret") || strings.Contains(text, "abort") {
			t.Errorf("%s: %s", name, text)
		}
	}
}

// Nothing of the message's own headers is the call's, but the id of the request; its
// context is.
func TestHeadersStayBehind(t *testing.T) {
	f := serve(t, nil)
	req, err := http.NewRequest("POST", f.url, strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"list"}}`))
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range map[string]string{"Content-Type": "application/json", "Accept": "*/*", "Authorization": "Bearer x", "X-Tenant-ID": "t", "X-Timeout-Ms": "1", "Idempotency-Key": "k"} {
		req.Header.Set(name, v)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	if len(f.calls) != 1 || len(f.calls[0].header) != 1 || f.calls[0].header["X-Request-Id"] == nil {
		t.Errorf("the calls %v", f.calls)
	}
}

// readers may read services, and nothing else.
type readers struct{}

func (readers) Allows(p solo.Permission, resource, _ string) bool {
	return p == solo.PermissionRead && strings.HasPrefix(resource, "services/")
}
func (readers) AllowsSome(p solo.Permission, kind string) bool {
	return p == solo.PermissionRead && kind == "services"
}

// A capability is offered the tools that it can use, and no steps to others.
func TestToolsAreScoped(t *testing.T) {
	f := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, `{"service_id":"a","state":"failed"}`)
	})
	f.principal = solo.Principal{Tenant: "t", Rights: readers{}}
	var names []string
	for tool, err := range f.connect().Tools(t.Context(), nil) {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, tool.Name)
	}
	want := map[string]bool{}
	for _, op := range solo.Operations() {
		if op.Tool && op.Permission == solo.PermissionRead && strings.HasPrefix(op.Resource, "services/") {
			want[toolName(op.Name)] = true
		}
	}
	for _, name := range names {
		if !want[name] {
			t.Errorf("%s is offered", name)
		}
	}
	if len(names) != len(want) || len(names) == 0 {
		t.Errorf("offered are %v, want %v", names, want)
	}
	text, _ := f.call("status", `{"service_id":"a"}`)
	if !strings.Contains(text, `"tool":"explain"`) || strings.Contains(text, `"tool":"restart"`) {
		t.Errorf("steps: %s", text)
	}
}

// A body that is no message has an answer of JSON-RPC.
func TestBadBodies(t *testing.T) {
	f := serve(t, nil)
	for body, code := range map[string]string{"": "-32700", " ": "-32700", `{"jsonrpc":"2.0","id":1,"met`: "-32700", "x": "-32700", `{"jsonrpc":"2.0","id":1,"method":5}`: "-32600", `[{"jsonrpc":"2.0","id":1,"method":"ping"}]`: "-32600", "7": "-32600"} {
		resp, err := http.Post(f.url, "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest || !strings.Contains(string(text), `"error":{"code":`+code) || !json.Valid(text) {
			t.Errorf("%q: %s %s", body, resp.Status, text)
		}
	}
}

func post(t *testing.T, ctx context.Context, url, session, body string) error {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, "POST", url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	if session != "" {
		req.Header.Set(sessionHeader, session)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// The work ends when its caller goes, and when its caller says so; nobody else can
// end it.
func TestCancellation(t *testing.T) {
	began, ended := make(chan bool), make(chan error)
	f := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		began <- true
		<-r.Context().Done()
		ended <- r.Context().Err()
	})
	const call = `{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"tree"}}`
	const stop = `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":5}}`

	gone, leave := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- post(t, gone, f.url, "", call) }()
	<-began
	leave()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	<-done

	go func() { done <- post(t, t.Context(), f.url, "mine", call) }()
	<-began
	for session, body := range map[string]string{"other": stop, "": stop, "mine": strings.Replace(stop, "5", "6", 1)} {
		if err := post(t, t.Context(), f.url, session, body); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-ended:
		t.Fatal("another's word ended the work")
	case <-time.After(50 * time.Millisecond):
	}
	if err := post(t, t.Context(), f.url, "mine", stop); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// Whatever an answer holds, it fits, and is JSON.
func FuzzFit(f *testing.F) {
	f.Add([]byte(`{"a":"`+strings.Repeat("ü", 9000)+`","log_tail":["x","y"],"n":{"k":[1,2,{"z":"y"}]}}`), 500)
	f.Add([]byte(`{"error":"e","message":"m","next":[{"tool":"t","why":"w"}]}`), 120)
	many := map[string]any{}
	for i := range 500 {
		many[fmt.Sprint("key", i)] = strings.Repeat("v", i)
	}
	text, _ := json.Marshal(many)
	f.Add(text, 1000)
	f.Fuzz(func(t *testing.T, in []byte, max int) {
		var v map[string]any
		if json.Unmarshal(in, &v) != nil || v == nil {
			return
		}
		// Below this not even the names of an error fit.
		max = 4096 + (max&0xffff+0xffff)%0xffff
		out := fit(v, max)
		if len(out) > max || !json.Valid(out) || !utf8.Valid(out) {
			t.Errorf("%d bytes of %d: %.300s", len(out), max, out)
		}
	})
}

// A line is cut between its characters, and keeps both ends.
func TestShorten(t *testing.T) {
	for _, s := range []string{strings.Repeat("ü", 100), strings.Repeat("a漢", 60), strings.Repeat("x", 300)} {
		for n := range 120 {
			got := shorten(s, n)
			if !utf8.ValidString(got) || len(got) > n+len(" … ") {
				t.Fatalf("%d: %q", n, got)
			}
			if head, tail, ok := strings.Cut(got, " … "); !ok || !strings.HasPrefix(s, head) || !strings.HasSuffix(s, tail) {
				t.Fatalf("%d: %q", n, got)
			}
		}
	}
	if shorten("short", 5) != "short" {
		t.Error("what fits is cut")
	}
}
