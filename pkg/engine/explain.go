package engine

import (
	"context"
	"fmt"
	"net/url"
	"sort"
	"time"

	"github.com/solo-run/solo/pkg/solo"
	"github.com/solo-run/solo/pkg/supervisor"
)

// explainChain bounds the chain of causes of an explanation.
const explainChain = 20

// Explain says why the service is in its state, what happens next by itself, and
// which calls would change it.
func (e *Engine) Explain(_ context.Context, p solo.Principal, serviceID string) (*solo.Explanation, error) {
	s, key, err := e.find(p, serviceID)
	if err != nil {
		return nil, err
	}
	r, v := s.record.Load(), s.unit.View()
	chain, err := e.cfg.Events.Chain(r.LastEvent, explainChain)
	if err != nil {
		return nil, err
	}
	limits := v.Plan.Settings.RestartLimits
	out := &solo.Explanation{
		ServiceID: key.Service, State: v.State, Ready: v.Ready, Version: r.Version, Chain: chain, LastExit: v.LastExit,
		Budget: solo.Budget{Used: v.Used, MaxRestarts: limits.MaxRestarts, MaxSeconds: limits.MaxSeconds, InRow: v.InRow},
		Calls:  suggestions(key.Service, v),
	}
	out.Summary, out.Next = account(r, v)
	return out, nil
}

// account words a state and what follows it.
func account(r *record, v *supervisor.View) (summary string, next solo.NextAction) {
	health := v.Plan.Settings.Health
	ended := "it ended"
	if x := v.LastExit; x != nil {
		ended = fmt.Sprintf("its last instance ended as %s after %v", x.Reason, (time.Duration(x.RanMS) * time.Millisecond).Round(time.Millisecond))
		if x.Panic != nil && x.Panic.Message != "" {
			ended += ": " + x.Panic.Message
		}
	}
	next = solo.NextAction{Action: "none"}
	switch v.State {
	case solo.StateRunning:
		next = solo.NextAction{Action: "probe", Why: fmt.Sprintf("its health is checked each %d ms", health.IntervalMS)}
		if !v.Ready {
			return "It runs, and its own Health says that it is not ready: calls get not_ready until that holds.", next
		}
		summary = fmt.Sprintf("Version %d runs and is ready.", r.Version)
		if v.Restarts > 0 {
			summary = fmt.Sprintf("Version %d runs and is ready, after %d automatic restarts; before, %s.", r.Version, v.Restarts, ended)
		}
		return summary, next
	case solo.StateStarting:
		next = solo.NextAction{Action: "wait", Why: fmt.Sprintf("it has %d ms to get ready, or the start has failed", health.StartTimeoutMS)}
		return "It starts and has not proved yet that it serves.", next
	case solo.StateStopping:
		next = solo.NextAction{Action: "wait", Why: fmt.Sprintf("what has not ended %d ms after the request to stop is killed", v.Plan.Settings.StopTimeoutMS)}
		return "It was told to stop and is on its way out.", next
	case solo.StateBackoff:
		at := v.NextStart.UTC()
		next = solo.NextAction{Action: "start", At: &at, Why: fmt.Sprintf("restart %d in a row: each waits longer than the one before", v.InRow)}
		return fmt.Sprintf("It waits for its next start, since %s.", ended), next
	case solo.StateFailed:
		limits := v.Plan.Settings.RestartLimits
		next.Why = "the restart limit is reached; nothing happens until someone acts"
		return fmt.Sprintf("It was given up: more than %d restarts within %d s would have been needed; %s.", limits.MaxRestarts, limits.MaxSeconds, ended), next
	}
	next.Why = "it is not meant to run"
	restart := v.Plan.Settings.Restart
	if x := v.LastExit; x != nil && x.Reason != solo.ReasonKilled && x.Reason != solo.ReasonShutdown &&
		(restart == solo.RestartTemporary || restart == solo.RestartTransient && x.Reason == solo.ReasonClean) {
		return fmt.Sprintf("It ended for good, as its restart type %q says: %s.", restart, ended), next
	}
	return "It was stopped on request.", next
}

// suggestions are the calls that change a state.
func suggestions(id string, v *supervisor.View) []solo.SuggestedCall {
	path := "/services/" + url.PathEscape(id)
	restart := solo.SuggestedCall{Method: "POST", Path: path + "/restart", Command: "solo restart " + id, Effect: "starts a fresh instance at once, with a fresh budget and backoff"}
	kill := solo.SuggestedCall{Method: "DELETE", Path: path, Command: "solo kill " + id, Effect: "stops it; it stays stopped"}
	deploy := solo.SuggestedCall{Method: "POST", Path: "/services", Command: "solo deploy PATH --id " + id, Effect: "makes a new version of a mended source and runs it"}
	switch {
	case v.State == solo.StateFailed, v.State == solo.StateStopped:
		return []solo.SuggestedCall{restart, deploy}
	case v.State == solo.StateStopping:
		return []solo.SuggestedCall{{Method: "DELETE", Path: path + "?force=true", Command: "solo kill --force " + id, Effect: "ends it at once, without waiting for its Stop"}}
	}
	return []solo.SuggestedCall{restart, kill}
}

// Tree is what runs: the daemon's parts in start order, then the tenants of the
// caller with their services.
func (e *Engine) Tree(_ context.Context, p solo.Principal) (*solo.TreeNode, error) {
	if err := e.serves(); err != nil {
		return nil, err
	}
	started := e.started.UTC()
	root := &solo.TreeNode{
		Name: "solod", Kind: "daemon", Strategy: "rest_for_one", State: "running", StartedAt: &started, Children: noNil(e.cfg.Parts()),
	}
	if e.stopping.Load() {
		root.State = "stopping"
	}
	for _, part := range root.Children {
		root.Restarts += part.Restarts
	}
	tenants := map[string]*solo.TreeNode{}
	for _, s := range e.selectServices(p.Tenant) {
		r := s.record.Load()
		t := tenants[r.Tenant]
		if t == nil {
			t = &solo.TreeNode{Name: r.Tenant, Kind: "tenant", Strategy: "one_for_one", State: "running", StartedAt: &r.CreatedAt, Children: []solo.TreeNode{}}
			tenants[r.Tenant] = t
		}
		t.Children = append(t.Children, serviceNode(r, s.unit.View()))
	}
	names := make([]string, 0, len(tenants))
	for name := range tenants {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		t := tenants[name]
		for _, s := range t.Children {
			t.Restarts += s.Restarts
		}
		root.Children = append(root.Children, *t)
	}
	return root, nil
}

func serviceNode(r *record, v *supervisor.View) solo.TreeNode {
	n := solo.TreeNode{
		Name: r.Service, Kind: "service", Strategy: string(v.Plan.Settings.Restart), State: string(v.State), Restarts: v.Restarts, Children: []solo.TreeNode{},
	}
	if inst := v.Instance; inst != nil {
		started := inst.StartedAt().UTC()
		n.StartedAt = &started
		n.Detail = fmt.Sprintf("version %d, instance %d, pid %d", r.Version, inst.Number(), inst.PID())
	} else if v.LastExit != nil {
		n.Detail = "last end: " + string(v.LastExit.Reason)
	}
	return n
}
