package scenario

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	mcp "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/solo-run/solo/docs"
	"github.com/solo-run/solo/test/harness"
)

// agentDaemon is a solod of a test's own.
func agentDaemon(t *testing.T) *harness.Daemon {
	t.Helper()
	// A path of a socket must be short.
	dir, err := os.MkdirTemp("", "solo-agent-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	d := &harness.Daemon{Bin: shared.bin, Dir: filepath.Join(dir, "data"), Env: os.Environ()}
	if err := copyTree(shared.cache, filepath.Join(d.Dir, "cache")); err != nil {
		t.Fatal(err)
	}
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Stop(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
	})
	return d
}

// proofs shows who is calling.
type proofs struct{ tenant string }

func (p proofs) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("X-Tenant-ID", p.tenant)
	return http.DefaultTransport.RoundTrip(r)
}

// connection is one way to the tools: a transport, and the version of the protocol
// that the client asks for.
type connection struct{ transport, version string }

// agent is a client of the official SDK.
type agent struct {
	t *testing.T
	*mcp.ClientSession
	tools  []string
	stages chan string
}

func connect(t *testing.T, d *harness.Daemon, c connection, tenant string) *agent {
	t.Helper()
	var transport mcp.Transport
	if c.transport == "stdio" {
		cmd := exec.Command(filepath.Join(d.Bin, "solo"), "mcp")
		cmd.Env = append(os.Environ(), "SOLO_ADDR=unix:"+filepath.Join(d.Dir, "solo.sock"), "SOLO_TENANT="+tenant)
		cmd.Stderr = os.Stderr
		transport = &mcp.CommandTransport{Command: cmd}
	} else {
		transport = &mcp.StreamableClientTransport{Endpoint: d.URL + "/mcp", HTTPClient: &http.Client{Transport: proofs{tenant}}}
	}
	a := &agent{t: t, stages: make(chan string, 100)}
	client := mcp.NewClient(&mcp.Implementation{Name: "agent", Version: "1"}, &mcp.ClientOptions{
		ProgressNotificationHandler: func(_ context.Context, r *mcp.ProgressNotificationClientRequest) { a.stages <- r.Params.Message },
	})
	var err error
	if a.ClientSession, err = client.Connect(t.Context(), transport, &mcp.ClientSessionOptions{ProtocolVersion: c.version}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	for tool, err := range a.Tools(t.Context(), nil) {
		if err != nil {
			t.Fatal(err)
		}
		a.tools = append(a.tools, tool.Name)
	}
	return a
}

func (a *agent) has(tool string) bool { return slices.Contains(a.tools, tool) }

type answer struct {
	failed bool
	fields map[string]any
	text   string
}

// call calls a tool and reads its answer, which stands in the text.
func (a *agent) call(tool string, args any) answer {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(a.t.Context(), harness.Patience)
	defer cancel()
	p := &mcp.CallToolParams{Name: tool, Arguments: args}
	r, err := a.CallTool(ctx, p)
	if err != nil {
		a.t.Fatalf("%s: %v", tool, err)
	}
	return a.read(tool, r)
}

func (a *agent) read(tool string, r *mcp.CallToolResult) answer {
	a.t.Helper()
	text, ok := r.Content[0].(*mcp.TextContent)
	if !ok || len(r.Content) != 1 {
		a.t.Fatalf("%s answers %v", tool, r.Content)
	}
	out := answer{failed: r.IsError, text: text.Text}
	if err := json.Unmarshal([]byte(text.Text), &out.fields); err != nil {
		a.t.Fatalf("%s answers %q: %v", tool, text.Text, err)
	}
	if structured, err := json.Marshal(r.StructuredContent); err != nil || !same(structured, []byte(text.Text)) {
		a.t.Errorf("%s says %s as text, and %s structured", tool, text.Text, structured)
	}
	if len(text.Text) > 24<<10 {
		a.t.Errorf("%s answers with %d bytes", tool, len(text.Text))
	}
	return out
}

func same(a, b []byte) bool {
	var x, y any
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		return false
	}
	p, _ := json.Marshal(x)
	q, _ := json.Marshal(y)
	return string(p) == string(q)
}

// next is the step of an answer for a tool, with the arguments that it proposes.
func (w answer) next(t *testing.T, tool string) map[string]any {
	t.Helper()
	steps, _ := w.fields["next"].([]any)
	for _, s := range steps {
		if s := s.(map[string]any); s["tool"] == tool {
			args, _ := s["arguments"].(map[string]any)
			return args
		}
	}
	t.Fatalf("no step to %s in %s", tool, w.text)
	return nil
}

func (w answer) list(name string) []string {
	var out []string
	list, _ := w.fields[name].([]any)
	for _, v := range list {
		s, _ := v.(string)
		out = append(out, s)
	}
	return out
}

// first has a mistake on line 12: the agent is to find it by its place.
const first = `package main

import (
	"context"
	"strings"

	"github.com/solo-run/solo/sdk"
)

// shout is loud.
func shout(_ context.Context, s string) (string, error) {
	return strngs.ToUpper(s), nil
}

func main() { sdk.Serve(sdk.Methods{"shout": sdk.JSON(shout)}) }
`

// fragile is what breaks at run time, on line 12, and takes the process with it.
const fragile = `package main

import (
	"context"
	"strings"

	"github.com/solo-run/solo/sdk"
)

func shout(_ context.Context, s string) (string, error) {
	done := make(chan byte)
	go func() { done <- s[3] }()
	<-done
	return strings.ToUpper(s) + "!", nil
}

func main() { sdk.Serve(sdk.Methods{"shout": sdk.JSON(shout)}) }
`

var placed = regexp.MustCompile(`^main\.go:(\d+):(\d+): undefined: (\w+)$`)

// An agent that knows nothing but the tools goes through the whole loop: it deploys
// what does not compile, reads the diagnostics, mends the source at their place,
// deploys, breaks it at run time, reads why, and goes back.
func TestAgent(t *testing.T) {
	d := agentDaemon(t)
	for _, c := range []connection{{"stdio", ""}, {"http", ""}, {"stdio", "2025-06-18"}, {"http", "2025-06-18"}} {
		t.Run(c.transport+c.version, func(t *testing.T) {
			tenant := "agent-" + c.transport + c.version
			a := connect(t, d, c, tenant)
			theLoop(t, a)
			t.Run("cancel", func(t *testing.T) { cancelled(t, a) })
		})
	}
	t.Run("guide", func(t *testing.T) { guide(t, connect(t, d, connection{"stdio", ""}, "guide")) })
	t.Run("long", func(t *testing.T) { long(t, connect(t, d, connection{"http", ""}, "long")) })
	t.Run("raw", func(t *testing.T) { rawClient(t, d) })
}

func theLoop(t *testing.T, a *agent) {
	of := map[string]any{"service_id": "loud"}
	source := func(code string) map[string]any { return map[string]any{"service_id": "loud", "code": code} }

	// What does not compile: the place leads to the mistake.
	broken := a.call("deploy", source(first))
	if !broken.failed || broken.fields["error"] != "compile_failed" {
		t.Fatalf("a broken source: %s", broken.text)
	}
	code := first
	for _, d := range broken.list("diagnostics") {
		m := placed.FindStringSubmatch(d)
		if m == nil {
			continue
		}
		line, _ := strconv.Atoi(m[1])
		column, _ := strconv.Atoi(m[2])
		lines := strings.Split(code, "\n")
		before, after := lines[line-1][:column-1], lines[line-1][column-1:]
		if !strings.HasPrefix(after, m[3]) {
			t.Fatalf("%q is not at its place: %q", d, lines[line-1])
		}
		lines[line-1] = before + "strings" + strings.TrimPrefix(after, m[3])
		code = strings.Join(lines, "\n")
	}
	if got := a.call("check", source(code)); got.failed || got.fields["ok"] != true {
		t.Fatalf("the mended source: %s", got.text)
	}
	if got := a.call("status", of); !got.failed || got.fields["error"] != "not_found" {
		t.Errorf("after a refused deploy and a check: %s", got.text)
	}

	running := a.call("deploy", source(code))
	if running.failed || running.fields["state"] != "running" || running.fields["version"] != 1.0 {
		t.Fatalf("deploy: %s", running.text)
	}
	call := running.next(t, "invoke")
	call["method"], call["body"] = "shout", `"hello"`
	if got := a.call("invoke", call); got.failed || got.fields["reply"] != "HELLO" {
		t.Fatalf("invoke: %s", got.text)
	}

	// A second version, which breaks at run time.
	worse := source(fragile)
	worse["restart"] = "temporary"
	if a.has("swap") {
		if got := a.call("swap", worse); got.failed || got.fields["version"] != 2.0 {
			t.Fatalf("swap: %s", got.text)
		}
	} else {
		refused := a.call("deploy", worse)
		if !refused.failed || refused.fields["error"] != "conflict" {
			t.Fatalf("a deploy over what runs: %s", refused.text)
		}
		if got := a.call("kill", refused.next(t, "kill")); got.failed {
			t.Fatalf("kill: %s", got.text)
		}
		if got := a.call("deploy", worse); got.failed || got.fields["version"] != 2.0 {
			t.Fatalf("the second deploy: %s", got.text)
		}
	}
	if got := a.call("invoke", call); got.failed || got.fields["reply"] != "HELLO!" {
		t.Fatalf("invoke of version 2: %s", got.text)
	}
	call["body"] = `"no"`
	died := a.call("invoke", call)
	if !died.failed || died.fields["error"] != "unavailable" {
		t.Fatalf("a call that kills: %s", died.text)
	}
	if a.has("swap") {
		back(t, a, of, call)
		return
	}
	// The event is durable a moment after the process has gone.
	until := map[string]any{"state": "stopped", "event_type": "service_crashed"}
	if got := a.call("wait", map[string]any{"service_id": "loud", "until": until, "since_id": 0, "timeout_ms": 30000}); got.failed {
		t.Fatalf("wait: %s", got.text)
	}
	why(t, a, died)
	if got := a.call("deploy", source(code)); got.failed || got.fields["state"] != "running" {
		t.Fatalf("back by hand: %s", got.text)
	}
	if got := a.call("invoke", call); got.failed || got.fields["reply"] != "NO" {
		t.Fatalf("invoke at the end: %s", got.text)
	}
}

// why follows the steps to the cause of a death: the panic on the source's own line.
func why(t *testing.T, a *agent, died answer) {
	t.Helper()
	told := a.call("explain", died.next(t, "explain"))
	exit, _ := told.fields["last_exit"].(map[string]any)
	if told.failed || exit["reason"] != "panic" || len(told.list("chain")) == 0 {
		t.Errorf("explain: %s", told.text)
	}
	crashes := a.call("crashes", map[string]any{"service_id": "loud"})
	list, _ := crashes.fields["crashes"].([]any)
	if len(list) == 0 || !strings.HasPrefix(fmt.Sprint(list[0].(map[string]any)["panic"]), "main.go:12: runtime error: index out of range") {
		t.Errorf("crashes: %s", crashes.text)
	}
	logs := a.call("logs", died.next(t, "logs"))
	if !strings.Contains(logs.text, "index out of range") {
		t.Errorf("logs: %s", logs.text)
	}
	events := a.call("events", map[string]any{"service_id": "loud", "event_type": "service_crashed"})
	if !strings.Contains(events.text, `"reason":"panic"`) {
		t.Errorf("events: %s", events.text)
	}
}

// back is the end of the loop where versions can be gone back to.
func back(t *testing.T, a *agent, of, call map[string]any) {
	t.Helper()
	// Within its window the daemon may have gone back by itself.
	if got := a.call("rollback", map[string]any{"service_id": "loud", "version": 1}); got.failed || got.fields["version"] != 1.0 {
		t.Fatalf("rollback: %s", got.text)
	}
	if got := a.call("invoke", call); got.failed || got.fields["reply"] != "NO" {
		t.Fatalf("invoke after the rollback: %s", got.text)
	}
	why(t, a, answer{fields: map[string]any{"next": []any{
		map[string]any{"tool": "explain", "arguments": of}, map[string]any{"tool": "logs", "arguments": of},
	}}})
}

// A caller that cancels ends the build: the id is free again long before the tests
// of the source would have ended.
func cancelled(t *testing.T, a *agent) {
	files := map[string]any{
		"main.go":      strings.Replace(first, "strngs", "strings", 1),
		"main_test.go": "package main\n\nimport (\n\t\"testing\"\n\t\"time\"\n)\n\nfunc TestSlow(*testing.T) { time.Sleep(50 * time.Second) }\n",
	}
	for len(a.stages) > 0 {
		<-a.stages
	}
	ctx, cancel := context.WithTimeout(t.Context(), harness.Patience)
	defer cancel()
	done := make(chan error, 1)
	p := &mcp.CallToolParams{Name: "deploy", Arguments: map[string]any{"service_id": "slow", "files": files}}
	p.SetProgressToken("build")
	began := time.Now()
	go func() {
		_, err := a.CallTool(ctx, p)
		done <- err
	}()
	for stage := range a.stages {
		if stage == "compiling and testing" {
			break
		}
	}
	cancel()
	if err := <-done; err == nil {
		t.Fatal("a cancelled call has an answer")
	}
	// The deploy holds the id until it has ended.
	for {
		got := a.call("deploy", map[string]any{"service_id": "slow", "code": files["main.go"]})
		if !got.failed {
			break
		}
		if got.fields["error"] != "conflict" {
			t.Fatalf("after the cancelled build: %s", got.text)
		}
	}
	if took := time.Since(began); took > 40*time.Second {
		t.Errorf("the cancelled build held the id for %v", took)
	}
	if got := a.call("events", map[string]any{"service_id": "slow"}); strings.Contains(got.text, "service_deployment_failed") {
		t.Errorf("the cancelled build is told as one that failed: %s", got.text)
	}
}

// A service that is written exactly as the guide says deploys, tests and all.
func guide(t *testing.T, a *agent) {
	r, err := a.ReadResource(t.Context(), &mcp.ReadResourceParams{URI: "solo://guide"})
	if err != nil {
		t.Fatal(err)
	}
	page := r.Contents[0].Text
	if page != docs.Agents || len(page) > 8<<10 {
		t.Fatalf("the guide has %d bytes", len(page))
	}
	var blocks []string
	for _, part := range strings.Split(page, "```go\n")[1:] {
		code, _, _ := strings.Cut(part, "```")
		blocks = append(blocks, code)
	}
	if len(blocks) != 2 {
		t.Fatalf("the guide has %d sources", len(blocks))
	}
	if got := a.call("deploy", map[string]any{"service_id": "alone", "code": blocks[0]}); got.failed {
		t.Fatalf("the guide's first source: %s", got.text)
	}
	got := a.call("deploy", map[string]any{"service_id": "tally", "files": map[string]any{"main.go": blocks[0], "main_test.go": blocks[1]}})
	if got.failed {
		t.Fatalf("the guide's source with its test: %s", got.text)
	}
	// The calls that the guide shows, word for word.
	for _, m := range regexp.MustCompile("`(invoke|logs) (\\{.*?\\})`").FindAllStringSubmatch(page, -1) {
		if got := a.call(m[1], json.RawMessage(m[2])); got.failed {
			t.Errorf("%s %s: %s", m[1], m[2], got.text)
		}
	}
	if got := a.call("logs", map[string]any{"service_id": "tally"}); !strings.Contains(got.text, "x is at 2") {
		t.Errorf("after the guide's call: %s", got.text)
	}
	for _, source := range []string{"    package main", "    func main()"} {
		if !strings.Contains(docs.LLMs, source) {
			t.Errorf("llms.txt has no %q", source)
		}
	}
	_, code, _ := strings.Cut(docs.LLMs, "    package main")
	code, _, _ = strings.Cut("package main"+code, "\nDeploy it")
	if got := a.call("deploy", map[string]any{"service_id": "greeter", "code": strings.ReplaceAll(code, "\n    ", "\n")}); got.failed {
		t.Errorf("the source of llms.txt: %s", got.text)
	}
	if got := a.call("invoke", map[string]any{"service_id": "greeter", "method": "hello", "body": `"world"`}); got.fields["reply"] != "hello, world" {
		t.Errorf("the service of llms.txt: %s", got.text)
	}
}

// writer writes 300 lines, some of them long, then answers with much.
const writer = `package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/solo-run/solo/sdk"
)

func main() {
	sdk.Serve(sdk.Methods{
		"write": sdk.JSON(func(context.Context, int) (string, error) {
			for i := range 300 {
				fmt.Printf("line %d %s\n", i, strings.Repeat("x", i%7*300))
			}
			return "done", nil
		}),
		"much": sdk.JSON(func(context.Context, int) ([]string, error) { return strings.Split(strings.Repeat("word ", 200000), " "), nil }),
	})
}
`

// What is longer than an answer is cut, and can be read to its end, both ways.
func long(t *testing.T, a *agent) {
	if got := a.call("deploy", map[string]any{"service_id": "writer", "code": writer}); got.failed {
		t.Fatal(got.text)
	}
	if got := a.call("invoke", map[string]any{"service_id": "writer", "method": "write"}); got.failed {
		t.Fatal(got.text)
	}
	if got := a.call("wait", map[string]any{"service_id": "writer", "until": map[string]any{"log_match": "line 299 "}}); got.failed {
		t.Fatal(got.text)
	}
	if got := a.call("invoke", map[string]any{"service_id": "writer", "method": "much"}); got.failed || got.fields["truncated"] != true || got.fields["bytes"] != 1400004.0 {
		t.Errorf("a long reply: %.300s", got.text)
	}
	number := regexp.MustCompile(`: line (\d+) `)
	numbers := func(w answer) []int {
		var out []int
		for _, line := range w.list("logs") {
			if m := number.FindStringSubmatch(line); m != nil {
				n, _ := strconv.Atoi(m[1])
				out = append(out, n)
			}
		}
		return out
	}
	var whole []int
	for i := range 300 {
		whole = append(whole, i)
	}
	// From the newest back, as the answers say.
	var seen []int
	got := a.call("logs", map[string]any{"service_id": "writer", "text": "line "})
	if got.fields["truncated"] != true {
		t.Errorf("300 lines fit into one answer: %.200s", got.text)
	}
	for {
		seen = append(numbers(got), seen...)
		if steps, _ := got.fields["next"].([]any); len(steps) == 0 {
			break
		}
		got = a.call("logs", got.next(t, "logs"))
	}
	if !slices.Equal(seen, whole) {
		t.Errorf("backwards come %v", seen)
	}
	// From the oldest on.
	seen = nil
	for args := (map[string]any{"service_id": "writer", "text": "line ", "since_id": 0}); ; {
		got := a.call("logs", args)
		seen = append(seen, numbers(got)...)
		if steps, _ := got.fields["next"].([]any); len(steps) == 0 {
			break
		}
		args = got.next(t, "logs")
	}
	if !slices.Equal(seen, whole) {
		t.Errorf("forwards come %v", seen)
	}
}

// rawClient speaks the protocol without any SDK, in another language where there is
// one.
func rawClient(t *testing.T, d *harness.Daemon) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("there is no python3 here; the clients in Go and the raw lines of cmd/solo's tests cover the protocol")
	}
	cmd := exec.CommandContext(t.Context(), python, "testdata/agent.py", filepath.Join(d.Bin, "solo"))
	cmd.Env = append(os.Environ(), "SOLO_ADDR=unix:"+filepath.Join(d.Dir, "solo.sock"), "SOLO_TENANT=python")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
