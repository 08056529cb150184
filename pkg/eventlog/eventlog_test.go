package eventlog_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	"pgregory.net/rapid"

	"github.com/solo-run/solo/pkg/eventlog"
	"github.com/solo-run/solo/pkg/solo"
	"github.com/solo-run/solo/pkg/store"
)

// crashEnv makes the test binary the writer of the crash test.
const crashEnv = "EVENTLOG_CRASH_DB"

func TestMain(m *testing.M) {
	if path := os.Getenv(crashEnv); path != "" {
		writeUntilKilled(path)
	}
	os.Exit(m.Run())
}

type fixture struct {
	t   testing.TB
	db  *store.DB
	log *eventlog.Log
}

// open opens a log, and proves its chain when the test ends.
func open(t testing.TB, path string) *fixture {
	t.Helper()
	db, err := store.Open(path, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	log, err := eventlog.Open(db)
	if err != nil {
		db.Close()
		t.Fatal(err)
	}
	f := &fixture{t, db, log}
	t.Cleanup(func() {
		defer db.Close()
		report, err := log.Verify(context.Background())
		if err != nil || !report.OK || report.LastID != log.LastID() {
			t.Errorf("at the end of the test: %+v, %v", report, err)
		}
	})
	return f
}

func (f *fixture) append(events ...solo.Event) []uint64 {
	f.t.Helper()
	var ids []uint64
	err := f.db.Update(func(tx *store.Tx) error {
		ids = nil
		for _, e := range events {
			id, err := f.log.Append(tx, e)
			if err != nil {
				return err
			}
			ids = append(ids, id)
		}
		return nil
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return ids
}

func event(tenant, id string, kind solo.EventType) solo.Event {
	return solo.Event{TenantID: tenant, Type: kind, Subject: solo.ServiceSubject(id), Payload: map[string]any{"n": 1}}
}

func TestEventsComeBackAsTheyWere(t *testing.T) {
	f := open(t, filepath.Join(t.TempDir(), "db"))
	cause := uint64(1)
	f.append(
		solo.Event{Type: solo.EventSystemStarted, Subject: "system"},
		solo.Event{TenantID: "t", Type: solo.EventServiceCrashed, Subject: "services/s", CausationID: &cause,
			Payload: map[string]any{"text": "a\x00\n\"ü", "big": uint64(1) << 60, "list": []string{"x"}, "none": nil}},
	)
	page, err := f.log.Page(solo.EventQuery{})
	if err != nil {
		t.Fatal(err)
	}
	if len(page.Events) != 2 || page.LastID != 2 || page.NextSinceID != 2 {
		t.Fatalf("page %+v", page)
	}
	first, second := page.Events[0], page.Events[1]
	if first.ID != 1 || first.TenantID != "" || first.CausationID != nil || len(first.Payload) != 0 || len(first.Hash) != 64 {
		t.Errorf("first %+v", first)
	}
	if second.ID != 2 || second.TenantID != "t" || second.Subject != "services/s" || *second.CausationID != 1 || second.Hash == first.Hash {
		t.Errorf("second %+v", second)
	}
	if p := second.Payload; p["text"] != "a\x00\n\"ü" || fmt.Sprint(p["big"]) != "1152921504606846976" || fmt.Sprint(p["list"]) != "[x]" || p["none"] != nil {
		t.Errorf("payload %+v", p)
	}
	if second.Timestamp.Location() != time.UTC || time.Since(second.Timestamp) > time.Minute {
		t.Errorf("time %v", second.Timestamp)
	}
}

func TestRefusals(t *testing.T) {
	f := open(t, filepath.Join(t.TempDir(), "db"))
	for name, e := range map[string]solo.Event{
		"no tenant":  event("", "s", solo.EventServiceKilled),
		"no type":    event("t", "s", ""),
		"too large":  {TenantID: "t", Type: "app.x", Subject: "services/s", Payload: map[string]any{"x": strings.Repeat("x", eventlog.MaxPayload)}},
		"not JSON":   {TenantID: "t", Type: "app.x", Subject: "services/s", Payload: map[string]any{"x": func() {}}},
		"long names": event(strings.Repeat("t", 300), "s", "app.x"),
	} {
		err := f.db.Update(func(tx *store.Tx) error {
			_, err := f.log.Append(tx, e)
			return err
		})
		if err == nil {
			t.Errorf("%s: it was stored", name)
		}
	}
	if ids := f.append(event("t", "s", solo.EventServiceKilled)); ids[0] != 1 {
		t.Errorf("after refusals the next id is %d, want 1", ids[0])
	}
}

// Whatever is appended and undone, ids have no gap and every filter agrees with
// a plain list.
func TestFiltersAgreeWithAModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "")
		if err != nil {
			rt.Fatal(err)
		}
		db, err := store.Open(filepath.Join(dir, "db"), store.Options{})
		if err != nil {
			rt.Fatal(err)
		}
		defer db.Close()
		log, err := eventlog.Open(db)
		if err != nil {
			rt.Fatal(err)
		}
		tenants := []string{"a", "a_b", "b"}
		services := []string{"s", "b_s", "_"}
		kinds := []solo.EventType{solo.EventServiceStarted, solo.EventServiceKilled, "app.x"}
		var model []solo.Event
		undone := errors.New("undone")
		for range rapid.IntRange(1, 20).Draw(rt, "changes") {
			n := rapid.IntRange(1, 5).Draw(rt, "events")
			undo := rapid.IntRange(0, 4).Draw(rt, "undo") == 0
			var batch []solo.Event
			for range n {
				if rapid.IntRange(0, 9).Draw(rt, "system") == 0 {
					batch = append(batch, solo.Event{Type: solo.EventSystemStarted, Subject: "system"})
					continue
				}
				batch = append(batch, event(rapid.SampledFrom(tenants).Draw(rt, "tenant"), rapid.SampledFrom(services).Draw(rt, "service"), rapid.SampledFrom(kinds).Draw(rt, "kind")))
			}
			err := db.Update(func(tx *store.Tx) error {
				for _, e := range batch {
					if _, err := log.Append(tx, e); err != nil {
						return err
					}
				}
				if undo {
					return undone
				}
				return nil
			})
			if undo != errors.Is(err, undone) {
				rt.Fatal(err)
			}
			if !undo {
				model = append(model, batch...)
			}
		}
		for range 20 {
			q := solo.EventQuery{
				Tenant:    rapid.SampledFrom(append(tenants, "", "none")).Draw(rt, "qt"),
				ServiceID: rapid.SampledFrom(append(services, "", "none")).Draw(rt, "qs"),
				Type:      rapid.SampledFrom(append(kinds, "", "none")).Draw(rt, "qk"),
				SinceID:   uint64(rapid.IntRange(0, len(model)+2).Draw(rt, "since")),
				Limit:     rapid.IntRange(1, 7).Draw(rt, "limit"),
			}
			var want []uint64
			for i, e := range model {
				id := uint64(i + 1)
				if id > q.SinceID && (q.Tenant == "" || e.TenantID == q.Tenant) && (q.Type == "" || e.Type == q.Type) &&
					(q.ServiceID == "" || e.Subject == "services/"+q.ServiceID) {
					want = append(want, id)
				}
			}
			var got []uint64
			for at := q; ; {
				page, err := log.Page(at)
				if err != nil {
					rt.Fatal(err)
				}
				if len(page.Events) > q.Limit {
					rt.Fatalf("a page of %d events, limit %d", len(page.Events), q.Limit)
				}
				for _, e := range page.Events {
					got = append(got, e.ID)
				}
				if page.NextSinceID >= page.LastID || page.NextSinceID == at.SinceID {
					break
				}
				at.SinceID = page.NextSinceID
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				rt.Fatalf("%+v gives %v, want %v", q, got, want)
			}
			q.Tail = true
			page, err := log.Page(q)
			if err != nil {
				rt.Fatal(err)
			}
			got = nil
			for _, e := range page.Events {
				got = append(got, e.ID)
			}
			if want = want[max(0, len(want)-q.Limit):]; fmt.Sprint(got) != fmt.Sprint(want) || page.NextSinceID < page.LastID {
				rt.Fatalf("%+v gives %v and goes on after %d, want %v", q, got, page.NextSinceID, want)
			}
		}
	})
}

func TestStreamLosesNothing(t *testing.T) {
	f := open(t, filepath.Join(t.TempDir(), "db"))
	f.append(event("t", "s", "app.x"), event("t", "s", "app.x"), event("t", "s", "app.x"))
	const total = 300
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			next := uint64(2)
			for e, err := range f.log.Stream(ctx, solo.EventQuery{Tenant: "t", SinceID: 1, Limit: 7}) {
				if err != nil {
					t.Errorf("after event %d: %v", next-1, err)
					return
				}
				if e.ID != next {
					t.Errorf("event %d came where %d should", e.ID, next)
					return
				}
				if next++; next > total {
					return
				}
			}
		})
	}
	var writers sync.WaitGroup
	for range 3 {
		writers.Go(func() {
			for range (total - 3) / 3 {
				f.append(event("t", "s", "app.x"))
			}
		})
	}
	writers.Wait()
	readers.Wait()
	wait, stop := context.WithCancel(t.Context())
	stop()
	if err := f.log.Wait(wait, total); !errors.Is(err, context.Canceled) {
		t.Errorf("Wait past the end: %v", err)
	}
}

// damage opens the file behind the log's back.
func damage(t *testing.T, path string, f func(events *bbolt.Bucket) error) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Update(func(tx *bbolt.Tx) error { return f(tx.Bucket([]byte("events"))) }); err != nil {
		t.Fatal(err)
	}
}

func TestDamageIsNamedByItsNumber(t *testing.T) {
	id := func(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
	flip := func(n uint64, at int) func(*bbolt.Bucket) error {
		return func(b *bbolt.Bucket) error {
			raw := append([]byte(nil), b.Get(id(n))...)
			if at < 0 {
				at = len(raw) + at
			}
			raw[at] ^= 4
			return b.Put(id(n), raw)
		}
	}
	for _, tc := range []struct {
		name string
		do   func(*bbolt.Bucket) error
		bad  uint64
		// refused: the daemon does not even start with it.
		refused bool
	}{
		{"a bit of a payload", flip(5, 40), 5, false},
		{"a bit of a time", flip(5, 3), 5, false},
		{"a bit of a length", flip(5, 22), 5, false},
		{"a bit of a hash", flip(5, -1), 5, false},
		{"the format", flip(5, 0), 5, false},
		{"one removed", func(b *bbolt.Bucket) error { return b.Delete(id(5)) }, 5, false},
		{"one emptied", func(b *bbolt.Bucket) error { return b.Put(id(5), nil) }, 5, false},
		{"two exchanged", func(b *bbolt.Bucket) error {
			x, y := append([]byte(nil), b.Get(id(5))...), append([]byte(nil), b.Get(id(6))...)
			return errors.Join(b.Put(id(5), y), b.Put(id(6), x))
		}, 5, false},
		{"the newest removed", func(b *bbolt.Bucket) error { return b.Delete(id(9)) }, 9, true},
		{"one added", func(b *bbolt.Bucket) error { return b.Put(id(10), b.Get(id(9))) }, 10, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "db")
			db, err := store.Open(path, store.Options{})
			if err != nil {
				t.Fatal(err)
			}
			log, err := eventlog.Open(db)
			if err != nil {
				t.Fatal(err)
			}
			for range 9 {
				err := db.Update(func(tx *store.Tx) error {
					_, err := log.Append(tx, event("t", "s", "app.x"))
					return err
				})
				if err != nil {
					t.Fatal(err)
				}
			}
			db.Close()
			damage(t, path, tc.do)
			report, err := eventlog.VerifyFile(t.Context(), path)
			if err != nil || report.OK || report.BadID == nil || *report.BadID != tc.bad {
				t.Errorf("verify: %+v, %v; want bad_id %d", report, err, tc.bad)
			}
			db, err = store.Open(path, store.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			_, err = eventlog.Open(db)
			if (err != nil) != tc.refused {
				t.Errorf("Open = %v, want refused %v", err, tc.refused)
			}
			if tc.refused && !strings.Contains(err.Error(), "event") {
				t.Errorf("the refusal names no event: %v", err)
			}
		})
	}
}

// writeUntilKilled appends from eight goroutines and prints each id that was
// acknowledged.
func writeUntilKilled(path string) {
	db, err := store.Open(path, store.Options{})
	if err != nil {
		panic(err)
	}
	log, err := eventlog.Open(db)
	if err != nil {
		panic(err)
	}
	var mu sync.Mutex
	for range 8 {
		go func() {
			for {
				var id uint64
				err := db.Update(func(tx *store.Tx) (err error) {
					id, err = log.Append(tx, event("t", "s", "app.x"))
					return err
				})
				if err != nil {
					panic(err)
				}
				mu.Lock()
				fmt.Println(id)
				mu.Unlock()
			}
		}()
	}
	select {}
}

func TestKillLosesNothingThatWasAcknowledged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	var acknowledged uint64
	for round := range 5 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), crashEnv+"="+path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			id, err := strconv.ParseUint(lines.Text(), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			acknowledged = max(acknowledged, id)
			if n == 40*(round+1) {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		io.Copy(io.Discard, out)
		cmd.Wait()
		report, err := eventlog.VerifyFile(t.Context(), path)
		if err != nil || !report.OK || report.FirstID != 1 || report.LastID < acknowledged {
			t.Fatalf("round %d: %+v, %v; acknowledged %d", round, report, err, acknowledged)
		}
	}
	t.Logf("%d events over five kills", acknowledged)
}

func FuzzRecord(f *testing.F) {
	dir := f.TempDir()
	path := filepath.Join(dir, "db")
	db, err := store.Open(path, store.Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { db.Close() })
	log, err := eventlog.Open(db)
	if err != nil {
		f.Fatal(err)
	}
	id := binary.BigEndian.AppendUint64(nil, 1)
	err = db.Update(func(tx *store.Tx) error {
		_, err := log.Append(tx, event("t", "s", "app.x"))
		f.Add(append([]byte(nil), tx.Bucket([]byte("events")).Get(id)...))
		return err
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, raw []byte) {
		err := db.Update(func(tx *store.Tx) error { return tx.Bucket([]byte("events")).Put(id, raw) })
		if err != nil {
			t.Fatal(err)
		}
		// Any bytes are a page or an error, and a chain that holds or does not.
		page, err := log.Page(solo.EventQuery{})
		if err == nil && len(page.Events) != 1 {
			t.Errorf("%d events", len(page.Events))
		}
		if _, err := log.Verify(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	for _, emitters := range []int{1, 64} {
		b.Run(fmt.Sprintf("log/%d", emitters), func(b *testing.B) {
			f := open(b, filepath.Join(b.TempDir(), "db"))
			each(b, emitters, func() {
				f.append(event("t", "s", "app.x"))
			})
		})
		// The yardstick: the same bytes appended to a plain file, a sync each.
		b.Run(fmt.Sprintf("file/%d", emitters), func(b *testing.B) {
			file, err := os.Create(filepath.Join(b.TempDir(), "file"))
			if err != nil {
				b.Fatal(err)
			}
			defer file.Close()
			line := make([]byte, 300)
			var mu sync.Mutex
			each(b, emitters, func() {
				mu.Lock()
				defer mu.Unlock()
				if _, err := file.Write(line); err != nil {
					b.Fatal(err)
				}
				if err := file.Sync(); err != nil {
					b.Fatal(err)
				}
			})
		})
	}
}

func each(b *testing.B, workers int, f func()) {
	var group sync.WaitGroup
	next := make(chan struct{}, workers)
	b.ResetTimer()
	for range workers {
		group.Go(func() {
			for range next {
				f()
			}
		})
	}
	for range b.N {
		next <- struct{}{}
	}
	close(next)
	group.Wait()
}
