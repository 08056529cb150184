package mcp

import "github.com/solo-run/solo/pkg/solo"

// extra is what the arguments of a tool have beside its row.
type extra func(t *tool, properties object, required *[]string)

func (e extra) add(t *tool, properties object, required *[]string) {
	if e != nil {
		e(t, properties, required)
	}
}

var extras = map[string]extra{
	solo.OpInvoke: func(t *tool, properties object, _ *[]string) {
		properties["body"] = object{"type": "string", "description": "The request, sent as it is: JSON text for a method made with sdk.JSON. Empty by default."}
		properties["content_type"] = object{"type": "string", "description": "Of the body; application/json by default."}
	},
	solo.OpLogs:    newestFirst(100, 200),
	solo.OpEvents:  newestFirst(20, 200),
	solo.OpCrashes: wholeList(solo.CrashesKept),
}

// newestFirst reads the end of a log unless the caller goes on from a cursor.
func newestFirst(otherwise, most int) extra {
	return func(t *tool, properties object, _ *[]string) {
		properties["since_id"].(object)["description"] = "Read on from here, oldest first: the next_since_id of an answer. Left out: the newest."
		properties["limit"].(object)["description"] = "How many at most."
		properties["limit"].(object)["maximum"] = most
		t.query["tail"] = solo.Parameter{Name: "tail", Type: "boolean"}
		t.prepare = func(a *arguments) {
			a.set("limit", otherwise)
			if n := a.text("limit"); len(n) > 3 || len(n) == 3 && n > "200" {
				a.take("limit")
				a.set("limit", most)
			}
			a.take("tail")
			if !a.has("since_id") {
				a.set("tail", true)
			}
		}
	}
}

// wholeList reads a short list at once: which of it is told, the shape decides.
func wholeList(n int) extra {
	return func(t *tool, properties object, _ *[]string) {
		delete(properties, "limit")
		delete(properties, "offset")
		t.prepare = func(a *arguments) { a.set("limit", n) }
	}
}

// needed are the arguments in the body that a call cannot do without.
var needed = map[string][]string{
	solo.OpDeploy: {"service_id"},
	solo.OpWait:   {"service_id", "until"},
}

// about says of an argument what its name does not.
var about = map[string]string{
	"service_id":      "The service: letters, digits, _ and -.",
	"method":          "The name of the method, as the service's sdk.Methods has it.",
	"version":         "The number of a version.",
	"code":            "The source: one Go file of package main, or a txtar archive. This or files.",
	"files":           "The source as several files: a clean relative name and its text, such as main.go, main_test.go, go.mod.",
	"format":          "go_source, the default.",
	"name":            "Its name in the registry; service_id by default.",
	"restart":         "After which ends it is started again: permanent (each), transient (each abnormal one), temporary (none).",
	"restart_limits":  "More than max_restarts within max_seconds and it has failed. 5 within 60 by default.",
	"backoff":         "How restarts are spaced.",
	"health":          "How it proves itself.",
	"limits":          "What it may use; over the daemon's ceiling is a policy_violation.",
	"env":             "Its environment: no secrets here.",
	"secrets":         "Names of secrets that Host.Secret may read.",
	"metadata":        "Words about it, for the registry.",
	"stop_timeout_ms": "From the request to stop until it is killed.",
	"until":           "All that is named must hold at once.",
	"log_match":       "A text that a line of the present instance holds, or an RE2 expression.",
	"since_id":        "An event counts when its id is higher.",
	"timeout_ms":      "Give up after so many milliseconds.",
	"memory_mb":       "MiB.",
	"cpu_percent":     "100 is one core.",
	"note":            "Words about this change, for the list of versions.",
}

// words are the values of an argument that has few.
var words = map[string][]string{
	"restart": {string(solo.RestartPermanent), string(solo.RestartTransient), string(solo.RestartTemporary)},
	"format":  {"go_source"},
	"level":   {"debug", "info", "warn", "error"},
	"state":   states(),
}

func states() []string {
	var out []string
	for _, s := range solo.States() {
		out = append(out, string(s))
	}
	return out
}

// described adds what is known of an argument to its schema.
func described(s object, name string) object {
	if about[name] != "" {
		s["description"] = about[name]
	}
	return withWords(s, name)
}

func withWords(s object, name string) object {
	if list := words[name]; list != nil && s["type"] == "string" {
		s["enum"] = list
	}
	return s
}

// descriptions are those of the tools of which their row does not say enough.
var descriptions = map[string]string{
	solo.OpDeploy: "Compile a Go source, run its tests, start it confined and supervised, and answer once it serves. " +
		"A source that will not do is refused with diagnostics as file:line:col: message, and what ran before keeps running.",
	solo.OpCheck:   "Compile, vet and test a source and say what a deploy of it would change. Changes nothing, and is the quick way to find mistakes.",
	solo.OpInvoke:  "Call a method of a service and show its reply.",
	solo.OpLogs:    "Show what services wrote: the newest lines, or what follows since_id. level and text filter.",
	solo.OpEvents:  "Show the event log: the newest events, or what follows since_id. service_id and event_type filter.",
	solo.OpExplain: "Say why a service is in its state: what led there, its last exit with the last lines of its log, what happens next by itself, what would change it.",
	solo.OpCrashes: "Show the last crashes of a service, the newest first: exit, panic on the source's own lines, last lines of the log.",
}

func description(op solo.Operation) string {
	if d := descriptions[op.Name]; d != "" {
		return d
	}
	return op.Doc
}
