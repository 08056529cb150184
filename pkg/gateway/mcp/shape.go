package mcp

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/solo-run/solo/pkg/solo"
)

// shapes make the short answers.
var shapes = map[string]func(*arguments, *reply) (map[string]any, error){
	solo.OpDeploy:  service,
	solo.OpStatus:  service,
	solo.OpRestart: service,
	solo.OpCheck:   checked,
	solo.OpList:    listed,
	solo.OpInvoke:  invoked,
	solo.OpExplain: explained,
	solo.OpCrashes: crashed,
	solo.OpWait:    waited,
	solo.OpLogs:    logged,
	solo.OpEvents:  happened,
	solo.OpKill:    killed,
}

// service is a service in short, with what to do next for its state.
func service(_ *arguments, r *reply) (map[string]any, error) {
	m, err := decode(r)
	if err != nil {
		return nil, err
	}
	out := shortService(m)
	out["next"] = stepsFor(out)
	return out, nil
}

func shortService(m map[string]any) map[string]any {
	out := map[string]any{}
	for _, name := range []string{"service_id", "state", "ready", "version", "restarts", "instance", "started_at", "deployed_at", "restarted"} {
		if m[name] != nil {
			out[name] = m[name]
		}
	}
	if v, ok := m["swap"].(map[string]any); ok {
		out["swap"] = brief(v)
	}
	if m["last_exit"] != nil {
		out["last_exit"] = exit(m["last_exit"])
	}
	if u, ok := m["usage"].(map[string]any); ok {
		out["usage"] = u
	}
	if b, ok := m["build"].(map[string]any); ok {
		if w, ok := b["warnings"].([]any); ok && len(w) > 0 {
			out["warnings"] = places(w)
		}
	}
	if off := layersOff(m["isolation"]); len(off) > 0 {
		out["isolation_off"] = off
	}
	return out
}

// layersOff are the layers of isolation that a service runs without.
func layersOff(v any) []string {
	m, _ := v.(map[string]any)
	var out []string
	for name, on := range m {
		if on == "off" {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

func stepsFor(svc map[string]any) []step {
	id, _ := svc["service_id"].(string)
	of := object{"service_id": id}
	switch solo.State(fmt.Sprint(svc["state"])) {
	case solo.StateRunning:
		if svc["ready"] == false {
			return []step{{"logs", of, "its own Health says no: see why"}}
		}
		return []step{{"invoke", of, "call one of its methods"}, {"logs", of, "read what it writes"}}
	case solo.StateStarting, solo.StateStopping:
		return []step{{"wait", object{"service_id": id, "until": object{"state": "running"}}, "until it runs"}}
	case solo.StateBackoff, solo.StateFailed:
		return []step{{"explain", of, "see why it ended"}, {"rollback", of, "go back to the version before"}, {"restart", of, "start it anew"}}
	}
	return []step{{"explain", of, "see why it does not run"}, {"restart", of, "start it anew"}}
}

func killed(a *arguments, r *reply) (map[string]any, error) {
	out, err := plain(a, r)
	if err == nil {
		out["next"] = []step{{"restart", object{"service_id": out["service_id"]}, "start it again"}}
	}
	return out, err
}

func checked(a *arguments, r *reply) (map[string]any, error) {
	m, err := decode(r)
	if err != nil {
		return nil, err
	}
	out := map[string]any{"ok": m["ok"], "diagnostics": places(m["diagnostics"])}
	for _, name := range []string{"findings", "warnings"} {
		if list := places(m[name]); len(list) > 0 {
			out[name] = list
		}
	}
	if !empty(m["changes"]) {
		out["changes"] = m["changes"]
	}
	if m["ok"] == true {
		out["next"] = []step{{"deploy", nil, "the same source would be taken"}}
	} else {
		out["next"] = []step{{"check", nil, "mend the source at the places named, and check it again"}}
	}
	return out, nil
}

func listed(a *arguments, r *reply) (map[string]any, error) {
	out, err := plain(a, r)
	if err != nil {
		return nil, err
	}
	list, _ := out["services"].([]any)
	short := make([]any, 0, len(list))
	for _, v := range list {
		m, _ := v.(map[string]any)
		line := map[string]any{}
		for _, name := range []string{"service_id", "state", "ready", "version", "restarts"} {
			line[name] = m[name]
		}
		short = append(short, line)
	}
	out["services"] = short
	if len(short) == 0 {
		out["next"] = []step{{"deploy", nil, "there is none yet: deploy a source"}}
	}
	return out, nil
}

// invoked is a service's own reply: JSON as JSON, text as text, else base64.
func invoked(_ *arguments, r *reply) (map[string]any, error) {
	body := r.body.Bytes()
	kind := r.header.Get("Content-Type")
	out := map[string]any{"content_type": kind, "bytes": len(body)}
	const room = MaxAnswer - 1<<10
	media, _, _ := strings.Cut(kind, ";")
	switch {
	case media == "application/json" && json.Valid(body) && len(body) <= room:
		out["reply"] = json.RawMessage(body)
		return out, nil
	case utf8.Valid(body):
		out["reply"] = string(body)
	default:
		out["reply_base64"] = base64.StdEncoding.EncodeToString(body[:min(len(body), room/2)])
	}
	if len(marshal(out)) > room || len(body) > room/2 && out["reply_base64"] != nil {
		if s, ok := out["reply"].(string); ok {
			out["reply"] = shorten(s, room/4)
		}
		out["truncated"] = true
		out["note"] = "the reply is longer than an answer here may be: call a method that says less"
	}
	return out, nil
}

func explained(_ *arguments, r *reply) (map[string]any, error) {
	m, err := decode(r)
	if err != nil {
		return nil, err
	}
	out := map[string]any{}
	for _, name := range []string{"service_id", "state", "ready", "version", "summary", "budget"} {
		out[name] = m[name]
	}
	if m["last_exit"] != nil {
		out["last_exit"] = exit(m["last_exit"])
	}
	if next, ok := m["next"].(map[string]any); ok {
		out["by_itself"] = brief(next)
	}
	chain, _ := m["chain"].([]any)
	out["chain"] = lines(chain)
	steps := stepsFor(out)
	if len(steps) > 0 && steps[0].Tool == "explain" {
		steps[0] = step{"crashes", steps[0].Arguments, "see the panic on the source's own lines"}
	}
	out["next"] = append(steps, step{"logs", object{"service_id": m["service_id"]}, "read what it wrote"})
	return out, nil
}

// lines are events in a line each.
func lines(events []any) []string {
	out := make([]string, 0, len(events))
	for _, v := range events {
		m, _ := v.(map[string]any)
		out = append(out, fmt.Sprintf("%v %v %v %s", m["id"], m["timestamp"], m["event_type"], shorten(string(marshal(brief(m["payload"]))), 300)))
	}
	return out
}

// crashed tells the newest first, as many as fit.
func crashed(_ *arguments, r *reply) (map[string]any, error) {
	m, err := decode(r)
	if err != nil {
		return nil, err
	}
	list, _ := m["crashes"].([]any)
	out := map[string]any{"total": m["total"]}
	told, room := []any{}, MaxAnswer-2<<10
	for _, v := range slices.Backward(list) {
		c, _ := v.(map[string]any)
		short := map[string]any{"at": c["at"], "instance": c["instance"], "version": c["version"], "last_exit": exit(c["last_exit"])}
		if p, ok := c["panic"].(map[string]any); ok {
			short["panic"] = place(p)
			stack, _ := p["stack"].([]any)
			frames := make([]string, 0, len(stack))
			for _, f := range stack {
				f, _ := f.(map[string]any)
				frames = append(frames, fmt.Sprintf("%v:%v %v", f["file"], f["line"], f["function"]))
			}
			short["stack"] = frames
		}
		size := len(marshal(short))
		if len(told) > 0 && size > room {
			out["truncated"] = true
			break
		}
		told, room = append(told, short), room-size
	}
	out["crashes"] = told
	return out, nil
}

func waited(_ *arguments, r *reply) (map[string]any, error) {
	m, err := decode(r)
	if err != nil {
		return nil, err
	}
	out := map[string]any{"waited_ms": m["waited_ms"]}
	if svc, ok := m["service"].(map[string]any); ok {
		short := shortService(svc)
		out["service"] = short
		out["next"] = stepsFor(short)
	}
	for _, name := range []string{"event", "log"} {
		if m[name] != nil {
			out[name] = brief(m[name])
		}
	}
	return out, nil
}

// pageRoom is what the lines of a page may have of an answer.
const pageRoom = MaxAnswer - 3<<10

// window is as much of a page as fits: of a tail the end, else the beginning.
// sizes are those of its entries.
func window(sizes []int, tail bool) (from, to int) {
	room := pageRoom
	if tail {
		for from = len(sizes); from > 0 && sizes[from-1] <= room; from-- {
			room -= sizes[from-1]
		}
		return from, len(sizes)
	}
	for to = 0; to < len(sizes) && sizes[to] <= room; to++ {
		room -= sizes[to]
	}
	return 0, to
}

// maxLine is how much of one line is told.
const maxLine = 2 << 10

// logged is a page of the log: the newest lines, or what follows a cursor, as much
// of it as fits.
func logged(a *arguments, r *reply) (map[string]any, error) {
	var page solo.LogPage
	if err := json.Unmarshal(r.body.Bytes(), &page); err != nil {
		return nil, solo.Internal(err)
	}
	text := make([]string, len(page.Logs))
	sizes := make([]int, len(page.Logs))
	for i, l := range page.Logs {
		text[i] = fmt.Sprintf("%s %s#%d %s %s: %s", l.Timestamp.Format(time.RFC3339Nano), l.ServiceID, l.Instance, l.Stream, l.Level, shorten(l.Line, maxLine))
		sizes[i] = len(marshal(text[i])) + 1
	}
	tail := !a.has("since_id")
	from, to := window(sizes, tail)
	out := map[string]any{"logs": text[from:to], "next_since_id": page.NextSinceID}
	if to-from < len(text) {
		out["truncated"] = true
	}
	again := func(set object) object {
		args := object{}
		for _, name := range []string{"service_id", "instance", "level", "text", "since", "until", "limit"} {
			if a.has(name) && name != "limit" {
				args[name] = json.RawMessage(a.values[name])
			}
		}
		for name, v := range set {
			args[name] = v
		}
		return args
	}
	full := len(text) > 0 && fmt.Sprint(len(text)) == a.text("limit")
	switch {
	case tail && (from > 0 || full):
		// The id of a line is its time in microseconds: until is a cursor, backwards.
		before := time.UnixMicro(int64(page.Logs[from].ID) - 1).UTC().Format(time.RFC3339Nano)
		out["next"] = []step{{"logs", again(object{"until": before}), "read the lines before these"}}
	case !tail && (to < len(text) || full):
		if to < len(text) {
			out["next_since_id"] = page.Logs[to-1].ID
		}
		out["next"] = []step{{"logs", again(object{"since_id": out["next_since_id"]}), "read on"}}
	}
	return out, nil
}

// happened is a page of the event log.
func happened(a *arguments, r *reply) (map[string]any, error) {
	m, err := decode(r)
	if err != nil {
		return nil, err
	}
	list, _ := m["events"].([]any)
	events := make([]any, len(list))
	sizes := make([]int, len(list))
	for i, v := range list {
		e, _ := v.(map[string]any)
		short := map[string]any{}
		for _, name := range []string{"id", "timestamp", "event_type", "subject", "causation_id"} {
			if e[name] != nil {
				short[name] = e[name]
			}
		}
		if !empty(e["payload"]) {
			short["payload"] = payload(e["payload"])
		}
		events[i], sizes[i] = short, len(marshal(short))+1
	}
	tail := !a.has("since_id")
	from, to := window(sizes, tail)
	out := map[string]any{"events": events[from:to], "next_since_id": m["next_since_id"], "last_id": m["last_id"]}
	again := func(since any) object {
		args := object{"since_id": since}
		for _, name := range []string{"service_id", "event_type"} {
			if a.has(name) {
				args[name] = json.RawMessage(a.values[name])
			}
		}
		return args
	}
	id := func(i int) json.Number {
		e, _ := list[i].(map[string]any)
		n, _ := e["id"].(json.Number)
		return n
	}
	if to-from < len(list) {
		out["truncated"] = true
	}
	switch full := fmt.Sprint(len(list)) == a.text("limit"); {
	case tail && from > 0:
		first, _ := id(0).Int64()
		out["next"] = []step{{"events", again(first - 1), "read those before these"}}
	case tail && full:
		out["next"] = []step{{"events", again(0), "read the log from its beginning"}}
	case !tail && to < len(list):
		out["next_since_id"] = id(to - 1)
		out["next"] = []step{{"events", again(out["next_since_id"]), "read on"}}
	case !tail && full:
		out["next"] = []step{{"events", again(out["next_since_id"]), "read on"}}
	}
	return out, nil
}

// maxPayload is how much of one payload is told.
const maxPayload = 2 << 10

func payload(v any) any {
	v = brief(v)
	if m, ok := v.(map[string]any); ok && len(marshal(m)) > maxPayload {
		return json.RawMessage(fit(m, maxPayload))
	}
	return v
}
