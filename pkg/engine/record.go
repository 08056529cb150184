package engine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/bbolt"

	"github.com/solo-run/solo/pkg/solo"
	"github.com/solo-run/solo/pkg/store"
)

// The buckets, each nested by tenant and, for versions, by service: a key is a
// tuple and never a joined name (lesson D11).
var (
	bucketServices = []byte("services")
	bucketVersions = []byte("versions")
	bucketTenants  = []byte("tenants")
	bucketCrashes  = []byte("crashes")
)

// record is what is stored of a service. State is what should hold after a boot:
// stopped, failed, stopping (a kill that was accepted), else it is to run.
type record struct {
	Tenant    string     `json:"tenant"`
	Service   string     `json:"service"`
	CreatedAt time.Time  `json:"created_at"`
	State     solo.State `json:"state"`
	// Version is the current one, LastVersion the highest number given.
	Version     int `json:"version"`
	LastVersion int `json:"last_version"`
	// LastInstance is the highest instance number that was recorded.
	LastInstance int `json:"last_instance"`
	// Live is the instance that runs as far as the disk knows, null for none.
	Live     *liveInstance `json:"live"`
	Restarts int           `json:"restarts"`
	LastExit *solo.Exit    `json:"last_exit"`
	// LastEvent is the service's newest event: the cause of what follows by itself.
	LastEvent uint64  `json:"last_event"`
	Current   version `json:"current"`
}

type liveInstance struct {
	Instance  int       `json:"instance"`
	PID       int       `json:"pid"`
	StartedAt time.Time `json:"started_at"`
}

// version is what one accepted deploy said.
type version struct {
	Number       int           `json:"number"`
	Artifact     string        `json:"artifact"`
	SourceDigest string        `json:"source_digest"`
	Settings     solo.Settings `json:"settings"`
	DeployedAt   time.Time     `json:"deployed_at"`
	Build        solo.Build    `json:"build"`
	Toolchain    string        `json:"toolchain"`
}

func (r *record) key() solo.Key { return solo.Key{Tenant: r.Tenant, Service: r.Service} }

// wanted reports whether the service is to run.
func (r *record) wanted() bool { return r.State.Live() && r.State != solo.StateStopping }

func createBuckets(tx *store.Tx) error {
	for _, name := range [][]byte{bucketServices, bucketVersions, bucketTenants, bucketCrashes} {
		if _, err := tx.CreateBucketIfNotExists(name); err != nil {
			return err
		}
	}
	return prepareAnswers(tx)
}

// loadRecord returns the service's record, nil where there is none.
func loadRecord(tx *store.Tx, key solo.Key) (*record, error) {
	tenant := tx.Bucket(bucketServices).Bucket([]byte(key.Tenant))
	if tenant == nil {
		return nil, nil
	}
	var r record
	err := store.Get(tenant, []byte(key.Service), &r)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("cannot read the record of a service: %w", err)
	}
	return &r, nil
}

func saveRecord(tx *store.Tx, r *record) error {
	tenant, err := tx.Bucket(bucketServices).CreateBucketIfNotExists([]byte(r.Tenant))
	if err != nil {
		return err
	}
	return store.Put(tenant, []byte(r.Service), r)
}

func saveVersion(tx *store.Tx, key solo.Key, v version) error {
	b, err := ofService(tx, bucketVersions, key)
	if err != nil {
		return err
	}
	return store.Put(b, numberKey(uint64(v.Number)), v)
}

// ofService is a service's own bucket below a root.
func ofService(tx *store.Tx, root []byte, key solo.Key) (*bbolt.Bucket, error) {
	b := tx.Bucket(root)
	for _, part := range []string{key.Tenant, key.Service} {
		var err error
		if b, err = b.CreateBucketIfNotExists([]byte(part)); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func numberKey(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// sourceDigests are those that the service's versions name.
func sourceDigests(tx *store.Tx, key solo.Key) (map[string]bool, error) {
	out := map[string]bool{}
	tenant := tx.Bucket(bucketVersions).Bucket([]byte(key.Tenant))
	if tenant == nil || tenant.Bucket([]byte(key.Service)) == nil {
		return out, nil
	}
	b := tenant.Bucket([]byte(key.Service))
	err := b.ForEach(func(k, _ []byte) error {
		var v version
		if err := store.Get(b, k, &v); err != nil {
			return fmt.Errorf("cannot read a version: %w", err)
		}
		out[v.SourceDigest] = true
		return nil
	})
	return out, err
}

// forgetService removes the record and the versions of a service.
func forgetService(tx *store.Tx, key solo.Key) error {
	if tenant := tx.Bucket(bucketServices).Bucket([]byte(key.Tenant)); tenant != nil {
		if err := tenant.Delete([]byte(key.Service)); err != nil {
			return err
		}
	}
	for _, name := range [][]byte{bucketVersions, bucketCrashes} {
		if tenant := tx.Bucket(name).Bucket([]byte(key.Tenant)); tenant != nil && tenant.Bucket([]byte(key.Service)) != nil {
			if err := tenant.DeleteBucket([]byte(key.Service)); err != nil {
				return err
			}
		}
	}
	return nil
}

// allRecords reads every service, in the order of tenants and ids.
func allRecords(tx *store.Tx) ([]*record, error) {
	var out []*record
	services := tx.Bucket(bucketServices)
	err := services.ForEachBucket(func(tenant []byte) error {
		b := services.Bucket(tenant)
		return b.ForEach(func(id, _ []byte) error {
			var r record
			if err := store.Get(b, id, &r); err != nil {
				return fmt.Errorf("cannot read the record of a service: %w", err)
			}
			out = append(out, &r)
			return nil
		})
	})
	return out, err
}

// admitTenant counts a tenant from its first accepted write.
func admitTenant(tx *store.Tx, tenant string, limit int) error {
	b := tx.Bucket(bucketTenants)
	if b.Get([]byte(tenant)) != nil {
		return nil
	}
	if n := countKeys(b, limit); n >= limit {
		return solo.Errorf(solo.CodeQuotaExceeded, "this daemon serves %d tenants, as many as it may (solo.max_tenants)", n)
	}
	return store.Put(b, []byte(tenant), tenantRecord{CreatedAt: tx.Now})
}

type tenantRecord struct {
	CreatedAt time.Time `json:"created_at"`
}

// countKeys counts up to limit.
func countKeys(b *bbolt.Bucket, limit int) int {
	n := 0
	c := b.Cursor()
	for k, _ := c.First(); k != nil && n < limit; k, _ = c.Next() {
		n++
	}
	return n
}
