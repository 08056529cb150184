package scenario

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	mcp "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/solo-run/solo/pkg/solo"
)

// bearer shows a token, or that the caller is of the tenant t, which may prove
// nothing.
type bearer struct {
	inner http.RoundTripper
	token string
}

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	if b.token != "" {
		r.Header.Set("Authorization", "Bearer "+b.token)
	} else {
		r.Header.Set("X-Tenant-ID", "t")
	}
	return b.inner.RoundTrip(r)
}

// agentWith is a client of the tools with a proof.
func (a *access) agentWith(t *testing.T, p proof) (*agent, error) {
	t.Helper()
	inner, endpoint := http.DefaultTransport, a.d.URL+"/mcp"
	if p.operator {
		inner, endpoint = a.socket.Transport, "http://localhost/mcp"
	}
	out := &agent{t: t}
	var err error
	out.ClientSession, err = mcp.NewClient(&mcp.Implementation{Name: "agent", Version: "1"}, nil).
		Connect(t.Context(), &mcp.StreamableClientTransport{Endpoint: endpoint, HTTPClient: &http.Client{Transport: bearer{inner, p.token}}}, nil)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { out.Close() })
	for tool, err := range out.Tools(t.Context(), nil) {
		if err != nil {
			return nil, err
		}
		out.tools = append(out.tools, tool.Name)
	}
	return out, nil
}

// The matrix of every tool and every proof.
func TestWhoMayWhatOverMCP(t *testing.T) {
	a := newAccess(t)
	for _, p := range a.proofs(t) {
		t.Run(p.name, func(t *testing.T) {
			// Without a proof that counts, not even the tools are named.
			b, err := a.agentWith(t, p)
			if p.want(solo.Operation{Permission: solo.PermissionAny}) == unknown {
				if err == nil {
					t.Errorf("the tools %v", b.tools)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, op := range solo.Operations() {
				if !op.Tool || op.Name == solo.OpKill && p.want(op) == admitted {
					continue
				}
				name, want := strings.ReplaceAll(op.Name, " ", "_"), p.want(op)
				if offered := slices.Contains(b.tools, name); offered != (want != denied) {
					t.Errorf("%s: offered is %v, and the verdict %s", name, offered, want)
				}
				args := map[string]any{}
				if body := bodies[op.Name]; body != "" {
					if err := json.Unmarshal([]byte(body), &args); err != nil {
						t.Fatal(err)
					}
				}
				if strings.Contains(op.Path, ":id") {
					args["service_id"] = "a"
				}
				if strings.Contains(op.Path, ":method") {
					args["method"] = "Echo"
				}
				got := admitted
				r := b.call(name, args)
				switch {
				case !r.failed:
				case r.fields["error"] == string(solo.CodePermissionDenied):
					got = denied
				case r.fields["error"] == string(solo.CodeNotFound):
					got = missing
				case r.fields["error"] == string(solo.CodeUnauthenticated):
					got = unknown
				}
				if got != want && (want != admitted || got == unknown || got == denied) {
					t.Errorf("%s is %s, want %s: %s", name, got, want, r.text)
				}
			}
		})
	}
}

// A capability that is cut down for an agent: it may try a service of its own and
// read, and is offered no more.
func TestScopedAgent(t *testing.T) {
	a := newAccess(t)
	token, _ := a.grant(t, "t", `{"resource": "services/mine-*", "permissions": ["deploy", "invoke", "read"], "rate_limit": 100}`)
	cmd := exec.Command(filepath.Join(a.d.Bin, "solo"), "mcp")
	cmd.Env = append(os.Environ(), "SOLO_ADDR="+a.d.URL, "SOLO_TOKEN="+token)
	session, err := mcp.NewClient(&mcp.Implementation{Name: "agent", Version: "1"}, nil).Connect(t.Context(), &mcp.CommandTransport{Command: cmd}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	b := &agent{t: t, ClientSession: session}
	for tool, err := range session.Tools(t.Context(), nil) {
		if err != nil {
			t.Fatal(err)
		}
		b.tools = append(b.tools, tool.Name)
	}
	for name, want := range map[string]bool{"deploy": true, "check": true, "invoke": true, "status": true, "explain": true, "kill": false, "logs": false, "events": false, "secrets_list": false, "tree": false} {
		if b.has(name) != want {
			t.Errorf("%s is offered: %v", name, !want)
		}
	}
	mended := strings.Replace(first, "strngs", "strings", 1)
	if got := b.call("deploy", map[string]any{"service_id": "mine-1", "code": mended}); got.failed || strings.Contains(got.text, `"tool":"logs"`) {
		t.Errorf("deploy: %s", got.text)
	}
	if got := b.call("invoke", map[string]any{"service_id": "mine-1", "method": "shout", "body": `"x"`}); got.fields["reply"] != "X" {
		t.Errorf("invoke: %s", got.text)
	}
	for tool, args := range map[string]map[string]any{
		"deploy": {"service_id": "other", "code": mended}, "status": {"service_id": "a"}, "kill": {"service_id": "mine-1"}, "logs": {"service_id": "mine-1"},
	} {
		if got := b.call(tool, args); !got.failed || got.fields["error"] != string(solo.CodePermissionDenied) {
			t.Errorf("%s %v: %s", tool, args, got.text)
		}
	}
	// A message counts once against the rate, though it is a call of REST inside.
	limited := 0
	for range 120 {
		r, err := session.CallTool(t.Context(), &mcp.CallToolParams{Name: "status", Arguments: map[string]any{"service_id": "mine-1"}})
		if err != nil {
			if !strings.Contains(err.Error(), "requests a minute") && !strings.Contains(err.Error(), "rate") {
				t.Fatal(err)
			}
			break
		}
		if r.IsError {
			t.Fatalf("status: %v", r.Content)
		}
		limited++
	}
	if limited < 60 || limited == 120 {
		t.Errorf("%d calls of 100 a minute were let through", limited)
	}
}
