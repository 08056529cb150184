package engine

import (
	"context"

	"github.com/solo-run/solo/pkg/solo"
)

// Sample is one service at this moment.
type Sample struct {
	Key   solo.Key
	State solo.State
	Ready bool
	// Usage is nil where nothing runs.
	Usage *solo.Usage
}

// Samples are all services, for who measures them.
func (e *Engine) Samples() []Sample {
	all := e.selectServices("")
	out := make([]Sample, len(all))
	for i, s := range all {
		v := s.unit.View()
		out[i] = Sample{Key: s.record.Load().key(), State: v.State, Ready: v.Ready}
		if v.Instance == nil {
			continue
		}
		if usage, err := v.Instance.Usage(); err == nil {
			out[i].Usage = usage
		}
	}
	return out
}

// Inflight is how many calls run or wait.
func (e *Engine) Inflight() int64 { return e.calls.total.Load() }

// Metrics writes what was counted: all of it for the operator, else what is the
// tenant's own. accept is the scraper's Accept header.
func (e *Engine) Metrics(_ context.Context, p solo.Principal, accept string) (contentType string, body []byte, err error) {
	if e.cfg.Meters == nil {
		return "", nil, solo.Errorf(solo.CodeNotFound, "the daemon measures nothing: telemetry.enabled is false")
	}
	return e.cfg.Meters.Expose(p.Tenant, accept)
}
