package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/solo-run/solo/pkg/process"
	"github.com/solo-run/solo/pkg/solo"
	"github.com/solo-run/solo/pkg/supervisor"
)

// Handover is what runs, as one daemon hands it to the next.
type Handover struct {
	Services []HandedOver
}

// HandedOver is one service that runs, with what its supervision goes by.
type HandedOver struct {
	Process   process.State
	Ready     bool
	Unhealthy bool
	Misses    int
	Ages      []time.Duration
	InRow     int
}

// settleTime is how long an upgrade waits for services that start or stop.
const settleTime = 5 * time.Second

// Freeze stops the supervision where it stands and describes what runs. thaw takes
// it back. The error is conflict where a deploy is under way, or a service does not
// settle.
func (e *Engine) Freeze(ctx context.Context) (_ *Handover, thaw func(), err error) {
	if err := e.deploysNothing(); err != nil {
		return nil, nil, err
	}
	running, goOn, err := e.sup.Freeze()
	for end := time.Now().Add(settleTime); errors.Is(err, supervisor.ErrUnsettled) && time.Now().Before(end) && ctx.Err() == nil; {
		time.Sleep(settleTime / 100)
		running, goOn, err = e.sup.Freeze()
	}
	if errors.Is(err, supervisor.ErrUnsettled) {
		return nil, nil, solo.Errorf(solo.CodeConflict, "a service has been starting or stopping for %v; try again when it is through", settleTime)
	}
	if err != nil {
		return nil, nil, err
	}
	var stopped []*process.Instance
	thaw = func() {
		for _, i := range stopped {
			i.Thaw()
		}
		goOn()
	}
	out := &Handover{}
	for _, r := range running {
		if r == nil {
			continue
		}
		inst, ok := r.Instance.(*process.Instance)
		if !ok {
			thaw()
			return nil, nil, solo.Internal(fmt.Errorf("an instance of type %T cannot be handed over", r.Instance))
		}
		state, ok, err := inst.Handover()
		if err != nil {
			thaw()
			return nil, nil, solo.Internal(err)
		}
		if !ok {
			continue // it has ended; the next daemon tells that nobody saw how
		}
		stopped = append(stopped, inst)
		out.Services = append(out.Services, HandedOver{
			Process: state, Ready: r.Ready, Unhealthy: r.Unhealthy, Misses: r.Misses, Ages: r.Ages, InRow: r.InRow,
		})
	}
	return out, thaw, nil
}

// deploysNothing refuses while a deploy is under way.
func (e *Engine) deploysNothing() error {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if n := len(e.slots); n > 0 {
		return solo.Errorf(solo.CodeConflict, "%d deploys are under way; try again when they are through", n)
	}
	return nil
}

// adopt takes over what a former daemon has handed to this process, by service.
func (e *Engine) adopt(records []*record) map[solo.Key]*supervisor.Running {
	out := map[solo.Key]*supervisor.Running{}
	if e.cfg.Adopt == nil {
		return out
	}
	byKey := map[solo.Key]*record{}
	for _, r := range records {
		byKey[r.key()] = r
	}
	for _, h := range e.cfg.Adopt.Services {
		key := h.Process.Key
		r := byKey[key]
		if r == nil || r.Live == nil || r.Live.Instance != h.Process.Instance {
			e.cfg.Log.Error("a process was handed over that the store does not know", "tenant", key.Tenant, "service", key.Service)
			continue
		}
		lines, err := e.cfg.Logs.Writer(key, h.Process.Instance, h.Process.Version, int64(h.Process.Limits.LogMB)<<20)
		if err != nil {
			e.cfg.Log.Error("a service that was handed over has no log", "tenant", key.Tenant, "service", key.Service, "error", err)
			continue
		}
		inst, err := e.cfg.Launcher.Adopt(h.Process, lines, e.hostOf(r.key(), h.Process.Instance, r.Current.Settings))
		if err != nil {
			closeLog(e.cfg.Log, lines)
			e.cfg.Log.Warn("a service has ended during the upgrade", "tenant", key.Tenant, "service", key.Service, "error", err)
			continue
		}
		go func() {
			<-inst.Done()
			closeLog(e.cfg.Log, lines)
		}()
		out[key] = &supervisor.Running{Instance: inst, Ready: h.Ready, Unhealthy: h.Unhealthy, Misses: h.Misses, Ages: h.Ages, InRow: h.InRow}
	}
	return out
}

// Upgrade has another binary take the daemon's place, "" the one that is installed
// now. It answers once that is certain to be tried.
func (e *Engine) Upgrade(ctx context.Context, p solo.Principal, binary string) (*solo.UpgradeResult, error) {
	if !p.Operator {
		return nil, solo.Errorf(solo.CodePermissionDenied, "only the operator may upgrade the daemon")
	}
	if err := errors.Join(e.admits(), e.deploysNothing()); err != nil {
		return nil, err
	}
	return e.cfg.Upgrade(ctx, binary)
}
