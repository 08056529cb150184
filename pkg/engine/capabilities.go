package engine

import (
	"context"
	"time"

	"github.com/solo-run/solo/pkg/capability"
	"github.com/solo-run/solo/pkg/solo"
	"github.com/solo-run/solo/pkg/store"
)

// asked checks a request for a capability; whole tells that nothing may be left out
// but what has a default.
func asked(req *solo.CapabilityRequest, whole bool) (capability.Asked, error) {
	var a capability.Asked
	var fields []solo.Field
	bad := func(field, message string) { fields = append(fields, solo.Field{Field: field, Message: message}) }
	if req.Resource != nil {
		a.Resource = *req.Resource
		if err := capability.CheckResource(a.Resource); err != nil {
			bad("resource", err.Error())
		}
	} else if whole {
		bad("resource", "is required")
	}
	if req.Permissions != nil || whole {
		a.Permissions = req.Permissions
		fields = append(fields, solo.CheckPermissions("permissions", req.Permissions)...)
	}
	if whole {
		a.TTL = solo.DefaultCapabilityTTL
	}
	if req.TTLSeconds != nil {
		a.TTL = time.Duration(*req.TTLSeconds) * time.Second
		if *req.TTLSeconds < 1 || *req.TTLSeconds > int64(solo.MaxCapabilityTTL.Seconds()) {
			bad("ttl_seconds", "must be from 1 to 315360000")
		}
	}
	if req.RateLimit != nil {
		a.Rate = *req.RateLimit
		if a.Rate < 1 || a.Rate > solo.MaxCapabilityRate {
			bad("rate_limit", "must be from 1 to 1000000 requests a minute")
		}
	}
	if a.Methods = req.Methods; a.Methods != nil {
		if len(a.Methods) == 0 || len(a.Methods) > solo.MaxCapabilityMethods {
			bad("methods", "must be 1 to 64 names, or null for every one")
		}
		for _, m := range a.Methods {
			if solo.CheckMethod(m) != nil {
				bad("methods", "has a name that no method can have")
				break
			}
		}
	}
	if len(fields) > 0 {
		return a, solo.InvalidFields(fields...)
	}
	return a, nil
}

// Grant gives a capability of the caller's tenant, within what the caller holds.
func (e *Engine) Grant(_ context.Context, p solo.Principal, req *solo.CapabilityRequest) (*solo.CapabilityGrant, error) {
	if err := e.writes(p); err != nil {
		return nil, err
	}
	if req.Token != nil {
		return nil, solo.InvalidFields(solo.Field{Field: "token", Message: "is for capabilities/attenuate"})
	}
	a, err := asked(req, true)
	if err != nil {
		return nil, err
	}
	if h, ok := p.Rights.(*capability.Holder); ok {
		if !h.Holds(a.Resource, a.Permissions, a.Methods) {
			return nil, e.denied(p, solo.PermissionGrant, a.Resource)
		}
		if left := time.Until(h.Expires()); a.TTL > left {
			a.TTL = left
		}
	}
	out := &solo.CapabilityGrant{}
	err = e.cfg.DB.Update(func(tx *store.Tx) (err error) {
		if err := admitTenant(tx, p.Tenant, e.bounds.Load().MaxTenants); err != nil {
			return err
		}
		if out.Capability, out.Token, err = e.cfg.Capabilities.Grant(tx, p.Tenant, a); err != nil {
			return err
		}
		return e.granted(tx, p, out.Capability)
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// granted tells of a new capability.
func (e *Engine) granted(tx *store.Tx, p solo.Principal, c solo.Capability) error {
	_, err := e.cfg.Events.Append(tx, solo.Event{
		TenantID: c.TenantID, Type: solo.EventCapabilityGranted, Subject: "capabilities/" + c.ID,
		Payload: map[string]any{
			"resource": c.Resource, "permissions": c.Permissions, "methods": c.Methods, "expires_at": c.ExpiresAt,
			"rate_limit": c.RateLimit, "parent": c.Parent, "by": p.Who(),
		},
	})
	return err
}

// Attenuate narrows the token of the request, or the caller's own.
func (e *Engine) Attenuate(_ context.Context, p solo.Principal, req *solo.CapabilityRequest) (*solo.CapabilityGrant, error) {
	if err := e.admits(); err != nil {
		return nil, err
	}
	a, err := asked(req, false)
	if err != nil {
		return nil, err
	}
	h, ok := p.Rights.(*capability.Holder)
	if req.Token != nil {
		if h, err = e.cfg.Capabilities.Verify(string(*req.Token)); err != nil {
			return nil, err
		}
		if p.Tenant != "" && p.Tenant != h.Tenant {
			return nil, solo.Errorf(solo.CodePermissionDenied, "the token is another tenant's than the request's")
		}
	} else if !ok {
		return nil, solo.InvalidFields(solo.Field{Field: "token", Message: "is required where the caller shows none"})
	}
	out := &solo.CapabilityGrant{}
	err = e.cfg.DB.Update(func(tx *store.Tx) (err error) {
		if out.Capability, out.Token, err = e.cfg.Capabilities.Derive(tx, h, a); err != nil {
			return err
		}
		return e.granted(tx, p, out.Capability)
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// VerifyCapability says whether a token allows something.
func (e *Engine) VerifyCapability(_ context.Context, p solo.Principal, req *solo.VerifyRequest) (*solo.VerifyResult, error) {
	var fields []solo.Field
	if req.Token == nil {
		fields = append(fields, solo.Field{Field: "token", Message: "is required"})
	}
	if req.Resource == nil {
		fields = append(fields, solo.Field{Field: "resource", Message: "is required"})
	}
	if req.Permission == nil {
		fields = append(fields, solo.Field{Field: "permission", Message: "is required"})
	} else {
		fields = append(fields, solo.CheckPermissions("permission", []solo.Permission{*req.Permission})...)
	}
	if len(fields) > 0 {
		return nil, solo.InvalidFields(fields...)
	}
	h, err := e.cfg.Capabilities.Verify(string(*req.Token))
	switch {
	case solo.CodeOf(err) == solo.CodeUnauthenticated:
		return &solo.VerifyResult{Reason: "the token does not count: it is bad, expired or revoked"}, nil
	case err != nil:
		return nil, err
	case p.Tenant != "" && p.Tenant != h.Tenant:
		// What is another tenant's is not there.
		return &solo.VerifyResult{Reason: "the token does not count: it is bad, expired or revoked"}, nil
	case !h.Allows(*req.Permission, *req.Resource, ""):
		return &solo.VerifyResult{Reason: "the token does not allow " + string(*req.Permission) + " on that resource"}, nil
	}
	return &solo.VerifyResult{Allowed: true, Reason: "the token allows it"}, nil
}

// Capabilities lists those of the caller's tenant, oldest first.
func (e *Engine) Capabilities(_ context.Context, p solo.Principal, limit, offset int) (*solo.CapabilityList, error) {
	if p.Tenant == "" {
		return nil, solo.InvalidFields(solo.Field{Field: "tenant_id", Message: "is required: capabilities are listed for one tenant"})
	}
	out := &solo.CapabilityList{Limit: limit, Offset: offset}
	return out, e.cfg.DB.View(func(tx *store.Tx) (err error) {
		out.Capabilities, out.Total, err = e.cfg.Capabilities.List(tx, p.Tenant, limit, offset)
		return err
	})
}

// RevokeCapability makes a capability count no longer, and what was derived from it.
func (e *Engine) RevokeCapability(_ context.Context, p solo.Principal, id string) (*solo.RevokedCapability, error) {
	if err := e.writes(p); err != nil {
		return nil, err
	}
	raw, err := capability.ReadID(id)
	if err != nil {
		return nil, err
	}
	out := &solo.RevokedCapability{ID: id, Status: "revoked"}
	return out, e.cfg.DB.Update(func(tx *store.Tx) error {
		revoked, err := e.cfg.Capabilities.Revoke(tx, p.Tenant, raw)
		if err != nil {
			return err
		}
		if out.Revoked = noNil(revoked); len(revoked) == 0 {
			return nil // it was before
		}
		_, err = e.cfg.Events.Append(tx, solo.Event{
			TenantID: p.Tenant, Type: solo.EventCapabilityRevoked, Subject: "capabilities/" + id,
			Payload: map[string]any{"revoked": out.Revoked, "by": p.Who()},
		})
		return err
	})
}

// writes refuses what would change something for nobody, or on the way out.
func (e *Engine) writes(p solo.Principal) error {
	if p.Tenant == "" {
		return solo.InvalidFields(solo.Field{Field: "tenant_id", Message: "is required: an operator's writes name a tenant"})
	}
	return e.admits()
}
