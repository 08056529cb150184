package eventlog

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"go.etcd.io/bbolt"

	"github.com/solo-run/solo/pkg/failpoint"
	"github.com/solo-run/solo/pkg/solo"
	"github.com/solo-run/solo/pkg/store"
)

// Retention is how much of the log is kept; zero values keep all.
type Retention struct {
	// KeepFor is how old an event may become.
	KeepFor time.Duration
	// MaxBytes bounds the records together; their indexes come on top.
	MaxBytes uint64
}

const (
	// cutBatch is how many events one transaction removes.
	cutBatch = 1000
	// A cut by size goes on until the log is this share of what it may be, and one by
	// age waits until it is worth a checkpoint: each leaves an event behind.
	cutTo    = 0.9
	cutSlack = time.Hour
)

// attested is the payload of a log_checkpoint event: what was cut away, the hash that
// the chain goes on from, and the signature over both.
type attested struct {
	CutBefore uint64 `json:"cut_before"`
	Hash      string `json:"hash"`
	Signature string `json:"signature"`
}

// signature is HMAC-SHA-256 over where the log begins.
func (c checkpoint) signature(secret []byte) string {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte("solo log checkpoint 1"))
	mac.Write(append(key(c.first), c.hash...))
	return hex.EncodeToString(mac.Sum(nil))
}

// attestedBy reports whether the record is the checkpoint's own event. It stands
// in the chain, so that no other beginning can be put in the place of the true one.
func (c checkpoint) attestedBy(r *record, secret []byte) bool {
	if r.kind != string(solo.EventLogCheckpoint) {
		return false
	}
	var a attested
	if json.Unmarshal(r.payload, &a) != nil || a.CutBefore != c.first || a.Hash != hex.EncodeToString(c.hash) {
		return false
	}
	return secret == nil || hmac.Equal([]byte(a.Signature), []byte(c.signature(secret)))
}

// Retain cuts away what the retention does not keep, and returns how many events
// went. The cut is on disk, with its event, before the first of them goes; a cut
// that a crash has ended is finished by the next call.
func (l *Log) Retain(ctx context.Context, r Retention) (removed uint64, err error) {
	before, err := l.boundary(r)
	if err != nil {
		return 0, fmt.Errorf("cannot find what the log does not keep: %w", err)
	}
	if before > l.first.Load() {
		if err := l.checkpoint(before); err != nil {
			return 0, fmt.Errorf("cannot cut the log: %w", err)
		}
		failpoint.Hit("retain.checkpoint")
	}
	for {
		if err := ctx.Err(); err != nil {
			return removed, err
		}
		n, err := l.sweep()
		if err != nil {
			return removed, fmt.Errorf("cannot cut the log: %w", err)
		}
		if removed += n; n < cutBatch {
			return removed, nil
		}
		failpoint.Hit("retain.batch")
	}
}

// boundary is the first id that is kept. The newest event always is.
func (l *Log) boundary(r Retention) (before uint64, err error) {
	err = l.db.View(func(tx *store.Tx) error {
		h, err := readHead(tx)
		if err != nil {
			return err
		}
		before = l.first.Load()
		if h.id == 0 {
			return nil
		}
		events := tx.Bucket(bucketEvents)
		at := func(id uint64) (time.Time, int, error) {
			raw := events.Get(key(id))
			rec, err := parse(id, raw)
			return time.Unix(0, rec.at), len(raw), err
		}
		if r.KeepFor > 0 {
			oldest, _, err := at(before)
			if err != nil {
				return err
			}
			limit := tx.Now.Add(-r.KeepFor)
			if oldest.Before(limit.Add(-cutSlack)) {
				// Times never go back: the boundary can be found by halves.
				lo, hi := before, h.id
				for lo < hi {
					mid := lo + (hi-lo)/2
					t, _, err := at(mid)
					if err != nil {
						return err
					}
					if t.Before(limit) {
						lo = mid + 1
					} else {
						hi = mid
					}
				}
				before = lo
			}
		}
		if r.MaxBytes > 0 && h.bytes > r.MaxBytes {
			left := h.bytes
			for id := l.first.Load(); id < h.id && float64(left) > cutTo*float64(r.MaxBytes); id++ {
				_, n, err := at(id)
				if err != nil {
					return err
				}
				left -= min(left, uint64(n))
				before = max(before, id+1)
			}
		}
		return nil
	})
	return before, err
}

// checkpoint makes the log begin at an id, and says so in the log.
func (l *Log) checkpoint(first uint64) error {
	var secret []byte
	if l.signer != nil {
		var err error
		if secret, err = l.signer(); err != nil {
			return err
		}
	}
	return l.db.Update(func(tx *store.Tx) error {
		last := first - 1
		r, err := parse(last, tx.Bucket(bucketEvents).Get(key(last)))
		if err != nil {
			return err
		}
		hash := bytes.Clone(r.hash)
		payload := map[string]any{"cut_before": first, "hash": hex.EncodeToString(hash)}
		if secret != nil {
			payload["signature"] = checkpoint{first, hash}.signature(secret)
		}
		if _, err := l.Append(tx, solo.Event{Type: solo.EventLogCheckpoint, Subject: solo.SubjectSystem, Payload: payload}); err != nil {
			return err
		}
		if err := tx.Bucket(bucketHead).Put(keyCheckpoint, append(key(first), hash...)); err != nil {
			return err
		}
		tx.OnCommit(func() { l.first.Store(first) })
		return nil
	})
}

// sweep removes a batch of what is before the checkpoint, with its indexes.
func (l *Log) sweep() (n uint64, err error) {
	err = l.db.Update(func(tx *store.Tx) error {
		n = 0
		h, err := readHead(tx)
		if err != nil {
			return err
		}
		first := l.first.Load()
		c := tx.Bucket(bucketEvents).Cursor()
		for k, raw := c.First(); k != nil && n < cutBatch && binary.BigEndian.Uint64(k) < first; k, raw = c.First() {
			r, err := parse(binary.BigEndian.Uint64(k), raw)
			if err != nil {
				return err
			}
			k = bytes.Clone(k)
			h.bytes -= min(h.bytes, uint64(len(raw)))
			if err := unindex(tx, k, &r); err != nil {
				return err
			}
			if err := c.Delete(); err != nil {
				return err
			}
			n++
		}
		if n == 0 {
			return nil
		}
		return writeHead(tx, h)
	})
	return n, err
}

// unindex takes back what index has put. Buckets of names that are empty go too:
// there is no bound on names over time.
func unindex(tx *store.Tx, k []byte, r *record) error {
	paths := [][]string{{string(bucketKinds), r.kind}}
	if r.tenant != "" {
		paths = append(paths, []string{string(bucketByTenant), r.tenant}, []string{string(bucketByKind), r.tenant, r.kind})
		if id := service(r.subject); id != "" {
			paths = append(paths, []string{string(bucketByService), r.tenant, id})
		}
	}
	for _, path := range paths {
		if err := removeAt(tx.Bucket([]byte(path[0])), path[1:], k); err != nil {
			return err
		}
	}
	return nil
}

func removeAt(b *bbolt.Bucket, path []string, k []byte) error {
	if b == nil {
		return nil
	}
	if len(path) == 0 {
		return b.Delete(k)
	}
	inner := b.Bucket([]byte(path[0]))
	if inner == nil {
		return nil
	}
	if err := removeAt(inner, path[1:], k); err != nil {
		return err
	}
	if first, _ := inner.Cursor().First(); first == nil {
		return b.DeleteBucket([]byte(path[0]))
	}
	return nil
}
