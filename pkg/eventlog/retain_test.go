package eventlog_test

import (
	"context"
	"encoding/binary"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/solo-run/solo/pkg/eventlog"
	"github.com/solo-run/solo/pkg/solo"
	"github.com/solo-run/solo/pkg/store"
)

// fillLog opens a log with n events, the first half of them two days old.
func fillLog(t *testing.T, path string, n int) (*store.DB, *eventlog.Log) {
	t.Helper()
	db, err := store.Open(path, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	log, err := eventlog.Open(db)
	if err != nil {
		t.Fatal(err)
	}
	appendEvents(t, db, log, n/2, -48*time.Hour)
	appendEvents(t, db, log, n-n/2, 0)
	return db, log
}

func appendEvents(t *testing.T, db *store.DB, log *eventlog.Log, n int, ago time.Duration) {
	t.Helper()
	err := db.Update(func(tx *store.Tx) error {
		tx.Now = tx.Now.Add(ago)
		for range n {
			if _, err := log.Append(tx, event("t", "s", "app.x")); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestRetentionByAge(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	db, log := fillLog(t, path, 5000)
	if n, err := log.Retain(t.Context(), eventlog.Retention{}); n != 0 || err != nil {
		t.Fatalf("without a retention %d went, %v", n, err)
	}
	// It waits until a cut is worth its checkpoint.
	if n, err := log.Retain(t.Context(), eventlog.Retention{KeepFor: 48*time.Hour - time.Minute}); n != 0 || err != nil {
		t.Fatalf("a minute over the time %d went, %v", n, err)
	}
	n, err := log.Retain(t.Context(), eventlog.Retention{KeepFor: 24 * time.Hour})
	if n != 2500 || err != nil {
		t.Fatalf("%d went, %v", n, err)
	}
	if log.FirstID() != 2501 || log.Stats().Total != 2501 {
		t.Errorf("first %d, %+v", log.FirstID(), log.Stats())
	}
	page, err := log.Page(solo.EventQuery{Tenant: "t", ServiceID: "s", Limit: 1})
	if err != nil || len(page.Events) != 1 || page.Events[0].ID != 2501 {
		t.Errorf("the first page is %+v, %v", page, err)
	}
	// What remains is proved, after more events, by another process, and of a copy.
	appendEvents(t, db, log, 10, 0)
	report, err := log.Verify(t.Context())
	if err != nil || !report.OK || report.FirstID != 2501 || report.LastID != 5011 {
		t.Errorf("verify: %+v, %v", report, err)
	}
	last, err := log.Page(solo.EventQuery{Type: solo.EventLogCheckpoint})
	if err != nil || len(last.Events) != 1 || last.Events[0].Payload["cut_before"] == nil {
		t.Errorf("the checkpoint is %+v, %v", last.Events, err)
	}
	db.Close()
	if report, err = eventlog.VerifyFile(t.Context(), path); err != nil || !report.OK || report.FirstID != 2501 {
		t.Errorf("verify of the file: %+v, %v", report, err)
	}
}

func TestRetentionBySize(t *testing.T) {
	db, log := fillLog(t, filepath.Join(t.TempDir(), "db"), 5000)
	const limit = 200_000
	n, err := log.Retain(t.Context(), eventlog.Retention{MaxBytes: limit})
	if n == 0 || err != nil {
		t.Fatalf("%d went, %v", n, err)
	}
	if again, err := log.Retain(t.Context(), eventlog.Retention{MaxBytes: limit}); again != 0 || err != nil {
		t.Errorf("at once again %d went, %v", again, err)
	}
	var total int
	err = db.View(func(tx *store.Tx) error {
		return tx.Bucket([]byte("events")).ForEach(func(_, v []byte) error { total += len(v); return nil })
	})
	if err != nil || total > limit || total < limit/2 {
		t.Errorf("%d bytes remain of %d, %v", total, limit, err)
	}
	// The newest is never cut.
	if _, err := log.Retain(t.Context(), eventlog.Retention{MaxBytes: 1}); err != nil {
		t.Fatal(err)
	}
	report, err := log.Verify(t.Context())
	if err != nil || !report.OK || report.LastID != log.LastID() || log.FirstID() > log.LastID() {
		t.Errorf("verify: %+v, %v", report, err)
	}
}

// A log that someone has cut without saying so in it does not hold, whatever its
// checkpoint says.
func TestACutThatTheLogDoesNotTellOf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	db, log := fillLog(t, path, 100)
	if _, err := log.Retain(t.Context(), eventlog.Retention{KeepFor: 24 * time.Hour}); err != nil {
		t.Fatal(err)
	}
	db.Close()
	id := func(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
	raw, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = raw.Update(func(tx *bbolt.Tx) error {
		events, head := tx.Bucket([]byte("events")), tx.Bucket([]byte("events.head"))
		last := events.Get(id(60))
		mark := append(id(61), last[len(last)-32:]...)
		for n := uint64(51); n <= 60; n++ {
			if err := events.Delete(id(n)); err != nil {
				return err
			}
		}
		return head.Put([]byte("checkpoint"), mark)
	})
	if err != nil {
		t.Fatal(err)
	}
	raw.Close()
	report, err := eventlog.VerifyFile(t.Context(), path)
	if err != nil || report.OK || report.BadID == nil || *report.BadID != 61 {
		t.Errorf("verify: %+v, %v", report, err)
	}
}

// A cut that a crash has ended is finished, and hides what it had cut meanwhile.
func TestACutGoesOnAfterACrash(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	db, log := fillLog(t, path, 6000)
	if n, err := log.Retain(cancelledAfterCheckpoint(t), eventlog.Retention{KeepFor: 24 * time.Hour}); n != 0 || err == nil {
		t.Fatalf("%d went, %v", n, err)
	}
	db.Close()
	db, err := store.Open(path, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if log, err = eventlog.Open(db); err != nil {
		t.Fatal(err)
	}
	page, err := log.Page(solo.EventQuery{Limit: 1})
	if err != nil || page.Events[0].ID != 3001 {
		t.Errorf("the first page is %+v, %v", page.Events, err)
	}
	if n, err := log.Retain(t.Context(), eventlog.Retention{}); n != 3000 || err != nil {
		t.Errorf("%d went, %v", n, err)
	}
}

// cancelledAfterCheckpoint is a context that has ended when the first batch is to
// go.
func cancelledAfterCheckpoint(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

// A cut that the daemon has not made does not pass as one of its own: who has the
// disk can make a chain, and no signature.
func TestACheckpointIsSigned(t *testing.T) {
	db, err := store.Open(filepath.Join(t.TempDir(), "db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	log, err := eventlog.Open(db)
	if err != nil {
		t.Fatal(err)
	}
	secret := []byte("the vault's own")
	locked := errors.New("the vault is locked")
	fault := locked
	log.Sign(func() ([]byte, error) { return secret, fault })
	for range 40 {
		if err := db.Update(func(tx *store.Tx) error {
			_, err := log.Append(tx, solo.Event{TenantID: "t", Type: solo.EventServiceReady, Subject: "services/a"})
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := log.Retain(t.Context(), eventlog.Retention{MaxBytes: 1000}); !errors.Is(err, locked) {
		t.Fatalf("with a locked vault: %v", err)
	}
	if log.FirstID() != 1 {
		t.Fatal("it was cut without a signature")
	}
	fault = nil
	if n, err := log.Retain(t.Context(), eventlog.Retention{MaxBytes: 1000}); n == 0 || err != nil {
		t.Fatalf("%d events are cut, %v", n, err)
	}
	report, err := log.Verify(t.Context())
	if err != nil || !report.OK || report.FirstID == 1 {
		t.Fatalf("its own cut: %+v, %v", report, err)
	}
	secret = []byte("somebody else's")
	if report, err = log.Verify(t.Context()); err != nil || report.OK {
		t.Errorf("a signature of another key: %+v, %v", report, err)
	}
}
