package daemon

import (
	"time"

	"github.com/solo-run/solo/pkg/engine"
	"github.com/solo-run/solo/pkg/solo"
	"github.com/solo-run/solo/pkg/telemetry"
)

// measure makes the meters, where telemetry is on.
func (d *daemon) measure() {
	if !d.cfg.Telemetry.Enabled {
		return
	}
	d.meters = telemetry.NewMeters(Version, telemetry.Sources{
		Services: func() []telemetry.ServiceSample {
			samples := d.engine.Samples()
			out := make([]telemetry.ServiceSample, len(samples))
			for i, s := range samples {
				out[i] = telemetry.ServiceSample{Tenant: s.Key.Tenant, Service: s.Key.Service, State: s.State, Ready: s.Ready, Usage: s.Usage}
			}
			return out
		},
		Parts:    func() []solo.TreeNode { return d.tree.Load().snapshot() },
		Readings: d.monitor.Readings,
		Events:   d.events.Stats,
		Inflight: func() int64 { return d.engine.Inflight() },
	})
}

// meters are the telemetry room's as the engine sees them.
type meters struct{ *telemetry.Meters }

func (m meters) Calls(key solo.Key) func(code solo.Code, took time.Duration) {
	return m.Meters.Calls(key).Ended
}

func (d *daemon) engineMeters() engine.Meters {
	if d.meters == nil {
		return nil
	}
	return meters{d.meters}
}

func (d *daemon) countEvent(e solo.Event) {
	if d.meters != nil {
		d.meters.Event(e)
	}
}
