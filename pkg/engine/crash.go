package engine

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/solo-run/solo/pkg/solo"
	"github.com/solo-run/solo/pkg/store"
)

// capsule is what is stored of a crash beside its event, which it names.
type capsule struct {
	Event uint64             `json:"event"`
	Exit  solo.Exit          `json:"exit"`
	Panic *solo.PanicTrace   `json:"panic"`
	Usage []solo.UsageSample `json:"usage"`
}

// crashed appends the event of a crash and keeps its capsule, and forgets the
// oldest of too many.
func (e *Engine) crashed(tx *store.Tx, r *record, x solo.Exit, payload map[string]any, cause uint64) error {
	if err := e.append(tx, r, solo.EventServiceCrashed, payload, cause); err != nil {
		return err
	}
	b, err := ofService(tx, bucketCrashes, r.key())
	if err != nil {
		return err
	}
	c := capsule{Event: r.LastEvent, Exit: x, Usage: noNil(x.Usage)}
	if p := x.Panic; p != nil {
		c.Panic = &solo.PanicTrace{Message: p.Message, File: p.File, Line: p.Line, Stack: noNil(x.Stack)}
	}
	stored := struct {
		capsule
		Version  int `json:"version"`
		Instance int `json:"instance"`
	}{c, r.Version, x.Instance}
	if err := store.Put(b, numberKey(r.LastEvent), stored); err != nil {
		return err
	}
	kept := countKeys(b, 2*solo.CrashesKept)
	cursor := b.Cursor()
	for k, _ := cursor.First(); k != nil && kept > solo.CrashesKept; k, _ = cursor.First() {
		if err := cursor.Delete(); err != nil {
			return err
		}
		kept--
	}
	return nil
}

// Events that a capsule shows: the causes that led to the crash, and what came
// of it.
const (
	crashCauses    = 10
	crashFollowing = 5
)

// Crashes returns a page of the service's capsules, oldest first.
func (e *Engine) Crashes(_ context.Context, p solo.Principal, serviceID string, limit, offset int) (*solo.CrashList, error) {
	_, key, err := e.find(p, serviceID)
	if err != nil {
		return nil, err
	}
	out := &solo.CrashList{Crashes: []solo.Crash{}, Limit: limit, Offset: offset}
	err = e.cfg.DB.View(func(tx *store.Tx) error {
		tenant := tx.Bucket(bucketCrashes).Bucket([]byte(key.Tenant))
		if tenant == nil || tenant.Bucket([]byte(key.Service)) == nil {
			return nil
		}
		b := tenant.Bucket([]byte(key.Service))
		return b.ForEach(func(k, _ []byte) error {
			out.Total++
			if out.Total <= offset || len(out.Crashes) >= limit {
				return nil
			}
			var c struct {
				capsule
				Version  int `json:"version"`
				Instance int `json:"instance"`
			}
			if err := store.Get(b, k, &c); err != nil {
				return fmt.Errorf("cannot read a crash: %w", err)
			}
			out.Crashes = append(out.Crashes, solo.Crash{
				Instance: c.Instance, Version: c.Version, At: c.Exit.At, LastExit: c.Exit, Panic: c.Panic,
				LogTail: noNil(c.Exit.LogTail), UsageCurve: noNil(c.Usage),
				// The events are read when this transaction is over.
				Events: []solo.Event{{ID: binary.BigEndian.Uint64(k)}},
			})
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	for i := range out.Crashes {
		c := &out.Crashes[i]
		if c.Events, err = e.eventsAround(key, c.Events[0].ID); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// eventsAround returns the causes of an event, itself, and the service's next ones.
func (e *Engine) eventsAround(key solo.Key, id uint64) ([]solo.Event, error) {
	before, err := e.cfg.Events.Chain(id, crashCauses)
	if err != nil {
		return nil, err
	}
	after, err := e.cfg.Events.Page(solo.EventQuery{Tenant: key.Tenant, ServiceID: key.Service, SinceID: id, Limit: crashFollowing})
	if err != nil {
		return nil, err
	}
	return append(before, after.Events...), nil
}
