package mcp

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/solo-run/solo/pkg/solo"
)

// tool is one operation as agents see it.
type tool struct {
	op  solo.Operation
	def *sdk.Tool
	// path are the arguments in the path, by the names that the route gives them;
	// query are those of the query and of headers; body are the keys of the body.
	path  map[string]string
	query map[string]solo.Parameter
	body  map[string]bool
	// prepare changes the arguments before the call, nil where nothing does; shape
	// makes an answer of the reply.
	prepare func(*arguments)
	shape   func(*arguments, *reply) (map[string]any, error)
}

// toolName is the name of an operation's tool: that of the command.
func toolName(op string) string { return strings.ReplaceAll(op, " ", "_") }

// pathArgument is the name of a path's parameter among the arguments.
func pathArgument(route, name string) string {
	switch {
	case name == "id" && strings.HasPrefix(route, "/services/"):
		return "service_id"
	case name == "n":
		return "version"
	}
	return name
}

// unoffered are the parameters that mean nothing to an agent: it shows no
// idempotency key and follows no stream, and who it is, its proofs say.
var unoffered = []string{"Idempotency-Key", "Last-Event-ID", "tenant_id", "tail"}

// queryArgument is the name of a parameter among the arguments.
func queryArgument(p solo.Parameter) string {
	if p.Header {
		return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(p.Name, "X-")), "-", "_")
	}
	return p.Name
}

func newTool(op solo.Operation) *tool {
	t := &tool{op: op, path: map[string]string{}, query: map[string]solo.Parameter{}, body: map[string]bool{}}
	properties := object{}
	required := []string{}
	for _, part := range strings.Split(op.Path, "/") {
		if name, ok := strings.CutPrefix(part, ":"); ok {
			arg := pathArgument(op.Path, name)
			t.path[name] = arg
			properties[arg] = described(argumentSchema("string"), arg)
			required = append(required, arg)
		}
	}
	for _, p := range op.Query {
		if slices.Contains(unoffered, p.Name) {
			continue
		}
		arg := queryArgument(p)
		t.query[arg] = p
		s := argumentSchema(p.Type)
		s["description"] = p.Doc
		properties[arg] = withWords(s, arg)
	}
	if op.Request != nil {
		for name, s := range structSchema(op.Request)["properties"].(object) {
			if slices.Contains(unoffered, name) || properties[name] != nil {
				continue
			}
			t.body[name] = true
			properties[name] = s
		}
	}
	extras[op.Name].add(t, properties, &required)
	for _, name := range needed[op.Name] {
		if !slices.Contains(required, name) {
			required = append(required, name)
		}
	}
	t.def = &sdk.Tool{
		Name: toolName(op.Name), Description: description(op), Annotations: annotations(op),
		InputSchema: object{"type": "object", "properties": properties, "required": required, "additionalProperties": false},
	}
	if t.shape == nil {
		t.shape = plain
	}
	if s, ok := shapes[op.Name]; ok {
		t.shape = s
	}
	return t
}

// annotations say what a tool does to the world: a client asks its user by them.
func annotations(op solo.Operation) *sdk.ToolAnnotations {
	no, yes := false, true
	a := &sdk.ToolAnnotations{OpenWorldHint: &no, DestructiveHint: &no}
	switch {
	case op.Permission == solo.PermissionRead, op.Name == solo.OpCheck:
		a.ReadOnlyHint = true
	case op.Permission == solo.PermissionKill, op.Permission == solo.PermissionInvoke:
		a.DestructiveHint = &yes
	}
	return a
}

// arguments are those of one call, each in its own JSON.
type arguments struct {
	names  []string
	values map[string]json.RawMessage
}

// parseArguments reads the object of a call. A null is an argument left out.
func parseArguments(raw json.RawMessage) (*arguments, error) {
	a := &arguments{values: map[string]json.RawMessage{}}
	if len(bytes.TrimSpace(raw)) == 0 || string(raw) == "null" {
		return a, nil
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	if tok, err := dec.Token(); err != nil || tok != json.Delim('{') {
		return nil, solo.InvalidFields(solo.Field{Field: "arguments", Message: "must be an object"})
	}
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return nil, solo.InvalidFields(solo.Field{Field: "arguments", Message: "are not JSON"})
		}
		name, _ := tok.(string)
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, solo.InvalidFields(solo.Field{Field: "arguments", Message: "are not JSON"})
		}
		if a.values[name] != nil {
			return nil, solo.InvalidFields(solo.Field{Field: name, Message: "is there twice"})
		}
		if string(value) == "null" {
			continue
		}
		a.names = append(a.names, name)
		a.values[name] = value
	}
	return a, nil
}

// has reports whether an argument was given.
func (a *arguments) has(name string) bool { return a != nil && a.values[name] != nil }

// text is a string argument, or the JSON of one that is none; "" where it is left out.
func (a *arguments) text(name string) string {
	if !a.has(name) {
		return ""
	}
	var s string
	if json.Unmarshal(a.values[name], &s) == nil {
		return s
	}
	return string(a.values[name])
}

// set gives an argument a value, unless the caller has.
func (a *arguments) set(name string, value any) {
	if !a.has(name) {
		a.values[name] = marshal(value)
		a.names = append(a.names, name)
	}
}

// take removes an argument and returns its text.
func (a *arguments) take(name string) string {
	s := a.text(name)
	delete(a.values, name)
	a.names = slices.DeleteFunc(a.names, func(n string) bool { return n == name })
	return s
}

// request makes the call of REST; the error tells every argument at fault.
func (t *tool) request(a *arguments) (*request, error) {
	q := &request{method: t.op.Method, query: url.Values{}, header: http.Header{}}
	var faults []solo.Field
	fault := func(name, format string, args ...any) {
		faults = append(faults, solo.Field{Field: name, Message: fmt.Sprintf(format, args...)})
	}
	left := map[string]bool{}
	for _, name := range a.names {
		left[name] = true
	}
	parts := strings.Split(t.op.Path, "/")
	for i, part := range parts {
		name, ok := strings.CutPrefix(part, ":")
		if !ok {
			continue
		}
		arg := t.path[name]
		delete(left, arg)
		if parts[i] = url.PathEscape(a.text(arg)); parts[i] == "" {
			fault(arg, "is required")
		}
		if parts[i] == "." || parts[i] == ".." {
			parts[i] = strings.ReplaceAll(parts[i], ".", "%2E")
		}
	}
	q.path = strings.Join(parts, "/")
	for arg, p := range t.query {
		if !a.has(arg) {
			continue
		}
		delete(left, arg)
		v, why := parameter(p.Type, a.values[arg])
		if why != "" {
			fault(arg, "%s", why)
		}
		if p.Header {
			q.header.Set(p.Name, v)
		} else {
			q.query.Set(p.Name, v)
		}
	}
	if t.op.Streams {
		q.header.Set("Accept", "application/json")
	}
	if t.op.Request != nil {
		body := map[string]json.RawMessage{}
		for name := range left {
			body[name] = a.values[name]
			// REST tells what is wrong in the body, and what is no key of it.
			if !slices.Contains(unoffered, name) {
				delete(left, name)
			}
		}
		q.body = marshal(body)
	}
	if t.op.Name == solo.OpInvoke {
		q.body = []byte(a.text("body"))
		q.header.Set("Content-Type", "application/json")
		if a.has("content_type") {
			q.header.Set("Content-Type", a.text("content_type"))
		}
		delete(left, "body")
		delete(left, "content_type")
	}
	for name := range left {
		fault(name, "is not a known argument")
	}
	if faults != nil {
		slices.SortFunc(faults, func(a, b solo.Field) int { return strings.Compare(a.Field, b.Field) })
		return nil, solo.InvalidFields(faults...)
	}
	return q, nil
}

// parameter is the text of an argument for the query; why tells what is wrong.
func parameter(kind string, raw json.RawMessage) (text, why string) {
	switch kind {
	case "integer":
		n := strings.Trim(string(raw), `"`) // models write 5 as "5", too
		if _, err := strconv.ParseInt(n, 10, 64); err != nil {
			return "", "must be a whole number"
		}
		return n, ""
	case "boolean":
		b := strings.Trim(string(raw), `"`)
		if b != "true" && b != "false" {
			return "", "must be true or false"
		}
		return b, ""
	}
	if json.Unmarshal(raw, &text) != nil {
		return "", "must be a string"
	}
	return text, ""
}

type object = map[string]any

// argumentSchema describes a parameter of the table.
func argumentSchema(kind string) object {
	if kind == "date-time" {
		return object{"type": "string", "format": kind}
	}
	return object{"type": kind}
}

// structSchema describes a request in strict words: each object names its
// properties, each array its items, and nothing is a union with null, since what is
// absent is left out.
func structSchema(t reflect.Type) object {
	properties := object{}
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		if name == "" || name == "-" {
			continue
		}
		properties[name] = described(typeSchema(t.Field(i).Type), name)
	}
	return object{"type": "object", "properties": properties, "additionalProperties": false}
}

func typeSchema(t reflect.Type) object {
	if t.Kind() != reflect.Pointer && reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()) {
		return object{"type": "string"} // a time, or text that is not shown
	}
	switch t.Kind() {
	case reflect.Pointer:
		return typeSchema(t.Elem())
	case reflect.Struct:
		return structSchema(t)
	case reflect.Slice:
		return object{"type": "array", "items": typeSchema(t.Elem())}
	case reflect.Map:
		return object{"type": "object", "additionalProperties": typeSchema(t.Elem())}
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Int, reflect.Int64, reflect.Uint64:
		return object{"type": "integer"}
	case reflect.Float64:
		return object{"type": "number"}
	}
	return object{"type": "string"}
}
