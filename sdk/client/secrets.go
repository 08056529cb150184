package client

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/solo-run/solo/sdk/token"
)

// Secret is what may be known of a secret without its value.
type Secret struct {
	Key       string    `json:"key"`
	Version   int       `json:"version"`
	CreatedAt time.Time `json:"created_at"`
	// Locked tells that a key of the caller's own is needed too.
	Locked bool `json:"locked"`
}

// SecretList is a page of the names of secrets.
type SecretList struct {
	Secrets []string `json:"secrets"`
	Total   int      `json:"total"`
	Limit   int      `json:"limit"`
	Offset  int      `json:"offset"`
}

// ask makes a call of REST and reads its answer.
func ask[T any](ctx context.Context, c *Client, method, path string, query url.Values, in any) (*T, error) {
	var body json.RawMessage
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("cannot encode the request: %w", err)
		}
		body = text
	}
	text, err := c.Raw(ctx, method, path, query, body)
	if err != nil {
		return nil, err
	}
	out := new(T)
	if err := json.Unmarshal(text, out); err != nil {
		return nil, fmt.Errorf("cannot read the answer: %w", err)
	}
	return out, nil
}

func paged(limit, offset int) url.Values {
	v := url.Values{}
	for name, n := range map[string]int{"limit": limit, "offset": offset} {
		if n != 0 {
			v.Set(name, strconv.Itoa(n))
		}
	}
	return v
}

// SetSecret stores a secret of 1 byte to 1 MiB; every byte is kept. encryptionKey
// is a second lock, whose key is stored nowhere; "" is none. REST only.
func (c *Client) SetSecret(ctx context.Context, name string, value []byte, encryptionKey string) (*Secret, error) {
	body := map[string]string{"key": name}
	if utf8.Valid(value) {
		body["value"] = string(value)
	} else {
		body["value_base64"] = base64.StdEncoding.EncodeToString(value)
	}
	if encryptionKey != "" {
		body["encryption_key"] = encryptionKey
	}
	return ask[Secret](ctx, c, "POST", "/secrets", nil, body)
}

// Secrets lists the names of the secrets that the caller may read. REST only.
func (c *Client) Secrets(ctx context.Context, limit, offset int) (*SecretList, error) {
	return ask[SecretList](ctx, c, "GET", "/secrets", paged(limit, offset), nil)
}

// Secret tells of a secret, and never its value. REST only.
func (c *Client) Secret(ctx context.Context, name string) (*Secret, error) {
	return ask[Secret](ctx, c, "GET", "/secrets/"+url.PathEscape(name), nil, nil)
}

// RevealSecret returns the value of a secret. REST only.
func (c *Client) RevealSecret(ctx context.Context, name, encryptionKey string) ([]byte, error) {
	body := map[string]string{}
	if encryptionKey != "" {
		body["encryption_key"] = encryptionKey
	}
	out, err := ask[struct {
		Value       *string `json:"value"`
		ValueBase64 []byte  `json:"value_base64"`
	}](ctx, c, "POST", "/secrets/"+url.PathEscape(name)+"/reveal", nil, body)
	switch {
	case err != nil:
		return nil, err
	case out.Value != nil:
		return []byte(*out.Value), nil
	}
	return out.ValueBase64, nil
}

// RevokeSecret shreds a secret. REST only.
func (c *Client) RevokeSecret(ctx context.Context, name string) error {
	_, err := ask[struct{}](ctx, c, "DELETE", "/secrets/"+url.PathEscape(name), nil, nil)
	return err
}

// VaultStatus is how the vault is: unlocked, locked or rotating.
type VaultStatus struct {
	Status    string `json:"status"`
	Source    string `json:"key_source"`
	Term      int    `json:"term"`
	Rewrapped int    `json:"rewrapped"`
}

// UnlockVault gives the vault its passphrase. The operator's, REST only.
func (c *Client) UnlockVault(ctx context.Context, passphrase string) (*VaultStatus, error) {
	return ask[VaultStatus](ctx, c, "POST", "/vault/unlock", nil, map[string]string{"passphrase": passphrase})
}

// RotateVault changes the vault's master key; passphrase is the new one where the
// vault has one, "" keeps it. The operator's, REST only.
func (c *Client) RotateVault(ctx context.Context, passphrase string) (*VaultStatus, error) {
	body := map[string]string{}
	if passphrase != "" {
		body["passphrase"] = passphrase
	}
	return ask[VaultStatus](ctx, c, "POST", "/vault/rotate", nil, body)
}

// Capability is what is known of a token.
type Capability struct {
	ID          string    `json:"id"`
	TenantID    string    `json:"tenant_id"`
	Resource    string    `json:"resource"`
	Permissions []string  `json:"permissions"`
	Methods     []string  `json:"methods"`
	ExpiresAt   time.Time `json:"expires_at"`
	RateLimit   *int      `json:"rate_limit"`
	Parent      *string   `json:"parent"`
	Revoked     bool      `json:"revoked"`
}

// CapabilityList is a page of capabilities, oldest first.
type CapabilityList struct {
	Capabilities []Capability `json:"capabilities"`
	Total        int          `json:"total"`
	Limit        int          `json:"limit"`
	Offset       int          `json:"offset"`
}

// Granted is a new capability with its token, which is shown this once.
type Granted struct {
	Token      string     `json:"token"`
	Capability Capability `json:"capability"`
}

// CapabilityAsked is what a new capability is to allow. TTL is in whole seconds, 0
// for an hour; RateLimit in requests a minute, 0 for none of its own.
type CapabilityAsked struct {
	Resource    string
	Permissions []string
	Methods     []string
	TTL         time.Duration
	RateLimit   int
}

func (a CapabilityAsked) body() map[string]any {
	body := map[string]any{}
	if a.Resource != "" {
		body["resource"] = a.Resource
	}
	if a.Permissions != nil {
		body["permissions"] = a.Permissions
	}
	if a.Methods != nil {
		body["methods"] = a.Methods
	}
	if a.TTL != 0 {
		body["ttl_seconds"] = int64(a.TTL / time.Second)
	}
	if a.RateLimit != 0 {
		body["rate_limit"] = a.RateLimit
	}
	return body
}

// Grant gives a capability, within what the caller holds. REST only.
func (c *Client) Grant(ctx context.Context, a CapabilityAsked) (*Granted, error) {
	return ask[Granted](ctx, c, "POST", "/capabilities", nil, a.body())
}

// AttenuateRecorded narrows the client's own token as [Attenuate] does, and has the
// daemon record what comes of it, so that it can be revoked by itself. REST only.
func (c *Client) AttenuateRecorded(ctx context.Context, a CapabilityAsked) (*Granted, error) {
	return ask[Granted](ctx, c, "POST", "/capabilities/attenuate", nil, a.body())
}

// VerifyCapability tells whether a token allows something, and why not. REST only.
func (c *Client) VerifyCapability(ctx context.Context, tok, resource, permission string) (allowed bool, reason string, err error) {
	out, err := ask[struct {
		Allowed bool   `json:"allowed"`
		Reason  string `json:"reason"`
	}](ctx, c, "POST", "/capabilities/verify", nil, map[string]string{"token": tok, "resource": resource, "permission": permission})
	if err != nil {
		return false, "", err
	}
	return out.Allowed, out.Reason, nil
}

// Capabilities lists the capabilities that are recorded. REST only.
func (c *Client) Capabilities(ctx context.Context, limit, offset int) (*CapabilityList, error) {
	return ask[CapabilityList](ctx, c, "GET", "/capabilities", paged(limit, offset), nil)
}

// RevokeCapability revokes a capability and all that was derived from it, and
// returns those of them that are recorded. REST only.
func (c *Client) RevokeCapability(ctx context.Context, id string) (revoked []string, err error) {
	out, err := ask[struct {
		Revoked []string `json:"revoked"`
	}](ctx, c, "DELETE", "/capabilities/"+url.PathEscape(id), nil, nil)
	if err != nil {
		return nil, err
	}
	return out.Revoked, nil
}

// Attenuate narrows a token without asking anybody: what comes of it never allows
// more, and ends with the token that it was made of. Errors wrap [token.ErrBad] for
// what is no token, and [token.ErrWider] for what would allow more.
func Attenuate(tok string, a CapabilityAsked) (string, error) {
	t, err := token.Parse(tok)
	if err != nil {
		return "", err
	}
	n := token.Narrowing{Resource: a.Resource, Permissions: a.Permissions, Methods: a.Methods}
	if a.TTL != 0 {
		if a.TTL < time.Second {
			return "", fmt.Errorf("a capability lives for a second or more, not %v", a.TTL)
		}
		n.Expires = time.Now().Add(a.TTL)
	}
	if a.RateLimit != 0 {
		if a.RateLimit < 1 || a.RateLimit > 1_000_000 {
			return "", fmt.Errorf("a rate is from 1 to 1000000 requests a minute, not %d", a.RateLimit)
		}
		n.Rate = uint32(a.RateLimit)
	}
	out, err := t.Attenuate(n)
	if err != nil {
		return "", err
	}
	return out.String(), nil
}
