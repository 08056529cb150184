// Package capability knows which tokens count.
//
// The nouns: a capability is a right to do something with resources of one tenant,
// carried by a token (package sdk/token); its record says whose it is and whether it
// still counts; a [Holder] is who has shown a token that does.
//
// What it promises:
//
//   - The store never holds a token, nor what would make one: a record is found by
//     the id, and the token is checked with a key of the tenant's that comes from the
//     vault.
//   - A token counts if every byte of it is as it was made, its record is there and
//     not revoked, and so is that of each capability that it was derived from, the
//     tenant's epoch is still its own, and it has not expired. Every other is the one
//     error unauthenticated.
//   - What is revoked counts for nobody once [Store.Revoke]'s transaction is durable.
//   - A check of a token that was seen before costs a look-up. What is remembered has
//     a bound.
package capability

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/solo-run/solo/pkg/solo"
	"github.com/solo-run/solo/pkg/store"
	"github.com/solo-run/solo/sdk/token"
)

// Keys gives the key of a tenant's tokens: 32 bytes, the same over restarts.
type Keys interface {
	Derive(purpose, tenant string) ([]byte, error)
}

// keyPurpose is what the keys of tokens are derived for.
const keyPurpose = "capability"

// MaxPerTenant is how many records a tenant may have.
const MaxPerTenant = 100_000

// The buckets: id → record; tenant → created and id → nothing, so that a list is
// oldest first; expiry and id → nothing; tenant → epoch; parent and id → nothing.
var (
	bucketRecords  = []byte("capabilities")
	bucketTenants  = []byte("capabilities.tenants")
	bucketExpiry   = []byte("capabilities.expiry")
	bucketEpochs   = []byte("capabilities.epochs")
	bucketChildren = []byte("capabilities.children")
)

// record is a capability at rest.
type record struct {
	Tenant      string            `json:"tenant"`
	Epoch       uint64            `json:"epoch"`
	Resource    string            `json:"resource"`
	Permissions []solo.Permission `json:"permissions"`
	Methods     []string          `json:"methods"`
	CreatedAt   time.Time         `json:"created_at"`
	ExpiresAt   time.Time         `json:"expires_at"`
	Rate        int               `json:"rate"`
	Parent      []byte            `json:"parent,omitempty"`
	Revoked     bool              `json:"revoked,omitempty"`
}

func (r *record) told(id []byte) solo.Capability {
	c := solo.Capability{
		ID: Spell(id), TenantID: r.Tenant, Resource: r.Resource, Permissions: r.Permissions, Methods: r.Methods,
		ExpiresAt: r.ExpiresAt.UTC(), Revoked: r.Revoked,
	}
	if r.Rate > 0 {
		c.RateLimit = &r.Rate
	}
	if r.Parent != nil {
		parent := Spell(r.Parent)
		c.Parent = &parent
	}
	return c
}

// CheckResource tells why a glob of resources is none.
func CheckResource(glob string) error { return token.CheckResource(glob) }

// Spell is an id as it is shown: base64url.
func Spell(id []byte) string { return base64.RawURLEncoding.EncodeToString(id) }

// ReadID reads an id as it is shown.
func ReadID(s string) ([]byte, error) {
	id, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(id) != token.IDSize || strings.ContainsAny(s, "\r\n") {
		return nil, solo.Errorf(solo.CodeNotFound, "there is no such capability")
	}
	return id, nil
}

// Config is what a [Store] works with.
type Config struct {
	DB   *store.DB
	Keys Keys
	// Rate is how many requests a minute one capability may make that has no bound of
	// its own; 0 is no bound.
	Rate int
}

// Store knows which tokens count. It is safe for use by many at once.
type Store struct {
	cfg Config
	// generation grows with each change that can make a token count no longer.
	generation atomic.Uint64

	mu   sync.RWMutex
	seen map[string]*entry
	keys map[string][]byte
	// changed is closed, and another one made, when generation grows.
	changed chan struct{}

	limits limits
}

// entry is a token that was checked.
type entry struct {
	holder     *Holder
	generation uint64
}

// maxSeen and maxKeys bound what is remembered of tokens and of tenants' keys.
const (
	maxSeen = 8192
	maxKeys = 1024
)

// Open returns a store.
func Open(cfg Config) (*Store, error) {
	err := cfg.DB.Update(func(tx *store.Tx) error {
		for _, name := range [][]byte{bucketRecords, bucketTenants, bucketExpiry, bucketEpochs, bucketChildren} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("cannot prepare the store of capabilities: %w", err)
	}
	return &Store{cfg: cfg, seen: map[string]*entry{}, keys: map[string][]byte{}, changed: make(chan struct{}), limits: limits{known: map[string]*rate.Limiter{}}}, nil
}

// Holder is who has shown a token that counts.
type Holder struct {
	Tenant string
	// ID is that of the last capability of the chain that is recorded.
	ID string

	grant   token.Grant
	expires time.Time
	store   *Store
	// rates name the limiters that each request has to pass.
	rates []limit
	last  []byte
	tok   *token.Token
	text  string
}

// Allows implements [solo.Rights].
func (h *Holder) Allows(permission solo.Permission, resource, method string) bool {
	return h.grant.Allows(string(permission), resource, method)
}

// AllowsSome implements [solo.Rights].
func (h *Holder) AllowsSome(permission solo.Permission, kind string) bool {
	return h.grant.AllowsSome(string(permission), kind)
}

// Holds tells whether all that a grant would allow is held.
func (h *Holder) Holds(resource string, permissions []solo.Permission, methods []string) bool {
	for _, held := range h.grant.Resources {
		if !token.Within(resource, held) {
			return false
		}
	}
	for _, p := range permissions {
		if !h.grant.Permits(string(p)) {
			return false
		}
	}
	if h.grant.Methods == nil {
		return true
	}
	if methods == nil {
		return false
	}
	for _, m := range methods {
		if !slices.Contains(h.grant.Methods, m) {
			return false
		}
	}
	return true
}

// Expires is when the token ends.
func (h *Holder) Expires() time.Time { return h.expires }

// errBad is the one answer for every token that does not count.
func errBad() error {
	return solo.Errorf(solo.CodeUnauthenticated, "the token is not one that counts: it is bad, expired or revoked")
}

// Verify returns who holds the token. The error is unauthenticated, the same for
// every fault, or unavailable while the vault is locked.
func (s *Store) Verify(text string) (*Holder, error) {
	now := time.Now()
	generation := s.generation.Load()
	s.mu.RLock()
	e := s.seen[text]
	s.mu.RUnlock()
	if e != nil && e.generation == generation {
		if !now.Before(e.holder.expires) {
			return nil, errBad()
		}
		return e.holder, nil
	}
	h, err := s.check(text, now)
	if err != nil {
		if e != nil {
			s.mu.Lock()
			delete(s.seen, text)
			s.mu.Unlock()
		}
		return nil, err
	}
	s.mu.Lock()
	if len(s.seen) >= maxSeen {
		clear(s.seen)
	}
	s.seen[text] = &entry{holder: h, generation: generation}
	s.mu.Unlock()
	return h, nil
}

// nobody is the tenant whose key the tag is held against where there is no record,
// so that an id that exists takes no longer than one that does not.
const nobody = ""

func (s *Store) check(text string, now time.Time) (*Holder, error) {
	t, err := token.Parse(text)
	if err != nil {
		return nil, errBad()
	}
	h := &Holder{store: s, last: t.ID[:], tok: t, text: text}
	good := false
	err = s.cfg.DB.View(func(tx *store.Tx) error {
		r, err := load(tx, t.ID[:])
		if err != nil {
			return err
		}
		if r == nil {
			return nil
		}
		h.Tenant = r.Tenant
		good = s.counts(tx, r)
		for _, c := range t.Caveats {
			if c.Kind != token.KindID {
				continue
			}
			child, err := load(tx, c.Value)
			if err != nil {
				return err
			}
			good = good && child != nil && child.Tenant == r.Tenant && string(child.Parent) == string(h.last) && s.counts(tx, child)
			h.last = c.Value
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	key, err := s.key(h.Tenant)
	if err != nil {
		return nil, err
	}
	if s.cfg.Rate > 0 {
		h.rates = append(h.rates, limit{name: string(t.ID[:]), perMinute: s.cfg.Rate})
	}
	made := t.Verify(key, func(at int, tag [32]byte) {
		if c := t.Caveats[at]; c.Kind == token.KindRate {
			h.rates = append(h.rates, limit{name: string(tag[:]), perMinute: int(min(binary.BigEndian.Uint32(c.Value), solo.MaxCapabilityRate))})
		}
	})
	h.grant = t.Grant()
	h.expires = h.grant.Expires
	if !made || !good || h.Tenant == nobody || h.expires.IsZero() || !now.Before(h.expires) {
		return nil, errBad()
	}
	h.ID = Spell(h.last)
	return h, nil
}

// counts tells whether a record does.
func (s *Store) counts(tx *store.Tx, r *record) bool {
	return !r.Revoked && r.Epoch == epoch(tx, r.Tenant)
}

func epoch(tx *store.Tx, tenant string) uint64 {
	if v := tx.Bucket(bucketEpochs).Get([]byte(tenant)); len(v) == 8 {
		return binary.BigEndian.Uint64(v)
	}
	return 0
}

// key is the key of a tenant's tokens.
func (s *Store) key(tenant string) ([]byte, error) {
	s.mu.RLock()
	key := s.keys[tenant]
	s.mu.RUnlock()
	if key != nil {
		return key, nil
	}
	key, err := s.cfg.Keys.Derive(keyPurpose, tenant)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.keys) >= maxKeys {
		clear(s.keys)
	}
	s.keys[tenant] = key
	return key, nil
}

// Watch returns a context that ends with the token: when it expires, or at once when
// it is revoked.
func (s *Store) Watch(ctx context.Context, h *Holder) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithDeadline(ctx, h.expires)
	go func() {
		defer cancel()
		for {
			s.mu.RLock()
			changed := s.changed
			s.mu.RUnlock()
			if _, err := s.Verify(h.text); err != nil {
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-changed:
			}
		}
	}()
	return ctx, cancel
}

// revoked makes every token be checked anew, and those who watch look.
func (s *Store) revoked() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.generation.Add(1)
	close(s.changed)
	s.changed = make(chan struct{})
}

// Granted are the rights of a service's own capability: what its deploy grants.
type Granted []solo.Grant

// Allows implements [solo.Rights].
func (g Granted) Allows(permission solo.Permission, resource, _ string) bool {
	return slices.ContainsFunc(g, func(line solo.Grant) bool {
		return permits(line, permission) && token.Match(line.Resource, resource)
	})
}

// AllowsSome implements [solo.Rights].
func (g Granted) AllowsSome(permission solo.Permission, kind string) bool {
	return slices.ContainsFunc(g, func(line solo.Grant) bool {
		one := token.Grant{Resources: []string{line.Resource}, Permissions: words(line.Permissions)}
		return one.AllowsSome(string(permission), kind)
	})
}

func permits(line solo.Grant, permission solo.Permission) bool {
	return slices.Contains(line.Permissions, permission) || slices.Contains(line.Permissions, solo.PermissionAdmin)
}
