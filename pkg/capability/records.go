package capability

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/solo-run/solo/pkg/solo"
	"github.com/solo-run/solo/pkg/store"
	"github.com/solo-run/solo/sdk/token"
)

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
	tx.OnCommit(s.revoked)
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
	tx.OnCommit(s.revoked)
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
