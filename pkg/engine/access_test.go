package engine

import (
	"fmt"
	"testing"
	"time"

	"github.com/solo-run/solo/pkg/solo"
)

// Of a burst the first is told, the others come as a count with the next, and none
// is lost: not beyond the bound, and not to a disk that fails.
func TestBursts(t *testing.T) {
	b := bursts{known: map[burstKey]*burst{}}
	now := time.Now()
	at := func(key burstKey, wantTell bool, wantWithheld int) burstKey {
		t.Helper()
		of, withheld, tell := b.note(key, now)
		if tell != wantTell || withheld != wantWithheld {
			t.Fatalf("%+v: told %v with %d withheld; want %v, %d", key, tell, withheld, wantTell, wantWithheld)
		}
		return of
	}
	a := burstKey{kind: solo.EventCapabilityDenied, tenant: "t", id: "a"}
	at(a, true, 0)
	for range 5 {
		at(a, false, 0)
	}
	at(burstKey{kind: solo.EventCapabilityDenied, tenant: "t", id: "b"}, true, 0)
	now = now.Add(burstTime)
	of := at(a, true, 5)
	b.untold(of, 5)
	at(a, true, 5) // the disk has failed; it is told again, whole
	at(a, false, 0)

	for i := range maxBursts {
		b.note(burstKey{kind: solo.EventCapabilityVerified, tenant: "t", id: fmt.Sprint(i)}, now)
	}
	beyond := 0
	for i := range 10 {
		of, _, tell := b.note(burstKey{kind: solo.EventCapabilityDenied, tenant: "t", id: fmt.Sprint("late", i)}, now)
		if of.what != "others" || of.tenant != "" || tell != (i == 0) {
			t.Fatalf("beyond the bound it is %+v, told %v", of, tell)
		}
		beyond++
	}
	now = now.Add(2 * burstTime)
	if of := at(burstKey{kind: solo.EventCapabilityDenied, what: "others"}, true, beyond-1); of.subject() != solo.SubjectSystem {
		t.Errorf("the subject is %s", of.subject())
	}
	// There is room again, and what was withheld is still known.
	at(burstKey{kind: solo.EventCapabilityDenied, tenant: "t", id: "new"}, true, 0)
	at(a, true, 1)
	if len(b.known) > maxBursts+2 {
		t.Errorf("%d bursts are known", len(b.known))
	}
}

// A call with a capability comes by here.
func BenchmarkVerifiedAgain(b *testing.B) {
	e := &Engine{bursts: bursts{known: map[burstKey]*burst{}}}
	p := solo.Principal{Tenant: "t", Capability: "wA3", Proof: "capability"}
	e.bursts.note(burstKey{kind: solo.EventCapabilityVerified, tenant: p.Tenant, id: p.Capability}, time.Now().Add(time.Hour))
	b.ReportAllocs()
	for b.Loop() {
		if err := e.Verified(p); err != nil {
			b.Fatal(err)
		}
	}
}
