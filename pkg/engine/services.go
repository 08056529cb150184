package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/solo-run/solo/pkg/admission"
	"github.com/solo-run/solo/pkg/failpoint"
	"github.com/solo-run/solo/pkg/metering"
	"github.com/solo-run/solo/pkg/solo"
	"github.com/solo-run/solo/pkg/store"
	"github.com/solo-run/solo/pkg/supervisor"
)

// answer is the service as callers see it: what is stored, and what runs.
func (e *Engine) answer(s *service) *solo.Service {
	r, v := s.record.Load(), s.unit.View()
	c := r.Current
	build := c.Build
	out := &solo.Service{
		TenantID: r.Tenant, ServiceID: r.Service,
		State: v.State, Status: v.State.Status(), Alive: v.State.Alive(), Ready: v.Ready,
		Version: r.Version, Artifact: &c.Artifact, Restarts: v.Restarts,
		Restart: c.Settings.Restart, RestartLimits: c.Settings.RestartLimits, Backoff: c.Settings.Backoff,
		Health: c.Settings.Health, Limits: c.Settings.Limits, Metadata: c.Settings.Metadata,
		LastExit: v.LastExit, Build: &build, Isolation: map[string]string{},
		CreatedAt: &r.CreatedAt, DeployedAt: &c.DeployedAt,
	}
	if inst := v.Instance; inst != nil {
		pid, number, started := inst.PID(), inst.Number(), inst.StartedAt().UTC()
		out.PID, out.Instance, out.StartedAt = &pid, &number, &started
		if usage, err := inst.Usage(); err == nil {
			out.Usage = usage
		}
		out.Isolation = inst.Isolation()
	}
	return out
}

func names(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }

// find returns the service of the caller's tenant; what another tenant has is
// not there. An operator without a tenant finds the one that has the id, if
// only one has.
func (e *Engine) find(p solo.Principal, serviceID string) (*service, solo.Key, error) {
	key := solo.Key{Tenant: p.Tenant, Service: serviceID}
	if err := e.serves(); err != nil {
		return nil, key, err
	}
	if p.Tenant != "" || !p.Operator {
		if s := e.lookup(key); s != nil {
			return s, key, nil
		}
		return nil, key, errNotFound(key)
	}
	var found *service
	for _, s := range e.selectServices("") {
		if r := s.record.Load(); r.Service == serviceID {
			if found != nil {
				return nil, key, solo.InvalidFields(solo.Field{Field: "tenant_id", Message: "is required: several tenants have a service of this id"})
			}
			found, key.Tenant = s, r.Tenant
		}
	}
	if found == nil {
		return nil, key, errNotFound(key)
	}
	return found, key, nil
}

// Status returns one service.
func (e *Engine) Status(_ context.Context, p solo.Principal, serviceID string) (*solo.Service, error) {
	s, _, err := e.find(p, serviceID)
	if err != nil {
		return nil, err
	}
	return e.answer(s), nil
}

// List returns a page of the caller's services, oldest first; state "" is every
// state, or one of the states, or one of the words running and stopped.
func (e *Engine) List(_ context.Context, p solo.Principal, state string, limit, offset int) (*solo.ServiceList, error) {
	if err := e.serves(); err != nil {
		return nil, err
	}
	out := &solo.ServiceList{Services: []solo.Service{}, Limit: limit, Offset: offset}
	for _, s := range e.selectServices(p.Tenant) {
		if state != "" && string(s.unit.View().State) != state {
			continue
		}
		if !p.Allows(solo.PermissionRead, solo.ServiceSubject(s.record.Load().Service), "") {
			continue
		}
		if out.Total >= offset && len(out.Services) < limit {
			out.Services = append(out.Services, *e.answer(s))
		}
		out.Total++
	}
	return out, nil
}

// Restart starts the service anew, at once, with a fresh budget and backoff.
func (e *Engine) Restart(ctx context.Context, p solo.Principal, serviceID string) (*solo.Service, error) {
	if e.stopping.Load() {
		return nil, supervisor.ErrShuttingDown()
	}
	s, key, err := e.find(p, serviceID)
	if err != nil {
		return nil, err
	}
	if e.deploying(key) != nil {
		return nil, errDeploying(key)
	}
	if !s.unit.View().State.Live() {
		if err := e.quota(key); err != nil {
			return nil, err
		}
	}
	s.orderedBy(p)
	if err := s.unit.Restart(ctx); err != nil {
		var start *supervisor.StartError
		if errors.As(err, &start) {
			return nil, startFailed(start.Exit)
		}
		return nil, waitEnded(err)
	}
	return e.answer(s), nil
}

// waitEnded words the end of a caller's patience; the command itself goes on.
func waitEnded(err error) error {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return solo.Errorf(solo.CodeDeadlineExceeded, "the caller's deadline passed; the command was accepted and goes on").Because(err)
	}
	return err
}

func (e *Engine) deploying(key solo.Key) *slot {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.slots[key]
}

// Kill stops the service and returns once its processes are reaped. It ends a
// deploy of the id that is under way. The order outlives its caller, and a crash
// of the daemon.
func (e *Engine) Kill(ctx context.Context, p solo.Principal, serviceID string, opts solo.KillOptions) (*solo.KillResult, error) {
	key, err := e.deployKey(p, serviceID)
	if err != nil {
		return nil, err
	}
	if err := e.serves(); err != nil {
		return nil, err
	}
	result := &solo.KillResult{ServiceID: serviceID, Status: "killed"}
	slot := e.deploying(key)
	if slot != nil {
		slot.cancel(errKilled)
		select {
		case <-slot.done:
		case <-ctx.Done():
			return nil, waitEnded(ctx.Err())
		}
	}
	s := e.lookup(key)
	if s == nil {
		if slot != nil {
			return result, nil
		}
		return nil, errNotFound(key)
	}
	s.orderedBy(p)
	if err := s.unit.Kill(ctx, opts.Timeout, opts.Force); err != nil {
		return nil, waitEnded(err)
	}
	if opts.Purge {
		if err := e.purge(ctx, p, key, s); err != nil {
			return nil, err
		}
	}
	return result, nil
}

// purge forgets a stopped service. Of two at once, the second finds it gone.
func (e *Engine) purge(ctx context.Context, p solo.Principal, key solo.Key, s *service) error {
	release, err := e.awaitSlot(ctx, key)
	if err != nil {
		return err
	}
	defer release()
	if e.lookup(key) != s {
		return nil
	}
	if err := s.unit.Remove(ctx); err != nil {
		return waitEnded(err)
	}
	e.mu.Lock()
	delete(e.services, key)
	e.mu.Unlock()
	e.purging.Lock()
	defer e.purging.Unlock()
	err = e.cfg.DB.Update(func(tx *store.Tx) error {
		r, err := loadRecord(tx, key)
		if err != nil || r == nil {
			return err
		}
		if err := e.append(tx, r, solo.EventServiceKilled, map[string]any{"purged": true, "version": r.Version, "by": p.Who()}, r.LastEvent); err != nil {
			return err
		}
		if err := e.revokeOf(tx, p, key); err != nil {
			return err
		}
		return forgetService(tx, key)
	})
	if err != nil {
		// What the disk still knows, the memory must too.
		if _, aerr := e.addService(s.record.Load(), nil); aerr != nil {
			e.cfg.Log.Error("cannot take back a service whose purge failed", "error", aerr)
		}
		return err
	}
	failpoint.Hit("purge.forgotten")
	if err := errors.Join(e.sources.forget(key), e.cfg.Logs.Purge(key)); err != nil {
		e.cfg.Log.Warn("cannot remove the files of a purged service", "error", err)
	}
	return nil
}

// revokeOf revokes what is good for a service that is gone, and for nothing else.
func (e *Engine) revokeOf(tx *store.Tx, p solo.Principal, key solo.Key) error {
	revoked, err := e.cfg.Capabilities.RevokeResource(tx, key.Tenant, solo.ServiceSubject(key.Service))
	if err != nil || len(revoked) == 0 {
		return err
	}
	_, err = e.cfg.Events.Append(tx, solo.Event{
		TenantID: key.Tenant, Type: solo.EventCapabilityRevoked, Subject: solo.ServiceSubject(key.Service),
		Payload: map[string]any{"revoked": revoked, "reason": "the service was purged", "by": p.Who()},
	})
	return err
}

// orderedBy keeps who asks for what comes next.
func (s *service) orderedBy(p solo.Principal) {
	who := p.Who()
	s.ordered.Store(&who)
}

// awaitSlot takes the slot of an id as soon as nobody else has it.
func (e *Engine) awaitSlot(ctx context.Context, key solo.Key) (release func(), err error) {
	for {
		_, release, err := e.claim(ctx, key)
		if err == nil {
			return release, nil
		}
		other := e.deploying(key)
		if other == nil {
			continue
		}
		select {
		case <-other.done:
		case <-ctx.Done():
			return nil, waitEnded(ctx.Err())
		}
	}
}

// Invoke calls a method of the service, within the caller's deadline.
func (e *Engine) Invoke(ctx context.Context, p solo.Principal, serviceID string, req *solo.InvokeRequest) (*solo.InvokeReply, error) {
	if e.stopping.Load() {
		return nil, supervisor.ErrShuttingDown()
	}
	key := solo.Key{Tenant: p.Tenant, Service: serviceID}
	s := e.lookup(key)
	if s == nil {
		if err := e.serves(); err != nil {
			return nil, err
		}
		if p.Operator && p.Tenant == "" {
			return nil, solo.InvalidFields(solo.Field{Field: "tenant_id", Message: "is required: an operator's calls name a tenant"})
		}
		return nil, errNotFound(key)
	}
	began := time.Now()
	reply, err := e.call(ctx, s, key, req)
	s.ended(solo.CodeOf(err), time.Since(began))
	used := metering.Counters{Calls: 1, BytesIn: uint64(len(req.Body))}
	if err == nil {
		used.BytesOut = uint64(len(reply.Body))
	}
	e.cfg.Metering.Count(key, used)
	return reply, err
}

// call meets a call with the service, once there is room for it.
func (e *Engine) call(ctx context.Context, s *service, key solo.Key, req *solo.InvokeRequest) (*solo.InvokeReply, error) {
	mine, err := e.calls.enter(key.Tenant, e.bounds.Load())
	if err != nil {
		return nil, err
	}
	defer e.calls.leave(mine)
	timeout := req.Timeout
	if timeout <= 0 {
		timeout = solo.DefaultInvokeTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, min(timeout, solo.MaxInvokeTimeout))
	defer cancel()
	if req.Metadata == nil {
		req.Metadata = map[string]string{}
	}
	req.Metadata["version"] = strconv.Itoa(s.unit.View().Plan.Version)
	ticket, err := s.breaker.Enter(time.Now())
	if err != nil {
		return nil, err
	}
	reply, err := s.unit.Call(ctx, req)
	change := s.breaker.Leave(&ticket, e.bounds.Load().Breaker, outcome(err, timeout), time.Now())
	if change != admission.Unchanged {
		e.circuit(key, s, change, err)
	}
	return reply, err
}

// slowCall is the shortest deadline whose end says something about the service
// (contract 3, breaker.failures).
const slowCall = time.Second

// outcome is what the end of a call says about the service.
func outcome(err error, timeout time.Duration) admission.Outcome {
	switch code := solo.CodeOf(err); {
	case code == solo.CodeUnavailable, code == solo.CodeDeadlineExceeded && timeout >= slowCall:
		return admission.Bad
	case code == solo.CodeDeadlineExceeded, code == solo.CodeNotRunning, code == solo.CodeNotReady, code == solo.CodeRateLimited, code == solo.CodeShuttingDown:
		return admission.Neither
	}
	return admission.Good // it has answered, whatever it said
}

// circuit records that a breaker has opened or closed. The call has its end already:
// a disk that fails is no reason to give it another.
func (e *Engine) circuit(key solo.Key, s *service, change admission.Change, cause error) {
	kind, payload := solo.EventCircuitClosed, map[string]any{"reason": "a call has succeeded"}
	if change == admission.Opened {
		p := e.bounds.Load().Breaker
		kind, payload = solo.EventCircuitOpened, map[string]any{"failures": p.Failures, "open_ms": p.Open.Milliseconds(), "last": solo.CodeOf(cause)}
	}
	err := e.cfg.DB.Update(func(tx *store.Tx) error {
		_, err := e.cfg.Events.Append(tx, solo.Event{TenantID: key.Tenant, Type: kind, Subject: solo.ServiceSubject(key.Service), Payload: payload})
		return err
	})
	if err != nil {
		e.cfg.Log.Error("a change of a circuit breaker cannot be recorded", "tenant", key.Tenant, "service", key.Service, "error", err)
	}
}

// Hold runs f while nothing that the store names is forgotten.
func (e *Engine) Hold(f func() error) error {
	e.purging.RLock()
	defer e.purging.RUnlock()
	return f()
}

// Backup writes a consistent copy of the running daemon: the log, the state, the
// sources, the artifacts and the logs.
func (e *Engine) Backup(ctx context.Context, p solo.Principal, withKey bool, w io.Writer) error {
	if !p.Operator {
		return solo.Errorf(solo.CodePermissionDenied, "only the operator may take a backup")
	}
	if withKey {
		e.cfg.Log.Warn("a backup is taken that holds the vault's key", "by", p.Proof)
	}
	return e.cfg.Backup(ctx, withKey, w)
}

// Shutdown ends the daemon as SIGTERM does.
func (e *Engine) Shutdown(p solo.Principal) error {
	if !p.Operator {
		return solo.Errorf(solo.CodePermissionDenied, "only the operator may shut the daemon down")
	}
	e.cfg.Log.Info("an operator asks for the end of the daemon", "proof", p.Proof)
	e.cfg.Stop()
	return nil
}

// Events returns a page of the log.
func (e *Engine) Events(_ context.Context, q solo.EventQuery) (solo.EventPage, error) {
	return e.cfg.Events.Page(q)
}

// WaitEvents returns when there is an event after that id, or ctx ends.
func (e *Engine) WaitEvents(ctx context.Context, after uint64) error {
	return e.cfg.Events.Wait(ctx, after)
}

// LastEventID is the newest event's.
func (e *Engine) LastEventID() uint64 { return e.cfg.Events.LastID() }

// FirstEventID is the oldest event's that retention has left.
func (e *Engine) FirstEventID() uint64 { return e.cfg.Events.FirstID() }

// VerifyEvents proves the chain of the whole log.
func (e *Engine) VerifyEvents(ctx context.Context) (*solo.VerifyReport, error) {
	report, err := e.cfg.Events.Verify(ctx)
	if err != nil {
		return nil, err
	}
	return &report, nil
}

// Logs returns a page of what services wrote.
func (e *Engine) Logs(_ context.Context, q solo.LogQuery) (solo.LogPage, error) {
	return e.cfg.Logs.Page(q)
}

// WaitLogs returns when there is a line of the tenant after that id, or ctx ends.
func (e *Engine) WaitLogs(ctx context.Context, tenant string, after uint64) error {
	return e.cfg.Logs.Wait(ctx, tenant, after)
}

// Health says how the daemon is.
func (e *Engine) Health(context.Context) *solo.Health {
	ok := solo.Component{Status: solo.HealthOK}
	h := &solo.Health{
		Status: solo.HealthOK, Version: e.cfg.Version, WarmUp: e.cfg.Compiler.WarmUp(),
		Components: e.cfg.Components(),
		Isolation:  e.cfg.Isolation, Services: map[string]int{}, Events: e.cfg.Events.Stats(),
		UptimeS: int64(time.Since(e.started).Seconds()),
	}
	h.Components["store"], h.Components["compiler"] = ok, ok
	for _, c := range h.Components {
		if c.Status != solo.HealthOK {
			h.Status = worse(h.Status, c.Status)
		}
	}
	for _, s := range solo.States() {
		h.Services[string(s)] = 0
	}
	for _, s := range e.selectServices("") {
		h.Services[string(s.unit.View().State)]++
	}
	err := e.cfg.DB.Healthy()
	if err == nil {
		err = e.cfg.Disk()
	}
	if err != nil {
		h.Components["store"] = solo.Component{Status: solo.HealthFailing, Detail: solo.AsError(err).Message}
		h.Status = solo.HealthFailing
	}
	if h.WarmUp.State == "failed" {
		h.Components["compiler"] = solo.Component{Status: solo.HealthDegraded, Detail: h.WarmUp.Detail}
		h.Status = worse(h.Status, solo.HealthDegraded)
	}
	h.Components["vault"] = ok
	if s := e.cfg.Vault.Status(); s.Status != "unlocked" {
		h.Components["vault"] = solo.Component{Status: solo.HealthDegraded, Detail: "the vault is " + s.Status + " (key_source " + s.Source + ")"}
		h.Status = worse(h.Status, solo.HealthDegraded)
	}
	h.Components["sandbox"] = ok
	if off := layersOff(h.Isolation); len(off) > 0 {
		h.Components["sandbox"] = solo.Component{Status: solo.HealthDegraded, Detail: "off: " + strings.Join(off, ", ")}
	}
	switch {
	case e.stopping.Load():
		h.Status = solo.HealthStopping
		h.Components["supervisor"] = solo.Component{Status: solo.HealthStopping}
	case !e.ready.Load():
		h.Status = worse(h.Status, solo.HealthStarting)
		h.Components["supervisor"] = solo.Component{Status: solo.HealthStarting, Detail: fmt.Sprintf("%d of %d services are started", e.booted.Load(), e.toBoot.Load())}
	}
	return h
}

func layersOff(layers map[string]solo.Layer) []string {
	var off []string
	for name, layer := range layers {
		if !layer.On {
			off = append(off, name)
		}
	}
	slices.Sort(off)
	return off
}

// worse keeps a failing status.
func worse(now, next string) string {
	if now == solo.HealthFailing {
		return now
	}
	return next
}

// LastLogID is the newest log line's.
func (e *Engine) LastLogID() uint64 { return e.cfg.Logs.LastID() }
