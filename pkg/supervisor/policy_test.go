package supervisor_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/solo-run/solo/pkg/solo"
	. "github.com/solo-run/solo/pkg/supervisor"
)

func policy(restart solo.RestartType, maxRestarts, maxSeconds int) Policy {
	return Policy{
		Restart: restart,
		Limits:  solo.RestartLimits{MaxRestarts: maxRestarts, MaxSeconds: maxSeconds},
		Backoff: solo.Backoff{InitialMS: 100, Factor: 2, MaxMS: 1000, Jitter: 0.2, ResetAfterMS: 60000},
	}
}

func TestRestartTypeDecidesByReason(t *testing.T) {
	abnormal := []solo.Reason{
		solo.ReasonExitCode, solo.ReasonPanic, solo.ReasonSignal, solo.ReasonOOM, solo.ReasonUnhealthy,
		solo.ReasonStartTimeout, solo.ReasonPolicy, solo.ReasonUnknown,
	}
	for _, tc := range []struct {
		restart solo.RestartType
		reasons []solo.Reason
		want    Action
	}{
		{solo.RestartPermanent, append(abnormal, solo.ReasonClean), ActionStart},
		{solo.RestartTransient, abnormal, ActionStart},
		{solo.RestartTransient, []solo.Reason{solo.ReasonClean}, ActionStop},
		{solo.RestartTemporary, append(abnormal, solo.ReasonClean), ActionStop},
	} {
		for _, reason := range tc.reasons {
			got, _ := Decide(policy(tc.restart, 5, 60), History{}, solo.Exit{Reason: reason}, 0, 0, 0)
			if got.Action != tc.want {
				t.Errorf("%s after %s: action %v, want %v", tc.restart, reason, got.Action, tc.want)
			}
		}
	}
}

func TestBudget(t *testing.T) {
	crash := solo.Exit{Reason: solo.ReasonPanic}
	for _, tc := range []struct {
		name   string
		max    int
		window int
		at     []time.Duration
		want   Action
	}{
		{"none: the first end is the last", 0, 60, []time.Duration{0}, ActionFail},
		{"one, first end", 1, 60, []time.Duration{0}, ActionStart},
		{"one, second end within", 1, 60, []time.Duration{0, 59 * time.Second}, ActionFail},
		{"one, second end at the edge", 1, 60, []time.Duration{0, 60 * time.Second}, ActionStart},
		{"five within", 5, 60, []time.Duration{0, 1, 2, 3, 4}, ActionStart},
		{"six within", 5, 60, []time.Duration{0, 1, 2, 3, 4, 5}, ActionFail},
		{"the window slides", 2, 10, []time.Duration{0, 6 * time.Second, 11 * time.Second, 15 * time.Second}, ActionFail},
		{"spread out for ever", 1, 1, []time.Duration{0, time.Second, 2 * time.Second, 3 * time.Second}, ActionStart},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var h History
			var d Decision
			for i, at := range tc.at {
				d, h = Decide(policy(solo.RestartPermanent, tc.max, tc.window), h, crash, 0, at, 0)
				if d.Action == ActionFail && i < len(tc.at)-1 {
					t.Fatalf("failed already at end %d of %d", i+1, len(tc.at))
				}
			}
			if d.Action != tc.want {
				t.Errorf("action %v, want %v", d.Action, tc.want)
			}
		})
	}
}

func TestBackoff(t *testing.T) {
	p := policy(solo.RestartPermanent, 100, 86400)
	crash := solo.Exit{Reason: solo.ReasonPanic}
	var h History
	for i, want := range []time.Duration{0, 100, 200, 400, 800, 1000, 1000} {
		var d Decision
		d, h = Decide(p, h, crash, 0, 0, 0)
		if d.Delay != want*time.Millisecond {
			t.Errorf("restart %d waits %v, want %v", i+1, d.Delay, want*time.Millisecond)
		}
	}
	low, _ := Decide(p, History{InRow: 1}, crash, 0, 0, -1)
	high, _ := Decide(p, History{InRow: 1}, crash, 0, 0, 1)
	if low.Delay != 80*time.Millisecond || high.Delay != 120*time.Millisecond {
		t.Errorf("jitter spreads to %v and %v, want 80ms and 120ms", low.Delay, high.Delay)
	}
	short, _ := Decide(p, h, crash, 59999*time.Millisecond, 0, 0)
	long, _ := Decide(p, h, crash, 60*time.Second, 0, 0)
	if short.Delay == 0 || long.Delay != 0 {
		t.Errorf("after a run of 59.999 s the wait is %v, of 60 s %v; want more than 0, and 0", short.Delay, long.Delay)
	}
}

// Whatever the policy and the past, a loop never runs without a pause, the
// budget is never exceeded in any window, and the caller's history is untouched.
func TestDecideProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := Policy{
			Restart: solo.RestartPermanent,
			Limits:  solo.RestartLimits{MaxRestarts: rapid.IntRange(0, 5).Draw(t, "max"), MaxSeconds: rapid.IntRange(1, 20).Draw(t, "seconds")},
			Backoff: solo.Backoff{
				InitialMS: rapid.IntRange(1, 1000).Draw(t, "initial"), Factor: rapid.Float64Range(1, 100).Draw(t, "factor"),
				MaxMS: rapid.IntRange(1, 86400000).Draw(t, "maxms"), Jitter: rapid.Float64Range(0, 1).Draw(t, "jitter"),
				ResetAfterMS: rapid.IntRange(1, 10000).Draw(t, "reset"),
			},
		}
		var now time.Duration
		var h History
		var restarts []time.Duration
		for range rapid.IntRange(1, 30).Draw(t, "ends") {
			ran := time.Duration(rapid.IntRange(0, 12000).Draw(t, "ran")) * time.Millisecond
			now += ran
			before := append([]time.Duration(nil), h.Restarts...)
			d, next := Decide(p, h, solo.Exit{Reason: solo.ReasonPanic}, ran, now, rapid.Float64Range(-1, 1).Draw(t, "spread"))
			for i := range before {
				if h.Restarts[i] != before[i] {
					t.Fatalf("the history of the caller was changed")
				}
			}
			if next.InRow > 1 && d.Action == ActionStart && d.Delay <= 0 {
				t.Fatalf("restart %d in a row has no pause", next.InRow)
			}
			if limit := time.Duration(float64(p.Backoff.MaxMS)*(1+p.Backoff.Jitter)+1) * time.Millisecond; d.Delay > limit {
				t.Fatalf("the wait %v is over %v", d.Delay, limit)
			}
			h = next
			if d.Action == ActionFail {
				h = History{}
				restarts = nil
				continue
			}
			restarts = append(restarts, now)
			in := 0
			for _, at := range restarts {
				if now-at < time.Duration(p.Limits.MaxSeconds)*time.Second {
					in++
				}
			}
			if in > p.Limits.MaxRestarts {
				t.Fatalf("%d restarts within %d s, at most %d are allowed", in, p.Limits.MaxSeconds, p.Limits.MaxRestarts)
			}
		}
	})
}
