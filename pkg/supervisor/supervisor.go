package supervisor

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/solo-run/solo/pkg/solo"
)

// Config is what a [Supervisor] works with. Launcher and Journal are required.
type Config struct {
	Launcher Launcher
	Journal  Journal
	// Grace bounds what each unit gets to stop when the supervisor does, beside its
	// own stop timeout; 0 is 10 s.
	Grace time.Duration
	// BootParallel bounds how many units are started at once by [Unit.Boot]; 0 is 1.
	BootParallel int
	// Jitter returns a random number in [-1, 1]; nil is math/rand.
	Jitter func() float64
	// Warn is told what the journal refused; nil is nobody.
	Warn func(msg string, args ...any)
}

// Supervisor holds the units. Run it for as long as they are to live.
type Supervisor struct {
	cfg   Config
	epoch time.Time
	boots chan struct{}

	mu     sync.Mutex
	closed bool
	units  map[*Unit]struct{}
	// candidates are launches and instances that no unit owns yet.
	candidates sync.WaitGroup
	stop       context.CancelFunc
	ctx        context.Context
}

// New returns a supervisor without units.
func New(cfg Config) *Supervisor {
	if cfg.Grace <= 0 {
		cfg.Grace = 10 * time.Second
	}
	if cfg.BootParallel < 1 {
		cfg.BootParallel = 1
	}
	if cfg.Jitter == nil {
		cfg.Jitter = func() float64 { return 2*rand.Float64() - 1 }
	}
	if cfg.Warn == nil {
		cfg.Warn = func(string, ...any) {}
	}
	s := &Supervisor{cfg: cfg, epoch: time.Now(), boots: make(chan struct{}, cfg.BootParallel), units: map[*Unit]struct{}{}}
	s.ctx, s.stop = context.WithCancel(context.Background())
	return s
}

// now is the monotonic clock of the decisions.
func (s *Supervisor) now() time.Duration { return time.Since(s.epoch) }

// Run returns when ctx has ended and every unit has stopped, with all processes
// reaped. Commands are refused from then on with shutting_down.
func (s *Supervisor) Run(ctx context.Context) error {
	<-ctx.Done()
	s.mu.Lock()
	s.closed = true
	units := make([]*Unit, 0, len(s.units))
	for u := range s.units {
		units = append(units, u)
	}
	s.mu.Unlock()
	s.stop()
	for _, u := range units {
		u.post(shutdownMsg{})
	}
	for _, u := range units {
		<-u.done
	}
	s.candidates.Wait()
	return nil
}

// Seed is what is known of a unit that comes into being.
type Seed struct {
	Plan Plan
	// State is stopped or failed; a unit that should run is stopped until
	// [Unit.Boot] or [Unit.Commit].
	State    solo.State
	Restarts int
	LastExit *solo.Exit
	// Number is the highest instance number that was ever given.
	Number int
	// Running is an instance that was handed over with what its unit knew; nil for
	// none.
	Running *Running
}

// Running is a unit's instance with the past that its supervision goes by, as it is
// handed over from one daemon to the next.
type Running struct {
	Instance Instance
	Ready    bool
	// Unhealthy is set from a failed probe until the unit is ready again; Misses are
	// the probes that were not answered, in a row.
	Unhealthy bool
	Misses    int
	// Ages is how long ago each restart was that still counts, InRow as in [History].
	Ages  []time.Duration
	InRow int
}

// Add makes a unit. It runs nothing yet.
func (s *Supervisor) Add(seed Seed) (*Unit, error) {
	u := &Unit{
		sup:      s,
		inbox:    make(chan any),
		done:     make(chan struct{}),
		plan:     seed.Plan,
		state:    seed.State,
		restarts: seed.Restarts,
		lastExit: seed.LastExit,
		number:   seed.Number,
		booted:   make(chan struct{}),
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrShuttingDown()
	}
	s.units[u] = struct{}{}
	if r := seed.Running; r != nil {
		u.unhealthy, u.history = r.Unhealthy, History{InRow: r.InRow}
		for _, age := range r.Ages {
			u.history.Restarts = append(u.history.Restarts, s.now()-age)
		}
		u.attempt++
		u.adopt(r.Instance)
		u.serve()
		u.misses, u.ready = r.Misses, r.Ready
	}
	u.publish()
	go u.run()
	return u, nil
}

// ErrUnsettled is a unit that is on its way from one state to another, and cannot
// be handed over before it is there.
var ErrUnsettled = errors.New("the unit is between two states")

// Freeze stops every unit where it stands, so that nothing is decided any more, and
// returns what each that runs is to be handed over with; nil for one that does not
// run. thaw lets them go on. The error is [ErrUnsettled] where a unit is starting or
// stopping, or the journal's; all go on then.
func (s *Supervisor) Freeze() (running map[*Unit]*Running, thaw func(), err error) {
	s.mu.Lock()
	units := make([]*Unit, 0, len(s.units))
	for u := range s.units {
		units = append(units, u)
	}
	s.mu.Unlock()
	goOn := make(chan struct{})
	thaw = sync.OnceFunc(func() { close(goOn) })
	running = map[*Unit]*Running{}
	for _, u := range units {
		reply := make(chan frozen, 1)
		if !u.post(freezeMsg{reply, goOn}) {
			continue
		}
		f := <-reply
		if f.err != nil {
			thaw()
			return nil, nil, f.err
		}
		running[u] = f.running
	}
	return running, thaw, nil
}

func (s *Supervisor) forget(u *Unit) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.units, u)
}

// ErrShuttingDown is the refusal of everything once the daemon is on its way out.
func ErrShuttingDown() *solo.Error {
	return solo.Errorf(solo.CodeShuttingDown, "the daemon is shutting down").Retry(time.Second)
}

// Candidate is an instance that has proved that it serves and belongs to no unit
// yet: commit it to one, or end it.
type Candidate struct {
	Instance
	plan    Plan
	release func()
}

// Prepare starts an instance of a plan that nothing else runs yet. The error of
// a start that failed is a *[StartError]; nothing is left then. The caller ends
// the candidate by [Unit.Commit] or [Candidate.Abort].
func (s *Supervisor) Prepare(ctx context.Context, plan Plan, number int) (*Candidate, error) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil, ErrShuttingDown()
	}
	s.candidates.Add(1)
	s.mu.Unlock()
	release := sync.OnceFunc(s.candidates.Done)

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	inst, err := s.cfg.Launcher.Launch(ctx, plan, number)
	if err != nil {
		release()
		if s.ctx.Err() != nil {
			return nil, ErrShuttingDown()
		}
		return nil, err
	}
	return &Candidate{Instance: inst, plan: plan, release: release}, nil
}

// Abort ends the candidate at once and returns when nothing of it is left.
func (c *Candidate) Abort() {
	c.Stop(solo.ReasonKilled, 0, true)
	c.release()
}
