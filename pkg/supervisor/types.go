package supervisor

import (
	"context"
	"time"

	"github.com/solo-run/solo/pkg/solo"
)

// Plan is what to run: one version of a service with its settings.
type Plan struct {
	Key     solo.Key
	Version int
	// Artifact is the digest that names the binary.
	Artifact string
	Settings solo.Settings
}

func (p Plan) policy() Policy {
	return Policy{Restart: p.Settings.Restart, Limits: p.Settings.RestartLimits, Backoff: p.Settings.Backoff}
}

// Launcher starts instances.
type Launcher interface {
	// Launch starts the instance of that number and returns it once it serves. It
	// keeps to the plan's start timeout. The error of a start that failed is a
	// *[StartError]; nothing of the instance is left then. When ctx ends, so does
	// the start.
	Launch(ctx context.Context, plan Plan, number int) (Instance, error)
}

// StartError is a start that failed.
type StartError struct {
	Exit solo.Exit
}

func (e *StartError) Error() string {
	return "the instance did not start: " + string(e.Exit.Reason)
}

// Instance is one running process of a plan.
type Instance interface {
	Number() int
	// PID is the host's.
	PID() int
	StartedAt() time.Time
	// Done closes when the process and all that it forked are gone.
	Done() <-chan struct{}
	// Exit is valid once Done is closed.
	Exit() solo.Exit
	// Stop asks the process to end and ends it at the timeout; at once with force.
	// It returns when Done is closed. reason is what the exit will say, but for ends
	// that the process met on its own. A second Stop may only shorten the first.
	Stop(reason solo.Reason, timeout time.Duration, force bool)
	// Ping asks whether the process answers at all.
	Ping(ctx context.Context) error
	// Health asks the author's own Health.
	Health(ctx context.Context) error
	Call(ctx context.Context, req *solo.InvokeRequest) (*solo.InvokeReply, error)
	Usage() (*solo.Usage, error)
	// Isolation tells which layers are on.
	Isolation() map[string]string
}

// Journal stores what happens.
type Journal interface {
	// Record returns once the change is durable together with its events.
	Record(key solo.Key, c Change) error
}

// ChangeKind says what happened to a unit.
type ChangeKind string

// The kinds.
const (
	// ChangeStarted: an instance proved that it serves.
	ChangeStarted ChangeKind = "started"
	// ChangeEnded: an instance ended, or a start failed, and nobody had asked for it.
	ChangeEnded ChangeKind = "ended"
	// ChangeStopping: a stop is wanted; it comes before anything is killed.
	ChangeStopping ChangeKind = "stopping"
	// ChangeKilled: the stop that was wanted is done.
	ChangeKilled ChangeKind = "killed"
	// ChangeWanted: a unit that was stopped or failed is to run again.
	ChangeWanted ChangeKind = "wanted"
	// ChangeUnhealthy and ChangeReady: a probe failed, and holds again.
	ChangeUnhealthy ChangeKind = "unhealthy"
	ChangeReady     ChangeKind = "ready"
	// ChangeShutdown: the instance ended with the daemon, and is wanted again.
	ChangeShutdown ChangeKind = "shutdown"
)

// Cause says why an instance was started.
type Cause string

// The causes of the contract, section 6, as far as they are built.
const (
	CauseDeploy  Cause = "deploy"
	CauseRestart Cause = "restart"
	CauseBoot    Cause = "boot"
)

// Change is what happened to a unit, for the [Journal].
type Change struct {
	Kind ChangeKind
	// State is the unit's state after it.
	State    solo.State
	Restarts int
	// Instance is the number that the change is about, 0 where it is about none.
	Instance int
	// PID, StartedAt and Cause are those of a started instance; ByHand tells a
	// restart that someone asked for.
	PID       int
	StartedAt time.Time
	Cause     Cause
	ByHand    bool
	// Exit is set for an end.
	Exit *solo.Exit
	// Delay is how long a restart waits.
	Delay time.Duration
	// Probe and Detail are the evidence of [ChangeUnhealthy].
	Probe, Detail string
	// At is when it happened, which may be before it could be stored.
	At time.Time
}

// View is a unit as it stands at one instant. It is never changed.
type View struct {
	Plan     Plan
	State    solo.State
	Ready    bool
	Restarts int
	LastExit *solo.Exit
	// Instance is nil where no process stands behind the state.
	Instance Instance
	// NextStart is when the next start is due, in backoff only.
	NextStart time.Time
	// Used is how many restarts count against the budget, InRow how many came since
	// the last healthy run; both as of this view.
	Used, InRow int

	// changed closes when a newer view is there.
	changed chan struct{}
}

// Changed closes when a newer view is there.
func (v *View) Changed() <-chan struct{} { return v.changed }
