package solo

import "time"

// State is where a service stands. The arrows:
//
//	          ┌──────────────── restart by hand, deploy ───────────────┐
//	          ▼                                                        │
//	starting ──ready──▶ running ──stop wanted──▶ stopping ──reaped──▶ stopped
//	   │  ▲                │                                           ▲
//	   │  └──timer── backoff ◀──exit, budget left                      │
//	   │                   │                                           │
//	   └──exit─────────────┴──exit, restart type says no───────────────┘
//	                       └──exit, budget spent──▶ failed
type State string

// The states of the contract, section 4.
const (
	StateStarting State = "starting"
	StateRunning  State = "running"
	StateBackoff  State = "backoff"
	StateStopping State = "stopping"
	StateStopped  State = "stopped"
	StateFailed   State = "failed"
)

// States returns all of them.
func States() []State {
	return []State{StateStarting, StateRunning, StateBackoff, StateStopping, StateStopped, StateFailed}
}

// Status is the coarse word beside the state: running or stopped.
func (s State) Status() string {
	if s == StateStopped || s == StateFailed {
		return "stopped"
	}
	return "running"
}

// Alive reports whether a process stands behind the state.
func (s State) Alive() bool {
	return s == StateStarting || s == StateRunning || s == StateStopping
}

// Live reports whether the service is meant to run: a POST of it is a conflict.
func (s State) Live() bool { return s != StateStopped && s != StateFailed }

// Service is a service as every answer shows it.
type Service struct {
	TenantID      string            `json:"tenant_id"`
	ServiceID     string            `json:"service_id"`
	State         State             `json:"state"`
	Status        string            `json:"status"`
	Alive         bool              `json:"alive"`
	Ready         bool              `json:"ready"`
	Version       int               `json:"version"`
	Artifact      *string           `json:"artifact"`
	PID           *int              `json:"pid"`
	Instance      *int              `json:"instance"`
	Restarts      int               `json:"restarts"`
	Restart       RestartType       `json:"restart"`
	RestartLimits RestartLimits     `json:"restart_limits"`
	Backoff       Backoff           `json:"backoff"`
	Health        HealthPolicy      `json:"health"`
	Limits        Limits            `json:"limits"`
	Usage         *Usage            `json:"usage"`
	LastExit      *Exit             `json:"last_exit"`
	Build         *Build            `json:"build"`
	Isolation     map[string]string `json:"isolation"`
	CreatedAt     *time.Time        `json:"created_at"`
	DeployedAt    *time.Time        `json:"deployed_at"`
	StartedAt     *time.Time        `json:"started_at"`
	Metadata      map[string]string `json:"metadata"`
}

// Usage is what the kernel counted for the instance that runs.
type Usage struct {
	MemoryBytes uint64 `json:"memory_bytes"`
	MemoryPeak  uint64 `json:"memory_peak_bytes"`
	CPUUsec     uint64 `json:"cpu_usec"`
	PIDs        uint64 `json:"pids"`
}

// Build tells how the artifact of a version came to be.
type Build struct {
	// Cached is true only where an earlier build of the tenant's own was used.
	Cached     bool         `json:"cached"`
	DurationMS int64        `json:"duration_ms"`
	Warnings   []Diagnostic `json:"warnings"`
}

// Reason tells apart the ends of an instance; each end has exactly one.
type Reason string

// The reasons (design rule 8).
const (
	ReasonClean        Reason = "clean"
	ReasonExitCode     Reason = "exit_code"
	ReasonPanic        Reason = "panic"
	ReasonSignal       Reason = "signal"
	ReasonOOM          Reason = "oom"
	ReasonUnhealthy    Reason = "unhealthy"
	ReasonStartTimeout Reason = "start_timeout"
	ReasonKilled       Reason = "killed"
	ReasonPolicy       Reason = "policy"
	ReasonShutdown     Reason = "shutdown"
	ReasonUnknown      Reason = "unknown"
)

// Exit is the end of one instance. Code and Signal exclude each other.
type Exit struct {
	Reason  Reason    `json:"reason"`
	Code    *int      `json:"code"`
	Signal  *string   `json:"signal"`
	OOM     bool      `json:"oom"`
	At      time.Time `json:"at"`
	RanMS   int64     `json:"ran_ms"`
	LogTail []string  `json:"log_tail"`
	// Details holds the numbers behind the reason, such as limit and peak of an oom.
	Details map[string]any `json:"details"`
	// Panic is the first frame of the tenant's own in the trace, where there was one.
	Panic *PanicSite `json:"-"`
	// Stack are all of the tenant's own frames, innermost first.
	Stack []CallFrame `json:"-"`
	// Usage is what was counted before the end, oldest first.
	Usage []UsageSample `json:"-"`
	// Instance is the number of the instance that ended.
	Instance int `json:"-"`
}

// PanicSite is where a Go program came to its end.
type PanicSite struct {
	Message string  `json:"message"`
	File    *string `json:"file"`
	Line    *int    `json:"line"`
}

// LogTailLines is how many lines of the log an [Exit] holds.
const LogTailLines = 20

// Diagnostic is one finding about a source: of the compiler, a test, vet or the
// policy. File, Line and Column are null where they are not known; Line is
// physical and 1-based, Column counts bytes.
type Diagnostic struct {
	File    *string `json:"file"`
	Line    *int    `json:"line"`
	Column  *int    `json:"column"`
	Message string  `json:"message"`
	Test    string  `json:"test,omitempty"`
	Output  string  `json:"output,omitempty"`
	Rule    string  `json:"rule,omitempty"`
	Advice  string  `json:"advice,omitempty"`
}

// At makes a diagnostic for a place; a line or column of 0 is not known.
func At(file string, line, column int, message string) Diagnostic {
	d := Diagnostic{Message: message}
	if file != "" {
		d.File = &file
	}
	if line > 0 {
		d.Line = &line
	}
	if column > 0 {
		d.Column = &column
	}
	return d
}

// Event is one immutable record of the log.
type Event struct {
	ID          uint64         `json:"id"`
	Timestamp   time.Time      `json:"timestamp"`
	TenantID    string         `json:"tenant_id"`
	Type        EventType      `json:"event_type"`
	Subject     string         `json:"subject"`
	Payload     map[string]any `json:"payload"`
	CausationID *uint64        `json:"causation_id"`
	// Hash is hex SHA-256 over the hash of the event before and this record's bytes.
	Hash string `json:"hash"`
}

// EventType is a name of the contract, section 6, or "app." + a service's own.
type EventType string

// The event types that are written today; others join with their rooms.
const (
	EventSystemStarted           EventType = "system_started"
	EventSystemStopped           EventType = "system_stopped"
	EventServiceDeployed         EventType = "service_deployed"
	EventServiceDeploymentFailed EventType = "service_deployment_failed"
	EventServiceStarted          EventType = "service_started"
	EventServiceKilled           EventType = "service_killed"
	EventServiceCrashed          EventType = "service_crashed"
	EventServiceRestarted        EventType = "service_restarted"
	EventServiceGaveUp           EventType = "service_gave_up"
	EventServiceUnhealthy        EventType = "service_unhealthy"
	EventServiceReady            EventType = "service_ready"
	EventRuntimeUsageHigh        EventType = "runtime_usage_high"
	EventConfigReloaded          EventType = "config_reloaded"
	EventLogCheckpoint           EventType = "log_checkpoint"
	EventCircuitOpened           EventType = "circuit_opened"
	EventCircuitClosed           EventType = "circuit_closed"
	EventCapabilityGranted       EventType = "capability_granted"
	EventCapabilityRevoked       EventType = "capability_revoked"
	EventCapabilityDenied        EventType = "capability_denied"
	EventCapabilityVerified      EventType = "capability_verified"
	EventCapabilityExpired       EventType = "capability_expired"
	EventSecretStored            EventType = "secret_stored"
	EventSecretAccessed          EventType = "secret_accessed"
	EventSecretAccessDenied      EventType = "secret_access_denied"
	EventSecretRevoked           EventType = "secret_revoked"
	EventVaultRotated            EventType = "vault_rotated"
)

// Subjects of the events that are about the daemon and belong to no tenant:
// itself, and, with a slash and its name, a part of it.
const (
	SubjectSystem = "system"
	SubjectTree   = "tree"
)

// ServiceSubject is the subject of an event about a service.
func ServiceSubject(serviceID string) string { return "services/" + serviceID }

// LogLine is one line that a service wrote.
type LogLine struct {
	ID        uint64    `json:"id"`
	Timestamp time.Time `json:"timestamp"`
	ServiceID string    `json:"service_id"`
	Instance  int       `json:"instance"`
	Version   int       `json:"version"`
	// Stream is stdout, stderr or log (what Host.Log wrote).
	Stream    string `json:"stream"`
	Level     string `json:"level"`
	Line      string `json:"line"`
	Truncated bool   `json:"truncated"`
}
