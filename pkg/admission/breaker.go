// Package admission decides which calls are let through, and executes none.
//
// Its noun today: a [Breaker] keeps callers from a service that fails call after
// call. It is closed and lets everything through; after so many failures in a row it
// opens and refuses for a while; then it is half open and lets one call try, whose
// end closes or opens it.
//
// What it promises: a decision takes no longer than a lock, and waits for nobody
// (lesson D45); what was let in is counted out once, however often it is told, and a
// call that ends without a verdict, because its caller went away, blocks no other
// (lesson D44).
package admission

import (
	"sync"
	"time"

	"github.com/solo-run/solo/pkg/solo"
)

// Policy says when a breaker opens (contract 3, breaker.*).
type Policy struct {
	// Failures in a row open it; 0 never does.
	Failures int
	// Open is how long it refuses before it lets one call try.
	Open time.Duration
}

// Outcome is how a call ended.
type Outcome int

// The outcomes. A call that says nothing about the service, such as one whose
// caller went away, is neither good nor bad.
const (
	Neither Outcome = iota
	Good
	Bad
)

// Change is what a call has made of the breaker.
type Change int

// The changes.
const (
	Unchanged Change = iota
	Opened
	Closed
)

// Ticket is a call that was let in. Leave with it once it has ended.
type Ticket struct {
	// epoch names the time since the last change: the end of a call from before says
	// nothing about now.
	epoch uint64
	trial bool
	live  bool
}

// Breaker is one service's. Its zero value is closed.
type Breaker struct {
	mu       sync.Mutex
	epoch    uint64
	failures int
	// until is when it may be tried, the zero time while it is closed; trying is set
	// while one call does.
	until  time.Time
	trying bool
}

// trialPause is when to come again while another call tries.
const trialPause = time.Second

// Enter lets a call in, or refuses it with circuit_open and when to come again.
func (b *Breaker) Enter(now time.Time) (Ticket, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.until.IsZero():
		return Ticket{epoch: b.epoch, live: true}, nil
	case now.Before(b.until):
		return Ticket{}, refused(b.until.Sub(now))
	case b.trying:
		return Ticket{}, refused(trialPause)
	}
	b.trying = true
	return Ticket{epoch: b.epoch, trial: true, live: true}, nil
}

func refused(wait time.Duration) error {
	return solo.Errorf(solo.CodeCircuitOpen, "the service has failed call after call, and is left alone for a moment").Retry(wait)
}

// Leave counts a call out. Told twice, it counts once.
func (b *Breaker) Leave(t *Ticket, p Policy, out Outcome, now time.Time) Change {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !t.live {
		return Unchanged
	}
	t.live = false
	if t.epoch != b.epoch {
		return Unchanged
	}
	if t.trial {
		b.trying = false
	}
	switch {
	case out == Good && t.trial:
		b.close()
		return Closed
	case out == Good:
		b.failures = 0
	case out == Bad && t.trial:
		b.until = now.Add(p.Open)
		b.epoch++
	case out == Bad && p.Failures > 0:
		if b.failures++; b.failures >= p.Failures {
			b.until = now.Add(p.Open)
			b.epoch++
			return Opened
		}
	}
	return Unchanged
}

// Open reports whether it refuses, or lets one call try.
func (b *Breaker) Open() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.until.IsZero()
}

// Reset closes it: what stands behind it is another instance.
func (b *Breaker) Reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.close()
}

func (b *Breaker) close() {
	b.until, b.trying, b.failures = time.Time{}, false, 0
	b.epoch++
}
