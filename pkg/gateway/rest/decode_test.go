package rest

import (
	"encoding/json"
	"testing"

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
