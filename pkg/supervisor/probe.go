package supervisor

import (
	"context"
	"time"

	"github.com/solo-run/solo/pkg/solo"
)

// probe asks the instance whether it lives and, if so, whether it is ready, and
// reports to the goroutine that owns the unit.
func (u *Unit) probe(attempt uint64) {
	inst, timeout := u.inst, ms(u.plan.Settings.Health.TimeoutMS)
	go func() {
		result := probeMsg{attempt: attempt}
		result.live = within(timeout, inst.Ping)
		if result.live == nil {
			result.ready = within(timeout, inst.Health)
		}
		u.post(result)
	}()
}

func within(timeout time.Duration, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return ask(ctx)
}

func (u *Unit) onProbe(m probeMsg) {
	if m.attempt != u.attempt || u.stopping != nil || u.inst == nil {
		return
	}
	if m.live != nil {
		u.misses++
		if u.misses >= u.plan.Settings.Health.Failures {
			u.unhealthy = true
			u.ready = false
			u.publish()
			u.record(u.probeChange(ChangeUnhealthy, "liveness", m.live.Error()))
			go u.inst.Stop(solo.ReasonUnhealthy, 0, true)
			return
		}
	} else {
		u.misses = 0
		switch {
		case m.ready != nil && u.ready:
			u.unhealthy = true
			u.ready = false
			u.publish()
			u.record(u.probeChange(ChangeUnhealthy, "readiness", m.ready.Error()))
		case m.ready == nil && !u.ready:
			u.record(u.probeChange(ChangeReady, "", ""))
			u.unhealthy = false
			u.ready = true
			u.publish()
		}
	}
	u.after(ms(u.plan.Settings.Health.IntervalMS), timerProbe)
}

func (u *Unit) probeChange(kind ChangeKind, probe, detail string) Change {
	return Change{Kind: kind, State: u.state, Restarts: u.restarts, Instance: u.inst.Number(), Probe: probe, Detail: detail}
}
