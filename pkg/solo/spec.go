package solo

import (
	"fmt"
	"math"
	"slices"
	"sort"
	"strings"
)

// Bounds of a source (contract 4a).
const (
	MaxSourceBytes = 4 << 20
	MaxFileBytes   = 1 << 20
	MaxFiles       = 200
	// MaxDeployBody bounds the JSON body of a deploy, before it is parsed.
	MaxDeployBody = 25 << 20
	// MaxInvokeBody bounds a call's body, each way.
	MaxInvokeBody = 8 << 20
)

// File is one file of a source under its clean relative name.
type File struct {
	Name string
	Data []byte
}

// Source is what a tenant wrote: files sorted by name.
type Source struct {
	Files []File
}

// RestartType says after which ends a service is started again, in Erlang's words.
type RestartType string

// The restart types.
const (
	RestartPermanent RestartType = "permanent"
	RestartTransient RestartType = "transient"
	RestartTemporary RestartType = "temporary"
)

// RestartLimits is the budget: more than MaxRestarts restarts within any
// MaxSeconds and the service has failed.
type RestartLimits struct {
	MaxRestarts int `json:"max_restarts"`
	MaxSeconds  int `json:"max_seconds"`
}

// Backoff spaces the restarts. The first is immediate; the n-th in a row waits
// InitialMS × Factor^(n-2), at most MaxMS, ± Jitter (a share from 0 to 1).
type Backoff struct {
	InitialMS    int     `json:"initial_ms"`
	Factor       float64 `json:"factor"`
	MaxMS        int     `json:"max_ms"`
	Jitter       float64 `json:"jitter"`
	ResetAfterMS int     `json:"reset_after_ms"`
}

// HealthPolicy says how an instance proves itself.
type HealthPolicy struct {
	StartTimeoutMS int `json:"start_timeout_ms"`
	IntervalMS     int `json:"interval_ms"`
	TimeoutMS      int `json:"timeout_ms"`
	Failures       int `json:"failures"`
}

// Limits bounds an instance. CPUPercent 100 is one core; DataMB 0 is no data
// directory.
type Limits struct {
	MemoryMB   int `json:"memory_mb"`
	CPUPercent int `json:"cpu_percent"`
	PIDs       int `json:"pids"`
	DataMB     int `json:"data_mb"`
	LogMB      int `json:"log_mb"`
	KVMB       int `json:"kv_mb"`
}

// Settings is all that a deploy says beside the source.
type Settings struct {
	Name          string            `json:"name"`
	Restart       RestartType       `json:"restart"`
	RestartLimits RestartLimits     `json:"restart_limits"`
	Backoff       Backoff           `json:"backoff"`
	Health        HealthPolicy      `json:"health"`
	Limits        Limits            `json:"limits"`
	Env           map[string]string `json:"env"`
	Metadata      map[string]string `json:"metadata"`
	StopTimeoutMS int               `json:"stop_timeout_ms"`
	// Secrets are the names that the service may read, sorted; Grants its own
	// capability. Both are nil where there are none.
	Secrets []string `json:"secrets,omitempty"`
	Grants  []Grant  `json:"grants,omitempty"`
}

// DefaultLimits are the limits of a service that asks for none, and Ceiling the
// most that one may ask; the daemon's configuration overrides both.
func DefaultLimits() Limits {
	return Limits{MemoryMB: 512, CPUPercent: 100, PIDs: 100, DataMB: 0, LogMB: 16, KVMB: 64}
}

// DefaultSettings are those of a deploy that says nothing.
func DefaultSettings(serviceID string, limits Limits) Settings {
	return Settings{
		Name:          serviceID,
		Restart:       RestartPermanent,
		RestartLimits: RestartLimits{MaxRestarts: 5, MaxSeconds: 60},
		Backoff:       Backoff{InitialMS: 100, Factor: 2, MaxMS: 30000, Jitter: 0.2, ResetAfterMS: 60000},
		Health:        HealthPolicy{StartTimeoutMS: 5000, IntervalMS: 5000, TimeoutMS: 2000, Failures: 3},
		Limits:        limits,
		Env:           map[string]string{},
		Metadata:      map[string]string{},
		StopTimeoutMS: 5000,
	}
}

// DeployRequest is the body of POST /services and of its check. A null or
// absent setting is its default, also inside an object.
type DeployRequest struct {
	TenantID  *string           `json:"tenant_id"`
	ServiceID *string           `json:"service_id"`
	Code      *string           `json:"code"`
	Files     map[string]string `json:"files"`
	Format    *string           `json:"format"`

	Name          *string               `json:"name"`
	Restart       *RestartType          `json:"restart"`
	RestartLimits *RestartLimitsRequest `json:"restart_limits"`
	Backoff       *BackoffRequest       `json:"backoff"`
	Health        *HealthRequest        `json:"health"`
	Limits        *LimitsRequest        `json:"limits"`
	Env           map[string]string     `json:"env"`
	Metadata      map[string]string     `json:"metadata"`
	StopTimeoutMS *int                  `json:"stop_timeout_ms"`
	Secrets       []string              `json:"secrets"`
	Grants        []Grant               `json:"grants"`
}

// RestartLimitsRequest is [RestartLimits] as asked for.
type RestartLimitsRequest struct {
	MaxRestarts *int `json:"max_restarts"`
	MaxSeconds  *int `json:"max_seconds"`
}

// BackoffRequest is [Backoff] as asked for.
type BackoffRequest struct {
	InitialMS    *int     `json:"initial_ms"`
	Factor       *float64 `json:"factor"`
	MaxMS        *int     `json:"max_ms"`
	Jitter       *float64 `json:"jitter"`
	ResetAfterMS *int     `json:"reset_after_ms"`
}

// HealthRequest is [HealthPolicy] as asked for.
type HealthRequest struct {
	StartTimeoutMS *int `json:"start_timeout_ms"`
	IntervalMS     *int `json:"interval_ms"`
	TimeoutMS      *int `json:"timeout_ms"`
	Failures       *int `json:"failures"`
}

// LimitsRequest is [Limits] as asked for.
type LimitsRequest struct {
	MemoryMB   *int `json:"memory_mb"`
	CPUPercent *int `json:"cpu_percent"`
	PIDs       *int `json:"pids"`
	DataMB     *int `json:"data_mb"`
	LogMB      *int `json:"log_mb"`
	KVMB       *int `json:"kv_mb"`
}

func set[T any](dst *T, src *T) {
	if src != nil {
		*dst = *src
	}
}

// Settings lays the request over the defaults and checks each value against its
// range. The error is invalid_request with every field at fault, or
// policy_violation where a limit is over the ceiling.
func (r *DeployRequest) Settings(serviceID string, defaults, ceiling Limits) (Settings, error) {
	s := DefaultSettings(serviceID, defaults)
	set(&s.Name, r.Name)
	set(&s.Restart, r.Restart)
	if q := r.RestartLimits; q != nil {
		set(&s.RestartLimits.MaxRestarts, q.MaxRestarts)
		set(&s.RestartLimits.MaxSeconds, q.MaxSeconds)
	}
	if q := r.Backoff; q != nil {
		set(&s.Backoff.InitialMS, q.InitialMS)
		set(&s.Backoff.Factor, q.Factor)
		set(&s.Backoff.MaxMS, q.MaxMS)
		set(&s.Backoff.Jitter, q.Jitter)
		set(&s.Backoff.ResetAfterMS, q.ResetAfterMS)
	}
	if q := r.Health; q != nil {
		set(&s.Health.StartTimeoutMS, q.StartTimeoutMS)
		set(&s.Health.IntervalMS, q.IntervalMS)
		set(&s.Health.TimeoutMS, q.TimeoutMS)
		set(&s.Health.Failures, q.Failures)
	}
	if q := r.Limits; q != nil {
		set(&s.Limits.MemoryMB, q.MemoryMB)
		set(&s.Limits.CPUPercent, q.CPUPercent)
		set(&s.Limits.PIDs, q.PIDs)
		set(&s.Limits.DataMB, q.DataMB)
		set(&s.Limits.LogMB, q.LogMB)
		set(&s.Limits.KVMB, q.KVMB)
	}
	if r.Env != nil {
		s.Env = r.Env
	}
	if r.Metadata != nil {
		s.Metadata = r.Metadata
	}
	set(&s.StopTimeoutMS, r.StopTimeoutMS)
	if len(r.Secrets) > 0 {
		s.Secrets = slices.Compact(slices.Sorted(slices.Values(r.Secrets)))
	}
	if len(r.Grants) > 0 {
		s.Grants = r.Grants
	}
	if fields := s.check(); len(fields) > 0 {
		return Settings{}, InvalidFields(fields...)
	}
	if findings := s.Limits.over(ceiling); len(findings) > 0 {
		return Settings{}, Errorf(CodePolicyViolation, "%s", findings[0].Message).With("findings", findings)
	}
	return s, nil
}

// Bounds of env and metadata (contract 4a).
const (
	maxEnvNames      = 64
	maxEnvBytes      = 32 << 10
	maxMetadataNames = 64
	maxMetadataBytes = 32 << 10
	maxGranted       = 64
	maxMS            = 24 * 60 * 60 * 1000
)

func (s *Settings) check() []Field {
	var out []Field
	bad := func(field, format string, args ...any) {
		out = append(out, Field{Field: field, Message: fmt.Sprintf(format, args...)})
	}
	within := func(field string, v, lo, hi int) {
		if v < lo || v > hi {
			bad(field, "must be from %d to %d, is %d", lo, hi, v)
		}
	}
	if err := CheckID(s.Name); err != nil {
		bad("name", "%v", err)
	}
	switch s.Restart {
	case RestartPermanent, RestartTransient, RestartTemporary:
	default:
		bad("restart", "must be permanent, transient or temporary, is %q", string(s.Restart))
	}
	within("restart_limits.max_restarts", s.RestartLimits.MaxRestarts, 0, 1000000)
	within("restart_limits.max_seconds", s.RestartLimits.MaxSeconds, 1, 86400)
	within("backoff.initial_ms", s.Backoff.InitialMS, 1, maxMS)
	within("backoff.max_ms", s.Backoff.MaxMS, 1, maxMS)
	within("backoff.reset_after_ms", s.Backoff.ResetAfterMS, 1, maxMS)
	if f := s.Backoff.Factor; math.IsNaN(f) || f < 1 || f > 100 {
		bad("backoff.factor", "must be from 1 to 100, is %v", f)
	}
	if j := s.Backoff.Jitter; math.IsNaN(j) || j < 0 || j > 1 {
		bad("backoff.jitter", "must be from 0 to 1, is %v", j)
	}
	within("health.start_timeout_ms", s.Health.StartTimeoutMS, 1, 600000)
	within("health.interval_ms", s.Health.IntervalMS, 10, maxMS)
	within("health.timeout_ms", s.Health.TimeoutMS, 1, 600000)
	within("health.failures", s.Health.Failures, 1, 1000)
	within("limits.memory_mb", s.Limits.MemoryMB, 8, 1<<30)
	within("limits.cpu_percent", s.Limits.CPUPercent, 1, 1<<20)
	within("limits.pids", s.Limits.PIDs, 8, 1<<22)
	within("limits.data_mb", s.Limits.DataMB, 0, 1<<30)
	within("limits.log_mb", s.Limits.LogMB, 1, 1<<20)
	within("limits.kv_mb", s.Limits.KVMB, 1, 1<<20)
	within("stop_timeout_ms", s.StopTimeoutMS, 0, 600000)
	if len(s.Secrets) > maxGranted {
		bad("secrets", "has %d names, at most %d are allowed", len(s.Secrets), maxGranted)
	}
	for _, name := range s.Secrets {
		if err := CheckID(name); err != nil {
			bad("secrets", "%v", err)
			break
		}
	}
	if len(s.Grants) > maxGranted {
		bad("grants", "has %d entries, at most %d are allowed", len(s.Grants), maxGranted)
	}
	for i, g := range s.Grants {
		out = append(out, CheckPermissions(fmt.Sprintf("grants.%d.permissions", i), g.Permissions)...)
	}
	out = append(out, checkMap("env", s.Env, maxEnvNames, maxEnvBytes, checkEnvName)...)
	out = append(out, checkMap("metadata", s.Metadata, maxMetadataNames, maxMetadataBytes, checkMetadataName)...)
	return out
}

func checkEnvName(name string) string {
	switch {
	case strings.HasPrefix(name, "SOLO_"), strings.HasPrefix(name, "PLUGIN_"):
		return "names that begin with SOLO_ or PLUGIN_ are reserved"
	case name == "TMPDIR", name == "GOMAXPROCS", name == "GOMEMLIMIT":
		return "is set by solod from the limits"
	}
	for i := 0; i < len(name); i++ {
		c := name[i]
		if c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || i > 0 && c >= '0' && c <= '9' {
			continue
		}
		return "a name is [A-Za-z_][A-Za-z0-9_]*"
	}
	return ""
}

func checkMetadataName(name string) string {
	if len(name) > MaxID {
		return fmt.Sprintf("has %d bytes, at most %d are allowed", len(name), MaxID)
	}
	return ""
}

func checkMap(field string, m map[string]string, names, bytes int, check func(string) string) []Field {
	var out []Field
	if len(m) > names {
		out = append(out, Field{field, fmt.Sprintf("has %d names, at most %d are allowed", len(m), names)})
	}
	total := 0
	keys := make([]string, 0, len(m))
	for k, v := range m {
		total += len(k) + len(v)
		keys = append(keys, k)
	}
	if total > bytes {
		out = append(out, Field{field, fmt.Sprintf("has %d bytes in all, at most %d are allowed", total, bytes)})
	}
	sort.Strings(keys)
	for _, k := range keys {
		why := check(k)
		switch {
		case k == "":
			why = "a name must not be empty"
		case why == "" && strings.IndexByte(m[k], 0) >= 0:
			why = "the value holds a NUL byte"
		}
		if why != "" {
			out = append(out, Field{field + "." + k, why})
		}
	}
	return out
}

func (l Limits) over(ceiling Limits) []Diagnostic {
	var out []Diagnostic
	check := func(name string, v, max int) {
		if v > max {
			d := At("", 0, 0, fmt.Sprintf("limits.%s is %d, the ceiling of this daemon is %d", name, v, max))
			d.Rule, d.Advice = "limits.ceiling_"+name, "ask for less, or ask the operator to raise the ceiling"
			out = append(out, d)
		}
	}
	check("memory_mb", l.MemoryMB, ceiling.MemoryMB)
	check("cpu_percent", l.CPUPercent, ceiling.CPUPercent)
	check("pids", l.PIDs, ceiling.PIDs)
	check("data_mb", l.DataMB, ceiling.DataMB)
	check("log_mb", l.LogMB, ceiling.LogMB)
	check("kv_mb", l.KVMB, ceiling.KVMB)
	return out
}
