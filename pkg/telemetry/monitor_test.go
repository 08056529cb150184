package telemetry_test

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/solo-run/solo/pkg/telemetry"
)

func TestEachCrossingIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		used, refuse := uint64(0), error(nil)
		var told []string
		set := func(n uint64, err error) {
			mu.Lock()
			defer mu.Unlock()
			used, refuse = n, err
		}
		expect := func(want ...string) {
			t.Helper()
			mu.Lock()
			defer mu.Unlock()
			if !slices.Equal(told, want) {
				t.Errorf("told at %v, want %v", told, want)
			}
			told = nil
		}
		m := telemetry.New(telemetry.Config{
			Every: time.Second,
			Source: func() []telemetry.Reading {
				mu.Lock()
				defer mu.Unlock()
				return []telemetry.Reading{{Resource: "files", Used: used, Limit: 100}}
			},
			High: func(r telemetry.Reading) error {
				mu.Lock()
				defer mu.Unlock()
				told = append(told, fmt.Sprint(r.Used))
				return refuse
			},
		})
		go m.Run(t.Context())
		time.Sleep(500 * time.Millisecond) // half a look off, so that each step meets one
		for _, step := range []struct {
			used uint64
			high bool
		}{{84, false}, {85, true}, {99, true}, {80, true}, {75, true}, {74, false}, {84, false}, {90, true}} {
			set(step.used, nil)
			time.Sleep(time.Second)
			if got := m.Readings()[0].High; got != step.high {
				t.Errorf("at %d high is %v", step.used, got)
			}
		}
		expect("85", "90")
		// What could not be told is told later.
		set(0, nil)
		time.Sleep(time.Second)
		set(90, errors.New("full"))
		time.Sleep(2 * time.Second)
		set(90, nil)
		time.Sleep(2 * time.Second)
		expect("90", "90", "90")
	})
}

func TestTheKernelIsRead(t *testing.T) {
	held, err := os.Open(".")
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	m := telemetry.New(telemetry.Config{
		DataDir: t.TempDir(), Store: func() (int64, int64) { return 300 << 20, 30 << 20 }, High: func(telemetry.Reading) error { return nil },
	})
	ctx := t.Context()
	done := make(chan struct{})
	go func() { m.Run(ctx); close(done) }()
	for len(m.Readings()) == 0 {
		time.Sleep(time.Millisecond)
	}
	seen := map[string]telemetry.Reading{}
	for _, r := range m.Readings() {
		seen[r.Resource] = r
	}
	for _, name := range []string{"files", "threads", "goroutines", "memory", "disk", "store", "store_free"} {
		if seen[name].Used == 0 {
			t.Errorf("nothing is known of %s: %+v", name, seen)
		}
	}
	for _, name := range []string{"files", "threads", "memory", "disk", "store_free"} {
		if s := seen[name].Share(); s <= 0 || s > 1 {
			t.Errorf("the share of %s is %v", name, s)
		}
	}
}
