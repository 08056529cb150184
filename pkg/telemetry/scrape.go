package telemetry

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/solo-run/solo/pkg/solo"
)

// scrape is what is looked up at each scrape rather than counted.
type scrape struct {
	m       *Meters
	version string
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("solo_"+name, help, labels, nil)
}

var (
	descBuild     = desc("build_info", "The daemon's version; always 1.", "version")
	descServices  = desc("services", "Services by state.", "tenant", "state")
	descReady     = desc("service_ready", "Whether the service takes calls.", "tenant", "service")
	descMemory    = desc("service_memory_bytes", "Memory of the instance that runs.", "tenant", "service")
	descPeak      = desc("service_memory_peak_bytes", "Most memory that the instance has had.", "tenant", "service")
	descCPU       = desc("service_cpu_seconds_total", "CPU time of the instance that runs.", "tenant", "service")
	descPIDs      = desc("service_pids", "Processes and threads of the instance.", "tenant", "service")
	descPart      = desc("part_up", "Whether a part of the daemon runs.", "part")
	descUsed      = desc("resource_used", "The daemon's own resources, in units of each: bytes for memory, disk and store.", "resource")
	descLimit     = desc("resource_limit", "What there is of the daemon's own resources; absent without a bound.", "resource")
	descLastEvent = desc("last_event_id", "The newest event's id.")
	descInflight  = desc("calls_in_flight", "Calls of services that run or wait.")
)

func (s scrape) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descBuild, descServices, descReady, descMemory, descPeak, descCPU, descPIDs, descPart, descUsed, descLimit, descLastEvent, descInflight,
	} {
		out <- d
	}
}

func (s scrape) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(descBuild, 1, s.version)
	gauge(descLastEvent, float64(s.m.src.Events().LastID))
	gauge(descInflight, float64(s.m.src.Inflight()))
	for _, n := range s.m.src.Parts() {
		gauge(descPart, number(n.State == "running"), n.Name)
	}
	for _, r := range s.m.src.Readings() {
		gauge(descUsed, float64(r.Used), r.Resource)
		if r.Limit > 0 {
			gauge(descLimit, float64(r.Limit), r.Resource)
		}
	}
	states := map[string]map[solo.State]int{}
	for n, v := range s.m.src.Services() {
		if states[v.Tenant] == nil {
			states[v.Tenant] = map[solo.State]int{}
		}
		states[v.Tenant][v.State]++
		if n >= MaxServiceSeries {
			continue
		}
		gauge(descReady, number(v.Ready), v.Tenant, v.Service)
		if u := v.Usage; u != nil {
			gauge(descMemory, float64(u.MemoryBytes), v.Tenant, v.Service)
			gauge(descPeak, float64(u.MemoryPeak), v.Tenant, v.Service)
			gauge(descPIDs, float64(u.PIDs), v.Tenant, v.Service)
			out <- prometheus.MustNewConstMetric(descCPU, prometheus.CounterValue, float64(u.CPUUsec)/1e6, v.Tenant, v.Service)
		}
	}
	for tenant, counts := range states {
		for _, state := range solo.States() {
			gauge(descServices, float64(counts[state]), tenant, string(state))
		}
	}
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
