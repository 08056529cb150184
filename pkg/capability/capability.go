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
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
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
	return &Store{cfg: cfg, seen: map[string]*entry{}, keys: map[string][]byte{}, limits: limits{known: map[string]*rate.Limiter{}}}, nil
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
	h := &Holder{store: s, last: t.ID[:], tok: t}
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

// Counts tells whether a holder's token still does.
func (s *Store) Counts(h *Holder) bool {
	_, err := s.Verify(h.tok.String())
	return err == nil
}

// Watch returns a context that ends with the token: when it expires, or soon after
// it is revoked.
func (s *Store) Watch(ctx context.Context, h *Holder) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithDeadline(ctx, h.expires)
	go func() {
		tick := time.NewTicker(watchPause)
		defer tick.Stop()
		last := s.generation.Load()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if now := s.generation.Load(); now != last {
				last = now
				if !s.Counts(h) {
					cancel()
					return
				}
			}
		}
	}()
	return ctx, cancel
}

// watchPause is how soon a stream notices that its token was revoked.
const watchPause = 100 * time.Millisecond

// Asked is what a new capability is to allow.
type Asked struct {
	Resource    string
	Permissions []solo.Permission
	Methods     []string
	TTL         time.Duration
	// Rate is in requests a minute, 0 for none of its own.
	Rate int
}

// Grant makes a capability of the tenant. The token is returned once, and kept
// nowhere.
func (s *Store) Grant(tx *store.Tx, tenant string, a Asked) (solo.Capability, string, error) {
	var id [token.IDSize]byte
	rand.Read(id[:])
	key, err := s.key(tenant)
	if err != nil {
		return solo.Capability{}, "", err
	}
	expires := tx.Now.Add(a.TTL).Truncate(time.Second)
	t, err := token.New(key, id).Attenuate(token.Narrowing{
		Resource: a.Resource, Permissions: words(a.Permissions), Methods: a.Methods, Expires: expires, Rate: uint32(a.Rate),
	})
	if err != nil {
		return solo.Capability{}, "", asked(err)
	}
	r := record{
		Tenant: tenant, Epoch: epoch(tx, tenant), Resource: a.Resource, Permissions: a.Permissions, Methods: a.Methods,
		CreatedAt: tx.Now, ExpiresAt: expires, Rate: a.Rate,
	}
	return r.told(id[:]), t.String(), s.put(tx, id[:], r)
}

// Derive narrows a holder's token, and records what comes of it, so that it can be
// listed and revoked by itself.
func (s *Store) Derive(tx *store.Tx, h *Holder, a Asked) (solo.Capability, string, error) {
	narrowing := token.Narrowing{Resource: a.Resource, Methods: a.Methods, Rate: uint32(a.Rate)}
	if a.Permissions != nil {
		narrowing.Permissions = words(a.Permissions)
	}
	if a.TTL > 0 {
		narrowing.Expires = tx.Now.Add(a.TTL).Truncate(time.Second)
	}
	t, err := h.tok.Attenuate(narrowing)
	if err != nil {
		return solo.Capability{}, "", asked(err)
	}
	var id [token.IDSize]byte
	rand.Read(id[:])
	t = t.WithID(id)
	g := t.Grant()
	r := record{
		Tenant: h.Tenant, Epoch: epoch(tx, h.Tenant), Resource: narrowest(g.Resources), Methods: g.Methods,
		CreatedAt: tx.Now, ExpiresAt: g.Expires, Parent: h.last,
	}
	for _, p := range g.Permissions {
		r.Permissions = append(r.Permissions, solo.Permission(p))
	}
	if len(g.Rates) > 0 {
		r.Rate = int(slices.Min(g.Rates))
	}
	return r.told(id[:]), t.String(), s.put(tx, id[:], r)
}

// narrowest is the last of globs each of which is within the one before.
func narrowest(globs []string) string {
	if len(globs) == 0 {
		return "**"
	}
	return globs[len(globs)-1]
}

// asked words why a narrowing was refused.
func asked(err error) error {
	if errors.Is(err, token.ErrWider) {
		return solo.Errorf(solo.CodePermissionDenied, "%s", err)
	}
	return solo.Errorf(solo.CodeInvalidRequest, "%s", err)
}

func words(list []solo.Permission) []string {
	out := make([]string, len(list))
	for i, p := range list {
		out[i] = string(p)
	}
	return out
}

func load(tx *store.Tx, id []byte) (*record, error) {
	var r record
	err := store.Get(tx.Bucket(bucketRecords), id, &r)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	return &r, err
}

func stamp(at time.Time, id []byte) []byte {
	return append(binary.BigEndian.AppendUint64(nil, uint64(max(at.UnixNano(), 0))), id...)
}

// put stores a new record and what finds it.
func (s *Store) put(tx *store.Tx, id []byte, r record) error {
	mine, err := tx.Bucket(bucketTenants).CreateBucketIfNotExists([]byte(r.Tenant))
	if err != nil {
		return err
	}
	if n := mine.Sequence(); n >= MaxPerTenant {
		return solo.Errorf(solo.CodeQuotaExceeded, "the tenant has %d capabilities, as many as it may have; those that have expired are forgotten within a minute", MaxPerTenant)
	}
	if err := mine.SetSequence(mine.Sequence() + 1); err != nil { // the sequence is the count
		return err
	}
	if err := mine.Put(stamp(r.CreatedAt, id), nil); err != nil {
		return err
	}
	if err := tx.Bucket(bucketExpiry).Put(stamp(r.ExpiresAt, id), nil); err != nil {
		return err
	}
	if r.Parent != nil {
		if err := tx.Bucket(bucketChildren).Put(append(slices.Clone(r.Parent), id...), nil); err != nil {
			return err
		}
	}
	return store.Put(tx.Bucket(bucketRecords), id, r)
}

// List returns a page of a tenant's capabilities, oldest first.
func (s *Store) List(tx *store.Tx, tenant string, limit, offset int) ([]solo.Capability, int, error) {
	out := []solo.Capability{}
	mine := tx.Bucket(bucketTenants).Bucket([]byte(tenant))
	if mine == nil {
		return out, 0, nil
	}
	total := 0
	c := mine.Cursor()
	for k, _ := c.First(); k != nil; k, _ = c.Next() {
		if total >= offset && len(out) < limit {
			r, err := load(tx, k[8:])
			if err != nil {
				return nil, 0, err
			}
			if r != nil {
				out = append(out, r.told(k[8:]))
			}
		}
		total++
	}
	return out, total, nil
}

// Get returns a capability of the tenant's; the error is not_found.
func (s *Store) Get(tx *store.Tx, tenant string, id []byte) (solo.Capability, error) {
	r, err := load(tx, id)
	if err != nil {
		return solo.Capability{}, err
	}
	if r == nil || r.Tenant != tenant {
		return solo.Capability{}, solo.Errorf(solo.CodeNotFound, "there is no such capability")
	}
	return r.told(id), nil
}

// Revoke makes a capability count no longer, and all that was derived from it. It
// returns those of them that are recorded and had counted, itself first.
func (s *Store) Revoke(tx *store.Tx, tenant string, id []byte) (revoked []string, err error) {
	if _, err := s.Get(tx, tenant, id); err != nil {
		return nil, err
	}
	tx.OnCommit(func() { s.generation.Add(1) })
	for queue := [][]byte{id}; len(queue) > 0; queue = queue[1:] {
		at := queue[0]
		r, err := load(tx, at)
		if err != nil {
			return nil, err
		}
		if r == nil {
			continue
		}
		if !r.Revoked {
			r.Revoked = true
			revoked = append(revoked, Spell(at))
			if err := store.Put(tx.Bucket(bucketRecords), at, r); err != nil {
				return nil, err
			}
		}
		queue = append(queue, children(tx, at)...)
	}
	return revoked, nil
}

func children(tx *store.Tx, parent []byte) [][]byte {
	var out [][]byte
	c := tx.Bucket(bucketChildren).Cursor()
	for k, _ := c.Seek(parent); len(k) == 2*token.IDSize && string(k[:token.IDSize]) == string(parent); k, _ = c.Next() {
		out = append(out, slices.Clone(k[token.IDSize:]))
	}
	return out
}

// RevokeResource revokes what is good for one resource and no other, such as those
// of a service that is gone.
func (s *Store) RevokeResource(tx *store.Tx, tenant, resource string) (revoked []string, err error) {
	mine := tx.Bucket(bucketTenants).Bucket([]byte(tenant))
	if mine == nil {
		return nil, nil
	}
	var ids [][]byte
	err = mine.ForEach(func(k, _ []byte) error {
		r, err := load(tx, k[8:])
		if err == nil && r != nil && !r.Revoked && r.Resource == resource {
			ids = append(ids, slices.Clone(k[8:]))
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		more, err := s.Revoke(tx, tenant, id)
		if err != nil {
			return nil, err
		}
		revoked = append(revoked, more...)
	}
	return revoked, nil
}

// RevokeTenant makes every token of the tenant count no longer, and begins a new
// epoch: tokens from before it never count again.
func (s *Store) RevokeTenant(tx *store.Tx, tenant string) error {
	tx.OnCommit(func() { s.generation.Add(1) })
	next := binary.BigEndian.AppendUint64(nil, epoch(tx, tenant)+1)
	if err := tx.Bucket(bucketEpochs).Put([]byte(tenant), next); err != nil {
		return err
	}
	mine := tx.Bucket(bucketTenants).Bucket([]byte(tenant))
	if mine == nil {
		return nil
	}
	var ids [][]byte
	err := mine.ForEach(func(k, _ []byte) error {
		ids = append(ids, slices.Clone(k[8:]))
		return nil
	})
	for _, id := range ids {
		if err == nil {
			err = s.forget(tx, id)
		}
	}
	if err != nil {
		return err
	}
	return tx.Bucket(bucketTenants).DeleteBucket([]byte(tenant))
}

// forget drops a record and what finds it.
func (s *Store) forget(tx *store.Tx, id []byte) error {
	r, err := load(tx, id)
	if err != nil || r == nil {
		return err
	}
	if mine := tx.Bucket(bucketTenants).Bucket([]byte(r.Tenant)); mine != nil {
		if err := mine.Delete(stamp(r.CreatedAt, id)); err != nil {
			return err
		}
		if n := mine.Sequence(); n > 0 {
			if err := mine.SetSequence(n - 1); err != nil {
				return err
			}
		}
	}
	if r.Parent != nil {
		if err := tx.Bucket(bucketChildren).Delete(append(slices.Clone(r.Parent), id...)); err != nil {
			return err
		}
	}
	return errors.Join(
		tx.Bucket(bucketExpiry).Delete(stamp(r.ExpiresAt, id)),
		tx.Bucket(bucketRecords).Delete(id),
	)
}

// Sweep forgets up to limit capabilities that have expired, and returns them.
func (s *Store) Sweep(tx *store.Tx, limit int) ([]solo.Capability, error) {
	var out []solo.Capability
	c := tx.Bucket(bucketExpiry).Cursor()
	var ids [][]byte
	for k, _ := c.First(); len(k) == 8+token.IDSize && len(ids) < limit; k, _ = c.Next() {
		if at := binary.BigEndian.Uint64(k); at > math.MaxInt64 || tx.Now.Before(time.Unix(0, int64(at))) {
			break
		}
		ids = append(ids, slices.Clone(k[8:]))
	}
	for _, id := range ids {
		r, err := load(tx, id)
		if err != nil {
			return nil, err
		}
		if r != nil {
			out = append(out, r.told(id))
		}
		if err := s.forget(tx, id); err != nil {
			return nil, err
		}
	}
	return out, nil
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
