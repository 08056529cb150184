package engine

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/solo-run/solo/pkg/capability"
	"github.com/solo-run/solo/pkg/solo"
	"github.com/solo-run/solo/pkg/store"
)

// Authenticate returns who holds a token, and counts the request against its rate.
// The error is unauthenticated, the same for every fault of a token, or
// rate_limited.
func (e *Engine) Authenticate(token string) (solo.Principal, error) {
	h, err := e.cfg.Capabilities.Verify(token)
	if err != nil {
		if solo.CodeOf(err) == solo.CodeUnauthenticated {
			if derr := e.burst(burstKey{kind: solo.EventCapabilityDenied}, "", map[string]any{"reason": "the token does not count"}); derr != nil {
				return solo.Principal{}, derr
			}
		}
		return solo.Principal{}, err
	}
	if err := h.Admit(time.Now()); err != nil {
		return solo.Principal{}, err
	}
	return solo.Principal{Tenant: h.Tenant, Capability: h.ID, Rights: h}, nil
}

// Denied records that a capability does not allow an operation, and returns the
// refusal.
func (e *Engine) Denied(p solo.Principal, op solo.Operation, resource string) error {
	err := e.burst(burstKey{solo.EventCapabilityDenied, p.Tenant, p.Capability, string(op.Permission)}, p.Capability, map[string]any{
		"operation": op.Name, "permission": op.Permission, "resource": resource, "by": p.Who(),
	})
	if err != nil {
		return err
	}
	return solo.Errorf(solo.CodePermissionDenied, "the capability does not allow %s on %s", op.Permission, resource).
		With("permission", op.Permission).With("resource", resource)
}

// denied is [Engine.Denied] for what an operation needs beside its own resource.
func (e *Engine) denied(p solo.Principal, permission solo.Permission, resource string) error {
	return e.Denied(p, solo.Operation{Name: solo.OpDeploy, Permission: permission}, resource)
}

// Verified records that a capability was used: the first of a burst, and the others
// as a count with the next.
func (e *Engine) Verified(p solo.Principal) error {
	return e.burst(burstKey{kind: solo.EventCapabilityVerified, tenant: p.Tenant, id: p.Capability}, p.Capability, map[string]any{"by": p.Who()})
}

// While returns a context that ends with the caller's proof: a stream lives no
// longer than that.
func (e *Engine) While(ctx context.Context, p solo.Principal) (context.Context, context.CancelFunc) {
	if h, ok := p.Rights.(*capability.Holder); ok {
		return e.cfg.Capabilities.Watch(ctx, h)
	}
	return context.WithCancel(ctx)
}

// burstKey names what is told once and then counted.
type burstKey struct {
	kind       solo.EventType
	tenant, id string
	what       string
}

// How long what is frequent is counted before it is told again, and how many bursts
// are known at once.
const (
	burstTime = time.Minute
	maxBursts = 4096
)

// bursts count what is not told.
type bursts struct {
	mu    sync.Mutex
	known map[burstKey]*burst
}

type burst struct {
	until    time.Time
	withheld int
}

// burst appends the event where it is the first of its kind for a while; the ones
// in between come as a count with the next.
func (e *Engine) burst(key burstKey, id string, payload map[string]any) error {
	now := time.Now()
	e.bursts.mu.Lock()
	b := e.bursts.known[key]
	if b != nil && now.Before(b.until) {
		b.withheld++
		e.bursts.mu.Unlock()
		return nil
	}
	if b == nil && len(e.bursts.known) >= maxBursts {
		for k, old := range e.bursts.known {
			if now.After(old.until) {
				delete(e.bursts.known, k)
			}
		}
		if len(e.bursts.known) >= maxBursts {
			// As many kinds as are known are told at once: what is new goes with the others.
			e.bursts.mu.Unlock()
			return nil
		}
	}
	if b != nil && b.withheld > 0 {
		payload["withheld"] = b.withheld
	}
	e.bursts.known[key] = &burst{until: now.Add(burstTime)}
	e.bursts.mu.Unlock()
	subject := "capabilities/" + id
	switch {
	case key.tenant == "":
		subject = solo.SubjectSystem // nobody knows whose it would be
	case id == "":
		subject = "capabilities"
	}
	err := e.cfg.DB.Update(func(tx *store.Tx) error {
		_, err := e.cfg.Events.Append(tx, solo.Event{TenantID: key.tenant, Type: key.kind, Subject: subject, Payload: payload})
		return err
	})
	if err != nil {
		e.bursts.mu.Lock()
		delete(e.bursts.known, key) // it was not told
		e.bursts.mu.Unlock()
	}
	return err
}

// sweepPause is how often capabilities that have expired are forgotten (contract
// 4c), sweepBatch how many one transaction forgets.
const (
	sweepPause = time.Minute
	sweepBatch = 500
)

// sweepCapabilities forgets what has expired, until ctx ends.
func (e *Engine) sweepCapabilities(ctx context.Context) error {
	tick := time.NewTicker(sweepPause)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		if err := e.sweepExpired(); err != nil && !errors.Is(err, context.Canceled) {
			e.cfg.Log.Error("capabilities that have expired cannot be forgotten", "error", err)
		}
	}
}

func (e *Engine) sweepExpired() error {
	for {
		var swept []solo.Capability
		err := e.cfg.DB.Update(func(tx *store.Tx) (err error) {
			if swept, err = e.cfg.Capabilities.Sweep(tx, sweepBatch); err != nil {
				return err
			}
			for _, c := range swept {
				_, err := e.cfg.Events.Append(tx, solo.Event{
					TenantID: c.TenantID, Type: solo.EventCapabilityExpired, Subject: "capabilities/" + c.ID,
					Payload: map[string]any{"resource": c.Resource, "expires_at": c.ExpiresAt, "revoked": c.Revoked},
				})
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil || len(swept) < sweepBatch {
			return err
		}
	}
}
