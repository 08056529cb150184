package engine

import (
	"fmt"

	"github.com/solo-run/solo/pkg/failpoint"
	"github.com/solo-run/solo/pkg/solo"
	"github.com/solo-run/solo/pkg/store"
	"github.com/solo-run/solo/pkg/supervisor"
)

// journal records what happens to the supervisor's units.
type journal struct{ e *Engine }

// Record stores the change and its events in one transaction.
func (j journal) Record(key solo.Key, c supervisor.Change) error {
	err := j.e.cfg.DB.Update(func(tx *store.Tx) error {
		r, err := loadRecord(tx, key)
		if err != nil {
			return err
		}
		if r == nil {
			return solo.Internal(fmt.Errorf("cannot record %s: the service has no record", c.Kind))
		}
		if err := j.e.apply(tx, r, c); err != nil {
			return err
		}
		return j.e.commit(tx, r)
	})
	if name := failpoints[c.Kind]; err == nil && name != "" {
		failpoint.Hit(name)
	}
	return err
}

// failpoints are the places behind the records that others wait for.
var failpoints = map[supervisor.ChangeKind]string{
	supervisor.ChangeStarted: "start.recorded", supervisor.ChangeEnded: "end.recorded",
	supervisor.ChangeStopping: "kill.wanted", supervisor.ChangeKilled: "kill.recorded",
}

// commit saves the record and shows it to readers once it is durable.
func (e *Engine) commit(tx *store.Tx, r *record) error {
	if err := saveRecord(tx, r); err != nil {
		return err
	}
	tx.OnCommit(func() {
		if s := e.lookup(r.key()); s != nil {
			s.record.Store(r)
		}
	})
	return nil
}

// apply makes the change to the record and appends what the log says of it.
func (e *Engine) apply(tx *store.Tx, r *record, c supervisor.Change) error {
	r.LastInstance = max(r.LastInstance, c.Instance)
	r.Restarts = c.Restarts
	if c.Exit != nil {
		r.LastExit = c.Exit
	}
	if err := e.metered(tx, r, c.Exit); err != nil {
		return err
	}
	cause := r.LastEvent
	switch c.Kind {
	case supervisor.ChangeStarted:
		r.State = solo.StateRunning
		r.Live = &liveInstance{Instance: c.Instance, PID: c.PID, StartedAt: c.StartedAt}
		if c.Cause == supervisor.CauseRestart {
			payload := map[string]any{"version": r.Version, "instance": c.Instance, "restarts": c.Restarts, "by_hand": c.ByHand}
			if c.ByHand {
				e.sign(payload, r.key())
			}
			if err := e.append(tx, r, solo.EventServiceRestarted, payload, cause); err != nil {
				return err
			}
			cause = r.LastEvent
		}
		if err := e.append(tx, r, solo.EventServiceStarted, startedPayload(r, c.Cause), cause); err != nil {
			return err
		}
		return e.closeCircuit(tx, r)

	case supervisor.ChangeEnded:
		r.Live = nil
		r.State = storedState(c.State)
		payload := exitPayload(r, *c.Exit)
		payload["state"] = c.State
		if c.State == solo.StateBackoff {
			payload["restart_in_ms"] = c.Delay.Milliseconds()
		}
		if err := e.crashed(tx, r, *c.Exit, payload, cause); err != nil {
			return err
		}
		if c.State != solo.StateFailed {
			return nil
		}
		limits := r.Current.Settings.RestartLimits
		return e.append(tx, r, solo.EventServiceGaveUp, map[string]any{
			"version": r.Version, "instance": c.Instance, "reason": c.Exit.Reason,
			"restarts": c.Restarts, "max_restarts": limits.MaxRestarts, "max_seconds": limits.MaxSeconds,
		}, r.LastEvent)

	case supervisor.ChangeStopping:
		r.State = solo.StateStopping

	case supervisor.ChangeKilled:
		r.Live = nil
		r.State = solo.StateStopped
		payload := map[string]any{"version": r.Version, "instance": c.Instance}
		if c.Exit != nil {
			payload = exitPayload(r, *c.Exit)
		}
		e.sign(payload, r.key())
		return e.append(tx, r, solo.EventServiceKilled, payload, cause)

	case supervisor.ChangeWanted:
		r.State = solo.StateStarting

	case supervisor.ChangeUnhealthy:
		return e.append(tx, r, solo.EventServiceUnhealthy, map[string]any{
			"version": r.Version, "instance": c.Instance, "probe": c.Probe, "detail": c.Detail,
		}, cause)

	case supervisor.ChangeReady:
		return e.append(tx, r, solo.EventServiceReady, map[string]any{"version": r.Version, "instance": c.Instance}, cause)

	case supervisor.ChangeShutdown:
		if c.Exit != nil && c.Exit.Signal != nil && *c.Exit.Signal == "SIGKILL" {
			e.stubborn.mu.Lock()
			e.stubborn.names = append(e.stubborn.names, r.Tenant+"/"+r.Service)
			e.stubborn.mu.Unlock()
		}
		r.Live = nil
		r.State = solo.StateStarting
	}
	return nil
}

// sign adds who has asked for it, where that is known.
func (e *Engine) sign(payload map[string]any, key solo.Key) {
	if s := e.lookup(key); s != nil {
		if who := s.ordered.Load(); who != nil {
			payload["by"] = *who
		}
	}
}

// closeCircuit lets callers in again: another instance stands behind the service.
func (e *Engine) closeCircuit(tx *store.Tx, r *record) error {
	s := e.lookup(r.key())
	if s == nil {
		return nil
	}
	tx.OnCommit(s.breaker.Reset)
	if !s.breaker.Open() {
		return nil
	}
	return e.append(tx, r, solo.EventCircuitClosed, map[string]any{"reason": "the service was started anew"}, r.LastEvent)
}

// storedState is what a record says: whatever is on its way to run is starting.
func storedState(s solo.State) solo.State {
	if s == solo.StateBackoff {
		return solo.StateStarting
	}
	return s
}

// append adds an event about the service; cause is the event that brought it
// about, 0 for none.
func (e *Engine) append(tx *store.Tx, r *record, kind solo.EventType, payload map[string]any, cause uint64) error {
	event := solo.Event{TenantID: r.Tenant, Type: kind, Subject: solo.ServiceSubject(r.Service), Payload: payload}
	if cause > 0 {
		event.CausationID = &cause
	}
	id, err := e.cfg.Events.Append(tx, event)
	if err != nil {
		return err
	}
	r.LastEvent = id
	return nil
}

func startedPayload(r *record, cause supervisor.Cause) map[string]any {
	return map[string]any{
		"cause": cause, "version": r.Version, "instance": r.Live.Instance, "pid": r.Live.PID, "artifact": r.Current.Artifact,
	}
}

// exitPayload is an end as events tell it: the fields of last_exit, and whose it was.
func exitPayload(r *record, x solo.Exit) map[string]any {
	return map[string]any{
		"reason": x.Reason, "code": x.Code, "signal": x.Signal, "oom": x.OOM, "at": x.At, "ran_ms": x.RanMS,
		"log_tail": x.LogTail, "details": x.Details, "version": r.Version, "instance": x.Instance,
	}
}
