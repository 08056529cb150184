package rest

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"

	"github.com/labstack/echo/v4"

	"github.com/solo-run/solo/pkg/solo"
)

// What is taken here, encoding/json takes too, and to the same end.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"service_id":"s","limits":{"memory_mb":64},"env":{"A":"b"},"backoff":{"factor":2.5}}`))
	f.Add([]byte(`{"a":[[[{"b":null}]]],"restart":null}`))
	f.Add([]byte("{\"code\":\"\\ud800\"}"))
	f.Add([]byte(`{"x":{"service_id":1,"service_id":2}} x`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var ours, theirs solo.DeployRequest
		err := decode(body, &ours)
		if err != nil {
			if e := solo.AsError(err); e.Code != solo.CodeInvalidRequest || e.Details["fields"] == nil {
				t.Fatalf("%v", err)
			}
			return
		}
		if err := json.Unmarshal(body, &theirs); err != nil {
			t.Fatalf("taken here, and not there: %v", err)
		}
		a, _ := json.Marshal(ours)
		b, _ := json.Marshal(theirs)
		if string(a) != string(b) {
			t.Fatalf("%s here, %s there", a, b)
		}
	})
}

func TestEveryOperationIsServed(t *testing.T) {
	s := &Server{}
	handlers := s.handlers()
	for _, op := range solo.Operations() {
		if handlers[op.Name] == nil {
			t.Errorf("nobody serves %q", op.Name)
		}
		delete(handlers, op.Name)
	}
	for name := range handlers {
		t.Errorf("%q stands in no table", name)
	}
	if len(statuses) != len(solo.Codes()) {
		t.Errorf("the table of statuses has %d codes, there are %d", len(statuses), len(solo.Codes()))
	}
}

// Table, router and description are one.
func TestTheDescriptionIsTheRouter(t *testing.T) {
	s := New(Config{})
	routes := map[string]bool{}
	for _, r := range s.http.Handler.(*echo.Echo).Routes() {
		routes[r.Method+" "+openPath(r.Path)] = true
	}
	var doc struct {
		Paths map[string]map[string]struct {
			OperationID string `json:"operationId"`
			Responses   map[string]any
		}
		Components struct{ Schemas map[string]any }
	}
	if err := json.Unmarshal(description(), &doc); err != nil {
		t.Fatal(err)
	}
	described := 0
	for path, methods := range doc.Paths {
		for method, op := range methods {
			described++
			if !routes[strings.ToUpper(method)+" "+path] {
				t.Errorf("%s %s is described, and not served", method, path)
			}
			if op.OperationID == "" || op.Responses["200"] == nil {
				t.Errorf("%s %s is described by halves", method, path)
			}
		}
	}
	if described != len(routes) || described != len(solo.Operations()) {
		t.Errorf("%d operations are described, %d routes served, %d rows stand in the table", described, len(routes), len(solo.Operations()))
	}
	// Every reference leads somewhere.
	for _, ref := range regexp.MustCompile(`#/components/schemas/(\w+)`).FindAllStringSubmatch(string(description()), -1) {
		if doc.Components.Schemas[ref[1]] == nil {
			t.Errorf("there is no schema %s", ref[1])
		}
	}
}
