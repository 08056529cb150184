package vault

import (
	"testing"

	"github.com/solo-run/solo/pkg/store"
)

// CutOffAt makes a rotation panic at a step, as if the daemon had died there.
func CutOffAt(t *testing.T, step string) {
	hit = func(name string) {
		if name == step {
			panic("cut off at " + name)
		}
	}
	t.Cleanup(func() { hit = func(string) {} })
}

// GoOn lets rotations end.
func GoOn() { hit = func(string) {} }

// Raw is a secret's record as it is stored.
func Raw(tx *store.Tx, tenant, name string) []byte {
	return tx.Bucket(bucketSecrets).Bucket([]byte(tenant)).Get([]byte(name))
}

// Change reads a record, lets f change it and stores it with a good checksum, as
// somebody who has the disk can.
func Change(tx *store.Tx, tenant, name string, f func(*Record)) error {
	b := tx.Bucket(bucketSecrets).Bucket([]byte(tenant))
	var r Record
	if err := store.Get(b, []byte(name), &r); err != nil {
		return err
	}
	f(&r)
	return store.Put(b, []byte(name), r)
}

// Copy puts the record of one secret in the place of another.
func Copy(tx *store.Tx, fromTenant, from, toTenant, to string) error {
	var r Record
	if err := store.Get(tx.Bucket(bucketSecrets).Bucket([]byte(fromTenant)), []byte(from), &r); err != nil {
		return err
	}
	return store.Put(tx.Bucket(bucketSecrets).Bucket([]byte(toTenant)), []byte(to), r)
}

// Record is a secret at rest.
type Record = record

// DamageRing changes a byte of the sealed keyring.
func DamageRing(keys *store.DB) error {
	return keys.Update(func(tx *store.Tx) error {
		rec, err := loadRing(tx, keyRing)
		if err != nil {
			return err
		}
		rec.Sealed[20] ^= 1
		return store.Put(tx.Bucket(bucketKeys), keyRing, rec)
	})
}
