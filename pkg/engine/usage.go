package engine

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/solo-run/solo/pkg/metering"
	"github.com/solo-run/solo/pkg/solo"
	"github.com/solo-run/solo/pkg/store"
)

// Readings are what the kernel has counted of all that runs.
func (e *Engine) Readings() []metering.Reading {
	var out []metering.Reading
	for _, s := range e.selectServices("") {
		inst := s.unit.View().Instance
		if inst == nil {
			continue
		}
		if u, err := inst.Usage(); err == nil {
			out = append(out, metering.Reading{
				Key: s.record.Load().key(), Instance: inst.Number(), StartedAt: inst.StartedAt(), CPUUsec: u.CPUUsec, MemoryBytes: u.MemoryBytes,
			})
		}
	}
	return out
}

// metered counts the last of an instance with the record of its end.
func (e *Engine) metered(tx *store.Tx, r *record, exit *solo.Exit) error {
	if exit == nil || r.Live == nil || r.Live.Instance != exit.Instance || len(exit.Usage) == 0 {
		return nil
	}
	last := exit.Usage[len(exit.Usage)-1]
	memory := last.MemoryBytes // the peak, where it did not live to be looked at
	if n := len(exit.Usage); n > 1 {
		memory = exit.Usage[n-2].MemoryBytes
	}
	return e.cfg.Metering.Ended(tx, metering.Reading{
		Key: r.key(), Instance: exit.Instance, StartedAt: r.Live.StartedAt, CPUUsec: last.CPUUsec, MemoryBytes: memory,
	})
}

// usageSpan is how far back a report looks that does not say.
const usageSpan = 30 * 24 * time.Hour

// Usage says what the caller's tenant, or each one, has used.
func (e *Engine) Usage(_ context.Context, p solo.Principal, q solo.UsageQuery) (*solo.UsageReport, error) {
	if q.To.IsZero() {
		q.To = time.Now()
	}
	if q.From.IsZero() {
		q.From = q.To.Add(-usageSpan)
	}
	if !q.From.Before(q.To) {
		return nil, solo.InvalidFields(solo.Field{Field: "from", Message: "must be before to"})
	}
	q.From, q.To = q.From.UTC().Truncate(time.Hour), q.To.UTC()
	sums, err := e.cfg.Metering.Sum(p.Tenant, q.From, q.To)
	if err != nil {
		return nil, err
	}
	rows := map[solo.Key]*solo.UsageRow{}
	for key, c := range sums {
		at := key
		if !q.ByService {
			at.Service = ""
		}
		row := rows[at]
		if row == nil {
			row = &solo.UsageRow{TenantID: key.Tenant}
			if q.ByService {
				row.ServiceID = &key.Service
			}
			rows[at] = row
		}
		row.CPUSeconds += float64(c.CPUUsec) / 1e6
		row.MemoryMBSeconds += float64(c.MemoryKiBSec) / 1024
		row.Calls += c.Calls
		row.BytesIn += c.BytesIn
		row.BytesOut += c.BytesOut
		row.Builds += c.Builds
		row.BuildSeconds += float64(c.BuildMS) / 1e3
	}
	out := &solo.UsageReport{Usage: []solo.UsageRow{}, Total: len(rows), Limit: q.Limit, Offset: q.Offset, From: q.From, To: q.To}
	keys := make([]solo.Key, 0, len(rows))
	for key := range rows {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b solo.Key) int {
		return cmp.Or(cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Service, b.Service))
	})
	for _, key := range keys[min(q.Offset, len(keys)):min(q.Offset+q.Limit, len(keys))] {
		out.Usage = append(out.Usage, *rows[key])
	}
	return out, nil
}
