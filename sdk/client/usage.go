package client

import (
	"context"
	"net/url"
	"time"
)

// UsageQuery asks what was used. A zero From is 30 days before To, a zero To is now.
type UsageQuery struct {
	From, To time.Time
	// ByService gives a row for each service, else for each tenant.
	ByService bool
	// Limit is 1 to 1000, 0 for 100.
	Limit, Offset int
}

// UsageReport is what was used in whole hours: those that begin within From and To.
type UsageReport struct {
	Usage  []UsageRow `json:"usage"`
	Total  int        `json:"total"`
	Limit  int        `json:"limit"`
	Offset int        `json:"offset"`
	From   time.Time  `json:"from"`
	To     time.Time  `json:"to"`
}

// UsageRow is what a tenant, or one service of it, has used. ServiceID is nil for a
// tenant's sum.
type UsageRow struct {
	TenantID        string  `json:"tenant_id"`
	ServiceID       *string `json:"service_id"`
	CPUSeconds      float64 `json:"cpu_seconds"`
	MemoryMBSeconds float64 `json:"memory_mb_seconds"`
	Calls           uint64  `json:"calls"`
	BytesIn         uint64  `json:"bytes_in"`
	BytesOut        uint64  `json:"bytes_out"`
	Builds          uint64  `json:"builds"`
	BuildSeconds    float64 `json:"build_seconds"`
}

// Usage says what the caller's tenant has used, or each one where an operator names
// none. REST only.
func (c *Client) Usage(ctx context.Context, q UsageQuery) (*UsageReport, error) {
	v := url.Values{}
	for name, at := range map[string]time.Time{"from": q.From, "to": q.To} {
		if !at.IsZero() {
			v.Set(name, at.UTC().Format(time.RFC3339Nano))
		}
	}
	if q.ByService {
		v.Set("by", "service")
	}
	for name, values := range paged(q.Limit, q.Offset) {
		v[name] = values
	}
	return ask[UsageReport](ctx, c, "GET", "/usage", v, nil)
}
