package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/solo-run/solo/pkg/eventlog"
	"github.com/solo-run/solo/pkg/solo"
	"github.com/solo-run/solo/pkg/store"
)

// events: a log of a million events, absolute, beside a scan of its file.
func (b *bench) events() error {
	const total = 1_000_000
	path := filepath.Join(b.dir, "million")
	db, err := store.Open(path, store.Options{})
	if err != nil {
		return err
	}
	l, err := eventlog.Open(db)
	if err != nil {
		return err
	}
	for n := 0; n < total; n += 5000 {
		err := db.Update(func(tx *store.Tx) error {
			for i := range 5000 {
				kind := solo.EventServiceStarted
				if (n+i)%1000 == 0 {
					kind = solo.EventServiceGaveUp
				}
				if _, err := l.Append(tx, solo.Event{
					TenantID: fmt.Sprint("t", i%50), Type: kind, Subject: fmt.Sprint("services/s", i%500),
					Payload: map[string]any{"cause": "restart", "instance": n + i, "pid": 12345, "version": 1},
				}); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if err := db.Close(); err != nil {
		return err
	}
	var boots, pages, filters, scans []time.Duration
	for range b.rounds {
		d, err := timed(func() (err error) {
			if db, err = store.Open(path, store.Options{}); err == nil {
				l, err = eventlog.Open(db)
			}
			return err
		})
		if err != nil {
			return err
		}
		boots = append(boots, d)
		d, err = timed(func() error {
			page, err := l.Page(solo.EventQuery{SinceID: total / 2, Limit: 100})
			if err == nil && len(page.Events) != 100 {
				err = fmt.Errorf("a page of %d", len(page.Events))
			}
			return err
		})
		if err != nil {
			return err
		}
		pages = append(pages, d)
		d, err = timed(func() error {
			found := 0
			for q := (solo.EventQuery{Type: solo.EventServiceGaveUp, Limit: 1000}); ; {
				page, err := l.Page(q)
				if err != nil {
					return err
				}
				found += len(page.Events)
				if q.SinceID = page.NextSinceID; q.SinceID >= page.LastID {
					break
				}
			}
			if found != total/1000 {
				return fmt.Errorf("%d were found", found)
			}
			return nil
		})
		if err != nil {
			return err
		}
		filters = append(filters, d)
		if err := db.Close(); err != nil {
			return err
		}
		d, err = timed(func() error {
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = io.Copy(io.Discard, f)
			return err
		})
		if err != nil {
			return err
		}
		scans = append(scans, d)
	}
	b.row("1M events: open the log (absolute: ≤ 300 ms) / read its file once", "", boots, scans)
	b.row("1M events: all of one type, 1000 of them (absolute: ≤ 500 ms) / read the file once", "", filters, scans)
	b.row("1M events: a page of 100 after an id (absolute: ≤ 1 ms) / read the file once", "", pages, scans)
	return nil
}
