package solo

import (
	"slices"
	"time"
)

// Capability is what is known of a token (contract 4c). It never holds the token.
type Capability struct {
	// ID is base64url.
	ID          string       `json:"id"`
	TenantID    string       `json:"tenant_id"`
	Resource    string       `json:"resource"`
	Permissions []Permission `json:"permissions"`
	// Methods of a service that may be called; null is every one.
	Methods   []string  `json:"methods"`
	ExpiresAt time.Time `json:"expires_at"`
	// RateLimit is in requests a minute, null for the daemon's own.
	RateLimit *int `json:"rate_limit"`
	// Parent is the id that it was derived from, null for one that was granted.
	Parent  *string `json:"parent"`
	Revoked bool    `json:"revoked"`
}

// PermissionAdmin holds every other.
const PermissionAdmin Permission = "admin"

// Permissions returns what a capability can hold.
func Permissions() []Permission {
	return []Permission{PermissionRead, PermissionDeploy, PermissionKill, PermissionInvoke, PermissionWrite, PermissionGrant, PermissionAdmin}
}

// CheckPermissions tells what is wrong with a list of permissions.
func CheckPermissions(field string, list []Permission) []Field {
	if len(list) == 0 {
		return []Field{{Field: field, Message: "is empty: it would allow nothing"}}
	}
	for _, p := range list {
		if !slices.Contains(Permissions(), p) {
			return []Field{{Field: field, Message: "must be of read, deploy, kill, invoke, write, grant, admin"}}
		}
	}
	return nil
}

// Bounds of what is asked for in capabilities.
const (
	DefaultCapabilityTTL = time.Hour
	MaxCapabilityTTL     = 10 * 365 * 24 * time.Hour
	MaxCapabilityMethods = 64
	MaxCapabilityRate    = 1_000_000
)

// CapabilityRequest grants, or narrows: what attenuates leaves out stays as it is.
type CapabilityRequest struct {
	// Token is the parent of an attenuation, null for the caller's own.
	Token       *Sensitive   `json:"token"`
	Resource    *string      `json:"resource"`
	Permissions []Permission `json:"permissions"`
	TTLSeconds  *int64       `json:"ttl_seconds"`
	RateLimit   *int         `json:"rate_limit"`
	Methods     []string     `json:"methods"`
}

// CapabilityGrant is a new capability and, once, its token. It is for the wire and
// nothing else.
type CapabilityGrant struct {
	Token      string     `json:"token"`
	Capability Capability `json:"capability"`
}

// CapabilityList is a page of capabilities, oldest first.
type CapabilityList struct {
	Capabilities []Capability `json:"capabilities"`
	Total        int          `json:"total"`
	Limit        int          `json:"limit"`
	Offset       int          `json:"offset"`
}

// RevokedCapability is a capability that counts no longer, and those that were
// derived from it.
type RevokedCapability struct {
	ID      string   `json:"id"`
	Status  string   `json:"status"`
	Revoked []string `json:"revoked"`
}

// VerifyRequest asks whether a token allows something.
type VerifyRequest struct {
	Token      *Sensitive  `json:"token"`
	Resource   *string     `json:"resource"`
	Permission *Permission `json:"permission"`
}

// VerifyResult says whether, and why not.
type VerifyResult struct {
	Allowed bool   `json:"allowed"`
	Reason  string `json:"reason"`
}

// Grant is a line of what a service's own capability allows.
type Grant struct {
	Resource    string       `json:"resource"`
	Permissions []Permission `json:"permissions"`
}

// Rights are what a caller may do within the tenant.
type Rights interface {
	// Allows tells about one resource; method is that of an invoke, else "".
	Allows(permission Permission, resource, method string) bool
	// AllowsSome tells whether some resource of a kind may be allowed.
	AllowsSome(permission Permission, kind string) bool
}
