package engine

import (
	"context"
	"fmt"
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
			derr := e.burst(burstKey{kind: solo.EventCapabilityDenied}, func() map[string]any {
				return map[string]any{"reason": "the token does not count"}
			})
			if derr != nil {
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
	err := e.burst(burstKey{solo.EventCapabilityDenied, p.Tenant, p.Capability, string(op.Permission)}, func() map[string]any {
		return map[string]any{"operation": op.Name, "permission": op.Permission, "resource": resource, "by": p.Who()}
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
	return e.burst(burstKey{kind: solo.EventCapabilityVerified, tenant: p.Tenant, id: p.Capability}, func() map[string]any {
		return map[string]any{"by": p.Who()}
	})
}

// While returns a context that ends with the caller's proof: a stream lives no
// longer than that.
func (e *Engine) While(ctx context.Context, p solo.Principal) (context.Context, context.CancelFunc) {
	if h, ok := p.Rights.(*capability.Holder); ok {
		return e.cfg.Capabilities.Watch(ctx, h)
	}
	return context.WithCancel(ctx)
}

// burstKey names what is told once and then counted. The event's subject is the
// capability of the id, or all of them.
type burstKey struct {
	kind       solo.EventType
	tenant, id string
	what       string
}

func (k burstKey) subject() string {
	switch {
	case k.tenant == "":
		return solo.SubjectSystem // nobody knows whose it would be
	case k.id == "":
		return "capabilities"
	}
	return "capabilities/" + k.id
}

// How long what is frequent is counted before it is told again, and how many bursts
// are told apart; what is beyond is one burst of its own.
const (
	burstTime = time.Minute
	maxBursts = 4096
)

// bursts count what is not told.
type bursts struct {
	mu    sync.Mutex
	known map[burstKey]*burst
	swept time.Time
}

type burst struct {
	until    time.Time
	withheld int
}

// note counts an occurrence and reports whether it is to be told, with how many were
// not; the key is that of the burst which it belongs to.
func (b *bursts) note(key burstKey, now time.Time) (_ burstKey, withheld int, tell bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	known := b.known[key]
	if known == nil && len(b.known) >= maxBursts {
		if now.Sub(b.swept) >= time.Second {
			b.swept = now
			for k, old := range b.known {
				if now.After(old.until) && old.withheld == 0 {
					delete(b.known, k)
				}
			}
		}
		if len(b.known) >= maxBursts {
			key = burstKey{kind: key.kind, what: "others"}
			known = b.known[key]
		}
	}
	if known == nil {
		known = &burst{}
		b.known[key] = known
	}
	if now.Before(known.until) {
		known.withheld++
		return key, 0, false
	}
	withheld, known.withheld = known.withheld, 0
	known.until = now.Add(burstTime)
	return key, withheld, true
}

// untold takes back what could not be told.
func (b *bursts) untold(key burstKey, withheld int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if known := b.known[key]; known != nil {
		known.until = time.Time{}
		known.withheld += withheld
	}
}

// burst appends an event where it is the first of its kind for a while; the ones in
// between come as a count with the next. payload is asked for only then: this is on
// the way of every call.
func (e *Engine) burst(key burstKey, payload func() map[string]any) error {
	key, withheld, tell := e.bursts.note(key, time.Now())
	if !tell {
		return nil
	}
	told := payload()
	if withheld > 0 {
		told["withheld"] = withheld
	}
	err := e.cfg.DB.Update(func(tx *store.Tx) error {
		_, err := e.cfg.Events.Append(tx, solo.Event{TenantID: key.tenant, Type: key.kind, Subject: key.subject(), Payload: told})
		return err
	})
	if err != nil {
		e.bursts.untold(key, withheld)
	}
	return err
}

// sweepPause is how often capabilities that have expired are forgotten (contract
// 4c), sweepBatch how many one transaction forgets.
const (
	sweepPause = time.Minute
	sweepBatch = 500
)

// SweepCapabilities forgets what has expired, until ctx ends. A sweep that fails is
// the end of the part: its restart is an event and a metric, so that a store that
// only grows is seen.
func (e *Engine) SweepCapabilities(ctx context.Context) error {
	tick := time.NewTicker(sweepPause)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		if err := e.sweepExpired(); err != nil {
			return fmt.Errorf("cannot forget capabilities that have expired: %w", err)
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
