package grpc

import (
	"context"

	"github.com/solo-run/solo/pkg/solo"
	solov1 "github.com/solo-run/solo/proto/solo/v1"
)

// vaultServer is the service Vault.
type vaultServer struct {
	solov1.UnimplementedVaultServer
	s *Server
}

// sensitive is nil for what was left out.
func sensitive(s *string) *solo.Sensitive {
	if s == nil {
		return nil
	}
	v := solo.Sensitive(*s)
	return &v
}

func given(s *string) solo.Sensitive {
	if s == nil {
		return nil
	}
	return solo.Sensitive(*s)
}

// page checks the bounds of a page.
func page(limit, offset int32) (int, int, error) {
	n, err := limitOf(limit)
	if err == nil && offset < 0 {
		err = outOfRange("offset", 0, 1<<31-1)
	}
	return n, int(offset), err
}

// Store stores a secret.
func (v *vaultServer) Store(ctx context.Context, m *solov1.SecretRequest) (*solov1.Secret, error) {
	out, err := v.s.cfg.Engine.StoreSecret(ctx, caller(ctx), &solo.SecretRequest{
		Key: m.Key, Value: sensitive(m.Value), ValueBase64: sensitive(m.ValueBase64), EncryptionKey: sensitive(m.EncryptionKey),
	})
	return fill(&solov1.Secret{}, out, err)
}

// List lists names.
func (v *vaultServer) List(ctx context.Context, m *solov1.SecretsRequest) (*solov1.SecretList, error) {
	limit, offset, err := page(m.Limit, m.Offset)
	if err != nil {
		return nil, err
	}
	out, err := v.s.cfg.Engine.Secrets(ctx, caller(ctx), limit, offset)
	return fill(&solov1.SecretList{}, out, err)
}

// Get tells of a secret.
func (v *vaultServer) Get(ctx context.Context, m *solov1.SecretNameRequest) (*solov1.Secret, error) {
	if err := checkID("key", m.Key); err != nil {
		return nil, err
	}
	out, err := v.s.cfg.Engine.Secret(ctx, caller(ctx), m.Key)
	return fill(&solov1.Secret{}, out, err)
}

// Reveal returns a value.
func (v *vaultServer) Reveal(ctx context.Context, m *solov1.RevealSecretRequest) (*solov1.RevealedSecret, error) {
	if err := checkID("key", m.Key); err != nil {
		return nil, err
	}
	out, err := v.s.cfg.Engine.RevealSecret(ctx, caller(ctx), m.Key, given(m.EncryptionKey))
	return fill(&solov1.RevealedSecret{}, out, err)
}

// Revoke shreds a secret.
func (v *vaultServer) Revoke(ctx context.Context, m *solov1.SecretNameRequest) (*solov1.RevokedSecret, error) {
	if err := checkID("key", m.Key); err != nil {
		return nil, err
	}
	out, err := v.s.cfg.Engine.RevokeSecret(ctx, caller(ctx), m.Key)
	return fill(&solov1.RevokedSecret{}, out, err)
}

// Unlock gives the passphrase.
func (v *vaultServer) Unlock(ctx context.Context, m *solov1.UnlockRequest) (*solov1.VaultStatus, error) {
	if m.Passphrase == nil {
		return nil, solo.InvalidFields(solo.Field{Field: "passphrase", Message: "is required"})
	}
	out, err := v.s.cfg.Engine.UnlockVault(ctx, caller(ctx), given(m.Passphrase))
	return fill(&solov1.VaultStatus{}, out, err)
}

// Rotate changes the master key.
func (v *vaultServer) Rotate(ctx context.Context, m *solov1.RotateRequest) (*solov1.VaultStatus, error) {
	out, err := v.s.cfg.Engine.RotateVault(ctx, caller(ctx), given(m.Passphrase))
	return fill(&solov1.VaultStatus{}, out, err)
}

// capabilitiesServer is the service Capabilities.
type capabilitiesServer struct {
	solov1.UnimplementedCapabilitiesServer
	s *Server
}

func capabilityRequest(m *solov1.CapabilityRequest) *solo.CapabilityRequest {
	req := &solo.CapabilityRequest{Token: sensitive(m.Token), Resource: m.Resource, TTLSeconds: m.TtlSeconds, RateLimit: number(m.RateLimit), Methods: m.Methods}
	for _, p := range m.Permissions {
		req.Permissions = append(req.Permissions, solo.Permission(p))
	}
	return req
}

// Grant grants a capability.
func (c *capabilitiesServer) Grant(ctx context.Context, m *solov1.CapabilityRequest) (*solov1.CapabilityGrant, error) {
	out, err := c.s.cfg.Engine.Grant(ctx, caller(ctx), capabilityRequest(m))
	return fill(&solov1.CapabilityGrant{}, out, err)
}

// Attenuate narrows a token.
func (c *capabilitiesServer) Attenuate(ctx context.Context, m *solov1.CapabilityRequest) (*solov1.CapabilityGrant, error) {
	out, err := c.s.cfg.Engine.Attenuate(ctx, caller(ctx), capabilityRequest(m))
	return fill(&solov1.CapabilityGrant{}, out, err)
}

// Verify checks a token.
func (c *capabilitiesServer) Verify(ctx context.Context, m *solov1.VerifyRequest) (*solov1.VerifyResult, error) {
	out, err := c.s.cfg.Engine.VerifyCapability(ctx, caller(ctx), &solo.VerifyRequest{
		Token: sensitive(m.Token), Resource: m.Resource, Permission: (*solo.Permission)(m.Permission),
	})
	return fill(&solov1.VerifyResult{}, out, err)
}

// List lists what is recorded.
func (c *capabilitiesServer) List(ctx context.Context, m *solov1.CapabilitiesRequest) (*solov1.CapabilityList, error) {
	limit, offset, err := page(m.Limit, m.Offset)
	if err != nil {
		return nil, err
	}
	out, err := c.s.cfg.Engine.Capabilities(ctx, caller(ctx), limit, offset)
	return fill(&solov1.CapabilityList{}, out, err)
}

// Revoke revokes a capability.
func (c *capabilitiesServer) Revoke(ctx context.Context, m *solov1.RevokeCapabilityRequest) (*solov1.RevokedCapability, error) {
	out, err := c.s.cfg.Engine.RevokeCapability(ctx, caller(ctx), m.Id)
	return fill(&solov1.RevokedCapability{}, out, err)
}
