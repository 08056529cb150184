// Package metering keeps what each service of each tenant has used.
//
// The nouns: a [Counters] is a sum: CPU, memory over time, calls, bytes, builds; an
// hour is the unit it is kept in; a [Reading] is what the kernel has counted of an
// instance so far.
//
// What it promises:
//
//   - CPU is exact over every restart of a service, because the end of an instance
//     is counted in the transaction that records it, and what was counted before is
//     taken off. Memory is read every [Period] and taken to have been so since the
//     reading before.
//   - Calls, bytes and builds are counted as they end and reach the disk every
//     [Period] and at the end of the daemon: kill -9 loses no more than that. So it
//     does of the CPU of the instances that die with it.
//   - What was used stays when the service is purged: somebody answers for it. Hours
//     become days after [KeepHours], and are gone after [KeepDays].
package metering

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"github.com/solo-run/solo/pkg/solo"
	"github.com/solo-run/solo/pkg/store"
)

// Period is how often what was used is read and written.
const Period = 15 * time.Second

// How long hours are kept as hours, and how long at all.
const (
	KeepHours = 35 * 24 * time.Hour
	KeepDays  = 400 * 24 * time.Hour
)

// Reading is what the kernel has counted of an instance since it was started.
type Reading struct {
	Key         solo.Key
	Instance    int
	StartedAt   time.Time
	CPUUsec     uint64
	MemoryBytes uint64
}

// Counters are sums.
type Counters struct {
	CPUUsec uint64 `json:"cpu_usec,omitempty"`
	// MemoryKiBSec is memory over time, in KiB × seconds.
	MemoryKiBSec uint64 `json:"memory_kib_s,omitempty"`
	Calls        uint64 `json:"calls,omitempty"`
	BytesIn      uint64 `json:"bytes_in,omitempty"`
	BytesOut     uint64 `json:"bytes_out,omitempty"`
	Builds       uint64 `json:"builds,omitempty"`
	BuildMS      uint64 `json:"build_ms,omitempty"`
}

func (c *Counters) add(o Counters) {
	c.CPUUsec += o.CPUUsec
	c.MemoryKiBSec += o.MemoryKiBSec
	c.Calls += o.Calls
	c.BytesIn += o.BytesIn
	c.BytesOut += o.BytesOut
	c.Builds += o.Builds
	c.BuildMS += o.BuildMS
}

// seen is what was counted of an instance. Over is set once its end was. A service
// that was purged and comes again has its numbers again, but other times.
type seen struct {
	Started time.Time `json:"started"`
	CPUUsec uint64    `json:"cpu_usec"`
	At      time.Time `json:"at"`
	Over    bool      `json:"over,omitempty"`
}

// usage: hour → tenant → service → Counters; instances: tenant → service → instance
// → seen.
var (
	bucketUsage     = []byte("usage")
	bucketInstances = []byte("usage_instances")
)

// Room keeps the sums. Run it.
type Room struct {
	db   *store.DB
	read func() []Reading

	mu sync.Mutex
	// pending is what has not been written yet.
	pending map[solo.Key]*Counters
}

// Open returns the room in db; read takes the readings of what runs.
func Open(db *store.DB, read func() []Reading) (*Room, error) {
	err := db.Update(func(tx *store.Tx) error {
		for _, name := range [][]byte{bucketUsage, bucketInstances} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("cannot prepare the store: %w", err)
	}
	return &Room{db: db, read: read, pending: map[solo.Key]*Counters{}}, nil
}

// Count adds to what a service has used.
func (r *Room) Count(key solo.Key, c Counters) {
	r.mu.Lock()
	defer r.mu.Unlock()
	sum := r.pending[key]
	if sum == nil {
		sum = &Counters{}
		r.pending[key] = sum
	}
	sum.add(c)
}

// Run writes every [Period] until ctx ends, and then once more. A disk that cannot
// take it gets it with the next write.
func (r *Room) Run(ctx context.Context) error {
	tick := time.NewTicker(Period)
	defer tick.Stop()
	folded := time.Time{}
	for {
		select {
		case <-tick.C:
			_ = r.Flush() // what could not be written is kept for the next time
			if now := time.Now(); now.Sub(folded) >= time.Hour && r.Fold(now) == nil {
				folded = now
			}
		case <-ctx.Done():
			if err := r.Flush(); err != nil {
				return fmt.Errorf("cannot write what was used: %w", err)
			}
			return nil
		}
	}
}

// Flush reads what runs and writes what is pending, in one transaction.
func (r *Room) Flush() error {
	readings := r.read()
	r.mu.Lock()
	pending := r.pending
	r.pending = map[solo.Key]*Counters{}
	r.mu.Unlock()
	if len(readings) == 0 && len(pending) == 0 {
		return nil
	}
	err := r.db.Update(func(tx *store.Tx) error {
		for key, c := range pending {
			if err := add(tx, tx.Now, key, *c); err != nil {
				return err
			}
		}
		for _, reading := range readings {
			if err := count(tx, reading, false); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		for key, c := range pending {
			r.Count(key, *c)
		}
	}
	return err
}

// Ended counts the last of an instance, in the transaction that records its end.
func (r *Room) Ended(tx *store.Tx, last Reading) error { return count(tx, last, true) }

// count adds what is new in a reading.
func count(tx *store.Tx, reading Reading, over bool) error {
	instances, err := within(tx.Bucket(bucketInstances), reading.Key.Tenant, reading.Key.Service)
	if err != nil {
		return err
	}
	id := binary.BigEndian.AppendUint64(nil, uint64(reading.Instance))
	var was seen
	if err := store.Get(instances, id, &was); err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if !was.Started.Equal(reading.StartedAt) {
		was = seen{Started: reading.StartedAt, At: reading.StartedAt}
	}
	if was.Over {
		return nil // read before its end, and written after
	}
	var c Counters
	if reading.CPUUsec > was.CPUUsec {
		c.CPUUsec = reading.CPUUsec - was.CPUUsec
	}
	if since := tx.Now.Sub(was.At); since > 0 {
		c.MemoryKiBSec = uint64(float64(reading.MemoryBytes>>10) * since.Seconds())
	}
	if err := add(tx, tx.Now, reading.Key, c); err != nil {
		return err
	}
	was.CPUUsec, was.At, was.Over = max(reading.CPUUsec, was.CPUUsec), tx.Now, over
	if err := store.Put(instances, id, was); err != nil || !over {
		return err
	}
	return forgetEnds(instances, tx.Now)
}

// Ends stay known for as long as a reading from before one can come, and what a
// daemon that was killed has left for a day.
const (
	keepEnds = 4 * Period
	keepLost = 24 * time.Hour
)

func forgetEnds(instances *bbolt.Bucket, now time.Time) error {
	var old [][]byte
	err := instances.ForEach(func(k, _ []byte) error {
		var s seen
		if err := store.Get(instances, k, &s); err != nil {
			return err
		}
		if age := now.Sub(s.At); age > keepLost || s.Over && age > keepEnds {
			old = append(old, append([]byte{}, k...))
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, k := range old {
		if err := instances.Delete(k); err != nil {
			return err
		}
	}
	return nil
}

// add puts a sum into its hour.
func add(tx *store.Tx, at time.Time, key solo.Key, c Counters) error {
	if c == (Counters{}) {
		return nil
	}
	hour, err := tx.Bucket(bucketUsage).CreateBucketIfNotExists(hourKey(at))
	if err != nil {
		return err
	}
	services, err := within(hour, key.Tenant)
	if err != nil {
		return err
	}
	var sum Counters
	if err := store.Get(services, []byte(key.Service), &sum); err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	sum.add(c)
	return store.Put(services, []byte(key.Service), sum)
}

// within opens nested buckets, and makes those that are missing.
func within(b *bbolt.Bucket, names ...string) (_ *bbolt.Bucket, err error) {
	for _, name := range names {
		if b, err = b.CreateBucketIfNotExists([]byte(name)); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func hourKey(at time.Time) []byte {
	return binary.BigEndian.AppendUint64(nil, uint64(at.UTC().Truncate(time.Hour).Unix()))
}

func hourOf(key []byte) time.Time {
	return time.Unix(int64(binary.BigEndian.Uint64(key)), 0).UTC()
}

// foldBatch bounds the hours that one transaction folds.
const foldBatch = 48

// Fold makes days of old hours, and forgets what is older still.
func (r *Room) Fold(now time.Time) error {
	for {
		done := 0
		err := r.db.Update(func(tx *store.Tx) error {
			done = 0
			usage := tx.Bucket(bucketUsage)
			var old []time.Time
			cursor := usage.Cursor()
			for k, _ := cursor.First(); k != nil && len(old) < foldBatch; k, _ = cursor.Next() {
				hour := hourOf(k)
				if now.Sub(hour) <= KeepHours {
					break
				}
				if now.Sub(hour) > KeepDays || !hour.Equal(hour.Truncate(24*time.Hour)) {
					old = append(old, hour)
				}
			}
			for _, hour := range old {
				if now.Sub(hour) <= KeepDays {
					if err := into(tx, hour, hour.Truncate(24*time.Hour)); err != nil {
						return err
					}
				}
				if err := usage.DeleteBucket(hourKey(hour)); err != nil {
					return err
				}
			}
			done = len(old)
			return nil
		})
		if err != nil || done < foldBatch {
			return err
		}
	}
}

// into adds the sums of one hour to another.
func into(tx *store.Tx, from, to time.Time) error {
	sums, err := sumsOf(tx, from)
	if err != nil {
		return err
	}
	for key, c := range sums {
		if err := add(tx, to, key, c); err != nil {
			return err
		}
	}
	return nil
}

// sumsOf are the sums of an hour.
func sumsOf(tx *store.Tx, at time.Time) (map[solo.Key]Counters, error) {
	out := map[solo.Key]Counters{}
	hour := tx.Bucket(bucketUsage).Bucket(hourKey(at))
	if hour == nil {
		return out, nil
	}
	return out, hour.ForEachBucket(func(tenant []byte) error {
		services := hour.Bucket(tenant)
		return services.ForEach(func(k, _ []byte) error {
			var c Counters
			if err := store.Get(services, k, &c); err != nil {
				return err
			}
			out[solo.Key{Tenant: string(tenant), Service: string(k)}] = c
			return nil
		})
	})
}

// Sum adds up the hours that begin within [from, to), of a tenant, or of all for "".
// It writes what is pending first, so that what has ended is in it.
func (r *Room) Sum(tenant string, from, to time.Time) (map[solo.Key]Counters, error) {
	if err := r.Flush(); err != nil {
		return nil, err
	}
	out := map[solo.Key]Counters{}
	err := r.db.View(func(tx *store.Tx) error {
		cursor := tx.Bucket(bucketUsage).Cursor()
		for k, _ := cursor.Seek(hourKey(from)); k != nil && hourOf(k).Before(to); k, _ = cursor.Next() {
			sums, err := sumsOf(tx, hourOf(k))
			if err != nil {
				return err
			}
			for key, c := range sums {
				if tenant == "" || key.Tenant == tenant {
					sum := out[key]
					sum.add(c)
					out[key] = sum
				}
			}
		}
		return nil
	})
	return out, err
}
