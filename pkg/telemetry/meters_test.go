package telemetry_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/solo-run/solo/pkg/solo"
	"github.com/solo-run/solo/pkg/telemetry"
)

// newMeters are meters over so many services, of ten tenants.
func newMeters(services int) *telemetry.Meters {
	samples := make([]telemetry.ServiceSample, services)
	for i := range samples {
		samples[i] = telemetry.ServiceSample{
			Tenant: fmt.Sprintf("t%d", i%10), Service: fmt.Sprintf("s%d", i), State: solo.StateRunning, Ready: true,
			Usage: &solo.Usage{MemoryBytes: 4 << 20, MemoryPeak: 5 << 20, CPUUsec: 1500000, PIDs: 7},
		}
	}
	return telemetry.NewMeters("v1", telemetry.Sources{
		Services: func() []telemetry.ServiceSample { return samples },
		Parts: func() []solo.TreeNode {
			return []solo.TreeNode{{Name: "gateway", State: "running"}, {Name: "eventlog", State: "backoff"}}
		},
		Readings: func() []telemetry.Reading {
			return []telemetry.Reading{{Resource: "files", Used: 7, Limit: 10}, {Resource: "goroutines", Used: 9}}
		},
		Events:   func() solo.EventStats { return solo.EventStats{LastID: 42} },
		Inflight: func() int64 { return 3 },
	})
}

func expose(t testing.TB, m *telemetry.Meters, tenant string) string {
	t.Helper()
	contentType, body, err := m.Expose(tenant, "")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(contentType, "text/plain; version=0.0.4") {
		t.Fatalf("the content type is %q", contentType)
	}
	return string(body)
}

// everything gives the meters one of each event that they count.
func everything(m *telemetry.Meters) {
	for _, e := range []solo.Event{
		{TenantID: "t1", Type: solo.EventServiceDeployed, Payload: map[string]any{"build": map[string]any{"cached": false, "duration_ms": 250.0}}},
		{TenantID: "t1", Type: solo.EventServiceDeploymentFailed, Payload: map[string]any{"code": "compile_failed"}},
		{TenantID: "t1", Type: solo.EventServiceStarted, Payload: map[string]any{"cause": "deploy"}},
		{TenantID: "t1", Type: solo.EventServiceCrashed, Payload: map[string]any{"reason": "oom"}},
		{TenantID: "t1", Type: solo.EventServiceRestarted, Payload: map[string]any{"by_hand": true}},
		{TenantID: "t1", Type: solo.EventServiceGaveUp},
		{TenantID: "t1", Type: solo.EventServiceUnhealthy, Payload: map[string]any{"probe": "liveness"}},
		{Type: solo.EventServiceRestarted, Payload: map[string]any{"part": "gateway", "restarts": 1.0}},
		{TenantID: "t1", Type: solo.EventCapabilityDenied, Payload: map[string]any{"withheld": 4.0}},
		{TenantID: "t1", Type: solo.EventSecretAccessed},
		{TenantID: "t1", Type: solo.EventCircuitOpened},
		{TenantID: "t1", Type: "app.order_paid"},
		{TenantID: "t2", Type: "app.anything else \n\"", Payload: nil},
	} {
		m.Event(e)
	}
}

func TestWhatIsCountedIsExposed(t *testing.T) {
	m := newMeters(20)
	everything(m)
	calls := m.Calls(solo.Key{Tenant: "t1", Service: "s1"})
	calls.Ended("", time.Millisecond)
	calls.Ended(solo.CodeServiceError, 20*time.Millisecond)
	m.Request("rest", "invoke", "", time.Millisecond)
	m.Request("grpc", "list", solo.CodeUnauthenticated, time.Millisecond)
	text := expose(t, m, "")
	for _, line := range []string{
		`solo_deploys_total{result="ok",tenant="t1"} 1`,
		`solo_deploys_total{result="compile_failed",tenant="t1"} 1`,
		`solo_builds_total{cached="false",tenant="t1"} 1`,
		`solo_build_duration_seconds_sum{cached="false"} 0.25`,
		`solo_service_starts_total{cause="deploy",tenant="t1"} 1`,
		`solo_service_exits_total{reason="oom",tenant="t1"} 1`,
		`solo_service_restarts_total{by_hand="true",tenant="t1"} 1`,
		`solo_service_gave_up_total{tenant="t1"} 1`,
		`solo_service_unhealthy_total{probe="liveness",tenant="t1"} 1`,
		`solo_part_restarts_total{part="gateway"} 1`,
		`solo_capability_denials_total{tenant="t1"} 5`,
		`solo_secret_operations_total{operation="accessed",tenant="t1"} 1`,
		`solo_circuit_changes_total{tenant="t1",to="opened"} 1`,
		`solo_events_total{event_type="app"} 2`,
		`solo_call_duration_seconds_count{service="s1",tenant="t1"} 2`,
		`solo_call_errors_total{code="service_error",service="s1",tenant="t1"} 1`,
		`solo_request_duration_seconds_count{code="ok",operation="invoke",wire="rest"} 1`,
		`solo_request_duration_seconds_count{code="unauthenticated",operation="list",wire="grpc"} 1`,
		`solo_services{state="running",tenant="t1"} 2`,
		`solo_services{state="failed",tenant="t1"} 0`,
		`solo_service_cpu_seconds_total{service="s1",tenant="t1"} 1.5`,
		`solo_part_up{part="gateway"} 1`,
		`solo_part_up{part="eventlog"} 0`,
		`solo_resource_limit{resource="files"} 10`,
		`solo_last_event_id 42`,
		`solo_calls_in_flight 3`,
	} {
		if !strings.Contains(text, "\n"+line+"\n") {
			t.Errorf("%s is not exposed", line)
		}
	}
	if strings.Contains(text, `resource_limit{resource="goroutines"}`) {
		t.Error("what has no bound has a limit")
	}
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "solo_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

func TestATenantSeesNoOthersSeries(t *testing.T) {
	m := newMeters(20)
	everything(m)
	m.Request("rest", "list", "", time.Millisecond)
	text := expose(t, m, "t1")
	if !strings.Contains(text, `solo_service_ready{service="s1",tenant="t1"} 1`) {
		t.Error("the tenant does not see its own")
	}
	for _, line := range strings.Split(text, "\n") {
		if line != "" && !strings.HasPrefix(line, "#") && !strings.Contains(line, `tenant="t1"`) {
			t.Errorf("the tenant sees %s", line)
		}
	}
}

func TestAPurgedServiceHasNoSeries(t *testing.T) {
	m := newMeters(0)
	key := solo.Key{Tenant: "t1", Service: "gone"}
	m.Calls(key).Ended(solo.CodeServiceError, time.Millisecond)
	m.Event(solo.Event{TenantID: "t1", Type: solo.EventServiceKilled, Subject: solo.ServiceSubject("gone"), Payload: map[string]any{"version": 1.0}})
	if !strings.Contains(expose(t, m, ""), `service="gone"`) {
		t.Fatal("a service that is only stopped has lost its series")
	}
	m.Event(solo.Event{TenantID: "t1", Type: solo.EventServiceKilled, Subject: solo.ServiceSubject("gone"), Payload: map[string]any{"purged": true}})
	if text := expose(t, m, ""); strings.Contains(text, `service="gone"`) {
		t.Error("a purged service has series")
	}
}

func TestSeriesHaveABound(t *testing.T) {
	m := newMeters(0)
	for i := range telemetry.MaxServiceSeries + 50 {
		m.Calls(solo.Key{Tenant: "t", Service: fmt.Sprintf("s%d", i)}).Ended("", time.Millisecond)
	}
	text := expose(t, m, "")
	if n := strings.Count(text, "solo_call_duration_seconds_count{"); n != telemetry.MaxServiceSeries+1 {
		t.Errorf("there are %d series, want %d", n, telemetry.MaxServiceSeries+1)
	}
	if !strings.Contains(text, `solo_call_duration_seconds_count{service="(other)",tenant="(other)"} 50`) {
		t.Error("what is over the bound is not counted together")
	}
}

func TestManyCountAtOnce(t *testing.T) {
	m := newMeters(1)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			c := m.Calls(solo.Key{Tenant: "t", Service: "s"})
			for range 1000 {
				c.Ended(solo.CodeTooLarge, time.Microsecond)
			}
		})
	}
	group.Go(func() { expose(t, m, "") })
	group.Wait()
	if !strings.Contains(expose(t, m, ""), `solo_call_errors_total{code="too_large",service="s",tenant="t"} 8000`) {
		t.Error("calls were lost")
	}
}

// A call is counted beside a bare atomic; a scrape of a thousand services that have
// all been called.
func BenchmarkCall(b *testing.B) {
	c := newMeters(1).Calls(solo.Key{Tenant: "t", Service: "s"})
	for b.Loop() {
		c.Ended("", time.Millisecond)
	}
}

func BenchmarkScrape1000(b *testing.B) {
	m := newMeters(1000)
	for i := range 1000 {
		m.Calls(solo.Key{Tenant: fmt.Sprintf("t%d", i%10), Service: fmt.Sprintf("s%d", i)}).Ended("", time.Millisecond)
	}
	for b.Loop() {
		expose(b, m, "")
	}
}
