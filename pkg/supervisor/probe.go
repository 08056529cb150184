package supervisor

import (
	"context"
	"errors"
	"time"

	"github.com/solo-run/solo/pkg/solo"
)

// askLiveness is how long the author's Health may take before the SDK is asked
// beside it whether the process lives at all.
const askLiveness = 100 * time.Millisecond

// probe asks the instance whether it is ready and, where that takes long or
// fails, whether it lives, and reports to the goroutine that owns the unit. An
// answer of the author's Health is an answer of the process too.
func (u *Unit) probe(attempt uint64) {
	inst, timeout := u.inst, ms(u.plan.Settings.Health.TimeoutMS)
	go func() {
		ready := make(chan error, 2)
		slow := time.AfterFunc(min(askLiveness, timeout), func() { ready <- errSlow })
		go func() { ready <- within(timeout, inst.Health) }()
		result := probeMsg{attempt: attempt, ready: <-ready}
		slow.Stop()
		if result.ready != nil {
			result.live = within(timeout, inst.Ping)
		}
		if result.ready == errSlow {
			result.ready = <-ready
		}
		u.post(result)
	}()
}

// errSlow stands for the answer of a Health that is still to come.
var errSlow = errors.New("the answer takes long")

// probeGrid is what probes are due on: those of many services then share a wake-up
// of the daemon. Short intervals keep their own time.
const probeGrid = 100 * time.Millisecond

// nextProbe arms the timer of the next one.
func (u *Unit) nextProbe() {
	wait := ms(u.plan.Settings.Health.IntervalMS)
	if wait >= 10*probeGrid {
		wait -= (u.sup.now() + wait) % probeGrid
	}
	u.after(wait, timerProbe)
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
	u.nextProbe()
}

func (u *Unit) probeChange(kind ChangeKind, probe, detail string) Change {
	return Change{Kind: kind, State: u.state, Restarts: u.restarts, Instance: u.inst.Number(), Probe: probe, Detail: detail}
}
