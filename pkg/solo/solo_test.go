package solo_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/solo-run/solo/pkg/solo"
)

func TestIDs(t *testing.T) {
	for _, good := range []string{"a", "_", "9", "a-b_C", strings.Repeat("x", 128)} {
		if err := solo.CheckID(good); err != nil {
			t.Errorf("%.20q: %v", good, err)
		}
	}
	for _, bad := range []string{"", "-a", "a.b", "a/b", "a b", "а", "a\x00", "é", strings.Repeat("x", 129), ".."} {
		if solo.CheckID(bad) == nil {
			t.Errorf("%.20q is taken", bad)
		}
	}
}

func FuzzID(f *testing.F) {
	f.Add("a-b", "a", "b")
	f.Add("..", "a_b", "c")
	f.Fuzz(func(t *testing.T, id, other, third string) {
		if solo.CheckID(id) == nil && (strings.ContainsAny(id, "/\\.%\x00 ") || id[0] == '-' || len(id) > 128) {
			t.Errorf("%q is taken", id)
		}
		// Joining would make tenants a_b and a collide (lesson D11).
		x, y := solo.Key{Tenant: id + other, Service: third}, solo.Key{Tenant: id, Service: other + third}
		if x != y && x.Digest() == y.Digest() {
			t.Errorf("%v and %v share a digest", x, y)
		}
	})
}

func ptr[T any](v T) *T { return &v }

func TestSettings(t *testing.T) {
	defaults := solo.DefaultLimits()
	ceiling := solo.Limits{MemoryMB: 2048, CPUPercent: 400, PIDs: 400, LogMB: 64, KVMB: 256}
	s, err := (&solo.DeployRequest{}).Settings("svc", defaults, ceiling)
	if err != nil || s.Name != "svc" || s.Restart != solo.RestartPermanent || s.RestartLimits != (solo.RestartLimits{MaxRestarts: 5, MaxSeconds: 60}) || s.StopTimeoutMS != 5000 || s.Env == nil {
		t.Errorf("the defaults are %+v, %v", s, err)
	}
	s, err = (&solo.DeployRequest{Backoff: &solo.BackoffRequest{InitialMS: ptr(7)}, RestartLimits: &solo.RestartLimitsRequest{MaxRestarts: ptr(0)}}).Settings("svc", defaults, ceiling)
	if err != nil || s.Backoff.InitialMS != 7 || s.Backoff.Factor != 2 || s.RestartLimits.MaxRestarts != 0 || s.RestartLimits.MaxSeconds != 60 {
		t.Errorf("half an object: %+v, %v", s, err)
	}
	for field, req := range map[string]solo.DeployRequest{
		"name":                        {Name: ptr("-")},
		"restart":                     {Restart: ptr(solo.RestartType("always"))},
		"restart_limits.max_restarts": {RestartLimits: &solo.RestartLimitsRequest{MaxRestarts: ptr(-1)}},
		"restart_limits.max_seconds":  {RestartLimits: &solo.RestartLimitsRequest{MaxSeconds: ptr(0)}},
		"backoff.initial_ms":          {Backoff: &solo.BackoffRequest{InitialMS: ptr(0)}},
		"backoff.factor":              {Backoff: &solo.BackoffRequest{Factor: ptr(math.NaN())}},
		"backoff.jitter":              {Backoff: &solo.BackoffRequest{Jitter: ptr(1.1)}},
		"health.interval_ms":          {Health: &solo.HealthRequest{IntervalMS: ptr(0)}},
		"health.failures":             {Health: &solo.HealthRequest{Failures: ptr(0)}},
		"limits.memory_mb":            {Limits: &solo.LimitsRequest{MemoryMB: ptr(1)}},
		"stop_timeout_ms":             {StopTimeoutMS: ptr(-1)},
		"env.SOLO_X":                  {Env: map[string]string{"SOLO_X": "1"}},
		"env.PLUGIN_X":                {Env: map[string]string{"PLUGIN_X": "1"}},
		"env.A=B":                     {Env: map[string]string{"A=B": "1"}},
		"env.NUL":                     {Env: map[string]string{"NUL": "a\x00b"}},
		"env":                         {Env: map[string]string{"BIG": strings.Repeat("x", 40<<10)}},
	} {
		_, err := req.Settings("svc", defaults, ceiling)
		fields, _ := solo.AsError(err).Details["fields"].([]solo.Field)
		if solo.CodeOf(err) != solo.CodeInvalidRequest || len(fields) != 1 || fields[0].Field != field {
			t.Errorf("%s: %v %+v", field, err, fields)
		}
	}
	_, err = (&solo.DeployRequest{Limits: &solo.LimitsRequest{MemoryMB: ptr(4096), DataMB: ptr(1)}}).Settings("svc", defaults, ceiling)
	findings, _ := solo.AsError(err).Details["findings"].([]solo.Diagnostic)
	if solo.CodeOf(err) != solo.CodePolicyViolation || len(findings) != 2 || findings[0].Rule != "limits.ceiling_memory_mb" {
		t.Errorf("over the ceiling: %v %+v", err, findings)
	}
}

func TestErrors(t *testing.T) {
	cause := fmt.Errorf("cannot open: %w", fs.ErrPermission)
	hidden := solo.Internal(cause)
	if strings.Contains(hidden.Message, "open") || !errors.Is(hidden, fs.ErrPermission) {
		t.Errorf("an internal error: %q, %v", hidden.Message, hidden)
	}
	if e := solo.AsError(cause); e.Code != solo.CodeInternal || strings.Contains(e.Message, "open") {
		t.Errorf("an unknown error: %+v", e)
	}
	e := solo.Errorf(solo.CodeConflict, "taken")
	with := e.With("a", 1).With("b", 2).Retry(time.Second)
	if len(e.Details) != 0 || len(with.Details) != 2 || e.RetryAfter != 0 || with.RetryAfter != time.Second {
		t.Errorf("With has changed what it copied: %+v %+v", e, with)
	}
	if wrapped := fmt.Errorf("more: %w", with); solo.CodeOf(wrapped) != solo.CodeConflict {
		t.Errorf("CodeOf(wrapped) = %s", solo.CodeOf(wrapped))
	}
}

// What is absent is null and never missing, and a list is never null.
func TestTheServiceInJSON(t *testing.T) {
	text, err := json.Marshal(solo.Service{Metadata: map[string]string{}, Isolation: map[string]string{}})
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(text, &m); err != nil {
		t.Fatal(err)
	}
	for _, name := range strings.Fields(`tenant_id service_id state status alive ready version artifact pid instance restarts restart
		restart_limits backoff health limits usage last_exit build isolation created_at deployed_at started_at metadata`) {
		if _, ok := m[name]; !ok {
			t.Errorf("%s is missing", name)
		}
		delete(m, name)
	}
	for name := range m {
		t.Errorf("%s stands in no contract", name)
	}
}

func TestOperationsAreWhole(t *testing.T) {
	names, routes := map[string]bool{}, map[string]bool{}
	for _, op := range solo.Operations() {
		if op.Name == "" || op.Doc == "" || names[op.Name] || routes[op.Method+" "+op.Path] {
			t.Errorf("the row %+v is no row of its own", op)
		}
		names[op.Name], routes[op.Method+" "+op.Path] = true, true
		if op.Permission != solo.PermissionNone && op.Permission != solo.PermissionAny && op.Permission != solo.PermissionOperator && op.Resource == "" {
			t.Errorf("%s needs a permission on nothing", op.Name)
		}
		if op.Request != nil && op.MaxBody == 0 {
			t.Errorf("%s has a body without a bound", op.Name)
		}
	}
}
