package supervisor_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/solo-run/solo/pkg/solo"
	. "github.com/solo-run/solo/pkg/supervisor"
)

// process is a scripted instance.
type process struct {
	number  int
	started time.Time
	done    chan struct{}
	once    sync.Once

	mu          sync.Mutex
	exit        solo.Exit
	stubborn    bool
	ping, ready error
	takes       time.Duration
	stops       []string
}

func (p *process) Number() int                  { return p.number }
func (p *process) PID() int                     { return 1000 + p.number }
func (p *process) StartedAt() time.Time         { return p.started }
func (p *process) Done() <-chan struct{}        { return p.done }
func (p *process) Isolation() map[string]string { return nil }
func (p *process) Usage() (*solo.Usage, error)  { return &solo.Usage{}, nil }

func (p *process) Exit() solo.Exit {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.exit
}

func (p *process) end(reason solo.Reason) {
	p.once.Do(func() {
		p.mu.Lock()
		p.exit = solo.Exit{Reason: reason, At: time.Now(), RanMS: time.Since(p.started).Milliseconds(), Instance: p.number}
		p.mu.Unlock()
		close(p.done)
	})
}

func (p *process) Stop(reason solo.Reason, timeout time.Duration, force bool) {
	p.mu.Lock()
	p.stops = append(p.stops, fmt.Sprintf("%s %v %v", reason, timeout, force))
	stubborn := p.stubborn
	p.mu.Unlock()
	if stubborn && !force {
		select {
		case <-time.After(timeout):
		case <-p.done:
		}
	}
	p.end(reason)
}

func (p *process) answers(ping, ready error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ping, p.ready = ping, ready
}

func (p *process) Ping(context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ping
}

// Health answers as the author's would: a process that does not answer at all
// does not answer this either.
func (p *process) Health(ctx context.Context) error {
	p.mu.Lock()
	ping, ready, takes := p.ping, p.ready, p.takes
	p.mu.Unlock()
	if ping != nil {
		return ping
	}
	select {
	case <-time.After(takes):
		return ready
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *process) Call(ctx context.Context, req *solo.InvokeRequest) (*solo.InvokeReply, error) {
	select {
	case <-p.done:
		return nil, solo.Errorf(solo.CodeUnavailable, "it died")
	default:
	}
	if req.Method == "wait" {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return &solo.InvokeReply{Body: []byte(fmt.Sprint(p.number))}, nil
}

// world is a launcher and a journal whose every step the test sees.
type world struct {
	t   *testing.T
	sup *Supervisor

	mu       sync.Mutex
	launches []int
	procs    []*process
	changes  []Change
	refuse   error
	// fail and slow script the next starts.
	fail map[int]solo.Reason
	slow map[int]time.Duration
}

func newWorld(t *testing.T) (*world, func()) {
	w := &world{t: t, fail: map[int]solo.Reason{}, slow: map[int]time.Duration{}}
	w.sup = New(Config{Launcher: w, Journal: w, Grace: 3 * time.Second, BootParallel: 2, Jitter: func() float64 { return 0 }})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); w.sup.Run(ctx) }()
	return w, func() { cancel(); <-ended }
}

func (w *world) Launch(ctx context.Context, plan Plan, number int) (Instance, error) {
	w.mu.Lock()
	w.launches = append(w.launches, number)
	reason, slow := w.fail[number], w.slow[number]
	w.mu.Unlock()
	if slow > 0 {
		select {
		case <-time.After(slow):
		case <-ctx.Done():
			return nil, &StartError{solo.Exit{Reason: solo.ReasonKilled}}
		}
	}
	if reason != "" {
		return nil, &StartError{solo.Exit{Reason: reason, At: time.Now()}}
	}
	p := &process{number: number, started: time.Now(), done: make(chan struct{})}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.procs = append(w.procs, p)
	return p, nil
}

func (w *world) Record(_ solo.Key, c Change) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.refuse != nil {
		return w.refuse
	}
	w.changes = append(w.changes, c)
	return nil
}

func (w *world) setRefuse(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refuse = err
}

func (w *world) last() *process {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.procs[len(w.procs)-1]
}

// story is the journal in words, and empties it.
func (w *world) story() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for _, c := range w.changes {
		line := fmt.Sprintf("%s %s", c.Kind, c.State)
		if c.Exit != nil {
			line += " " + string(c.Exit.Reason)
		}
		if c.Cause != "" {
			line += " " + string(c.Cause)
		}
		out = append(out, line)
	}
	w.changes = nil
	return out
}

func (w *world) expect(want ...string) {
	w.t.Helper()
	synctest.Wait()
	got := w.story()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		w.t.Fatalf("the journal says %q, want %q", got, want)
	}
}

func (w *world) state(u *Unit, want solo.State) {
	w.t.Helper()
	synctest.Wait()
	if got := u.View().State; got != want {
		w.t.Fatalf("the unit is %s, want %s", got, want)
	}
}

func plan() Plan {
	s := solo.DefaultSettings("s", solo.DefaultLimits())
	return Plan{Key: solo.Key{Tenant: "t", Service: "s"}, Version: 1, Settings: s}
}

func (w *world) add(p Plan) *Unit {
	w.t.Helper()
	u, err := w.sup.Add(Seed{Plan: p, State: solo.StateStopped})
	if err != nil {
		w.t.Fatal(err)
	}
	return u
}

// deployed is a unit that serves, as a deploy makes it.
func (w *world) deployed(p Plan) *Unit {
	w.t.Helper()
	u := w.add(p)
	c, err := w.sup.Prepare(context.Background(), p, 1)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := u.Commit(c); err != nil {
		w.t.Fatal(err)
	}
	w.state(u, solo.StateRunning)
	return u
}

// simulate runs a test in simulated time, with every goroutine gone at its end.
func simulate(t *testing.T, test func(*testing.T, *world)) {
	synctest.Test(t, func(t *testing.T) {
		w, end := newWorld(t)
		defer end()
		test(t, w)
	})
}

func TestCrashRestartsAtOnceThenBacksOff(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		u := w.deployed(plan())
		w.last().end(solo.ReasonPanic)
		w.expect("ended starting panic", "started running restart")
		w.state(u, solo.StateRunning)
		if v := u.View(); v.Restarts != 1 || v.LastExit.Reason != solo.ReasonPanic || v.Instance.Number() != 2 {
			t.Fatalf("after one crash: %+v", v)
		}
		w.last().end(solo.ReasonSignal)
		w.expect("ended backoff signal")
		at := time.Now()
		if v := u.View(); v.State != solo.StateBackoff || v.Instance != nil || v.NextStart.Sub(at) != 100*time.Millisecond {
			t.Fatalf("after two crashes: %+v", v)
		}
		if _, err := u.Call(t.Context(), &solo.InvokeRequest{}); solo.CodeOf(err) != solo.CodeNotRunning || solo.AsError(err).RetryAfter != 100*time.Millisecond {
			t.Fatalf("a call in backoff: %v", err)
		}
		time.Sleep(100 * time.Millisecond)
		w.expect("started running restart")
		w.state(u, solo.StateRunning)
	})
}

func TestBudgetSpentIsFailedUntilSomeoneActs(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		p := plan()
		p.Settings.RestartLimits.MaxRestarts = 1
		u := w.deployed(p)
		w.last().end(solo.ReasonExitCode)
		w.expect("ended starting exit_code", "started running restart")
		w.last().end(solo.ReasonExitCode)
		w.expect("ended failed exit_code")
		time.Sleep(24 * time.Hour)
		w.state(u, solo.StateFailed)
		w.expect()

		if err := u.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.expect("wanted starting", "started running restart")
		if v := u.View(); v.Restarts != 0 {
			t.Fatalf("restarts = %d after a restart by hand", v.Restarts)
		}
		// The budget is fresh: one more crash is one restart.
		w.last().end(solo.ReasonExitCode)
		w.expect("ended starting exit_code", "started running restart")
	})
}

func TestFailedStartSpendsTheBudget(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		p := plan()
		p.Settings.RestartLimits.MaxRestarts = 2
		u := w.deployed(p)
		w.fail[2], w.fail[3] = solo.ReasonStartTimeout, solo.ReasonPanic
		w.last().end(solo.ReasonExitCode)
		w.expect("ended starting exit_code", "ended backoff start_timeout")
		time.Sleep(100 * time.Millisecond)
		w.expect("ended failed panic")
		w.state(u, solo.StateFailed)
	})
}

func TestTransientEndsForGoodOnExitZero(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		p := plan()
		p.Settings.Restart = solo.RestartTransient
		u := w.deployed(p)
		w.last().end(solo.ReasonClean)
		w.expect("ended stopped clean")
		w.state(u, solo.StateStopped)
	})
}

func TestKillWinsOverTheRestarter(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		u := w.deployed(plan())
		w.last().stubborn = true
		asked := time.Now()
		both := make(chan error, 2)
		for range 2 {
			go func() { both <- u.Kill(t.Context(), nil, false) }()
		}
		w.state(u, solo.StateStopping)
		w.expect("stopping stopping")
		if _, err := u.Call(t.Context(), &solo.InvokeRequest{}); solo.CodeOf(err) != solo.CodeNotRunning {
			t.Fatalf("a call while stopping: %v", err)
		}
		for range 2 {
			if err := <-both; err != nil {
				t.Fatal(err)
			}
		}
		if waited := time.Since(asked); waited != 5*time.Second {
			t.Errorf("a stubborn process got %v, want its stop timeout of 5s", waited)
		}
		w.expect("killed stopped killed")
		if err := u.Kill(t.Context(), nil, false); err != nil {
			t.Fatalf("killing what is stopped: %v", err)
		}
		w.expect()
		if len(w.launches) != 1 {
			t.Errorf("launches: %v", w.launches)
		}
	})
}

func TestForceShortensAKillUnderWay(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		u := w.deployed(plan())
		w.last().stubborn = true
		asked := time.Now()
		first := make(chan error, 1)
		go func() { first <- u.Kill(t.Context(), nil, false) }()
		w.state(u, solo.StateStopping)
		if err := u.Kill(t.Context(), nil, true); err != nil {
			t.Fatal(err)
		}
		if err := <-first; err != nil {
			t.Fatal(err)
		}
		if waited := time.Since(asked); waited != 0 {
			t.Errorf("force took %v", waited)
		}
	})
}

func TestKillDuringAStartAndInBackoff(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		u := w.deployed(plan())
		w.slow[2] = time.Hour
		w.last().end(solo.ReasonPanic)
		w.state(u, solo.StateStarting)
		if err := u.Kill(t.Context(), nil, false); err != nil {
			t.Fatal(err)
		}
		w.expect("ended starting panic", "stopping stopping", "killed stopped")

		if err := u.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.last().end(solo.ReasonPanic)
		w.expect("wanted starting", "started running restart", "ended starting panic", "started running restart")
		w.last().end(solo.ReasonPanic)
		w.state(u, solo.StateBackoff)
		if err := u.Kill(t.Context(), nil, false); err != nil {
			t.Fatal(err)
		}
		w.expect("ended backoff panic", "stopping stopping", "killed stopped")
		launches := len(w.launches)
		time.Sleep(time.Hour)
		if len(w.launches) != launches {
			t.Errorf("the timer of the backoff started a killed unit")
		}
	})
}

func TestRestartByHand(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		u := w.deployed(plan())
		old := w.last()
		if err := u.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(old.stops) != "[killed 5s false]" {
			t.Errorf("the old instance was stopped by %q", old.stops)
		}
		w.expect("started running restart")
		// In backoff it does not wait for the timer.
		w.last().end(solo.ReasonPanic)
		synctest.Wait()
		w.last().end(solo.ReasonPanic)
		w.state(u, solo.StateBackoff)
		at := time.Now()
		if err := u.Restart(t.Context()); err != nil || time.Since(at) != 0 {
			t.Fatalf("a restart in backoff: %v after %v", err, time.Since(at))
		}
		w.story()
		// One whose start fails says so, and the policy goes on.
		w.fail[u.View().Instance.Number()+1] = solo.ReasonStartTimeout
		var start *StartError
		if err := u.Restart(t.Context()); !errors.As(err, &start) || start.Exit.Reason != solo.ReasonStartTimeout {
			t.Fatalf("a restart whose start fails: %v", err)
		}
		w.expect("ended starting start_timeout", "started running restart")
		// After a kill that is under way, it starts what the kill has stopped.
		w.last().stubborn = true
		killed := make(chan error, 1)
		go func() { killed <- u.Kill(t.Context(), nil, false) }()
		w.state(u, solo.StateStopping)
		if err := u.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := <-killed; err != nil {
			t.Fatal(err)
		}
		w.expect("stopping stopping", "killed stopped killed", "wanted starting", "started running restart")
	})
}

func TestNothingIsKilledThatTheLogCannotRecord(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		u := w.deployed(plan())
		full := errors.New("disk full")
		w.setRefuse(full)
		if err := u.Kill(t.Context(), nil, false); !errors.Is(err, full) {
			t.Fatalf("Kill = %v", err)
		}
		w.state(u, solo.StateRunning)
		// A crash is mended all the same, and told once there is room.
		w.last().end(solo.ReasonPanic)
		w.state(u, solo.StateRunning)
		time.Sleep(5500 * time.Millisecond)
		w.setRefuse(nil)
		w.expect()
		time.Sleep(time.Second)
		w.expect("ended starting panic", "started running restart")
		if err := u.Kill(t.Context(), nil, false); err != nil {
			t.Fatal(err)
		}
	})
}

func TestLiveness(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		u := w.deployed(plan())
		hung := w.last()
		hung.answers(errors.New("no answer"), nil)
		// Half an interval off the probes, so that each step meets a known number.
		time.Sleep(2*5*time.Second + 2500*time.Millisecond)
		w.expect()
		hung.answers(nil, nil)
		time.Sleep(5 * time.Second)
		hung.answers(errors.New("no answer"), nil)
		time.Sleep(2 * 5 * time.Second)
		w.expect() // the misses were not in a row
		time.Sleep(5 * time.Second)
		w.expect("unhealthy running", "ended starting unhealthy", "started running restart", "ready running")
		if fmt.Sprint(hung.stops) != "[unhealthy 0s true]" {
			t.Errorf("the hung instance was stopped by %q", hung.stops)
		}
		w.state(u, solo.StateRunning)
	})
}

// An author's Health that hangs says nothing about the process.
func TestAHealthThatHangsIsNoDeath(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		u := w.deployed(plan())
		p := w.last()
		p.mu.Lock()
		p.takes = time.Second // of the two that it has
		p.mu.Unlock()
		time.Sleep(time.Minute)
		w.expect()
		p.mu.Lock()
		p.takes = time.Hour
		p.mu.Unlock()
		time.Sleep(time.Minute)
		w.expect("unhealthy running")
		p.mu.Lock()
		p.takes = 0
		p.mu.Unlock()
		time.Sleep(10 * time.Second)
		w.expect("ready running")
		if len(p.stops) != 0 {
			t.Errorf("it was stopped by %q", p.stops)
		}
		w.state(u, solo.StateRunning)
	})
}

func TestReadinessTakesCallsAwayAndKillsNothing(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		u := w.deployed(plan())
		p := w.last()
		p.answers(nil, errors.New("warming"))
		time.Sleep(5500 * time.Millisecond)
		w.expect("unhealthy running")
		if _, err := u.Call(t.Context(), &solo.InvokeRequest{}); solo.CodeOf(err) != solo.CodeNotReady {
			t.Fatalf("a call of what is not ready: %v", err)
		}
		time.Sleep(time.Hour)
		w.expect()
		p.answers(nil, nil)
		time.Sleep(5 * time.Second)
		w.expect("ready running")
		if _, err := u.Call(t.Context(), &solo.InvokeRequest{}); err != nil {
			t.Fatal(err)
		}
		if len(p.stops) != 0 {
			t.Errorf("it was stopped by %q", p.stops)
		}
	})
}

func TestCallsWaitForAStart(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		u := w.deployed(plan())
		w.slow[2] = 3 * time.Second
		w.last().end(solo.ReasonPanic)
		w.state(u, solo.StateStarting)
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := u.Call(short, &solo.InvokeRequest{}); solo.CodeOf(err) != solo.CodeDeadlineExceeded {
			t.Fatalf("a short call: %v", err)
		}
		reply, err := u.Call(t.Context(), &solo.InvokeRequest{})
		if err != nil || string(reply.Body) != "2" {
			t.Fatalf("a patient call: %v %v", reply, err)
		}
	})
}

func TestCallsOfOneUnitAreBounded(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		u := w.deployed(plan())
		ctx, cancel := context.WithCancel(t.Context())
		var calls sync.WaitGroup
		for range MaxInflight {
			calls.Go(func() { u.Call(ctx, &solo.InvokeRequest{Method: "wait"}) })
		}
		synctest.Wait()
		if _, err := u.Call(t.Context(), &solo.InvokeRequest{}); solo.CodeOf(err) != solo.CodeRateLimited {
			t.Fatalf("call %d: %v", MaxInflight+1, err)
		}
		cancel()
		calls.Wait()
		if _, err := u.Call(t.Context(), &solo.InvokeRequest{}); err != nil {
			t.Fatalf("a call after the flood: %v", err)
		}
	})
}

func TestBootStartsBoundedAndCountsNothing(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		for n := 1; n <= 6; n++ {
			w.slow[n] = time.Second
		}
		var units []*Unit
		var outcomes []<-chan struct{}
		at := time.Now()
		for i := range 6 {
			p := plan()
			p.Key.Service = fmt.Sprint("s", i)
			u, err := w.sup.Add(Seed{Plan: p, State: solo.StateStopped, Number: i, Restarts: 3})
			if err != nil {
				t.Fatal(err)
			}
			units = append(units, u)
			outcomes = append(outcomes, u.Boot())
		}
		for _, o := range outcomes {
			<-o
		}
		if took := time.Since(at); took != 3*time.Second {
			t.Errorf("six starts of 1 s, two at once, took %v", took)
		}
		for i, u := range units {
			if v := u.View(); v.State != solo.StateRunning || v.Restarts != 3 || v.Instance.Number() != i+1 {
				t.Errorf("unit %d: %+v", i, v)
			}
		}
	})
}

func TestBootOutcomeOfAFailedStart(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		w.fail[1] = solo.ReasonPanic
		u := w.add(plan())
		<-u.Boot()
		w.expect("ended starting panic", "started running restart")
	})
}

func TestShutdownEndsAllInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, end := newWorld(t)
		u := w.deployed(plan())
		w.last().stubborn = true
		starting := plan()
		starting.Key.Service = "starting"
		w.slow[1] = time.Hour
		v := w.add(starting)
		v.Boot()
		synctest.Wait()
		at := time.Now()
		end()
		if took := time.Since(at); took != 3*time.Second {
			t.Errorf("the shutdown took %v, want the grace of 3s", took)
		}
		if err := u.Restart(context.Background()); solo.CodeOf(err) != solo.CodeShuttingDown {
			t.Errorf("a restart after the shutdown: %v", err)
		}
		if _, err := w.sup.Prepare(context.Background(), plan(), 9); solo.CodeOf(err) != solo.CodeShuttingDown {
			t.Errorf("a deploy after the shutdown: %v", err)
		}
		if got := fmt.Sprint(w.story()); got != "[shutdown starting shutdown starting]" && got != "[shutdown starting shutdown starting shutdown]" {
			t.Errorf("the journal says %s", got)
		}
	})
}

func TestCandidateIsNobodysUntilCommit(t *testing.T) {
	simulate(t, func(t *testing.T, w *world) {
		u := w.add(plan())
		c, err := w.sup.Prepare(t.Context(), plan(), 1)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := u.Call(t.Context(), &solo.InvokeRequest{}); solo.CodeOf(err) != solo.CodeNotRunning {
			t.Errorf("a call before the commit: %v", err)
		}
		c.Abort()
		select {
		case <-c.Done():
		default:
			t.Error("an aborted candidate runs on")
		}
		w.state(u, solo.StateStopped)
		w.expect()
	})
}

// Every command in every state, at random, against a crash loop: each is
// answered, at most one instance lives, and the end is what the last one said.
func TestAnyCommandInAnyState(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		steps := rapid.SliceOfN(rapid.SampledFrom([]string{"kill", "force", "restart", "crash", "wait", "call", "refuse", "accept"}), 1, 40).Draw(rt, "steps")
		slow := rapid.IntRange(0, 300).Draw(rt, "slow")
		stubborn := rapid.Bool().Draw(rt, "stubborn")
		bad := rapid.IntRange(1, 5).Draw(rt, "bad")
		synctest.Test(t, func(t *testing.T) {
			w, end := newWorld(t)
			for n := 2; n < 200; n++ {
				w.slow[n] = time.Duration(slow) * time.Millisecond
				if n%bad == 0 && bad > 1 {
					w.fail[n] = solo.ReasonExitCode
				}
			}
			u := w.deployed(plan())
			var commands sync.WaitGroup
			for _, step := range steps {
				w.mu.Lock()
				for _, p := range w.procs {
					p.mu.Lock()
					p.stubborn = stubborn
					p.mu.Unlock()
				}
				w.mu.Unlock()
				switch step {
				case "kill":
					commands.Go(func() { u.Kill(context.Background(), nil, false) })
				case "force":
					commands.Go(func() { u.Kill(context.Background(), nil, true) })
				case "restart":
					commands.Go(func() { u.Restart(context.Background()) })
				case "crash":
					if v := u.View(); v.Instance != nil {
						v.Instance.(*process).end(solo.ReasonPanic)
					}
				case "call":
					commands.Go(func() {
						ctx, cancel := context.WithTimeout(context.Background(), time.Second)
						defer cancel()
						u.Call(ctx, &solo.InvokeRequest{})
					})
				case "wait":
					time.Sleep(150 * time.Millisecond)
				case "refuse":
					w.setRefuse(errors.New("full"))
				case "accept":
					w.setRefuse(nil)
				}
				synctest.Wait()
				living := 0
				for _, p := range w.procs {
					select {
					case <-p.done:
					default:
						living++
					}
				}
				if living > 1 {
					t.Fatalf("%d instances live after %v", living, steps)
				}
			}
			w.setRefuse(nil)
			commands.Wait()
			if err := u.Kill(context.Background(), nil, true); err != nil {
				t.Fatalf("the last kill: %v", err)
			}
			if v := u.View(); v.State != solo.StateStopped || v.Instance != nil {
				t.Fatalf("after the last kill: %+v", v)
			}
			time.Sleep(time.Minute)
			w.state(u, solo.StateStopped)
			end()
		})
	})
}
