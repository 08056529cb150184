package capability

import (
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/solo-run/solo/pkg/solo"
)

// limit is one bound of a holder's requests. Tokens that were derived from the same
// one have the same name for it, and so share it.
type limit struct {
	name      string
	perMinute int
}

// maxLimits bounds how many limiters are kept.
const maxLimits = 16384

// limits are the limiters in use.
type limits struct {
	mu    sync.Mutex
	known map[string]*rate.Limiter
	swept time.Time
}

// get returns the limiter of a name, nil where there are too many that are in use: to
// forget one of those would be to lift its bound.
func (l *limits) get(at limit, now time.Time) *rate.Limiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	if lim, ok := l.known[at.name]; ok {
		return lim
	}
	if len(l.known) >= maxLimits && now.Sub(l.swept) >= time.Second {
		l.swept = now
		for name, lim := range l.known {
			// One that is full again says no more than a new one.
			if lim.TokensAt(now) >= float64(lim.Burst()) {
				delete(l.known, name)
			}
		}
	}
	if len(l.known) >= maxLimits {
		return nil
	}
	lim := rate.NewLimiter(rate.Limit(float64(at.perMinute)/60), at.perMinute)
	l.known[at.name] = lim
	return lim
}

// Admit counts a request against every bound of the token's. The error is
// rate_limited, with when to come again.
func (h *Holder) Admit(now time.Time) error {
	var counted [4]*rate.Reservation
	taken := counted[:0]
	for _, at := range h.rates {
		wait := time.Second
		if lim := h.store.limits.get(at, now); lim != nil {
			r := lim.ReserveN(now, 1)
			taken = append(taken, r)
			if wait = r.DelayFrom(now); r.OK() && wait == 0 {
				continue
			}
		}
		for _, r := range taken {
			r.CancelAt(now) // what is refused does not count
		}
		return solo.Errorf(solo.CodeRateLimited, "the capability may make %d requests a minute, and has", at.perMinute).
			Retry(max(wait, time.Second)).With("limit", at.perMinute)
	}
	return nil
}
