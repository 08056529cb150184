package supervisor

import (
	"math"
	"time"

	"github.com/solo-run/solo/pkg/solo"
)

// Policy is what decides about the ends of a unit (contract 4a).
type Policy struct {
	Restart solo.RestartType
	Limits  solo.RestartLimits
	Backoff solo.Backoff
}

// History is what a unit's past adds to a decision. The zero value is a fresh
// budget and a fresh backoff.
type History struct {
	// Restarts are the moments of the restarts that still count, oldest first, on
	// the monotonic clock of the caller.
	Restarts []time.Duration
	// InRow counts the restarts since the last healthy run.
	InRow int
}

// Action is what follows an end.
type Action int

// The actions.
const (
	// ActionStart starts the unit again after the delay.
	ActionStart Action = iota
	// ActionStop leaves it ended: its restart type says so.
	ActionStop
	// ActionFail gives it up: the budget is spent.
	ActionFail
)

// Decision is an action and, for [ActionStart], how long to wait before it.
type Decision struct {
	Action Action
	Delay  time.Duration
}

// Decide says what follows the end of an instance, and the history from then on.
// now is the caller's monotonic clock; ran is how long the instance was healthy,
// 0 for a start that failed; jitter is a random number in [-1, 1].
//
// A restart counts against the budget from the moment of the decision; more than
// max_restarts within any max_seconds and the unit has failed. The first restart
// in a row is immediate, the n-th waits initial × factor^(n-2), capped at max and
// then spread by the jitter.
func Decide(p Policy, h History, exit solo.Exit, ran, now time.Duration, jitter float64) (Decision, History) {
	if p.Restart == solo.RestartTemporary || p.Restart == solo.RestartTransient && exit.Reason == solo.ReasonClean {
		return Decision{Action: ActionStop}, h
	}
	kept := h.Restarts[len(h.Restarts)-h.used(p, now):]
	if len(kept) >= p.Limits.MaxRestarts {
		return Decision{Action: ActionFail}, History{Restarts: kept, InRow: h.InRow}
	}
	inRow := h.InRow
	if ran >= ms(p.Backoff.ResetAfterMS) {
		inRow = 0
	}
	inRow++
	// A copy, so that the history of the caller stays what it was.
	restarts := append(append(make([]time.Duration, 0, len(kept)+1), kept...), now)
	return Decision{Action: ActionStart, Delay: delay(p.Backoff, inRow, jitter)}, History{Restarts: restarts, InRow: inRow}
}

// used counts the restarts that are still within the window.
func (h History) used(p Policy, now time.Duration) int {
	window := time.Duration(p.Limits.MaxSeconds) * time.Second
	for i, at := range h.Restarts {
		if now-at < window {
			return len(h.Restarts) - i
		}
	}
	return 0
}

func delay(b solo.Backoff, n int, jitter float64) time.Duration {
	if n <= 1 {
		return 0
	}
	wait := math.Min(float64(b.InitialMS)*math.Pow(b.Factor, float64(n-2)), float64(b.MaxMS))
	wait += wait * b.Jitter * jitter
	// Never without a pause: a loop that restarts at once for ever is what the
	// backoff is there to prevent (nomad#2286).
	return max(time.Duration(wait*float64(time.Millisecond)), time.Millisecond)
}

func ms(n int) time.Duration { return time.Duration(n) * time.Millisecond }
