package engine

import (
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/solo-run/solo/pkg/eventlog"
	"github.com/solo-run/solo/pkg/logs"
	"github.com/solo-run/solo/pkg/solo"
	"github.com/solo-run/solo/pkg/store"
	"github.com/solo-run/solo/pkg/supervisor"
)

// What a boot makes of any history is what the history says: killed stays killed,
// given up stays given up, what was to run runs, and an end that nobody saw is told
// once.
func TestABootFoldsAnyHistory(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	dir := t.TempDir()
	db, err := store.Open(filepath.Join(dir, "events"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	events, err := eventlog.Open(db)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := logs.Open(filepath.Join(dir, "logs"))
	if err != nil {
		t.Fatal(err)
	}
	defer lines.Close()
	if err := db.Update(createBuckets); err != nil {
		t.Fatal(err)
	}
	e := &Engine{cfg: Config{DB: db, Events: events, Logs: lines}}
	for round := range 300 {
		r := rand.New(rand.NewPCG(seed, uint64(round)))
		key := solo.Key{Tenant: "t", Service: "s"}
		rec := &record{Tenant: key.Tenant, Service: key.Service, State: solo.StateStarting, Version: 1, LastVersion: 1}
		// The model: what should hold, and whether an instance stands.
		want, live, number := solo.StateStarting, false, 0
		err := db.Update(func(tx *store.Tx) error {
			for range r.IntN(20) {
				c, ok := step(r, want, live, number)
				if !ok {
					continue
				}
				want, live = c.State, c.Kind == supervisor.ChangeStarted || live && c.Kind == supervisor.ChangeStopping
				if c.State == solo.StateBackoff || c.State == solo.StateRunning {
					want = solo.StateRunning
				}
				number = max(number, c.Instance)
				if err := e.apply(tx, rec, c); err != nil {
					return err
				}
			}
			return saveRecord(tx, rec)
		})
		if err != nil {
			t.Fatal(err)
		}
		before := events.LastID()
		// The daemon is gone; the next one folds.
		var folded *record
		err = db.Update(func(tx *store.Tx) (err error) {
			if folded, err = loadRecord(tx, key); err != nil {
				return err
			}
			return e.foldUnseen(tx, folded, before)
		})
		if err != nil {
			t.Fatal(err)
		}
		stays := want == solo.StateStopped || want == solo.StateFailed || want == solo.StateStopping
		if folded.wanted() == stays {
			t.Errorf("round %d: after %s it is %s", round, want, folded.State)
		}
		if folded.Live != nil || folded.LastInstance != number {
			t.Errorf("round %d: %+v, the last instance was %d", round, folded, number)
		}
		page, err := events.Page(solo.EventQuery{SinceID: before})
		if err != nil {
			t.Fatal(err)
		}
		var told []solo.EventType
		for _, ev := range page.Events {
			told = append(told, ev.Type)
			if ev.Type == solo.EventServiceCrashed && ev.Payload["reason"] != string(solo.ReasonUnknown) {
				t.Errorf("round %d: a boot invents %v", round, ev.Payload)
			}
		}
		var expected []solo.EventType
		switch {
		case want == solo.StateStopping:
			expected = []solo.EventType{solo.EventServiceKilled}
		case live:
			expected = []solo.EventType{solo.EventServiceCrashed}
		}
		if len(told) != len(expected) || len(told) > 0 && told[0] != expected[0] {
			t.Errorf("round %d: from %s, live %v, the boot tells %v, want %v", round, want, live, told, expected)
		}
		// A second boot finds nothing to tell.
		err = db.Update(func(tx *store.Tx) error { return e.foldUnseen(tx, folded, before) })
		if again := events.LastID(); err != nil || again != before+uint64(len(told)) {
			t.Errorf("round %d: a second boot tells more: %v", round, err)
		}
	}
}

// step is a change that the supervisor could record in that state.
func step(r *rand.Rand, state solo.State, live bool, number int) (supervisor.Change, bool) {
	exit := &solo.Exit{Reason: solo.ReasonPanic, Details: map[string]any{}}
	switch kind := r.IntN(7); {
	case kind == 0 && !live && (state == solo.StateStarting || state == solo.StateRunning):
		return supervisor.Change{Kind: supervisor.ChangeStarted, State: solo.StateRunning, Instance: number + 1, Cause: supervisor.CauseRestart}, true
	case kind == 1 && live && state == solo.StateRunning:
		to := []solo.State{solo.StateBackoff, solo.StateStarting, solo.StateFailed, solo.StateStopped}[r.IntN(4)]
		return supervisor.Change{Kind: supervisor.ChangeEnded, State: to, Instance: number, Exit: exit}, true
	case kind == 2 && state != solo.StateStopped && state != solo.StateFailed && state != solo.StateStopping:
		return supervisor.Change{Kind: supervisor.ChangeStopping, State: solo.StateStopping, Instance: number}, true
	case kind == 3 && state == solo.StateStopping:
		return supervisor.Change{Kind: supervisor.ChangeKilled, State: solo.StateStopped, Instance: number, Exit: exit}, true
	case kind == 4 && (state == solo.StateStopped || state == solo.StateFailed):
		return supervisor.Change{Kind: supervisor.ChangeWanted, State: solo.StateStarting}, true
	case kind == 5 && live && state == solo.StateRunning:
		return supervisor.Change{Kind: supervisor.ChangeShutdown, State: solo.StateStarting, Instance: number, Exit: exit}, true
	}
	return supervisor.Change{}, false
}
