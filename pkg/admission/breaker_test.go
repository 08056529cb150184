package admission_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/solo-run/solo/pkg/admission"
	"github.com/solo-run/solo/pkg/solo"
)

var policy = admission.Policy{Failures: 3, Open: 5 * time.Second}

// line is a breaker and the time.
type line struct {
	t   *testing.T
	b   admission.Breaker
	now time.Time
}

func (l *line) call(out admission.Outcome) admission.Change {
	l.t.Helper()
	ticket, err := l.b.Enter(l.now)
	if err != nil {
		l.t.Fatalf("a call is refused: %v", err)
	}
	return l.b.Leave(&ticket, policy, out, l.now)
}

func (l *line) refused(wait time.Duration) {
	l.t.Helper()
	_, err := l.b.Enter(l.now)
	var e *solo.Error
	if !errors.As(err, &e) || e.Code != solo.CodeCircuitOpen || e.RetryAfter != wait {
		l.t.Fatalf("a call is told %v; want circuit_open for %v", err, wait)
	}
}

func (l *line) opened() {
	l.t.Helper()
	for i := range policy.Failures {
		want := admission.Unchanged
		if i == policy.Failures-1 {
			want = admission.Opened
		}
		if got := l.call(admission.Bad); got != want {
			l.t.Fatalf("failure %d makes %v of it", i+1, got)
		}
	}
}

func TestItOpensTriesAndCloses(t *testing.T) {
	l := &line{t: t, now: time.Now()}
	l.opened()
	l.refused(policy.Open)
	l.now = l.now.Add(policy.Open - time.Second)
	l.refused(time.Second)
	l.now = l.now.Add(time.Second)
	trial, err := l.b.Enter(l.now)
	if err != nil {
		t.Fatal(err)
	}
	l.refused(time.Second) // one tries, and no other
	if got := l.b.Leave(&trial, policy, admission.Bad, l.now); got != admission.Unchanged {
		t.Fatalf("a trial that fails makes %v of it", got)
	}
	l.refused(policy.Open)
	l.now = l.now.Add(policy.Open)
	if got := l.call(admission.Good); got != admission.Closed || l.b.Open() {
		t.Fatalf("a trial that succeeds makes %v of it", got)
	}
	l.call(admission.Good)
}

func TestOnlyFailuresInARowCount(t *testing.T) {
	l := &line{t: t, now: time.Now()}
	for range 10 {
		l.call(admission.Bad)
		l.call(admission.Bad)
		l.call(admission.Neither) // says nothing
		l.call(admission.Good)
	}
	l.call(admission.Bad)
	l.call(admission.Neither)
	l.call(admission.Bad)
	if got := l.call(admission.Bad); got != admission.Opened {
		t.Errorf("the third in a row makes %v of it", got)
	}
}

func TestATrialWithoutAVerdictBlocksNobody(t *testing.T) {
	l := &line{t: t, now: time.Now()}
	l.opened()
	l.now = l.now.Add(policy.Open)
	l.call(admission.Neither)
	if got := l.call(admission.Good); got != admission.Closed {
		t.Errorf("the next trial makes %v of it", got)
	}
}

func TestTheEndOfACallFromBeforeSaysNothing(t *testing.T) {
	l := &line{t: t, now: time.Now()}
	old, err := l.b.Enter(l.now)
	if err != nil {
		t.Fatal(err)
	}
	l.opened()
	if got := l.b.Leave(&old, policy, admission.Good, l.now); got != admission.Unchanged {
		t.Errorf("the end of an old call makes %v of it", got)
	}
	l.refused(policy.Open)
	l.b.Reset()
	if l.b.Open() {
		t.Error("a restart does not close it")
	}
	if got := l.b.Leave(&old, policy, admission.Bad, l.now); got != admission.Unchanged {
		t.Errorf("a call that left twice makes %v of it", got)
	}
}

// Whatever happens, a breaker that is open is tried again, and one call that then
// succeeds closes it.
func TestItNeverStaysOpen(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var b admission.Breaker
		now := time.Now()
		var under []*admission.Ticket
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 3).Draw(t, "step") {
			case 0:
				if ticket, err := b.Enter(now); err == nil {
					under = append(under, &ticket)
				}
			case 1:
				if len(under) > 0 {
					i := rapid.IntRange(0, len(under)-1).Draw(t, "which")
					b.Leave(under[i], policy, admission.Outcome(rapid.IntRange(0, 2).Draw(t, "out")), now)
				}
			case 2:
				now = now.Add(time.Duration(rapid.IntRange(0, 6000).Draw(t, "ms")) * time.Millisecond)
			case 3:
				if rapid.IntRange(0, 9).Draw(t, "restart") == 0 {
					b.Reset()
				}
			}
		}
		for _, ticket := range under {
			b.Leave(ticket, policy, admission.Neither, now)
		}
		now = now.Add(policy.Open)
		ticket, err := b.Enter(now)
		if err != nil {
			t.Fatalf("with nobody inside and after its time it refuses: %v", err)
		}
		b.Leave(&ticket, policy, admission.Good, now)
		if b.Open() {
			t.Fatal("a call that succeeded left it open")
		}
	})
}

func TestManyAtOnce(t *testing.T) {
	var b admission.Breaker
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for i := range 1000 {
				if ticket, err := b.Enter(time.Now()); err == nil {
					b.Leave(&ticket, policy, admission.Outcome(i%3), time.Now())
				}
			}
		})
	}
	group.Wait()
}

func BenchmarkBreaker(b *testing.B) {
	var br admission.Breaker
	now := time.Now()
	for b.Loop() {
		ticket, _ := br.Enter(now)
		br.Leave(&ticket, policy, admission.Good, now)
	}
}
