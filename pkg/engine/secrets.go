package engine

import (
	"context"
	"fmt"
	"time"

	"github.com/solo-run/solo/pkg/solo"
	"github.com/solo-run/solo/pkg/store"
	"github.com/solo-run/solo/pkg/vault"
)

// secretSubject is the subject of an event about a secret.
func secretSubject(name string) string { return "secrets/" + name }

// secretEvent tells of a secret, and never its value.
func (e *Engine) secretEvent(tx *store.Tx, tenant string, kind solo.EventType, s solo.Secret, more map[string]any) error {
	payload := map[string]any{"key": s.Key, "version": s.Version}
	for name, v := range more {
		payload[name] = v
	}
	_, err := e.cfg.Events.Append(tx, solo.Event{TenantID: tenant, Type: kind, Subject: secretSubject(s.Key), Payload: payload})
	return err
}

// StoreSecret stores a secret; where the name exists it becomes its next version.
func (e *Engine) StoreSecret(_ context.Context, p solo.Principal, req *solo.SecretRequest) (*solo.Secret, error) {
	if err := e.writes(p); err != nil {
		return nil, err
	}
	name, value, key, err := req.Plain()
	if err != nil {
		return nil, err
	}
	if _, err := e.cfg.Vault.Derive("probe", ""); err != nil {
		return nil, err // a vault that is locked costs no work
	}
	locked, err := vault.Lock(p.Tenant, name, value, key)
	if err != nil {
		return nil, err
	}
	var out solo.Secret
	err = e.cfg.DB.Update(func(tx *store.Tx) (err error) {
		if err := admitTenant(tx, p.Tenant, e.bounds.Load().MaxTenants); err != nil {
			return err
		}
		if limit := e.bounds.Load().TenantSecrets; limit > 0 {
			if _, err := e.cfg.Vault.Info(tx, p.Tenant, name); err != nil && e.cfg.Vault.Count(tx, p.Tenant) >= limit {
				return solo.Errorf(solo.CodeQuotaExceeded, "the tenant has %d secrets, as many as it may have (limits.tenant_secrets)", limit)
			}
		}
		if out, err = e.cfg.Vault.Put(tx, locked); err != nil {
			return err
		}
		return e.secretEvent(tx, p.Tenant, solo.EventSecretStored, out, map[string]any{"locked": out.Locked, "by": p.Who()})
	})
	if err != nil {
		return nil, err
	}
	return &out, nil
}

// Secrets lists the names that the caller may read.
func (e *Engine) Secrets(_ context.Context, p solo.Principal, limit, offset int) (*solo.SecretList, error) {
	if p.Tenant == "" {
		return nil, solo.InvalidFields(solo.Field{Field: "tenant_id", Message: "is required: secrets are listed for one tenant"})
	}
	out := &solo.SecretList{Limit: limit, Offset: offset}
	return out, e.cfg.DB.View(func(tx *store.Tx) error {
		out.Secrets, out.Total = e.cfg.Vault.List(tx, p.Tenant, limit, offset, func(name string) bool {
			return p.Allows(solo.PermissionRead, secretSubject(name), "")
		})
		return nil
	})
}

// Secret tells of a secret without opening it.
func (e *Engine) Secret(_ context.Context, p solo.Principal, name string) (*solo.Secret, error) {
	if p.Tenant == "" {
		return nil, solo.InvalidFields(solo.Field{Field: "tenant_id", Message: "is required: a secret is one tenant's"})
	}
	var out solo.Secret
	err := e.cfg.DB.View(func(tx *store.Tx) (err error) {
		out, err = e.cfg.Vault.Info(tx, p.Tenant, name)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &out, nil
}

// RevealSecret returns the value. That somebody had it is durable before they have
// it; that somebody had the wrong key, too.
func (e *Engine) RevealSecret(_ context.Context, p solo.Principal, name string, key solo.Sensitive) (*solo.RevealedSecret, error) {
	if err := e.writes(p); err != nil {
		return nil, err
	}
	s, value, err := e.openSecret(p.Tenant, name, key, map[string]any{"by": p.Who()})
	if err != nil {
		return nil, err
	}
	return solo.Reveal(s, value), nil
}

// openSecret reads a secret and records who had it, or was refused.
func (e *Engine) openSecret(tenant, name string, key solo.Sensitive, who map[string]any) (solo.Secret, solo.Sensitive, error) {
	var sealed vault.Sealed
	err := e.cfg.DB.View(func(tx *store.Tx) (err error) {
		sealed, err = e.cfg.Vault.Get(tx, tenant, name)
		return err
	})
	if err != nil {
		return solo.Secret{}, nil, err
	}
	kind := solo.EventSecretAccessed
	value, err := sealed.Open(key)
	if err != nil {
		if solo.CodeOf(err) != solo.CodePermissionDenied {
			return solo.Secret{}, nil, err
		}
		kind = solo.EventSecretAccessDenied
	}
	werr := e.cfg.DB.Update(func(tx *store.Tx) error { return e.secretEvent(tx, tenant, kind, sealed.Secret, who) })
	if werr != nil {
		return solo.Secret{}, nil, werr
	}
	return sealed.Secret, value, err
}

// RevokeSecret shreds a secret.
func (e *Engine) RevokeSecret(_ context.Context, p solo.Principal, name string) (*solo.RevokedSecret, error) {
	if err := e.writes(p); err != nil {
		return nil, err
	}
	out := &solo.RevokedSecret{Key: name, Status: "revoked"}
	err := e.cfg.DB.Update(func(tx *store.Tx) error {
		s, err := e.cfg.Vault.Revoke(tx, p.Tenant, name)
		if err != nil {
			return err
		}
		out.Version = s.Version
		return e.secretEvent(tx, p.Tenant, solo.EventSecretRevoked, s, map[string]any{"by": p.Who()})
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// UnlockVault opens a vault whose source is a passphrase, and ends a rotation that
// was cut off.
func (e *Engine) UnlockVault(_ context.Context, p solo.Principal, passphrase solo.Sensitive) (*solo.VaultStatus, error) {
	if !p.Operator {
		return nil, solo.Errorf(solo.CodePermissionDenied, "only the operator may unlock the vault")
	}
	if err := e.cfg.Vault.Unlock(passphrase); err != nil {
		return nil, err
	}
	e.cfg.Log.Info("the vault is unlocked", "by", p.Proof)
	if err := e.cfg.Vault.Resume(e.rotated(nil)); err != nil {
		return nil, err
	}
	s := e.cfg.Vault.Status()
	return &s, nil
}

// ResumeVault ends a rotation of the vault's key that a former daemon has begun, and
// then waits for the end of ctx.
func (e *Engine) ResumeVault(ctx context.Context) error {
	if err := e.cfg.Vault.Resume(e.rotated(nil)); err != nil {
		return fmt.Errorf("cannot go on with the rotation of the vault's key: %w", err)
	}
	<-ctx.Done()
	return nil
}

// RotateVault changes the master key.
func (e *Engine) RotateVault(_ context.Context, p solo.Principal, passphrase solo.Sensitive) (*solo.VaultStatus, error) {
	if !p.Operator {
		return nil, solo.Errorf(solo.CodePermissionDenied, "only the operator may rotate the vault's key")
	}
	if err := e.admits(); err != nil {
		return nil, err
	}
	began := time.Now()
	s, err := e.cfg.Vault.Rotate(passphrase, e.rotated(p.Who()))
	if err != nil {
		return nil, err
	}
	e.cfg.Log.Info("the vault's key is changed", "term", s.Term, "rewrapped", s.Rewrapped, "took", time.Since(began).Round(time.Millisecond).String())
	return &s, nil
}

// rotated tells of a rotation with the last of it; who is nil where the daemon ends
// one that was cut off.
func (e *Engine) rotated(who map[string]any) func(tx *store.Tx, term uint32) error {
	return func(tx *store.Tx, term uint32) error {
		payload := map[string]any{"term": term}
		if who != nil {
			payload["by"] = who
		}
		_, err := e.cfg.Events.Append(tx, solo.Event{Type: solo.EventVaultRotated, Subject: solo.SubjectSystem, Payload: payload})
		return err
	}
}
