package metering

import (
	"maps"

	"github.com/solo-run/solo/pkg/solo"
	"github.com/solo-run/solo/pkg/store"
)

// Pending is what has not been written yet.
func (r *Room) Pending() map[solo.Key]*Counters {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.pending)
}

// Hours is how many hours are kept.
func (r *Room) Hours() (n int, err error) {
	return n, r.db.View(func(tx *store.Tx) error {
		return tx.Bucket(bucketUsage).ForEachBucket(func([]byte) error { n++; return nil })
	})
}
