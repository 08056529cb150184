package supervisor

import (
	"context"
	"time"

	"github.com/solo-run/solo/pkg/solo"
)

// MaxInflight is how many calls of one unit run or wait at once (contract 4b).
const MaxInflight = 1024

// Call meets a call with the instance that serves. While the unit starts, the
// call waits within ctx. The error is a *[solo.Error]: rate_limited over
// [MaxInflight], not_running, not_ready, deadline_exceeded, or the instance's own.
func (u *Unit) Call(ctx context.Context, req *solo.InvokeRequest) (*solo.InvokeReply, error) {
	defer u.inflight.Add(-1)
	if u.inflight.Add(1) > MaxInflight {
		return nil, solo.Errorf(solo.CodeRateLimited, "the service has %d calls in flight, as many as one may have", MaxInflight).Retry(time.Second)
	}
	for {
		v := u.view.Load()
		switch {
		case v.State == solo.StateRunning && v.Ready:
			return v.Instance.Call(ctx, req)
		case v.State == solo.StateRunning:
			return nil, solo.Errorf(solo.CodeNotReady, "the service is running and says that it is not ready").Retry(v.probeInterval())
		case v.State == solo.StateStarting:
			select {
			case <-v.changed:
			case <-ctx.Done():
				return nil, solo.Errorf(solo.CodeDeadlineExceeded, "the deadline of the call passed while the service was starting").With("state", v.State)
			case <-u.done:
				return nil, ErrShuttingDown()
			}
		default:
			return nil, v.notRunning()
		}
	}
}

func (v *View) probeInterval() time.Duration { return ms(v.Plan.Settings.Health.IntervalMS) }

func (v *View) notRunning() *solo.Error {
	err := solo.Errorf(solo.CodeNotRunning, "the service is %s", v.State).With("state", v.State)
	if v.LastExit != nil {
		err = err.With("exit", v.LastExit)
	}
	if !v.NextStart.IsZero() {
		err = err.Retry(max(time.Until(v.NextStart), time.Millisecond))
	}
	return err
}
