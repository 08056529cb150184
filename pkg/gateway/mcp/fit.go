package mcp

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// cuts are how much of a text and of a list is kept, from the mildest on, until an
// answer fits.
var cuts = []struct{ text, list int }{{16 << 10, 1000}, {4 << 10, 200}, {2 << 10, 100}, {1 << 10, 50}, {512, 20}, {200, 10}, {80, 4}, {40, 1}}

// fit is the JSON of an answer, cut to at most max bytes; one that was cut says
// truncated. Logs keep their end, other lists their beginning.
func fit(out map[string]any, max int) []byte {
	raw := marshal(out)
	if len(raw) <= max {
		return raw
	}
	var v map[string]any
	if json.Unmarshal(raw, &v) != nil {
		return []byte(`{"truncated":true}`)
	}
	for _, c := range cuts {
		less := cut(v, "", c.text, c.list).(map[string]any)
		less["truncated"] = true
		if raw = marshal(less); len(raw) <= max {
			return raw
		}
	}
	// Many keys are left, each of them short: the first say what it is about.
	least := map[string]any{"truncated": true}
	for _, name := range []string{"error", "message", "service_id", "state", "next"} {
		if v[name] != nil {
			least[name] = cut(v[name], name, 80, 2)
		}
	}
	return marshal(least)
}

// cut keeps of each text and list no more than so much.
func cut(v any, name string, text, list int) any {
	switch v := v.(type) {
	case string:
		return shorten(v, text)
	case []any:
		if len(v) > list {
			if ends(name) {
				v = v[len(v)-list:]
			} else {
				v = v[:list]
			}
		}
		out := make([]any, len(v))
		for i := range v {
			out[i] = cut(v[i], "", text, list)
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for _, key := range keys(v, max(list, minKeys)) {
			out[shorten(key, text)] = cut(v[key], key, text, list)
		}
		return out
	}
	return v
}

// minKeys is how many keys of an object are kept in any case: no answer of the
// daemon's own has more.
const minKeys = 32

func keys(m map[string]any, n int) []string {
	list := slices.Sorted(maps.Keys(m))
	return list[:min(n, len(list))]
}

// ends tells lists of which the last entries say most.
func ends(name string) bool {
	switch name {
	case "log_tail", "logs", "events", "chain", "usage_curve":
		return true
	}
	return false
}

// shorten keeps the head and the tail of a text, in at most n bytes and the mark
// between them.
func shorten(s string, n int) string {
	if len(s) <= n {
		return s
	}
	head, tail := n*2/3, n-n*2/3
	for head > 0 && !utf8.RuneStart(s[head]) {
		head--
	}
	at := len(s) - tail
	for at < len(s) && !utf8.RuneStart(s[at]) {
		at++
	}
	return strings.ToValidUTF8(s[:head]+" … "+s[at:], "\uFFFD")
}
