package eventlog

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"iter"
	"slices"
	"sync"
	"sync/atomic"

	"go.etcd.io/bbolt"

	"github.com/solo-run/solo/pkg/solo"
	"github.com/solo-run/solo/pkg/store"
)

// The buckets: the events by id; the head; and the indexes, nested so that no key
// is a joined name: tenant → id, tenant → service → id, tenant → type → id, and
// type → id over all tenants.
var (
	bucketEvents    = []byte("events")
	bucketHead      = []byte("events.head")
	bucketByTenant  = []byte("events.tenant")
	bucketByService = []byte("events.service")
	bucketByKind    = []byte("events.tenant.type")
	bucketKinds     = []byte("events.type")
	keyHead         = []byte("head")
	keyCheckpoint   = []byte("checkpoint")
)

// fill is how full pages are left: ids only grow, so there is nothing to leave
// room for.
const fill = 0.95

// Log is the event log in a store. Its methods may be called by many goroutines
// at once.
type Log struct {
	db *store.DB
	// signer gives the key of the checkpoints' signatures, nil for none.
	signer      func() ([]byte, error)
	first, last atomic.Uint64

	mu      sync.Mutex
	changed chan struct{}
}

// Sign has checkpoints signed by a key that does not live beside the log, so that
// who has the disk cannot cut the log and make it look as if the daemon had. Set it
// before the log is used; while key fails, nothing is cut.
func (l *Log) Sign(key func() ([]byte, error)) { l.signer = key }

// head is the newest event, and how many bytes all records have.
type head struct {
	id    uint64
	hash  []byte
	bytes uint64
}

// checkpoint is where the log begins since a part of it was cut away: the first id
// that remains, and the hash of the one before.
type checkpoint struct {
	first uint64
	hash  []byte
}

// Open prepares the log in db and checks that its head is its newest event; the
// error names the event that is not as it was written.
func Open(db *store.DB) (*Log, error) {
	err := db.Update(func(tx *store.Tx) error {
		for _, name := range [][]byte{bucketEvents, bucketHead, bucketByTenant, bucketByService, bucketByKind, bucketKinds} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("cannot prepare the event log: %w", err)
	}
	l := &Log{db: db, changed: make(chan struct{})}
	err = db.View(func(tx *store.Tx) error {
		h, err := readHead(tx)
		if err != nil {
			return err
		}
		l.last.Store(h.id)
		c, err := readCheckpoint(tx)
		if err != nil {
			return err
		}
		l.first.Store(c.first)
		return checkHead(tx, h)
	})
	if err != nil {
		return nil, fmt.Errorf("cannot open the event log: %w", err)
	}
	return l, nil
}

func readCheckpoint(tx *store.Tx) (checkpoint, error) {
	id, hash, err := readMark(tx, keyCheckpoint)
	if err != nil || id == 0 {
		return checkpoint{1, make([]byte, hashSize)}, err
	}
	return checkpoint{id, hash}, nil
}

// readMark reads an id with a hash; 0 where there is none.
func readMark(tx *store.Tx, name []byte) (id uint64, hash []byte, err error) {
	raw := tx.Bucket(bucketHead).Get(name)
	if raw == nil {
		return 0, make([]byte, hashSize), nil
	}
	if len(raw) < 8+hashSize {
		return 0, nil, fmt.Errorf("its %s is damaged", name)
	}
	return binary.BigEndian.Uint64(raw), bytes.Clone(raw[8 : 8+hashSize]), nil
}

func readHead(tx *store.Tx) (head, error) {
	id, hash, err := readMark(tx, keyHead)
	h := head{id: id, hash: hash}
	if raw := tx.Bucket(bucketHead).Get(keyHead); len(raw) == 16+hashSize {
		h.bytes = binary.BigEndian.Uint64(raw[8+hashSize:])
	}
	return h, err
}

func writeHead(tx *store.Tx, h head) error {
	return tx.Bucket(bucketHead).Put(keyHead, binary.BigEndian.AppendUint64(append(key(h.id), h.hash...), h.bytes))
}

func checkHead(tx *store.Tx, h head) error {
	k, raw := tx.Bucket(bucketEvents).Cursor().Last()
	if k == nil {
		if h.id != 0 {
			return fmt.Errorf("event %d is missing", h.id)
		}
		return nil
	}
	id := binary.BigEndian.Uint64(k)
	r, err := parse(id, raw)
	switch {
	case err != nil:
		return err
	case id != h.id || !bytes.Equal(r.hash, h.hash):
		return fmt.Errorf("its newest event is %d, and its head says %d", id, h.id)
	}
	return nil
}

func key(id uint64) []byte { return binary.BigEndian.AppendUint64(nil, id) }

// Append adds an event within the transaction of what it records, and returns
// its id. Id, time and hash of e are not looked at. A tenant is required but for
// what is about the daemon itself.
func (l *Log) Append(tx *store.Tx, e solo.Event) (uint64, error) {
	h, err := readHead(tx)
	if err != nil {
		return 0, err
	}
	id := h.id + 1
	raw, hash, err := encode(id, tx.Now, &e, h.hash)
	if err != nil {
		return 0, err
	}
	events := tx.Bucket(bucketEvents)
	events.FillPercent = fill
	k := key(id)
	if err := events.Put(k, raw); err != nil {
		return 0, err
	}
	if err := index(tx, k, &e); err != nil {
		return 0, err
	}
	if err := writeHead(tx, head{id, hash, h.bytes + uint64(len(raw))}); err != nil {
		return 0, err
	}
	tx.OnCommit(func() { l.wake(id) })
	return id, nil
}

func index(tx *store.Tx, k []byte, e *solo.Event) error {
	put := func(root []byte, path ...string) error {
		b := tx.Bucket(root)
		for _, name := range path {
			var err error
			if b, err = b.CreateBucketIfNotExists([]byte(name)); err != nil {
				return err
			}
		}
		b.FillPercent = fill
		return b.Put(k, nil)
	}
	if err := put(bucketKinds, string(e.Type)); err != nil {
		return err
	}
	if e.TenantID == "" {
		return nil
	}
	if err := put(bucketByTenant, e.TenantID); err != nil {
		return err
	}
	if err := put(bucketByKind, e.TenantID, string(e.Type)); err != nil {
		return err
	}
	if id := service(e.Subject); id != "" {
		return put(bucketByService, e.TenantID, id)
	}
	return nil
}

// wake tells the waiting readers that there is more.
func (l *Log) wake(id uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if id > l.last.Load() {
		l.last.Store(id)
	}
	close(l.changed)
	l.changed = make(chan struct{})
}

// LastID is the id of the newest event, 0 for none.
func (l *Log) LastID() uint64 { return l.last.Load() }

// FirstID is the id of the oldest event that retention has left, or the one that
// the first event gets.
func (l *Log) FirstID() uint64 { return l.first.Load() }

// Stats counts the log.
func (l *Log) Stats() solo.EventStats {
	last := l.last.Load()
	return solo.EventStats{LastID: last, Total: last + 1 - min(l.first.Load(), last+1)}
}

// Wait returns when there is an event after that id; the error is ctx's.
func (l *Log) Wait(ctx context.Context, after uint64) error {
	for {
		l.mu.Lock()
		changed := l.changed
		l.mu.Unlock()
		if l.last.Load() > after {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// maxScan bounds how many records one page looks at.
const maxScan = 100_000

// Page returns the events after a cursor that the query selects, oldest first.
// NextSinceID goes on from there, also where nothing was found. With Tail it is the
// last events that match.
func (l *Log) Page(q solo.EventQuery) (solo.EventPage, error) {
	limit := q.Limit
	if limit <= 0 {
		limit = solo.DefaultLimit
	}
	limit = min(limit, solo.MaxLimit)
	page := solo.EventPage{Events: []solo.Event{}, NextSinceID: q.SinceID}
	err := l.db.View(func(tx *store.Tx) error {
		h, err := readHead(tx)
		if err != nil {
			return err
		}
		page.LastID = h.id
		ids, complete := pick(tx, q)
		if ids == nil {
			page.NextSinceID = max(q.SinceID, h.id)
			return nil
		}
		events := tx.Bucket(bucketEvents)
		c := ids.Cursor()
		scanned := 0
		// What a cut has not come to remove yet is gone all the same.
		from := max(q.SinceID+1, l.first.Load())
		begin, step := func() ([]byte, []byte) { return c.Seek(key(from)) }, c.Next
		if q.Tail {
			begin, step = c.Last, c.Prev
		}
		for k, raw := begin(); k != nil; k, raw = step() {
			if scanned++; scanned > maxScan || len(page.Events) == limit {
				if !q.Tail {
					return nil
				}
				break
			}
			id := binary.BigEndian.Uint64(k)
			if id < from {
				break
			}
			if len(raw) == 0 {
				raw = events.Get(k)
			}
			r, err := parse(id, raw)
			if err != nil {
				return err
			}
			page.NextSinceID = id
			if !complete && !matches(&r, q) {
				continue
			}
			e, err := r.event(id)
			if err != nil {
				return err
			}
			page.Events = append(page.Events, e)
		}
		if q.Tail {
			slices.Reverse(page.Events)
		}
		page.NextSinceID = max(page.NextSinceID, h.id)
		return nil
	})
	if err != nil {
		return solo.EventPage{}, fmt.Errorf("cannot read the event log: %w", err)
	}
	return page, nil
}

// pick finds the narrowest index for the query, nil where it is empty. complete
// tells that all of it matches.
func pick(tx *store.Tx, q solo.EventQuery) (ids *bbolt.Bucket, complete bool) {
	at := func(root []byte, path ...string) *bbolt.Bucket {
		b := tx.Bucket(root)
		for _, name := range path {
			if name == "" {
				return nil
			}
			if b = b.Bucket([]byte(name)); b == nil {
				return nil
			}
		}
		return b
	}
	switch {
	case q.Tenant != "" && q.ServiceID != "":
		return at(bucketByService, q.Tenant, q.ServiceID), q.Type == ""
	case q.Tenant != "" && q.Type != "":
		return at(bucketByKind, q.Tenant, string(q.Type)), true
	case q.Tenant != "":
		return at(bucketByTenant, q.Tenant), true
	case q.Type != "":
		return at(bucketKinds, string(q.Type)), q.ServiceID == ""
	}
	return tx.Bucket(bucketEvents), q.ServiceID == ""
}

func matches(r *record, q solo.EventQuery) bool {
	return (q.Tenant == "" || r.tenant == q.Tenant) &&
		(q.Type == "" || r.kind == string(q.Type)) &&
		(q.ServiceID == "" || service(r.subject) == q.ServiceID)
}

// Chain returns the event and the causes that led to it, at most limit, oldest
// first. It ends before what retention has cut away.
func (l *Log) Chain(id uint64, limit int) ([]solo.Event, error) {
	out := []solo.Event{}
	err := l.db.View(func(tx *store.Tx) error {
		events := tx.Bucket(bucketEvents)
		for id >= l.first.Load() && len(out) < limit {
			raw := events.Get(key(id))
			if raw == nil {
				return nil
			}
			r, err := parse(id, raw)
			if err != nil {
				return err
			}
			e, err := r.event(id)
			if err != nil {
				return err
			}
			out = append(out, e)
			// A cause is always older.
			if e.CausationID == nil || *e.CausationID >= id {
				return nil
			}
			id = *e.CausationID
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("cannot read the event log: %w", err)
	}
	slices.Reverse(out)
	return out, nil
}

// Stream yields the events after the query's cursor, and then each as it comes,
// until ctx ends (its error is yielded) or the consumer stops.
func (l *Log) Stream(ctx context.Context, q solo.EventQuery) iter.Seq2[solo.Event, error] {
	return func(yield func(solo.Event, error) bool) {
		for {
			page, err := l.Page(q)
			if err != nil {
				yield(solo.Event{}, err)
				return
			}
			for _, e := range page.Events {
				if !yield(e, nil) {
					return
				}
			}
			moved := page.NextSinceID > q.SinceID
			q.SinceID = page.NextSinceID
			if moved && q.SinceID < page.LastID {
				continue
			}
			if err := l.Wait(ctx, q.SinceID); err != nil {
				yield(solo.Event{}, err)
				return
			}
		}
	}
}

// verifyPage bounds how long one transaction of Verify is.
const verifyPage = 4096

// Verify proves the chain from the first event to the newest. Damage is its
// report; the error is of a store that cannot be read, or ctx's.
func (l *Log) Verify(ctx context.Context) (solo.VerifyReport, error) {
	var key []byte
	if l.signer != nil && l.first.Load() > 1 {
		var err error
		if key, err = l.signer(); err != nil {
			return solo.VerifyReport{}, fmt.Errorf("cannot verify the signature of the log's checkpoint: %w", err)
		}
	}
	return verify(ctx, l.db, key)
}

// verify proves the chain; without a key, the signature of the checkpoint is not
// looked at.
func verify(ctx context.Context, db *store.DB, secret []byte) (solo.VerifyReport, error) {
	report := solo.VerifyReport{OK: true}
	var prev []byte
	var next uint64
	var cut checkpoint
	err := db.View(func(tx *store.Tx) (err error) {
		if tx.Bucket(bucketHead) == nil {
			return fmt.Errorf("the file holds no event log")
		}
		cut, err = readCheckpoint(tx)
		return err
	})
	if err != nil {
		return report, fmt.Errorf("cannot verify the event log: %w", err)
	}
	prev, next = cut.hash, cut.first
	attested := cut.first == 1
	bad := func(id uint64) {
		report.OK, report.BadID = false, &id
	}
	for done := false; !done && report.OK; {
		if err := ctx.Err(); err != nil {
			return report, err
		}
		err := db.View(func(tx *store.Tx) error {
			events := tx.Bucket(bucketEvents)
			if events == nil {
				return fmt.Errorf("the file holds no event log")
			}
			c := events.Cursor()
			n := 0
			for k, raw := c.Seek(key(next)); k != nil; k, raw = c.Next() {
				if n++; n > verifyPage {
					return nil
				}
				id := binary.BigEndian.Uint64(k)
				r, err := parse(id, raw)
				if id != next || err != nil || !bytes.Equal(chain(prev, id, r.body), r.hash) {
					bad(next)
					return nil
				}
				if report.FirstID == 0 {
					report.FirstID = id
				}
				attested = attested || cut.attestedBy(&r, secret)
				report.LastID, prev = id, bytes.Clone(r.hash)
				next++
			}
			done = true
			h, err := readHead(tx)
			if err != nil {
				return err
			}
			if h.id >= next || !bytes.Equal(h.hash, prev) {
				bad(next)
			}
			if !attested {
				bad(cut.first)
			}
			return nil
		})
		if err != nil {
			return report, fmt.Errorf("cannot verify the event log: %w", err)
		}
	}
	report.Head = hex.EncodeToString(prev)
	return report, nil
}

// VerifyFile proves the chain in a file that no daemon has open: a backup, or a
// stopped daemon's.
func VerifyFile(ctx context.Context, path string) (solo.VerifyReport, error) {
	db, err := store.Open(path, store.Options{ReadOnly: true})
	if err != nil {
		return solo.VerifyReport{}, err
	}
	defer db.Close()
	return verify(ctx, db, nil)
}
