package rest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/solo-run/solo/pkg/gateway"
	"github.com/solo-run/solo/pkg/gateway/mcp"
	"github.com/solo-run/solo/pkg/gateway/rest"
	"github.com/solo-run/solo/pkg/solo"
)

func serveAgents(t *testing.T) *fixture {
	return serveWith(t, func(c *rest.Config) {
		c.LLMs = "# Solo"
		c.Agents = func(routes http.Handler) gateway.Agents { return mcp.New("v", routes) }
	})
}

func (f *fixture) mcp(body string, header ...string) (*http.Response, string) {
	f.t.Helper()
	req, err := http.NewRequest("POST", f.url+"/mcp", strings.NewReader(body))
	if err != nil {
		f.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Tenant-ID", "t")
	for i := 0; i < len(header); i += 2 {
		if req.Header.Del(header[i]); header[i+1] != "" {
			req.Header.Set(header[i], header[i+1])
		}
	}
	resp, err := http.DefaultClient.Do(req)
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

func toolCall(name, args string) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":%q,"arguments":%s}}`, name, args)
}

// toolResult reads the answer of a tool out of the one event of the stream.
func toolResult(t *testing.T, body string) (text string, failed bool) {
	t.Helper()
	_, data, _ := strings.Cut(body, "data: ")
	var m struct {
		Result struct {
			Content []struct{ Text string }
			IsError bool
		}
	}
	if err := json.Unmarshal([]byte(data), &m); err != nil || len(m.Result.Content) != 1 {
		t.Fatalf("%s: %v", body, err)
	}
	return m.Result.Content[0].Text, m.Result.IsError
}

// A tool is served as the call of REST is, to the same principal, with the same
// checks.
func TestToolsAreCallsOfREST(t *testing.T) {
	f := serveAgents(t)
	if _, body := f.mcp(toolCall("kill", `{"service_id":"a","timeout_ms":5,"purge":true}`)); !strings.Contains(body, `killed`) {
		t.Errorf("kill: %s", body)
	}
	if got := f.engine.seen; len(got) != 1 || got[0] != "kill t a 5ms false true" {
		t.Errorf("the engine saw %q", got)
	}
	for args, field := range map[string]string{`{"service_id":"a b"}`: "service_id", `{"service_id":"a","timeout_ms":-1}`: "timeout_ms"} {
		_, body := f.mcp(toolCall("kill", args))
		if text, failed := toolResult(t, body); !failed || !strings.Contains(text, `"error":"invalid_request"`) || !strings.Contains(text, `"field":"`+field+`"`) {
			t.Errorf("kill %s: %s", args, text)
		}
	}
	_, body := f.mcp(toolCall("deploy", `{"service_id":"a","code":7,"Files":{}}`))
	if text, failed := toolResult(t, body); !failed || !strings.Contains(text, "must be a string") || !strings.Contains(text, `\"files\" is`) {
		t.Errorf("deploy: %s", text)
	}
	f.engine.err = solo.Errorf(solo.CodeStorageUnavailable, "no room").Because(context.DeadlineExceeded)
	_, body = f.mcp(toolCall("tree", `{}`))
	if text, failed := toolResult(t, body); !failed || !strings.Contains(text, `"error":"storage_unavailable"`) || strings.Contains(text, "deadline") {
		t.Errorf("tree: %s", text)
	}
}

// What is refused before a message is read has the form of every refusal.
func TestRefusalsOfMCP(t *testing.T) {
	f := serveAgents(t)
	list := toolCall("list", `{}`)
	for name, tc := range map[string]struct {
		body   string
		header []string
		status int
		code   string
	}{
		"no proof":           {list, []string{"X-Tenant-ID", ""}, 401, "unauthenticated"},
		"a token":            {list, []string{"Authorization", "Bearer x"}, 401, "unauthenticated"},
		"no name":            {list, []string{"X-Tenant-ID", "a b"}, 400, "invalid_request"},
		"another origin":     {list, []string{"Sec-Fetch-Site", "cross-site"}, 403, "permission_denied"},
		"a media type":       {list, []string{"Content-Type", "text/plain"}, 415, "invalid_request"},
		"an encoding":        {list, []string{"Content-Encoding", "gzip"}, 415, "invalid_request"},
		"what is accepted":   {list, []string{"Accept", "text/html"}, 400, "invalid_request"},
		"a version":          {list, []string{"Mcp-Protocol-Version", "1999-01-01"}, 400, "invalid_request"},
		"a long body":        {toolCall("list", `{"state":"`+strings.Repeat("x", solo.MaxMCPBody)+`"}`), nil, 413, "too_large"},
		"no body":            {"", nil, 400, ""},
		"a body that is cut": {list[:30], nil, 400, ""},
	} {
		resp, body := f.mcp(tc.body, tc.header...)
		var e struct {
			Error   any
			Message string
			Details map[string]any
		}
		if tc.status != 200 {
			if err := json.Unmarshal([]byte(body), &e); err != nil {
				t.Errorf("%s: %s", name, body)
			}
		}
		if resp.StatusCode != tc.status || tc.code != "" && (e.Error != tc.code || e.Details == nil || e.Message == "") || resp.Header.Get("X-Request-Id") == "" {
			t.Errorf("%s: %s %s", name, resp.Status, body)
		}
	}
	if resp, _ := f.get("/mcp"); resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("GET: %s", resp.Status)
	}
	if resp, body := f.get("/llms.txt"); resp.StatusCode != 200 || body != "# Solo" {
		t.Errorf("llms.txt: %s %q", resp.Status, body)
	}
	none := serve(t)
	if resp, body := none.mcp(list); resp.StatusCode != 404 || !strings.Contains(body, "not_found") {
		t.Errorf("without a gateway: %s %s", resp.Status, body)
	}
}

// get asks without any proof.
func (f *fixture) get(path string) (*http.Response, string) {
	f.t.Helper()
	resp, err := http.Get(f.url + path)
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

// A stop of the daemon lets a tool's work end, as that of REST.
func TestAgentsAtTheEnd(t *testing.T) {
	f := serveAgents(t)
	began := make(chan bool)
	f.engine.deploy = func(ctx context.Context, _ solo.Principal, _ *solo.DeployRequest) (*solo.Service, bool, error) {
		close(began)
		select {
		case <-ctx.Done():
			return nil, false, ctx.Err()
		case <-time.After(300 * time.Millisecond):
		}
		return &solo.Service{ServiceID: "a", State: solo.StateRunning}, true, nil
	}
	answers := make(chan string, 1)
	go func() {
		_, body := f.mcp(toolCall("deploy", `{"service_id":"a","code":"x"}`))
		answers <- body
	}()
	select {
	case <-began:
	case body := <-answers:
		t.Fatalf("the deploy did not begin: %s", body)
	}
	f.stop()
	if text, failed := toolResult(t, <-answers); failed || !strings.Contains(text, `"state":"running"`) {
		t.Errorf("the deploy under way: %s", text)
	}
}

// What agents ask costs little over what REST costs.
func BenchmarkStatus(b *testing.B) {
	f := serveWith(b, func(c *rest.Config) {
		c.Agents = func(routes http.Handler) gateway.Agents { return mcp.New("v", routes) }
	})
	ask := func(b *testing.B, method, path, body string) {
		req, err := http.NewRequest(method, f.url+path, strings.NewReader(body))
		if err != nil {
			b.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("X-Tenant-ID", "t")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			b.Fatal(err)
		}
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != 200 || !strings.Contains(string(text), "service_id") {
			b.Fatalf("%s %s", resp.Status, text)
		}
	}
	b.Run("rest", func(b *testing.B) {
		for b.Loop() {
			ask(b, "GET", "/services/a", "")
		}
	})
	b.Run("mcp", func(b *testing.B) {
		for b.Loop() {
			ask(b, "POST", "/mcp", toolCall("status", `{"service_id":"a"}`))
		}
	})
}
