package engine

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/solo-run/solo/pkg/solo"
)

// inflight counts the calls that run or wait, of all tenants and of each.
type inflight struct {
	total   atomic.Int64
	tenants sync.Map // string → *atomic.Int64; a tenant here has, or had, a service
}

// enter counts a call in, or refuses it; what was entered has to leave.
func (f *inflight) enter(tenant string, b *Bounds) (*atomic.Int64, error) {
	mine, ok := f.tenants.Load(tenant)
	if !ok {
		mine, _ = f.tenants.LoadOrStore(tenant, new(atomic.Int64))
	}
	n := mine.(*atomic.Int64)
	if n.Add(1) > b.InflightPerTenant {
		n.Add(-1)
		return nil, errOverloaded("the tenant has %d calls in flight, as many as it may (limits.inflight_per_tenant)", b.InflightPerTenant)
	}
	if f.total.Add(1) > b.InflightTotal {
		f.leave(n)
		return nil, errOverloaded("the daemon has %d calls in flight, as many as it may (limits.inflight_total)", b.InflightTotal)
	}
	return n, nil
}

func (f *inflight) leave(n *atomic.Int64) {
	n.Add(-1)
	f.total.Add(-1)
}

func errOverloaded(format string, n int64) error {
	return solo.Errorf(solo.CodeOverloaded, format, n).Retry(time.Second)
}
