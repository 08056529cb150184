package supervisor

import (
	"context"
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
	u.publish()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrShuttingDown()
	}
	s.units[u] = struct{}{}
	go u.run()
	return u, nil
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
