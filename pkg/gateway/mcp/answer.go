package mcp

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/solo-run/solo/pkg/solo"
)

// MaxAnswer bounds the JSON of an answer, in bytes. A result holds it twice: as
// text, and as structured content for clients that take it.
const MaxAnswer = 24 << 10

// step is a call that makes sense now.
type step struct {
	Tool      string `json:"tool"`
	Arguments object `json:"arguments,omitempty"`
	Why       string `json:"why"`
}

// result is an answer within its bounds. Steps of tools that the caller does not have
// are left out.
func (s *Server) result(in *incoming, out map[string]any, failed bool) *sdk.CallToolResult {
	if steps, ok := out["next"].([]step); ok {
		kept := []step{}
		for _, st := range steps {
			if s.offers(in.principal, st.Tool) {
				kept = append(kept, st)
			}
		}
		out["next"] = kept
	}
	text := fit(out, MaxAnswer)
	return &sdk.CallToolResult{
		Content: []sdk.Content{&sdk.TextContent{Text: string(text)}}, StructuredContent: json.RawMessage(text), IsError: failed,
	}
}

// refusal is the result of a call that failed: what is wrong, where, and what now.
func (s *Server) refusal(in *incoming, t *tool, a *arguments, f *failure) *sdk.CallToolResult {
	out := map[string]any{"error": f.Error, "message": f.Message}
	for name, v := range f.Details {
		switch name {
		case "diagnostics", "findings":
			out[name] = places(v)
		case "panic":
			out[name] = place(v)
		case "log_tail":
			// It is in the exit, too.
			if f.Details["exit"] == nil {
				out[name] = v
			}
		case "exit":
			out[name] = exit(v)
		default:
			if _, taken := out[name]; !taken {
				out[name] = v
			}
		}
	}
	if f.retryAfter > 0 {
		out["retry_after_s"] = f.retryAfter
	}
	if f.requestID != "" {
		out["request_id"] = f.requestID
	}
	out["next"] = s.mend(t, a, f)
	return s.result(in, out, true)
}

// mend says what to do about a refusal.
func (s *Server) mend(t *tool, a *arguments, f *failure) []step {
	id := a.text("service_id")
	of := object{"service_id": id}
	switch f.Error {
	case solo.CodeCompileFailed, solo.CodeTestsFailed, solo.CodePolicyViolation:
		return []step{{"check", nil, "mend the source at the places named, then check it again, or deploy it"}}
	case solo.CodeStartFailed:
		return []step{{t.def.Name, nil, "exit and panic say why it did not start; mend the source and try again; what ran before still does"}}
	case solo.CodeConflict:
		if f.Details["version"] == nil {
			return []step{{t.def.Name, nil, "try again in a moment, with the same arguments"}, {"status", of, "see what it is now"}}
		}
		if t.op.Name == solo.OpDeploy && s.tools["swap"] != nil {
			return []step{{"swap", of, "replace what runs by the new source, with the same arguments"}, {"status", of, "see what runs"}}
		}
		if t.op.Name == solo.OpDeploy {
			return []step{{"kill", of, "end what runs, then deploy again"}, {"status", of, "see what runs"}}
		}
		return []step{{"status", of, "see what it is now"}}
	case solo.CodeNotFound:
		return []step{{"list", nil, "see which services there are"}}
	case solo.CodeNotRunning, solo.CodeNotReady, solo.CodeUnavailable, solo.CodeCircuitOpen:
		return []step{{"explain", of, "see why"}, {"logs", of, "read what it wrote"}}
	case solo.CodeServiceError:
		return []step{{"logs", object{"service_id": id, "level": "warn"}, "read what it wrote: a panic leaves its stack there"}}
	case solo.CodeTimeout, solo.CodeDeadlineExceeded:
		return []step{{"explain", of, "see why it takes so long"}, {t.def.Name, nil, "go on waiting with the same arguments"}}
	}
	return []step{}
}

// places words a list of diagnostics as an editor takes them.
func places(v any) []string {
	list, _ := v.([]any)
	out := make([]string, 0, len(list))
	for _, d := range list {
		out = append(out, place(d))
	}
	return out
}

// place words one diagnostic: file:line:col: message.
func place(v any) string {
	var d solo.Diagnostic
	if json.Unmarshal(marshal(v), &d) != nil {
		return string(marshal(v))
	}
	var b strings.Builder
	if d.File != nil {
		b.WriteString(*d.File)
		for _, n := range []*int{d.Line, d.Column} {
			if n == nil {
				break
			}
			fmt.Fprintf(&b, ":%d", *n)
		}
		b.WriteString(": ")
	}
	if d.Test != "" && !strings.Contains(d.Message, d.Test) {
		b.WriteString(d.Test + ": ")
	}
	b.WriteString(d.Message)
	if d.Rule != "" {
		fmt.Fprintf(&b, " [%s]", d.Rule)
	}
	if d.Advice != "" {
		b.WriteString("; " + d.Advice)
	}
	if d.Output != "" {
		b.WriteString("\n" + strings.TrimRight(d.Output, "\n"))
	}
	return b.String()
}

// exit keeps of an end what tells why.
func exit(v any) any {
	m, ok := v.(map[string]any)
	if !ok {
		return v
	}
	out := map[string]any{}
	for _, name := range []string{"reason", "code", "signal", "at", "ran_ms", "log_tail", "details"} {
		if !empty(m[name]) {
			out[name] = m[name]
		}
	}
	if m["oom"] == true {
		out["oom"] = true
	}
	return out
}

func empty(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case []any:
		return len(v) == 0
	case map[string]any:
		return len(v) == 0
	case string:
		return v == ""
	}
	return false
}

// brief leaves out of an answer what says nothing: nulls, and what is empty.
func brief(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for name, inner := range v {
			if !empty(inner) {
				out[name] = brief(inner)
			}
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = brief(v[i])
		}
		return out
	}
	return v
}

// decode reads the object of a reply, its numbers as they stand.
func decode(r *reply) (map[string]any, error) {
	var out map[string]any
	dec := json.NewDecoder(bytes.NewReader(r.body.Bytes()))
	dec.UseNumber()
	if err := dec.Decode(&out); err != nil {
		return nil, solo.Internal(err)
	}
	return out, nil
}

// plain is the answer of an operation that has no shape of its own: what REST says
// without what is empty, and, of a page, where the next begins.
func plain(_ *arguments, r *reply) (map[string]any, error) {
	m, err := decode(r)
	if err != nil {
		return nil, err
	}
	out := brief(m).(map[string]any)
	total, offset, n := number(m["total"]), number(m["offset"]), 0
	for name, v := range m {
		if list, ok := v.([]any); ok {
			n = max(n, len(list))
			if len(list) == 0 {
				out[name] = v
			}
		}
	}
	delete(out, "limit")
	delete(out, "offset")
	if m["total"] != nil && offset+n < total {
		out["next_offset"] = offset + n
	}
	return out, nil
}

func number(v any) int {
	n, _ := v.(json.Number)
	i, _ := n.Int64()
	return int(i)
}
