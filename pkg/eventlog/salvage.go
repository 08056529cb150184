package eventlog

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"go.etcd.io/bbolt"

	"github.com/solo-run/solo/pkg/solo"
	"github.com/solo-run/solo/pkg/store"
)

// Salvage writes what the log in the file from holds before its damage to a new
// file, with every other record that can still be read: state may then be newer
// than the log. The report is that of the new file, and BadID where the old one
// ends.
func Salvage(ctx context.Context, from, to string) (solo.VerifyReport, error) {
	old, err := store.Open(from, store.Options{ReadOnly: true})
	if err != nil {
		return solo.VerifyReport{}, err
	}
	defer old.Close()
	fresh, err := store.Open(to, store.Options{})
	if err != nil {
		return solo.VerifyReport{}, err
	}
	defer fresh.Close()
	if _, err := Open(fresh); err != nil {
		return solo.VerifyReport{}, err
	}
	if err := copyState(old, fresh); err != nil {
		return solo.VerifyReport{}, fmt.Errorf("cannot salvage the state: %w", err)
	}
	bad, err := copyEvents(ctx, old, fresh)
	if err != nil {
		return solo.VerifyReport{}, fmt.Errorf("cannot salvage the event log: %w", err)
	}
	report, err := verify(ctx, fresh, nil)
	report.BadID = bad
	return report, err
}

// copyState copies all buckets that are not the log's or the store's own.
func copyState(old, fresh *store.DB) error {
	return old.View(func(from *store.Tx) error {
		return fresh.Update(func(to *store.Tx) error {
			return from.ForEach(func(name []byte, b *bbolt.Bucket) error {
				if bytes.HasPrefix(name, bucketEvents) || store.Own(name) {
					return nil
				}
				out, err := to.CreateBucketIfNotExists(name)
				if err != nil {
					return err
				}
				return copyBucket(b, out)
			})
		})
	})
}

func copyBucket(from, to *bbolt.Bucket) error {
	return from.ForEach(func(k, v []byte) error {
		if v != nil {
			return to.Put(k, v)
		}
		out, err := to.CreateBucketIfNotExists(k)
		if err != nil {
			return err
		}
		return copyBucket(from.Bucket(k), out)
	})
}

// copyEvents copies records for as long as the chain holds, and returns the first
// that does not.
func copyEvents(ctx context.Context, old, fresh *store.DB) (bad *uint64, err error) {
	var prev []byte
	var next uint64
	var cut checkpoint
	err = old.View(func(from *store.Tx) (err error) {
		if from.Bucket(bucketHead) == nil {
			return errors.New("the file holds no event log")
		}
		cut, err = readCheckpoint(from)
		return err
	})
	if err != nil {
		return nil, err
	}
	prev, next = cut.hash, cut.first
	total := uint64(0)
	for done := false; !done; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		err := old.View(func(from *store.Tx) error {
			events := from.Bucket(bucketEvents)
			return fresh.Update(func(to *store.Tx) error {
				c := events.Cursor()
				at, hash, sum, n := next, prev, total, 0
				for k, raw := c.Seek(key(at)); ; k, raw = c.Next() {
					if n++; n > verifyPage {
						break
					}
					if k == nil {
						done = true
						break
					}
					id := binary.BigEndian.Uint64(k)
					r, err := parse(id, raw)
					if id != at || err != nil || !bytes.Equal(chain(hash, id, r.body), r.hash) {
						wrong := at
						bad, done = &wrong, true
						break
					}
					if err := to.Bucket(bucketEvents).Put(k, raw); err != nil {
						return err
					}
					e := solo.Event{Type: solo.EventType(r.kind), TenantID: r.tenant, Subject: r.subject}
					if err := index(to, bytes.Clone(k), &e); err != nil {
						return err
					}
					at, hash, sum = id+1, bytes.Clone(r.hash), sum+uint64(len(raw))
				}
				next, prev, total = at, hash, sum
				if next == 1 {
					return nil
				}
				if cut.first > 1 {
					if err := to.Bucket(bucketHead).Put(keyCheckpoint, append(key(cut.first), cut.hash...)); err != nil {
						return err
					}
				}
				return writeHead(to, head{next - 1, prev, total})
			})
		})
		if err != nil {
			return nil, err
		}
	}
	return bad, nil
}
