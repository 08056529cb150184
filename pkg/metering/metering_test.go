package metering_test

import (
	"context"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/solo-run/solo/pkg/metering"
	"github.com/solo-run/solo/pkg/solo"
	"github.com/solo-run/solo/pkg/store"
)

var (
	a = solo.Key{Tenant: "t", Service: "a"}
	b = solo.Key{Tenant: "u", Service: "a"}
)

// running is what the kernel says.
type running struct {
	mu  sync.Mutex
	now []metering.Reading
}

func (r *running) set(now ...metering.Reading) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now = now
}

func (r *running) read() []metering.Reading {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now
}

func open(t testing.TB, path string, kernel *running) (*store.DB, *metering.Room) {
	t.Helper()
	db, err := store.Open(path, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	room, err := metering.Open(db, kernel.read)
	if err != nil {
		t.Fatal(err)
	}
	return db, room
}

func sum(t *testing.T, room *metering.Room, key solo.Key) metering.Counters {
	t.Helper()
	sums, err := room.Sum("", time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	return sums[key]
}

func ended(t *testing.T, db *store.DB, room *metering.Room, last metering.Reading) {
	t.Helper()
	if err := db.Update(func(tx *store.Tx) error { return room.Ended(tx, last) }); err != nil {
		t.Fatal(err)
	}
}

// The CPU of an instance is counted once, however often it is read, and whatever
// comes between a reading and its writing.
func TestCPUIsExactOverRestarts(t *testing.T) {
	var kernel running
	db, room := open(t, filepath.Join(t.TempDir(), "db"), &kernel)
	began := time.Now()
	first := metering.Reading{Key: a, Instance: 1, StartedAt: began, CPUUsec: 100}
	kernel.set(first)
	for range 3 {
		if err := room.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	if got := sum(t, room, a).CPUUsec; got != 100 {
		t.Fatalf("after three readings of the same it is %d", got)
	}
	last := first
	last.CPUUsec = 150
	ended(t, db, room, last)
	// A reading that was taken before the end is written after it.
	first.CPUUsec = 140
	kernel.set(first)
	if got := sum(t, room, a).CPUUsec; got != 150 {
		t.Fatalf("after its end it is %d, want 150", got)
	}
	// Two instances at once, as during a swap, and one that nobody ever read.
	kernel.set(
		metering.Reading{Key: a, Instance: 2, StartedAt: began.Add(time.Second), CPUUsec: 10},
		metering.Reading{Key: a, Instance: 3, StartedAt: began.Add(2 * time.Second), CPUUsec: 20},
	)
	if got := sum(t, room, a).CPUUsec; got != 180 {
		t.Fatalf("with two that run it is %d, want 180", got)
	}
	kernel.set()
	ended(t, db, room, metering.Reading{Key: a, Instance: 4, StartedAt: began.Add(3 * time.Second), CPUUsec: 5})
	// A service that was purged counts its instances from 1 again.
	ended(t, db, room, metering.Reading{Key: a, Instance: 1, StartedAt: began.Add(time.Minute), CPUUsec: 1000})
	if got := sum(t, room, a).CPUUsec; got != 1185 {
		t.Fatalf("in the end it is %d, want 1185", got)
	}
	if got := sum(t, room, b); got != (metering.Counters{}) {
		t.Errorf("the other tenant has used %+v", got)
	}
}

func TestWhatWasUsedOutlivesTheDaemon(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	kernel := &running{}
	db, room := open(t, path, kernel)
	at := time.Now()
	kernel.set(metering.Reading{Key: a, Instance: 1, StartedAt: at, CPUUsec: 70})
	room.Count(a, metering.Counters{Calls: 2, BytesIn: 3, BytesOut: 4, Builds: 1, BuildMS: 9})
	room.Count(b, metering.Counters{Calls: 1})
	if err := room.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	// The instance lives on, over an upgrade of the daemon.
	kernel.set(metering.Reading{Key: a, Instance: 1, StartedAt: at, CPUUsec: 100})
	_, room = open(t, path, kernel)
	got := sum(t, room, a)
	got.MemoryKiBSec = 0
	if want := (metering.Counters{CPUUsec: 100, Calls: 2, BytesIn: 3, BytesOut: 4, Builds: 1, BuildMS: 9}); got != want {
		t.Errorf("it is %+v, want %+v", got, want)
	}
	only, err := room.Sum("u", time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	if err != nil || len(only) != 1 || only[b].Calls != 1 {
		t.Errorf("the other tenant's are %+v, %v", only, err)
	}
}

func TestMemoryIsOverTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var kernel running
		db, room := open(t, filepath.Join(t.TempDir(), "db"), &kernel)
		began := time.Now()
		reading := metering.Reading{Key: a, Instance: 1, StartedAt: began, MemoryBytes: 10 << 20}
		kernel.set(reading)
		time.Sleep(10 * time.Second)
		if err := room.Flush(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		reading.MemoryBytes = 20 << 20
		kernel.set()
		ended(t, db, room, reading)
		if got, want := sum(t, room, a).MemoryKiBSec, uint64(10*10<<10+20*5<<10); got != want {
			t.Errorf("it is %d KiB·s, want %d", got, want)
		}
	})
}

// What could not be written is there with the next write, once.
func TestNothingIsLostToADiskThatFails(t *testing.T) {
	var kernel running
	db, room := open(t, filepath.Join(t.TempDir(), "db"), &kernel)
	room.Count(a, metering.Counters{Calls: 1})
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := room.Flush(); err == nil {
		t.Fatal("a closed store took it")
	}
	room.Count(a, metering.Counters{Calls: 1})
	if pending := room.Pending(); pending[a].Calls != 2 {
		t.Errorf("%d calls wait to be written, want 2", pending[a].Calls)
	}
}

func TestOldHoursBecomeDaysAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var kernel running
		_, room := open(t, filepath.Join(t.TempDir(), "db"), &kernel)
		began := time.Now().UTC() // midnight, as synctest has it
		hours := 0
		for time.Since(began) < 60*24*time.Hour {
			room.Count(a, metering.Counters{Calls: 1})
			if err := room.Flush(); err != nil {
				t.Fatal(err)
			}
			hours++
			time.Sleep(time.Hour)
		}
		before, err := room.Hours()
		if err != nil {
			t.Fatal(err)
		}
		if err := room.Fold(time.Now()); err != nil {
			t.Fatal(err)
		}
		after, err := room.Hours()
		if err != nil {
			t.Fatal(err)
		}
		if before != hours || after != 35*24+25 {
			t.Errorf("%d hours became %d", before, after)
		}
		total := func() uint64 {
			sums, err := room.Sum("", began, time.Now().Add(time.Hour))
			if err != nil {
				t.Fatal(err)
			}
			return sums[a].Calls
		}
		if got := total(); got != uint64(hours) {
			t.Errorf("%d calls are left of %d", got, hours)
		}
		day, err := room.Sum("", began, began.Add(24*time.Hour))
		if err != nil || day[a].Calls != 24 {
			t.Errorf("the first day has %d calls, %v", day[a].Calls, err)
		}
		time.Sleep(metering.KeepDays)
		if err := room.Fold(time.Now()); err != nil {
			t.Fatal(err)
		}
		if got := total(); got > 24 {
			t.Errorf("%d calls are left of what is too old", got)
		}
	})
}

func TestRunWritesAtTheEnd(t *testing.T) {
	var kernel running
	_, room := open(t, filepath.Join(t.TempDir(), "db"), &kernel)
	room.Count(a, metering.Counters{Calls: 1})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := room.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if n := len(room.Pending()); n != 0 {
		t.Errorf("%d sums wait to be written", n)
	}
}

// Counting a call is on the way of every call.
func BenchmarkCount(b *testing.B) {
	var kernel running
	_, room := open(b, filepath.Join(b.TempDir(), "db"), &kernel)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			room.Count(a, metering.Counters{Calls: 1, BytesIn: 10, BytesOut: 10})
		}
	})
}
