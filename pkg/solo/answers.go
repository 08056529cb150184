package solo

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// Bounds of lists and pages.
const (
	DefaultLimit = 100
	MaxLimit     = 1000
)

// ServiceList is a page of services, oldest first.
type ServiceList struct {
	Services []Service `json:"services"`
	Total    int       `json:"total"`
	Limit    int       `json:"limit"`
	Offset   int       `json:"offset"`
}

// CheckResult is what a deploy of the same body would meet.
type CheckResult struct {
	OK          bool         `json:"ok"`
	Diagnostics []Diagnostic `json:"diagnostics"`
	Findings    []Diagnostic `json:"findings"`
	Warnings    []Diagnostic `json:"warnings"`
	Changes     []Change     `json:"changes"`
}

// Change is one difference between what runs and what a deploy would make.
type Change struct {
	Field string `json:"field"`
	From  any    `json:"from"`
	To    any    `json:"to"`
}

// KillResult confirms that the processes of a service are reaped.
type KillResult struct {
	ServiceID string `json:"service_id"`
	Status    string `json:"status"`
}

// EventQuery selects events. Zero values select all.
type EventQuery struct {
	// Tenant "" is all tenants: the operator's reads only.
	Tenant    string
	ServiceID string
	Type      EventType
	// SinceID: events with a higher id only.
	SinceID uint64
	// Limit bounds the page; 0 is [DefaultLimit].
	Limit int
	// Tail asks for the last Limit events that match instead of the first.
	Tail bool
}

// EventPage is one page of the log. NextSinceID continues it; LastID is the
// newest id of the whole log.
type EventPage struct {
	Events      []Event `json:"events"`
	NextSinceID uint64  `json:"next_since_id"`
	LastID      uint64  `json:"last_id"`
}

// VerifyReport is the outcome of proving the chain. BadID is the first record
// that does not hold, null where all do; Head is the hash of the last good one.
type VerifyReport struct {
	OK      bool    `json:"ok"`
	FirstID uint64  `json:"first_id"`
	LastID  uint64  `json:"last_id"`
	Head    string  `json:"head"`
	BadID   *uint64 `json:"bad_id"`
}

// LogQuery selects log lines of one tenant. Zero values select all.
type LogQuery struct {
	// Tenant "" is all tenants: the operator's reads only.
	Tenant    string
	ServiceID string
	// Instance 0 is every instance.
	Instance int
	// Level is the least severe level that is wanted: debug, info, warn, error.
	Level string
	// Text must occur in the line.
	Text         string
	Since, Until time.Time
	SinceID      uint64
	Limit        int
	// Tail asks for the last Limit lines that match instead of the first.
	Tail bool
}

// LogPage is one page of log lines.
type LogPage struct {
	Logs        []LogLine `json:"logs"`
	NextSinceID uint64    `json:"next_since_id"`
}

// InvokeRequest is one call of a service's method.
type InvokeRequest struct {
	Method      string
	Body        []byte
	ContentType string
	Metadata    map[string]string
	// Timeout is the caller's deadline; 0 is 30 s, at most 300 s.
	Timeout time.Duration
}

// Answer is an answer that is given again to the same request.
type Answer struct {
	Status int
	// Body is JSON.
	Body []byte
}

// MaxMethod is the longest name of a method, in bytes.
const MaxMethod = 128

// CheckMethod reports why s is not the name of a method: 1 to [MaxMethod] bytes of
// printable UTF-8.
func CheckMethod(s string) error {
	if len(s) == 0 || len(s) > MaxMethod || strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f || r == utf8.RuneError }) {
		return fmt.Errorf("must be 1 to %d bytes of printable text", MaxMethod)
	}
	return nil
}

// InvokeReply is the service's own answer.
type InvokeReply struct {
	Body        []byte
	ContentType string
	Metadata    map[string]string
}

// Default and largest deadline of a call.
const (
	DefaultInvokeTimeout = 30 * time.Second
	MaxInvokeTimeout     = 300 * time.Second
)

// KillOptions are those of DELETE. Timeout nil is the service's own.
type KillOptions struct {
	Timeout *time.Duration
	Force   bool
	Purge   bool
}

// MaxStopTimeout is the longest timeout of a kill.
const MaxStopTimeout = 10 * time.Minute

// Health is how the daemon is.
type Health struct {
	Status     string               `json:"status"`
	Version    string               `json:"version"`
	WarmUp     WarmUp               `json:"warm_up"`
	Components map[string]Component `json:"components"`
	Isolation  map[string]Layer     `json:"isolation"`
	Services   map[string]int       `json:"services"`
	Events     EventStats           `json:"events"`
	UptimeS    int64                `json:"uptime_s"`
}

// The words of [Health.Status] and [Component.Status].
const (
	HealthOK       = "ok"
	HealthStarting = "starting"
	HealthDegraded = "degraded"
	HealthFailing  = "failing"
	HealthStopping = "stopping"
)

// Component is one part of the daemon.
type Component struct {
	Status string `json:"status"`
	Detail string `json:"detail"`
}

// Layer is one layer of isolation: on, or off with the reason.
type Layer struct {
	On  bool   `json:"on"`
	Why string `json:"why"`
}

// EventStats counts the log.
type EventStats struct {
	LastID uint64 `json:"last_id"`
	Total  uint64 `json:"total"`
}

// WarmUp is how far the build cache is.
type WarmUp struct {
	// State is waiting, running, done or failed.
	State  string `json:"state"`
	Done   int    `json:"done"`
	Total  int    `json:"total"`
	Detail string `json:"detail"`
}

// ShutdownResult confirms that the daemon is on its way out.
type ShutdownResult struct {
	Status string `json:"status"`
}

// UpgradeRequest names the binary that takes the daemon's place; null is the one
// that is installed where the running one was.
type UpgradeRequest struct {
	Binary *string `json:"binary"`
}

// UpgradeResult confirms that an upgrade has begun: the next system_started event
// after SinceID is the new daemon's.
type UpgradeResult struct {
	Status  string `json:"status"`
	From    string `json:"from"`
	To      string `json:"to"`
	SinceID uint64 `json:"since_id"`
}

// Principal is who calls, as the gateway found it.
type Principal struct {
	// Tenant is "" only for an operator who named none.
	Tenant   string
	Operator bool
	// Proof says by what: peer, certificate, capability, header, body, instance.
	Proof string
	// Capability is the id of the one that was shown, "" for none.
	Capability string
	// Rights are what the proof allows within the tenant; nil is everything.
	Rights Rights
}

// Allows tells whether the caller may do something with a resource of the tenant's;
// method is that of an invoke, else "".
func (p Principal) Allows(permission Permission, resource, method string) bool {
	return p.Rights == nil || p.Rights.Allows(permission, resource, method)
}

// Who is the caller as events tell it.
func (p Principal) Who() map[string]any {
	who := map[string]any{"principal": "tenant", "proof": p.Proof}
	if p.Operator {
		who["principal"] = "operator"
	}
	if p.Capability != "" {
		who["capability"] = p.Capability
	}
	return who
}

// UsageReport is what was used in a span of whole hours; what is older than 35 days
// counts by whole days.
type UsageReport struct {
	Usage  []UsageRow `json:"usage"`
	Total  int        `json:"total"`
	Limit  int        `json:"limit"`
	Offset int        `json:"offset"`
	From   time.Time  `json:"from"`
	To     time.Time  `json:"to"`
}

// UsageRow is what a tenant, or one service of it, has used.
type UsageRow struct {
	TenantID string `json:"tenant_id"`
	// ServiceID is null where the row is the tenant's sum.
	ServiceID  *string `json:"service_id"`
	CPUSeconds float64 `json:"cpu_seconds"`
	// MemoryMBSeconds is memory over time: 100 MiB held for a minute are 6000.
	MemoryMBSeconds float64 `json:"memory_mb_seconds"`
	Calls           uint64  `json:"calls"`
	BytesIn         uint64  `json:"bytes_in"`
	BytesOut        uint64  `json:"bytes_out"`
	Builds          uint64  `json:"builds"`
	BuildSeconds    float64 `json:"build_seconds"`
}

// UsageQuery asks for a span; by tenant, or by service.
type UsageQuery struct {
	From, To      time.Time
	ByService     bool
	Limit, Offset int
}
