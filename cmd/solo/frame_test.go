package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// answers runs solo mcp over the lines and returns what it writes, by id.
func answers(t *testing.T, addr, in string) map[string]map[string]any {
	t.Helper()
	var out, errs bytes.Buffer
	if status := run(t.Context(), []string{"mcp", "--addr", addr}, strings.NewReader(in), &out, &errs); status != 0 {
		t.Fatalf("status %d: %s", status, &errs)
	}
	if errs.Len() > 0 {
		t.Errorf("on stderr: %s", &errs)
	}
	all := map[string]map[string]any{}
	for line := range strings.Lines(out.String()) {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil || m["jsonrpc"] != "2.0" {
			t.Fatalf("%q is no message: %v", line, err)
		}
		id, _ := json.Marshal(m["id"])
		if all[string(id)] != nil {
			id = append(id, '+')
		}
		all[string(id)] = m
	}
	return all
}

// ping answers each request with an empty result.
func ping(w http.ResponseWriter, r *http.Request) {
	var m struct{ ID json.RawMessage }
	json.NewDecoder(r.Body).Decode(&m)
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, "{\"jsonrpc\": \"2.0\",\n \"id\": %s, \"result\": {}}\n", m.ID)
}

// A line that is no message has an answer, and the next request works.
func TestBadLines(t *testing.T) {
	addr := serve(t, ping)
	for name, tc := range map[string]struct {
		line, id string
		code     float64
	}{
		"empty":          {"", "null", rpcInvalidRequest},
		"spaces":         {" \t\r", "null", rpcInvalidRequest},
		"cut":            {`{"jsonrpc":"2.0","id":7,"method":"tools/call","par`, "null", rpcParseError},
		"not UTF-8":      {"{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"\xff\"}", "null", rpcParseError},
		"a batch":        {`[{"jsonrpc":"2.0","id":7,"method":"ping"}]`, "null", rpcInvalidRequest},
		"a number":       {`7`, "null", rpcInvalidRequest},
		"null":           {`null`, "null", rpcInvalidRequest},
		"no method":      {`{"jsonrpc":"2.0","id":7}`, "7", rpcInvalidRequest},
		"an odd id":      {`{"jsonrpc":"2.0","id":{},"method":"ping"}`, "null", rpcInvalidRequest},
		"long":           {`{"jsonrpc":"2.0","id":"seven","method":"ping","params":{"x":"` + strings.Repeat("x", 5<<20) + `"}}`, `"seven"`, rpcInvalidRequest},
		"long, id last":  {`{"jsonrpc":"2.0","method":"ping","params":{"x":"` + strings.Repeat("x", 5<<20) + `"},"id":7}`, "null", rpcInvalidRequest},
		"long, no JSON":  {strings.Repeat("x", 5<<20), "null", rpcInvalidRequest},
		"just too long":  {`{"id":1,"x":"` + strings.Repeat("x", maxFrame) + `"}`, "1", rpcInvalidRequest},
		"long and empty": {strings.Repeat(" ", maxFrame+5), "null", rpcInvalidRequest},
	} {
		t.Run(name, func(t *testing.T) {
			got := answers(t, addr, tc.line+"\n"+`{"jsonrpc":"2.0","id":"next","method":"ping"}`+"\n")
			e, _ := got[tc.id]["error"].(map[string]any)
			if e["code"] != tc.code || e["message"] == "" || len(got) != 2 {
				t.Errorf("%v", got)
			}
			if got[`"next"`]["result"] == nil {
				t.Errorf("the next request: %v", got)
			}
		})
	}
}

// The last line needs no end, notifications and responses have no answer, and an id
// is in use once.
func TestOtherLines(t *testing.T) {
	hold := make(chan bool)
	addr := serve(t, func(w http.ResponseWriter, r *http.Request) {
		<-hold
		ping(w, r)
	})
	in, feed := io.Pipe()
	go func() {
		for _, line := range []string{
			`{"jsonrpc":"2.0","method":"notifications/initialized"}`, `{"jsonrpc":"2.0","id":1,"result":{}}`,
			`{"jsonrpc":"2.0","id":5,"method":"ping"}`, `{"jsonrpc":"2.0","id":5,"method":"ping"}`,
		} {
			io.WriteString(feed, line+"\r\n")
		}
		close(hold)
		io.WriteString(feed, `{"jsonrpc":"2.0","id":6,"method":"ping"}`)
		feed.Close()
	}()
	text, err := io.ReadAll(in)
	if err != nil {
		t.Fatal(err)
	}
	got := answers(t, addr, string(text))
	if len(got) != 3 || got["6"]["result"] == nil {
		t.Errorf("%v", got)
	}
	if a, b := got["5"], got["5+"]; a["error"] == nil || b["result"] == nil {
		t.Errorf("the same id twice: %v", got)
	}
}

// More requests than may be at once are refused, and those under way are finished.
func TestManyRequests(t *testing.T) {
	hold := make(chan bool)
	addr := serve(t, func(w http.ResponseWriter, r *http.Request) {
		<-hold
		ping(w, r)
	})
	out := &output{want: "as many as may be\",\"data\":{\"error\":\"rate_limited\"}}}\n", got: func() { close(hold) }}
	var in strings.Builder
	for i := range maxRequests + 1 {
		fmt.Fprintf(&in, `{"jsonrpc":"2.0","id":%d,"method":"ping"}`+"\n", i)
	}
	if status := run(t.Context(), []string{"mcp", "--addr", addr}, strings.NewReader(in.String()), out, io.Discard); status != 0 {
		t.Fatalf("status %d", status)
	}
	if n := strings.Count(out.b.String(), `"result"`); n != maxRequests {
		t.Errorf("%d of %d were answered", n, maxRequests)
	}
}

// A cancellation ends the request, which then has no answer.
func TestCancelledRequest(t *testing.T) {
	in, feed := io.Pipe()
	addr := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		io.WriteString(feed, `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"a"}}`+"\n")
		<-r.Context().Done()
		feed.Close()
	})
	go io.WriteString(feed, `{"jsonrpc":"2.0","id":"a","method":"ping"}`+"\n")
	var out bytes.Buffer
	if status := run(t.Context(), []string{"mcp", "--addr", addr}, in, &out, io.Discard); status != 0 || out.Len() > 0 {
		t.Errorf("status %d, %s", status, &out)
	}
}

// What the daemon refuses, and that it cannot be reached, is an answer too.
func TestRefusedMessages(t *testing.T) {
	const line = `{"jsonrpc":"2.0","id":1,"method":"ping"}` + "\n"
	e, _ := answers(t, "unix:/nonexistent", line)["1"]["error"].(map[string]any)
	if e["code"] != float64(rpcServerError) || !strings.Contains(fmt.Sprint(e["message"]), "cannot be reached") {
		t.Errorf("%v", e)
	}
	addr := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusUnauthorized)
		io.WriteString(w, `{"error":"unauthenticated","message":"who?","timestamp":"x","details":{"a":1}}`)
	})
	e, _ = answers(t, addr, line)["1"]["error"].(map[string]any)
	if data, _ := e["data"].(map[string]any); e["message"] != "who?" || data["error"] != "unauthenticated" {
		t.Errorf("%v", e)
	}
	addr = serve(t, func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Type", "text/event-stream") })
	e, _ = answers(t, addr, line)["1"]["error"].(map[string]any)
	if !strings.Contains(fmt.Sprint(e["message"]), "cut off") {
		t.Errorf("%v", e)
	}
	if status := run(t.Context(), []string{"mcp", "--addr", "grpc://127.0.0.1:1"}, strings.NewReader(""), io.Discard, io.Discard); status != statusUsage {
		t.Errorf("over gRPC: status %d", status)
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("nobody reads") }

// The end of the context ends the program, whatever stdin does; and that nobody
// reads is an error.
func TestEndsOfMCP(t *testing.T) {
	in, _ := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if status := run(ctx, []string{"mcp", "--addr", "unix:/nonexistent"}, in, io.Discard, io.Discard); status != 0 {
		t.Errorf("interrupted: status %d", status)
	}
	if status := run(t.Context(), []string{"mcp", "--addr", "unix:/nonexistent"}, strings.NewReader("x\n"), full{}, io.Discard); status != statusFailed {
		t.Errorf("nobody reads: status %d", status)
	}
}

// The reader gives back the lines that bufio.Scanner would, but for their length;
// every line has a verdict, and only one.
func FuzzFrames(f *testing.F) {
	f.Add([]byte("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"m\"}\r\n\n[1]\n{\"id\":"), 40)
	f.Add([]byte("{\"id\":1,\"result\":2}\n\xff\n"+strings.Repeat("x", 200)+"\n{}"), 16)
	f.Fuzz(func(t *testing.T, in []byte, max int) {
		max = 16 + (max&0xff+0xff)%0xff
		r := &frames{r: bufio.NewReaderSize(bytes.NewReader(in), 16), max: max}
		want := strings.Split(string(in), "\n")
		if want[len(want)-1] == "" {
			want = want[:len(want)-1]
		}
		for i, w := range want {
			w = strings.TrimSuffix(w, "\r")
			line, err := r.next()
			switch {
			case len(w) > max:
				if !errors.Is(err, errLongLine) || len(line) > max+2 || !strings.HasPrefix(want[i], string(line)) {
					t.Fatalf("line %d of %d bytes: %q %v", i, len(w), line, err)
				}
				if id, fault := tooLong(line); fault == nil || !json.Valid(id) {
					t.Fatalf("%q has the id %q", line, id)
				}
			case err != nil || string(line) != w:
				t.Fatalf("line %d is %q, %v, want %q", i, line, err, w)
			default:
				m, id, fault := judge(line)
				if !json.Valid(id) || m != nil && fault != nil || m != nil && (m.method == "" || m.id != nil && !json.Valid(m.id)) {
					t.Fatalf("%q: %+v %q %+v", line, m, id, fault)
				}
			}
		}
		if line, err := r.next(); !errors.Is(err, io.EOF) {
			t.Fatalf("behind the end: %q %v", line, err)
		}
	})
}
