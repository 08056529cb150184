package rest

import (
	"encoding/json"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/solo-run/solo/pkg/solo"
)

// openAPI describes the API: the table of operations and its Go types, in the
// words of OpenAPI 3.1.
func (s *Server) openAPI(c *call) error {
	return c.Blob(http.StatusOK, "application/json", description())
}

var description = sync.OnceValue(func() []byte {
	d := describer{schemas: map[string]any{}}
	text, err := json.Marshal(d.document())
	if err != nil {
		panic(err) // maps of strings always encode
	}
	return text
})

type object = map[string]any

// describer collects the schemas that the operations name.
type describer struct{ schemas map[string]any }

func (d *describer) document() object {
	paths := map[string]object{}
	for _, op := range solo.Operations() {
		path := openPath(op.Path)
		if paths[path] == nil {
			paths[path] = object{}
		}
		paths[path][strings.ToLower(op.Method)] = d.operation(op)
	}
	d.schemas["Error"] = object{
		"type": "object", "required": []string{"error", "message", "timestamp", "details"},
		"properties": object{
			"error": object{"type": "string", "enum": solo.Codes()}, "message": object{"type": "string"},
			"timestamp": object{"type": "string", "format": "date-time"}, "details": object{"type": "object"},
		},
	}
	return object{
		"openapi": "3.1.0",
		"info":    object{"title": "Solo", "version": "1", "description": "A user-level operating system for programs that agents write."},
		"paths":   paths,
		"components": object{
			"schemas": d.schemas,
			"securitySchemes": object{
				"tenant":     object{"type": "apiKey", "in": "header", "name": "X-Tenant-ID"},
				"capability": object{"type": "http", "scheme": "bearer"},
			},
		},
	}
}

// openPath is echo's spelling of a path in OpenAPI's: :id becomes {id}.
func openPath(path string) string {
	parts := strings.Split(path, "/")
	for i, p := range parts {
		if name, ok := strings.CutPrefix(p, ":"); ok {
			parts[i] = "{" + name + "}"
		}
	}
	return strings.Join(parts, "/")
}

func (d *describer) operation(op solo.Operation) object {
	out := object{"operationId": strings.ReplaceAll(op.Name, " ", "_"), "summary": op.Doc}
	var params []object
	for _, part := range strings.Split(op.Path, "/") {
		if name, ok := strings.CutPrefix(part, ":"); ok {
			params = append(params, object{"name": name, "in": "path", "required": true, "schema": object{"type": "string"}})
		}
	}
	for _, p := range op.Query {
		schema, in := object{"type": p.Type}, "query"
		if p.Type == "date-time" {
			schema = object{"type": "string", "format": p.Type}
		}
		if p.Header {
			in = "header"
		}
		params = append(params, object{"name": p.Name, "in": in, "schema": schema, "description": p.Doc})
	}
	if params != nil {
		out["parameters"] = params
	}
	if op.Permission != solo.PermissionNone {
		out["security"] = []object{{"tenant": []string{}}, {"capability": []string{}}}
	} else {
		out["security"] = []object{}
	}
	switch {
	case op.Request != nil:
		out["requestBody"] = object{"required": true, "content": object{"application/json": object{"schema": d.schema(op.Request)}}}
	case op.MaxBody > 0:
		out["requestBody"] = object{"content": object{"*/*": object{"schema": object{}}}}
	}
	content := object{"*/*": object{"schema": object{}}}
	if op.Response != nil {
		content = object{"application/json": object{"schema": d.schema(op.Response)}}
	}
	if op.Media != "" {
		content[op.Media] = object{"schema": object{"type": "string"}}
	}
	if op.Streams {
		content["text/event-stream"] = object{"schema": object{"type": "string"}}
	}
	responses := object{
		"200":     object{"description": "Done.", "content": content},
		"default": object{"description": "Refused.", "content": object{"application/json": object{"schema": object{"$ref": "#/components/schemas/Error"}}}},
	}
	if op.Name == solo.OpDeploy {
		responses["201"] = object{"description": "Created.", "content": content}
	}
	codes := map[int][]string{}
	for _, code := range op.Codes {
		codes[statuses[code]] = append(codes[statuses[code]], string(code))
	}
	for status, names := range codes {
		slices.Sort(names)
		responses[strconv.Itoa(status)] = object{"description": strings.Join(names, ", "), "content": object{"application/json": object{"schema": object{"$ref": "#/components/schemas/Error"}}}}
	}
	out["responses"] = responses
	return out
}

// schema describes a Go type as it stands in JSON.
func (d *describer) schema(t reflect.Type) object {
	switch {
	case t == reflect.TypeFor[time.Time]():
		return object{"type": "string", "format": "date-time"}
	case t.Kind() == reflect.Pointer:
		inner := d.schema(t.Elem())
		if kind, ok := inner["type"].(string); ok {
			inner["type"] = []string{kind, "null"}
			return inner
		}
		return object{"anyOf": []object{inner, {"type": "null"}}}
	}
	if t == reflect.TypeFor[solo.Sensitive]() {
		return object{"type": "string", "format": "password"}
	}
	switch t.Kind() {
	case reflect.Struct:
		if d.schemas[t.Name()] == nil {
			d.schemas[t.Name()] = object{} // its own fields may name it
			d.schemas[t.Name()] = d.fields(t)
		}
		return object{"$ref": "#/components/schemas/" + t.Name()}
	case reflect.Slice:
		return object{"type": "array", "items": d.schema(t.Elem())}
	case reflect.Map:
		if t.Elem().Kind() == reflect.Interface {
			return object{"type": "object"}
		}
		return object{"type": "object", "additionalProperties": d.schema(t.Elem())}
	case reflect.String:
		return object{"type": "string"}
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Int, reflect.Int64, reflect.Uint64:
		return object{"type": "integer"}
	case reflect.Float64:
		return object{"type": "number"}
	}
	return object{}
}

func (d *describer) fields(t reflect.Type) object {
	properties := object{}
	var required []string
	for i := range t.NumField() {
		name, opts, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		if name == "" || name == "-" {
			continue
		}
		properties[name] = d.schema(t.Field(i).Type)
		// What is absent in an answer is null; in a request it may be left out.
		if opts == "" && !strings.HasSuffix(t.Name(), "Request") {
			required = append(required, name)
		}
	}
	out := object{"type": "object", "properties": properties}
	if required != nil {
		out["required"] = required
	}
	if strings.HasSuffix(t.Name(), "Request") {
		out["additionalProperties"] = false
	}
	return out
}
