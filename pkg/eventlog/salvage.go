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
	report, err := verify(ctx, fresh)
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
	prev, next := make([]byte, hashSize), uint64(1)
	for done := false; !done; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		err := old.View(func(from *store.Tx) error {
			events := from.Bucket(bucketEvents)
			if events == nil {
				return errors.New("the file holds no event log")
			}
			return fresh.Update(func(to *store.Tx) error {
				c := events.Cursor()
				at, hash, n := next, prev, 0
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
					at, hash = id+1, bytes.Clone(r.hash)
				}
				next, prev = at, hash
				if next == 1 {
					return nil
				}
				return to.Bucket(bucketHead).Put(keyHead, append(key(next-1), prev...))
			})
		})
		if err != nil {
			return nil, err
		}
	}
	return bad, nil
}
