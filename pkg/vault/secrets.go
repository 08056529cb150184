package vault

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"time"

	"go.etcd.io/bbolt"

	"github.com/solo-run/solo/pkg/solo"
	"github.com/solo-run/solo/pkg/store"
)

var (
	// bucketSecrets: tenant → name → record.
	bucketSecrets = []byte("secrets")
	bucketMeta    = []byte("secrets.meta")
	keyVaultID    = []byte("vault")
	// keyTerm is the last term whose rotation was told.
	keyTerm = []byte("term")
)

func prepareSecrets(tx *store.Tx) error {
	for _, name := range [][]byte{bucketSecrets, bucketMeta} {
		if _, err := tx.CreateBucketIfNotExists(name); err != nil {
			return err
		}
	}
	return nil
}

// record is a secret at rest.
type record struct {
	Version   int       `json:"version"`
	CreatedAt time.Time `json:"created_at"`
	Term      uint32    `json:"term"`
	// Salt makes the one key that Wrapped, the data key, is sealed under.
	Salt    []byte `json:"salt"`
	Wrapped []byte `json:"wrapped"`
	Sealed  []byte `json:"sealed"`
	// LockSalt is there where a caller's own key is needed.
	LockSalt []byte `json:"lock_salt,omitempty"`
}

func (r *record) told(name string) solo.Secret {
	return solo.Secret{Key: name, Version: r.Version, CreatedAt: r.CreatedAt.UTC(), Locked: r.LockSalt != nil}
}

// place is what a version of a secret is bound to.
func place(purpose, tenant, name string, version int) []byte {
	return bound(purpose, tenant, name, strconv.Itoa(version))
}

// wrapping is the key of one data key.
func wrapping(r *ring, term uint32, salt []byte) ([]byte, error) {
	key, ok := r.Terms[term]
	if !ok {
		return nil, fmt.Errorf("it is wrapped under the term %d, which the keyring does not have", term)
	}
	return derive(key, salt, "solo vault wrap")
}

// Locked is a value that is ready to be put: a caller's own key, if there is one,
// has locked it. Making it may take a while, and so comes before the transaction.
type Locked struct {
	tenant, name string
	value        Value
	salt         []byte
}

// Lock locks a value by the caller's own key; nil is none.
func Lock(tenant, name string, value, caller Value) (Locked, error) {
	l := Locked{tenant: tenant, name: name, value: value}
	if caller == nil {
		return l, nil
	}
	l.salt = random(keySize)
	sealed, err := seal(callerKey(caller, l.salt), value, bound("lock", tenant, name))
	l.value = sealed
	return l, err
}

// Put stores a secret; where the name exists it becomes its next version, and the
// one before is gone.
func (v *Vault) Put(tx *store.Tx, l Locked) (solo.Secret, error) {
	ring, err := v.current()
	if err != nil {
		return solo.Secret{}, err
	}
	names, err := tx.Bucket(bucketSecrets).CreateBucketIfNotExists([]byte(l.tenant))
	if err != nil {
		return solo.Secret{}, err
	}
	var old record
	if err := store.Get(names, []byte(l.name), &old); err != nil && !errors.Is(err, store.ErrNotFound) {
		return solo.Secret{}, err
	}
	data := random(keySize)
	defer clear(data)
	r := record{Version: old.Version + 1, CreatedAt: tx.Now, LockSalt: l.salt}
	if r.Sealed, err = seal(data, l.value, place("value", l.tenant, l.name, r.Version)); err != nil {
		return solo.Secret{}, err
	}
	if err := r.wrap(ring, data, l.tenant, l.name); err != nil {
		return solo.Secret{}, err
	}
	tx.OnCommit(v.tell)
	return r.told(l.name), store.Put(names, []byte(l.name), r)
}

// wrap seals the data key under the keyring's current term.
func (r *record) wrap(ring *ring, data []byte, tenant, name string) error {
	r.Term, r.Salt = ring.Current, random(keySize)
	key, err := wrapping(ring, r.Term, r.Salt)
	if err != nil {
		return err
	}
	defer clear(key)
	r.Wrapped, err = seal(key, data, place("data key", tenant, name, r.Version))
	return err
}

// unwrap opens the data key.
func (r *record) unwrap(ring *ring, tenant, name string) ([]byte, error) {
	key, err := wrapping(ring, r.Term, r.Salt)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	return unseal(key, r.Wrapped, place("data key", tenant, name, r.Version))
}

// errNoSecret is the answer for a name that the tenant does not have.
func errNoSecret(name string) error {
	return solo.Errorf(solo.CodeNotFound, "there is no secret %q", name)
}

func load(tx *store.Tx, tenant, name string) (*record, error) {
	names := tx.Bucket(bucketSecrets).Bucket([]byte(tenant))
	if names == nil {
		return nil, errNoSecret(name)
	}
	var r record
	err := store.Get(names, []byte(name), &r)
	if errors.Is(err, store.ErrNotFound) {
		return nil, errNoSecret(name)
	}
	if err != nil {
		return nil, damaged(name, err)
	}
	return &r, nil
}

// damaged is a secret that the right key does not open.
func damaged(name string, cause error) error {
	return solo.Errorf(solo.CodeStorageUnavailable, "the secret %q is damaged in the store: restore it from a backup, or store it anew", name).Because(cause)
}

// Sealed is a secret that was read, and may still need the caller's own key.
type Sealed struct {
	Secret solo.Secret
	tenant string
	value  Value
	salt   []byte
}

// Get reads a secret. The error is not_found, unavailable while the vault is
// locked, or storage_unavailable for one that is damaged.
func (v *Vault) Get(tx *store.Tx, tenant, name string) (Sealed, error) {
	ring, err := v.current()
	if err != nil {
		return Sealed{}, err
	}
	r, err := load(tx, tenant, name)
	if err != nil {
		return Sealed{}, err
	}
	data, err := r.unwrap(ring, tenant, name)
	if err != nil {
		return Sealed{}, damaged(name, err)
	}
	defer clear(data)
	value, err := unseal(data, r.Sealed, place("value", tenant, name, r.Version))
	if err != nil {
		return Sealed{}, damaged(name, err)
	}
	return Sealed{Secret: r.told(name), tenant: tenant, value: value, salt: r.LockSalt}, nil
}

// Open returns the value; caller is the caller's own key, nil for none. The error is
// permission_denied where that is missing, wrong, or not wanted.
func (s Sealed) Open(caller Value) (Value, error) {
	switch {
	case s.salt == nil && caller == nil:
		return s.value, nil
	case s.salt == nil:
		return nil, solo.Errorf(solo.CodePermissionDenied, "the secret %q is not locked by an encryption_key: ask without one", s.Secret.Key)
	case caller == nil:
		return nil, solo.Errorf(solo.CodePermissionDenied, "the secret %q is locked by an encryption_key, which is missing", s.Secret.Key)
	}
	value, err := unseal(callerKey(caller, s.salt), s.value, bound("lock", s.tenant, s.Secret.Key))
	if err != nil {
		return nil, solo.Errorf(solo.CodePermissionDenied, "the encryption_key is not the one that the secret %q is locked by", s.Secret.Key)
	}
	return value, nil
}

// Info tells of a secret without opening it.
func (v *Vault) Info(tx *store.Tx, tenant, name string) (solo.Secret, error) {
	r, err := load(tx, tenant, name)
	if err != nil {
		return solo.Secret{}, err
	}
	return r.told(name), nil
}

// List returns the names of a tenant's secrets that allow picks, by name, and how
// many there are.
func (v *Vault) List(tx *store.Tx, tenant string, limit, offset int, allow func(name string) bool) (names []string, total int) {
	names = []string{}
	b := tx.Bucket(bucketSecrets).Bucket([]byte(tenant))
	if b == nil {
		return names, 0
	}
	c := b.Cursor()
	for k, _ := c.First(); k != nil; k, _ = c.Next() {
		if !allow(string(k)) {
			continue
		}
		if total >= offset && len(names) < limit {
			names = append(names, string(k))
		}
		total++
	}
	return names, total
}

// Count is how many secrets a tenant has.
func (v *Vault) Count(tx *store.Tx, tenant string) int {
	_, n := v.List(tx, tenant, 0, 0, func(string) bool { return true })
	return n
}

// Revoke shreds a secret: its data key is gone with its record.
func (v *Vault) Revoke(tx *store.Tx, tenant, name string) (solo.Secret, error) {
	r, err := load(tx, tenant, name)
	var damage *solo.Error
	if errors.As(err, &damage) && damage.Code == solo.CodeStorageUnavailable {
		r, err = &record{}, nil // what cannot be read can still be thrown away
	}
	if err != nil {
		return solo.Secret{}, err
	}
	tx.OnCommit(v.tell)
	return r.told(name), tx.Bucket(bucketSecrets).Bucket([]byte(tenant)).Delete([]byte(name))
}

// EraseTenant shreds all of a tenant's secrets.
func (v *Vault) EraseTenant(tx *store.Tx, tenant string) error {
	root := tx.Bucket(bucketSecrets)
	if root.Bucket([]byte(tenant)) == nil {
		return nil
	}
	tx.OnCommit(v.tell)
	return root.DeleteBucket([]byte(tenant))
}

// How many data keys one transaction wraps anew, and about how many bytes of records
// it writes for that.
const (
	rewrapBatch = 256
	rewrapBytes = 8 << 20
)

// at is a place among the secrets, in the order of the store.
type at struct{ tenant, name string }

// rewrap wraps a batch of data keys behind a place under the current term, and
// returns the place that it came to, nil at the end; with the end the rotation is
// told.
func (v *Vault) rewrap(ring *ring, from *at, done func(tx *store.Tx, term uint32) error) (n int, to *at, err error) {
	err = v.cfg.State.Update(func(tx *store.Tx) error {
		n = 0
		root := tx.Bucket(bucketSecrets)
		var batch []at
		batch, to = collect(root, ring, from)
		for _, s := range batch {
			names := root.Bucket([]byte(s.tenant))
			var r record
			if store.Get(names, []byte(s.name), &r) != nil {
				continue // a damaged one stays as it is, and is told when it is read
			}
			data, err := r.unwrap(ring, s.tenant, s.name)
			if err != nil {
				continue
			}
			err = r.wrap(ring, data, s.tenant, s.name)
			clear(data)
			if err == nil {
				err = store.Put(names, []byte(s.name), r)
			}
			if err != nil {
				return err
			}
			n++
		}
		if to != nil {
			return nil
		}
		meta, term := tx.Bucket(bucketMeta), binary.BigEndian.AppendUint32(nil, ring.Current)
		if string(meta.Get(keyTerm)) == string(term) {
			return nil // told before a crash
		}
		if err := meta.Put(keyTerm, term); err != nil {
			return err
		}
		return done(tx, ring.Current)
	})
	return n, to, err
}

// collect finds what is under another term than the current one.
func collect(root *bbolt.Bucket, ring *ring, from *at) (batch []at, to *at) {
	size := 0
	tenants := root.Cursor()
	var first []byte
	if from != nil {
		first = []byte(from.tenant)
	}
	for tenant, _ := tenants.Seek(first); tenant != nil; tenant, _ = tenants.Next() {
		names := root.Bucket(tenant).Cursor()
		var k, value []byte
		if from != nil && string(tenant) == from.tenant {
			if k, value = names.Seek([]byte(from.name)); string(k) == from.name {
				k, value = names.Next()
			}
		} else {
			k, value = names.First()
		}
		for ; k != nil; k, value = names.Next() {
			var r record
			if store.Get(root.Bucket(tenant), k, &r) == nil && r.Term == ring.Current {
				continue
			}
			batch = append(batch, at{string(tenant), string(k)})
			if size += len(value); len(batch) >= rewrapBatch || size >= rewrapBytes {
				return batch, &batch[len(batch)-1]
			}
		}
	}
	return batch, nil
}
