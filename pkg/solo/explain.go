package solo

import "time"

// Crash is one end of an instance that nobody asked for, kept whole: what is
// needed to understand it when the process and its log are gone.
type Crash struct {
	Instance int       `json:"instance"`
	Version  int       `json:"version"`
	At       time.Time `json:"at"`
	LastExit Exit      `json:"last_exit"`
	// Panic is null where no trace was seen.
	Panic *PanicTrace `json:"panic"`
	// LogTail are the last lines, of any stream.
	LogTail []string `json:"log_tail"`
	// UsageCurve is what the kernel counted before the end, oldest first.
	UsageCurve []UsageSample `json:"usage_curve"`
	// Events are the chain of causes that led here, the crash itself and what came
	// of it, oldest first.
	Events []Event `json:"events"`
}

// PanicTrace is a Go trace cut to the version's own lines, innermost first.
type PanicTrace struct {
	Message string      `json:"message"`
	File    *string     `json:"file"`
	Line    *int        `json:"line"`
	Stack   []CallFrame `json:"stack"`
}

// CallFrame is one line of a trace. The file is as the tenant named it.
type CallFrame struct {
	Function string `json:"function"`
	File     string `json:"file"`
	Line     int    `json:"line"`
}

// UsageSample is what the kernel had counted for an instance at one moment.
type UsageSample struct {
	At          time.Time `json:"at"`
	MemoryBytes uint64    `json:"memory_bytes"`
	CPUUsec     uint64    `json:"cpu_usec"`
	PIDs        uint64    `json:"pids"`
}

// CrashesKept is how many capsules are kept for each service.
const CrashesKept = 20

// CrashList is a page of a service's capsules, oldest first.
type CrashList struct {
	Crashes []Crash `json:"crashes"`
	Total   int     `json:"total"`
	Limit   int     `json:"limit"`
	Offset  int     `json:"offset"`
}

// Explanation says why a service is in its state, and what can be done.
type Explanation struct {
	ServiceID string `json:"service_id"`
	State     State  `json:"state"`
	Ready     bool   `json:"ready"`
	Version   int    `json:"version"`
	// Summary is one sentence for people.
	Summary string `json:"summary"`
	// Chain are the events that led to the state, each the cause of the next,
	// oldest first.
	Chain    []Event    `json:"chain"`
	LastExit *Exit      `json:"last_exit"`
	Budget   Budget     `json:"budget"`
	Next     NextAction `json:"next"`
	// Calls are those that would change the state.
	Calls []SuggestedCall `json:"calls"`
}

// Budget is how much of the restart limits is used.
type Budget struct {
	Used        int `json:"used"`
	MaxRestarts int `json:"max_restarts"`
	MaxSeconds  int `json:"max_seconds"`
	// InRow counts the restarts since the last healthy run: the backoff grows with it.
	InRow int `json:"in_row"`
}

// NextAction is what the daemon does next by itself. Action is none, start, wait
// (for an outcome that is under way) or probe.
type NextAction struct {
	Action string `json:"action"`
	// At is when, null where no time is known.
	At  *time.Time `json:"at"`
	Why string     `json:"why"`
}

// SuggestedCall is a call that changes a state, in the words of REST and of the
// command line.
type SuggestedCall struct {
	Method  string `json:"method"`
	Path    string `json:"path"`
	Command string `json:"command"`
	Effect  string `json:"effect"`
}

// WaitRequest waits until all that Until names holds at once.
type WaitRequest struct {
	ServiceID *string    `json:"service_id"`
	Until     *WaitUntil `json:"until"`
	// SinceID: an event counts when its id is higher; null is from now on.
	SinceID   *uint64 `json:"since_id"`
	TimeoutMS *int    `json:"timeout_ms"`
}

// WaitUntil is what is waited for; null fields do not count.
type WaitUntil struct {
	State     *string `json:"state"`
	Version   *int    `json:"version"`
	EventType *string `json:"event_type"`
	// LogMatch is a text that a line of the present instance holds, or an RE2
	// expression that matches it.
	LogMatch *string `json:"log_match"`
}

// Default and largest timeout of a wait.
const (
	DefaultWaitTimeout = 30 * time.Second
	MaxWaitTimeout     = 300 * time.Second
)

// WaitResult is the evidence that a wait ended with.
type WaitResult struct {
	WaitedMS int64    `json:"waited_ms"`
	Service  *Service `json:"service"`
	// Event and Log are those that matched, null where none was asked for.
	Event *Event   `json:"event"`
	Log   *LogLine `json:"log"`
}

// TreeNode is one part of what runs, with what it supervises. Strategy is
// one_for_one, rest_for_one or, of a leaf, its restart type.
type TreeNode struct {
	Name      string     `json:"name"`
	Kind      string     `json:"kind"`
	Strategy  string     `json:"strategy"`
	State     string     `json:"state"`
	Restarts  int        `json:"restarts"`
	StartedAt *time.Time `json:"started_at"`
	// Detail is the last failure, or what stands behind the state.
	Detail   string     `json:"detail"`
	Children []TreeNode `json:"children"`
}
