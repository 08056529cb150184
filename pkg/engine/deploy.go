package engine

import (
	"context"
	"errors"
	"reflect"
	"time"

	"github.com/solo-run/solo/pkg/compiler"
	"github.com/solo-run/solo/pkg/failpoint"
	"github.com/solo-run/solo/pkg/metering"
	"github.com/solo-run/solo/pkg/solo"
	"github.com/solo-run/solo/pkg/store"
	"github.com/solo-run/solo/pkg/supervisor"
)

// slot is the right to deploy one id. It ends the deploy for a kill.
type slot struct {
	cancel context.CancelCauseFunc
	done   chan struct{}
}

var errKilled = solo.Errorf(solo.CodeConflict, "the service was killed during its deploy")

// claim takes the slot of an id; a second deploy meanwhile is a conflict.
func (e *Engine) claim(ctx context.Context, key solo.Key) (context.Context, func(), error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.slots[key] != nil {
		return nil, nil, errDeploying(key)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	s := &slot{cancel: cancel, done: make(chan struct{})}
	e.slots[key] = s
	return ctx, func() {
		e.mu.Lock()
		delete(e.slots, key)
		e.mu.Unlock()
		cancel(nil)
		close(s.done)
	}, nil
}

func errDeploying(key solo.Key) *solo.Error {
	return solo.Errorf(solo.CodeConflict, "a deploy of %q is under way; try again when it is through", key.Service)
}

// Deploy creates a service: parse, policy, tests, build, start, and only then a
// version. True tells that one was created; the same specification that runs is
// answered with what runs.
func (e *Engine) Deploy(ctx context.Context, p solo.Principal, req *solo.DeployRequest) (*solo.Service, bool, error) {
	if req.ServiceID == nil {
		return nil, false, solo.InvalidFields(solo.Field{Field: "service_id", Message: "is required"})
	}
	key, err := e.deployKey(p, *req.ServiceID)
	if err != nil {
		return nil, false, err
	}
	d, err := e.plan(key, req)
	if err != nil {
		return nil, false, err
	}
	if err := e.admits(); err != nil {
		return nil, false, err
	}
	if err := e.allowed(p, key, d.settings); err != nil {
		return nil, false, err
	}
	d.by = p.Who()
	ctx, release, err := e.claim(ctx, key)
	if err != nil {
		return nil, false, err
	}
	defer release()
	if s := e.lookup(key); s != nil {
		r := s.record.Load()
		if r.State.Live() && s.unit.View().State.Live() {
			if d.same(r) {
				return e.answer(s), false, nil
			}
			return nil, false, solo.Errorf(solo.CodeConflict, "%q is live with another specification: use PUT to replace it, or DELETE it first", key.Service).
				With("version", r.Version).With("state", s.unit.View().State)
		}
	}
	if err := e.quota(key); err != nil {
		return nil, false, err
	}
	s, err := e.deploy(ctx, key, d)
	if err != nil {
		return nil, false, e.deployFailed(ctx, key, d, err)
	}
	return e.answer(s), true, nil
}

// deployKey checks who deploys what.
func (e *Engine) deployKey(p solo.Principal, serviceID string) (solo.Key, error) {
	if err := solo.CheckID(serviceID); err != nil {
		return solo.Key{}, solo.InvalidFields(solo.Field{Field: "service_id", Message: err.Error()})
	}
	if p.Tenant == "" {
		return solo.Key{}, solo.InvalidFields(solo.Field{Field: "tenant_id", Message: "is required: an operator's writes name a tenant"})
	}
	return solo.Key{Tenant: p.Tenant, Service: serviceID}, nil
}

// admits refuses what would change something on the way out.
func (e *Engine) admits() error {
	if e.stopping.Load() {
		return supervisor.ErrShuttingDown()
	}
	if !e.ready.Load() {
		return errStarting()
	}
	return nil
}

// deployment is a deploy's body, checked.
type deployment struct {
	by       map[string]any
	source   solo.Source
	digest   string
	settings solo.Settings
}

func (e *Engine) plan(key solo.Key, req *solo.DeployRequest) (*deployment, error) {
	settings, err := req.Settings(key.Service, e.bounds.Load().Defaults, e.bounds.Load().Ceiling)
	if err != nil {
		return nil, err
	}
	src, err := compiler.Parse(req)
	if err != nil {
		return nil, err
	}
	return &deployment{source: src, digest: compiler.SourceDigest(src), settings: settings}, nil
}

// same reports whether r already is what the deployment asks for.
func (d *deployment) same(r *record) bool {
	return d.digest == r.Current.SourceDigest && reflect.DeepEqual(d.settings, r.Current.Settings)
}

// quota refuses a service more than the daemon or the tenant may have. Those
// that are stopped do not count, up to ten times as many.
func (e *Engine) quota(key solo.Key) error {
	bounds := e.bounds.Load()
	e.mu.RLock()
	defer e.mu.RUnlock()
	live, stored, mine, myStored := 0, 0, 0, 0
	count := func(k solo.Key, isLive bool) {
		stored++
		if isLive {
			live++
		}
		if k.Tenant == key.Tenant {
			myStored++
			if isLive {
				mine++
			}
		}
	}
	for k, s := range e.services {
		if k != key {
			count(k, s.unit.View().State.Live())
		}
	}
	for k := range e.slots {
		if k != key {
			count(k, e.services[k] == nil || !e.services[k].unit.View().State.Live())
		}
	}
	switch {
	case mine >= bounds.MaxPerTenant:
		return solo.Errorf(solo.CodeQuotaExceeded, "the tenant has %d services, as many as it may (limits.max_per_tenant)", mine)
	case live >= bounds.MaxTotal:
		return solo.Errorf(solo.CodeQuotaExceeded, "the daemon has %d services, as many as it may (limits.max_total)", live)
	case myStored >= storedPerLive*bounds.MaxPerTenant, stored >= storedPerLive*bounds.MaxTotal:
		return solo.Errorf(solo.CodeQuotaExceeded, "too many stopped services are kept: DELETE some with purge=true")
	}
	return nil
}

// storedPerLive is how many stopped services are kept for each that may live.
const storedPerLive = 10

// deploy builds, starts and commits. Up to the second transaction ctx ends it,
// and nothing is left.
func (e *Engine) deploy(ctx context.Context, key solo.Key, d *deployment) (*service, error) {
	began := time.Now()
	artifact, err := e.cfg.Compiler.Build(ctx, key.Tenant, d.source)
	e.cfg.Metering.Count(key, metering.Counters{Builds: 1, BuildMS: uint64(time.Since(began).Milliseconds())})
	if err != nil {
		return nil, err
	}
	failpoint.Hit("deploy.built")
	solo.Reached(ctx, solo.StageStarting)
	r := &record{Tenant: key.Tenant, Service: key.Service}
	s := e.lookup(key)
	if s != nil {
		old := *s.record.Load()
		r = &old
	}
	plan := supervisor.Plan{Key: key, Version: r.LastVersion + 1, Artifact: artifact.Digest, Settings: d.settings}
	// The source reaches the disk while the candidate starts.
	saved := make(chan error, 1)
	undo := func() {}
	go func() {
		var err error
		undo, err = e.sources.save(key, d.digest, d.source)
		saved <- err
	}()
	candidate, err := e.sup.Prepare(ctx, plan, r.LastInstance+1)
	saveErr := <-saved
	if err != nil {
		undo()
		return nil, err
	}
	failpoint.Hit("deploy.prepared")
	if err = saveErr; err == nil {
		err = e.cfg.Compiler.Durable(artifact.Digest)
	}
	if err == nil {
		err = e.makeCurrent(ctx, key, d, plan, artifact, candidate, &r)
	}
	if err != nil {
		candidate.Abort()
		undo()
		return nil, err
	}
	failpoint.Hit("deploy.committed")
	if s == nil {
		if s, err = e.addService(r, nil); err != nil {
			candidate.Abort()
			return nil, err
		}
	} else {
		s.record.Store(r)
	}
	if err := s.unit.Commit(candidate); err != nil {
		return nil, err
	}
	e.vetLater(vetting{key, r.Version, d.source})
	return s, nil
}

// makeCurrent is the second transaction: the version gets its number and is
// current. From here on the disk says that the service runs.
func (e *Engine) makeCurrent(ctx context.Context, key solo.Key, d *deployment, plan supervisor.Plan, artifact *compiler.Artifact, candidate *supervisor.Candidate, out **record) error {
	select {
	case <-candidate.Done():
		return &supervisor.StartError{Exit: candidate.Exit()}
	default:
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return e.cfg.DB.Update(func(tx *store.Tx) error {
		if err := admitTenant(tx, key.Tenant, e.bounds.Load().MaxTenants); err != nil {
			return err
		}
		r, err := loadRecord(tx, key)
		if err != nil {
			return err
		}
		if r == nil {
			r = &record{Tenant: key.Tenant, Service: key.Service, CreatedAt: tx.Now}
		}
		r.Version, r.LastVersion = plan.Version, plan.Version
		r.Current = version{
			Number: plan.Version, Artifact: artifact.Digest, SourceDigest: d.digest, Settings: d.settings, DeployedAt: tx.Now,
			Build:     solo.Build{Cached: artifact.Cached, DurationMS: artifact.Duration.Milliseconds(), Warnings: noNil(artifact.Warnings)},
			Toolchain: e.cfg.Compiler.Toolchain(),
		}
		if err := saveVersion(tx, key, r.Current); err != nil {
			return err
		}
		if err := e.append(tx, r, solo.EventServiceDeployed, map[string]any{
			"version": r.Version, "artifact": artifact.Digest, "source_digest": d.digest, "by": d.by,
			"build": map[string]any{"cached": artifact.Cached, "duration_ms": artifact.Duration.Milliseconds()},
		}, 0); err != nil {
			return err
		}
		r.LastExit = nil
		if err := e.apply(tx, r, supervisor.Change{
			Kind: supervisor.ChangeStarted, Instance: candidate.Number(), PID: candidate.PID(),
			StartedAt: candidate.StartedAt(), Cause: supervisor.CauseDeploy,
		}); err != nil {
			return err
		}
		*out = r
		return saveRecord(tx, r)
	})
}

func noNil[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// deployFailed records a deploy that failed on the source's own account, and
// returns what the caller is told.
func (e *Engine) deployFailed(ctx context.Context, key solo.Key, d *deployment, err error) error {
	if ctx.Err() != nil {
		// Whoever ended it is told why, and not how it came to its end.
		if cause := context.Cause(ctx); errors.Is(cause, errKilled) {
			err = errKilled
		} else {
			err = solo.Errorf(solo.CodeUnavailable, "the deploy was cancelled: its caller went away").Because(cause)
		}
	}
	var start *supervisor.StartError
	if errors.As(err, &start) {
		err = startFailed(start.Exit)
	}
	told := solo.AsError(err)
	if e.lookup(key) == nil {
		if perr := e.cfg.Logs.Purge(key); perr != nil {
			e.cfg.Log.Warn("cannot remove the log of a deploy that failed", "error", perr)
		}
	}
	switch told.Code {
	case solo.CodeCompileFailed, solo.CodeTestsFailed, solo.CodePolicyViolation, solo.CodeStartFailed:
	default:
		return told
	}
	payload := map[string]any{"code": told.Code, "message": told.Message, "source_digest": d.digest, "by": d.by}
	for name, value := range told.Details {
		payload[name] = briefly(value)
	}
	werr := e.cfg.DB.Update(func(tx *store.Tx) error {
		if err := admitTenant(tx, key.Tenant, e.bounds.Load().MaxTenants); err != nil {
			return err
		}
		_, err := e.cfg.Events.Append(tx, solo.Event{
			TenantID: key.Tenant, Type: solo.EventServiceDeploymentFailed, Subject: solo.ServiceSubject(key.Service), Payload: payload,
		})
		return err
	})
	if werr != nil {
		return werr
	}
	return told
}

// eventEntries bounds the lists of details in an event; the answer has them all.
const eventEntries = 10

func briefly(v any) any {
	switch list := v.(type) {
	case []solo.Diagnostic:
		out := make([]solo.Diagnostic, 0, min(len(list), eventEntries))
		for _, d := range list[:cap(out)] {
			d.Message, d.Output = cut(d.Message, 1024), cut(d.Output, 1024)
			out = append(out, d)
		}
		return out
	case []string:
		return cutAll(list, 1024)
	case solo.Exit:
		list.LogTail = cutAll(list.LogTail, 1024)
		return list
	}
	return v
}

// cut keeps the end of a text: that is where a trace has its reason.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return "…" + string([]rune(s[len(s)-n:]))
}

func cutAll(list []string, n int) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = cut(s, n)
	}
	return out
}

// startFailed is the refusal of a candidate, with all that is known of its end.
func startFailed(x solo.Exit) *solo.Error {
	what := map[solo.Reason]string{
		solo.ReasonStartTimeout: "it did not get ready in time",
		solo.ReasonPanic:        "it panicked",
		solo.ReasonExitCode:     "it exited",
		solo.ReasonClean:        "it exited before it served",
		solo.ReasonSignal:       "a signal ended it",
		solo.ReasonOOM:          "it needed more memory than its limit",
	}[x.Reason]
	if what == "" {
		what = "it ended as " + string(x.Reason)
	}
	if x.Panic != nil && x.Panic.Message != "" {
		what += ": " + x.Panic.Message
	}
	err := solo.Errorf(solo.CodeStartFailed, "the service did not start: %s", what).
		With("exit", x).With("log_tail", noNil(x.LogTail))
	if x.Panic != nil {
		err = err.With("panic", x.Panic)
	}
	return err
}

// Check compiles, tests and plans, and changes nothing.
func (e *Engine) Check(ctx context.Context, p solo.Principal, serviceID string, req *solo.DeployRequest) (*solo.CheckResult, error) {
	key, err := e.deployKey(p, serviceID)
	if err != nil {
		return nil, err
	}
	if req.ServiceID != nil && *req.ServiceID != serviceID {
		return nil, solo.InvalidFields(solo.Field{Field: "service_id", Message: "is not the one of the path"})
	}
	d, err := e.plan(key, req)
	if err != nil {
		return nil, err
	}
	if err := e.allowed(p, key, d.settings); err != nil {
		return nil, err
	}
	diagnostics, findings, warnings, err := e.cfg.Compiler.Check(ctx, key.Tenant, d.source)
	if err != nil {
		return nil, err
	}
	result := &solo.CheckResult{
		OK: len(diagnostics) == 0 && len(findings) == 0, Diagnostics: noNil(diagnostics), Findings: noNil(findings),
		Warnings: noNil(warnings), Changes: []solo.Change{},
	}
	if s := e.lookup(key); s != nil {
		result.Changes = d.changes(s.record.Load())
	}
	return result, nil
}

// changes lists what a deploy of d would alter of the current version.
func (d *deployment) changes(r *record) []solo.Change {
	out := []solo.Change{}
	add := func(field string, from, to any) {
		if !reflect.DeepEqual(from, to) {
			out = append(out, solo.Change{Field: field, From: from, To: to})
		}
	}
	was, is := r.Current.Settings, d.settings
	add("source_digest", r.Current.SourceDigest, d.digest)
	add("name", was.Name, is.Name)
	add("restart", was.Restart, is.Restart)
	add("restart_limits", was.RestartLimits, is.RestartLimits)
	add("backoff", was.Backoff, is.Backoff)
	add("health", was.Health, is.Health)
	add("limits", was.Limits, is.Limits)
	add("metadata", was.Metadata, is.Metadata)
	add("stop_timeout_ms", was.StopTimeoutMS, is.StopTimeoutMS)
	if !reflect.DeepEqual(was.Env, is.Env) {
		// The names only: values may be of no concern to who may only check.
		add("env", names(was.Env), names(is.Env))
	}
	return out
}
