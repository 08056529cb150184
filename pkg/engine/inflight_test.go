package engine

import (
	"fmt"
	"testing"

	"github.com/solo-run/solo/pkg/solo"
)

func TestCallsInFlightAreBounded(t *testing.T) {
	var f inflight
	b := &Bounds{InflightPerTenant: 2, InflightTotal: 3}
	enter := func(tenant string, want solo.Code) func() {
		t.Helper()
		n, err := f.enter(tenant, b)
		if solo.CodeOf(err) != want {
			t.Errorf("a call of %s: %v, want %q", tenant, err, want)
		}
		return func() { f.leave(n) }
	}
	a := enter("a", "")
	enter("a", "")
	enter("a", solo.CodeOverloaded) // its own bound
	leaveB := enter("b", "")
	enter("b", solo.CodeOverloaded) // everybody's
	enter("c", solo.CodeOverloaded)
	// A refusal leaves nothing behind.
	a()
	leaveC := enter("c", "")
	leaveC()
	leaveB()
	if got := f.total.Load(); got != 1 {
		t.Errorf("%d are counted, 1 is there", got)
	}
}

func BenchmarkAdmission(b *testing.B) {
	var f inflight
	bounds := &Bounds{InflightPerTenant: 2048, InflightTotal: 4096}
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			n, err := f.enter("tenant", bounds)
			if err != nil {
				b.Error(err)
				return
			}
			f.leave(n)
		}
	})
}

// A call finds its service among a thousand.
func BenchmarkLookup(b *testing.B) {
	e := &Engine{services: map[solo.Key]*service{}}
	var keys []solo.Key
	for i := range 1000 {
		key := solo.Key{Tenant: "tenant", Service: fmt.Sprint("service-", i)}
		keys = append(keys, key)
		e.services[key] = &service{}
	}
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			if e.lookup(keys[i%len(keys)]) == nil {
				b.Error("it is not found")
				return
			}
		}
	})
}
