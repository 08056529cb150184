package telemetry

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"github.com/solo-run/solo/pkg/solo"
)

// MaxServiceSeries is how many services have series of their own. Those beyond
// are counted together as [Others], so that what is scraped has a bound whatever
// limits.max_total says.
const MaxServiceSeries = 2000

// Others is the tenant and the service of what has no series of its own: no id,
// and so nobody's name.
const Others = "(other)"

// ServiceSample is one service at the time of a scrape.
type ServiceSample struct {
	Tenant, Service string
	State           solo.State
	Ready           bool
	// Usage is nil where nothing runs.
	Usage *solo.Usage
}

// Sources are asked at each scrape.
type Sources struct {
	Services func() []ServiceSample
	Parts    func() []solo.TreeNode
	Readings func() []Reading
	Events   func() solo.EventStats
	Inflight func() int64
}

// Meters count what the daemon does, for Prometheus. What the event log tells is
// counted from the log, so that no change can be counted that did not happen; what
// it does not tell, calls and requests, is counted where it ends.
type Meters struct {
	src      Sources
	registry *prometheus.Registry

	events, deploys, builds, starts, exits, restarts, gaveUp, unhealthy, partRestarts *prometheus.CounterVec
	denied, secrets, breaker                                                          *prometheus.CounterVec
	buildTime                                                                         *prometheus.HistogramVec
	calls                                                                             *series
	requests                                                                          *prometheus.HistogramVec

	mu    sync.Mutex
	known map[solo.Key]*CallMeter
}

// callBuckets are seconds: a call takes 100 µs of the daemon's own, and at most
// the longest deadline there is.
var callBuckets = []float64{.0005, .001, .0025, .005, .01, .025, .1, .5, 2.5, 10, 60}

// series are the metrics of calls, held apart so that those of a purged service go.
type series struct {
	time   *prometheus.HistogramVec
	failed *prometheus.CounterVec
}

// NewMeters returns meters that have counted nothing yet.
func NewMeters(version string, src Sources) *Meters {
	m := &Meters{src: src, registry: prometheus.NewRegistry(), known: map[solo.Key]*CallMeter{}}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "solo", Name: name, Help: help}, labels)
		m.registry.MustRegister(c)
		return c
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: "solo", Name: name, Help: help, Buckets: buckets}, labels)
		m.registry.MustRegister(h)
		return h
	}
	m.events = counter("events_total", "Events appended to the log.", "event_type")
	m.deploys = counter("deploys_total", "Deploys that were accepted or refused on the source's own account.", "tenant", "result")
	m.builds = counter("builds_total", "Builds behind accepted deploys.", "tenant", "cached")
	m.buildTime = histogram("build_duration_seconds", "Time of the builds behind accepted deploys.", []float64{.05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}, "cached")
	m.starts = counter("service_starts_total", "Instances that became ready, by what started them.", "tenant", "cause")
	m.exits = counter("service_exits_total", "Instances that ended unasked, by reason.", "tenant", "reason")
	m.restarts = counter("service_restarts_total", "Restarts of services, by the supervisor or by hand.", "tenant", "by_hand")
	m.gaveUp = counter("service_gave_up_total", "Services that used up their restart limit.", "tenant")
	m.unhealthy = counter("service_unhealthy_total", "Probes that failed, by probe.", "tenant", "probe")
	m.partRestarts = counter("part_restarts_total", "Restarts of the daemon's own parts.", "part")
	m.denied = counter("capability_denials_total", "Calls that a capability, or the lack of one, did not allow.", "tenant")
	m.secrets = counter("secret_operations_total", "Operations on secrets.", "tenant", "operation")
	m.breaker = counter("circuit_changes_total", "Changes of the circuit breakers of services.", "tenant", "to")
	m.requests = histogram("request_duration_seconds", "Requests at the gateways, streams left out, by operation and code of the answer.", callBuckets, "wire", "operation", "code")
	calls := &series{
		time:   histogram("call_duration_seconds", "Calls of services, from the router's point of view.", callBuckets, "tenant", "service"),
		failed: counter("call_errors_total", "Calls of services that ended in an error, by its code.", "tenant", "service", "code"),
	}
	m.calls = calls
	m.registry.MustRegister(
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		scrape{m, version},
	)
	return m
}

// Event counts what an event tells. Give each event once, in order.
func (m *Meters) Event(e solo.Event) {
	kind := string(e.Type)
	if strings.HasPrefix(kind, "app.") {
		kind = "app" // services choose the rest of the name
	}
	m.events.WithLabelValues(kind).Inc()
	word := func(name string) string {
		if s, ok := e.Payload[name].(string); ok {
			return s
		}
		return ""
	}
	flag := func(v any) string { return fmt.Sprint(v == true) }
	switch e.Type {
	case solo.EventServiceDeployed:
		m.deploys.WithLabelValues(e.TenantID, "ok").Inc()
		build, _ := e.Payload["build"].(map[string]any)
		m.builds.WithLabelValues(e.TenantID, flag(build["cached"])).Inc()
		if took, ok := build["duration_ms"].(float64); ok {
			m.buildTime.WithLabelValues(flag(build["cached"])).Observe(took / 1000)
		}
	case solo.EventServiceDeploymentFailed:
		m.deploys.WithLabelValues(e.TenantID, word("code")).Inc()
	case solo.EventServiceStarted:
		m.starts.WithLabelValues(e.TenantID, word("cause")).Inc()
	case solo.EventServiceCrashed:
		m.exits.WithLabelValues(e.TenantID, word("reason")).Inc()
	case solo.EventServiceRestarted:
		if part := word("part"); part != "" {
			m.partRestarts.WithLabelValues(part).Inc()
			return
		}
		m.restarts.WithLabelValues(e.TenantID, flag(e.Payload["by_hand"])).Inc()
	case solo.EventServiceGaveUp:
		m.gaveUp.WithLabelValues(e.TenantID).Inc()
	case solo.EventServiceUnhealthy:
		m.unhealthy.WithLabelValues(e.TenantID, word("probe")).Inc()
	case solo.EventCapabilityDenied:
		// The others of the burst before are told with the first of this one.
		withheld, _ := e.Payload["withheld"].(float64)
		m.denied.WithLabelValues(e.TenantID).Add(1 + withheld)
	case solo.EventSecretStored, solo.EventSecretAccessed, solo.EventSecretAccessDenied, solo.EventSecretRevoked:
		m.secrets.WithLabelValues(e.TenantID, strings.TrimPrefix(kind, "secret_")).Inc()
	case solo.EventCircuitOpened, solo.EventCircuitClosed:
		m.breaker.WithLabelValues(e.TenantID, strings.TrimPrefix(kind, "circuit_")).Inc()
	case solo.EventServiceKilled:
		if e.Payload["purged"] == true {
			m.forget(solo.Key{Tenant: e.TenantID, Service: strings.TrimPrefix(e.Subject, solo.ServiceSubject(""))})
		}
	}
}

// CallMeter counts the calls of one service. It is safe for use by many at once.
type CallMeter struct {
	time   prometheus.Observer
	failed *prometheus.CounterVec
	labels [2]string
	// codes are the counters of the codes that have occurred.
	codes sync.Map
}

// Calls returns where the calls of a service are counted.
func (m *Meters) Calls(key solo.Key) *CallMeter {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c, ok := m.known[key]; ok {
		return c
	}
	if len(m.known) >= MaxServiceSeries {
		key = solo.Key{Tenant: Others, Service: Others}
		if c, ok := m.known[key]; ok {
			return c
		}
	}
	c := &CallMeter{failed: m.calls.failed, labels: [2]string{key.Tenant, key.Service}, time: &lazy{vec: m.calls.time, labels: []string{key.Tenant, key.Service}}}
	m.known[key] = c
	return c
}

// lazy makes its series with the first observation: a service that nobody calls
// has none.
type lazy struct {
	vec    *prometheus.HistogramVec
	labels []string
	made   atomic.Pointer[prometheus.Observer]
}

func (l *lazy) Observe(v float64) {
	o := l.made.Load()
	if o == nil {
		made := l.vec.WithLabelValues(l.labels...)
		o = &made
		l.made.Store(o)
	}
	(*o).Observe(v)
}

// Ended counts a call; code is "" where it has succeeded.
func (c *CallMeter) Ended(code solo.Code, took time.Duration) {
	c.time.Observe(took.Seconds())
	if code == "" {
		return
	}
	n, ok := c.codes.Load(code)
	if !ok {
		n, _ = c.codes.LoadOrStore(code, c.failed.WithLabelValues(c.labels[0], c.labels[1], string(code)))
	}
	n.(prometheus.Counter).Inc()
}

// forget drops the series of a service that is gone.
func (m *Meters) forget(key solo.Key) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.known, key)
	labels := prometheus.Labels{"tenant": key.Tenant, "service": key.Service}
	m.calls.time.DeletePartialMatch(labels)
	m.calls.failed.DeletePartialMatch(labels)
}

// Request counts a request that a gateway has answered; code is "" where it has
// succeeded.
func (m *Meters) Request(wire, operation string, code solo.Code, took time.Duration) {
	if code == "" {
		code = "ok"
	}
	m.requests.WithLabelValues(wire, operation, string(code)).Observe(took.Seconds())
}

// Expose writes the metrics in the text format that the Accept header of the
// scraper asks for. A tenant sees its own series and no others; "" sees all.
func (m *Meters) Expose(tenant, accept string) (contentType string, body []byte, err error) {
	families, err := m.registry.Gather()
	if err != nil {
		return "", nil, fmt.Errorf("cannot gather the metrics: %w", err)
	}
	header := map[string][]string{"Accept": {accept}}
	format := expfmt.NegotiateAccept(header, expfmt.DefaultAcceptedFormats()...)
	var buf bytes.Buffer
	enc := expfmt.NewEncoder(&buf, format)
	for _, f := range families {
		if tenant != "" && !keep(f, tenant) {
			continue
		}
		if err := enc.Encode(f); err != nil {
			return "", nil, fmt.Errorf("cannot write the metrics: %w", err)
		}
	}
	if closer, ok := enc.(expfmt.Closer); ok {
		if err := closer.Close(); err != nil {
			return "", nil, fmt.Errorf("cannot write the metrics: %w", err)
		}
	}
	return string(format), buf.Bytes(), nil
}

// keep leaves the tenant's series in a family, and says whether there are any.
func keep(f *dto.MetricFamily, tenant string) bool {
	kept := f.Metric[:0]
	for _, metric := range f.Metric {
		for _, l := range metric.Label {
			if l.GetName() == "tenant" && l.GetValue() == tenant {
				kept = append(kept, metric)
			}
		}
	}
	f.Metric = kept
	return len(kept) > 0
}
