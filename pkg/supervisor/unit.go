package supervisor

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/solo-run/solo/pkg/solo"
)

// Unit is one service and the goroutine that owns it. Its methods may be called
// by many goroutines at once.
type Unit struct {
	sup   *Supervisor
	inbox chan any
	done  chan struct{}
	view  atomic.Pointer[View]
	// inflight counts calls, those that wait for a start included.
	inflight atomic.Int64
	// booted closes at the first outcome of a start at boot.
	booted chan struct{}

	// What follows belongs to the goroutine alone.

	plan     Plan
	state    solo.State
	ready    bool
	restarts int
	lastExit *solo.Exit
	history  History
	number   int
	inst     Instance
	// attempt names the present incarnation; timers and probes of another are late.
	attempt   uint64
	nextStart time.Time
	launch    *launch
	stopping  *stopOrder
	// restarters and killers wait for an outcome.
	restarters []chan<- error
	killers    []chan<- error
	misses     int
	// unhealthy is set from a failed probe until the unit is ready again.
	unhealthy bool
	// pending are changes that the journal has refused, oldest first; retrying
	// tells that a timer is set to offer them again.
	pending  []Change
	retrying bool
	booting  bool
	finished bool
}

// launch is a start under way.
type launch struct {
	cancel context.CancelFunc
	cause  Cause
	byHand bool
}

// stopOrder says why the unit is stopping and what comes then.
type stopOrder struct {
	kind stopKind
	// again: someone asked for a restart while a kill was on its way.
	again bool
}

type stopKind int

const (
	stopForRestart stopKind = iota
	stopForKill
	stopForShutdown
)

type (
	bootMsg    struct{}
	commitMsg  struct{ candidate *Candidate }
	restartMsg struct{}
	killMsg    struct {
		timeout *time.Duration
		force   bool
	}
	removeMsg   struct{}
	shutdownMsg struct{}
	// freezeMsg is answered with what is handed over; the unit then waits for thaw.
	freezeMsg struct {
		reply chan<- frozen
		thaw  <-chan struct{}
	}
	launchedMsg struct {
		inst Instance
		err  error
	}
	endedMsg struct{ inst Instance }
	timerMsg struct {
		attempt uint64
		kind    timerKind
	}
	probeMsg struct {
		attempt     uint64
		live, ready error
	}
	// command is a message that is answered.
	command struct {
		msg   any
		reply chan<- error
	}
)

type timerKind int

const (
	timerStart timerKind = iota
	timerProbe
	timerJournal
)

// post hands a message to the goroutine; false if it has ended.
func (u *Unit) post(m any) bool {
	select {
	case u.inbox <- m:
		return true
	case <-u.done:
		return false
	}
}

// ask hands over a command and waits for its answer. When ctx ends, only the
// waiting does.
func (u *Unit) ask(ctx context.Context, m any) error {
	reply := make(chan error, 1)
	select {
	case u.inbox <- command{m, reply}:
	case <-u.done:
		return ErrShuttingDown()
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-reply:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-u.done:
		select {
		case err := <-reply:
			return err
		default:
			return ErrShuttingDown()
		}
	}
}

// View returns the unit as it stands.
func (u *Unit) View() *View { return u.view.Load() }

// Boot starts a unit that should run, at the start of the daemon. The channel
// closes at the first outcome: it runs, or its start failed.
func (u *Unit) Boot() <-chan struct{} {
	if !u.post(bootMsg{}) {
		return u.done
	}
	return u.booted
}

// Commit makes the candidate the unit's instance, with a fresh budget. The unit
// must be stopped or failed; what records it is the caller's.
func (u *Unit) Commit(c *Candidate) error {
	reply := make(chan error, 1)
	if !u.post(command{commitMsg{c}, reply}) {
		c.Abort()
		return ErrShuttingDown()
	}
	return <-reply
}

// Restart starts the unit anew, at once, in every state, with a fresh budget and
// backoff. It returns once the new instance serves; the error of a start that
// failed is a *[StartError], and the policy goes on from there.
func (u *Unit) Restart(ctx context.Context) error { return u.ask(ctx, restartMsg{}) }

// Kill stops the unit and returns once its processes are reaped. timeout nil is
// the plan's own.
func (u *Unit) Kill(ctx context.Context, timeout *time.Duration, force bool) error {
	return u.ask(ctx, killMsg{timeout, force})
}

// Remove ends a unit that is stopped or failed; the error of another is conflict.
func (u *Unit) Remove(ctx context.Context) error { return u.ask(ctx, removeMsg{}) }

func (u *Unit) run() {
	defer close(u.done)
	defer u.sup.forget(u)
	for !u.finished {
		switch m := (<-u.inbox).(type) {
		case command:
			u.command(m)
		case bootMsg:
			u.booting = true
			u.begin(CauseBoot, false)
		case launchedMsg:
			u.onLaunched(m)
		case endedMsg:
			u.onEnded(m)
		case timerMsg:
			u.onTimer(m)
		case probeMsg:
			u.onProbe(m)
		case shutdownMsg:
			u.onShutdown()
		case freezeMsg:
			u.freeze(m)
		}
	}
	u.answer(&u.restarters, ErrShuttingDown())
	u.answer(&u.killers, ErrShuttingDown())
	u.firstOutcome()
}

// frozen is the answer to a freezeMsg.
type frozen struct {
	running *Running
	err     error
}

// freeze stands still between two messages until the thaw.
func (u *Unit) freeze(m freezeMsg) {
	var f frozen
	switch {
	case u.launch != nil || u.stopping != nil:
		f.err = ErrUnsettled
	case len(u.pending) > 0:
		f.err = u.flush()
	}
	if f.err == nil && u.inst != nil {
		f.running = &Running{Instance: u.inst, Ready: u.ready, Unhealthy: u.unhealthy, Misses: u.misses, InRow: u.history.InRow}
		for _, at := range u.history.Restarts {
			f.running.Ages = append(f.running.Ages, u.sup.now()-at)
		}
	}
	m.reply <- f
	if f.err == nil {
		<-m.thaw
	}
}

func (u *Unit) command(c command) {
	switch m := c.msg.(type) {
	case commitMsg:
		c.reply <- u.commit(m.candidate)
	case restartMsg:
		u.restarters = append(u.restarters, c.reply)
		u.restart()
	case killMsg:
		u.killers = append(u.killers, c.reply)
		u.kill(m)
	case removeMsg:
		if u.state.Live() {
			c.reply <- solo.Errorf(solo.CodeConflict, "the service is %s; only one that is stopped can be removed", u.state)
			return
		}
		u.finished = true
		c.reply <- nil
	}
}

func (u *Unit) answer(waiters *[]chan<- error, err error) {
	for _, w := range *waiters {
		w <- err
	}
	*waiters = nil
}

func (u *Unit) firstOutcome() {
	if u.booting {
		u.booting = false
		close(u.booted)
	}
}

// publish shows the unit's state to readers. Bad news is shown at once, good
// news once it is recorded.
func (u *Unit) publish() {
	old := u.view.Swap(&View{
		Plan: u.plan, State: u.state, Ready: u.ready, Restarts: u.restarts, LastExit: u.lastExit,
		Instance: u.inst, NextStart: u.nextStart, Used: u.history.used(u.plan.policy(), u.sup.now()), InRow: u.history.InRow,
		changed: make(chan struct{}),
	})
	if old != nil {
		close(old.changed)
	}
}

func (u *Unit) enter(s solo.State) {
	u.state = s
	u.ready = u.ready && s == solo.StateRunning
	if s != solo.StateBackoff {
		u.nextStart = time.Time{}
	}
	u.publish()
}

// begin launches the next instance.
func (u *Unit) begin(cause Cause, byHand bool) {
	ctx, cancel := context.WithCancel(context.Background())
	u.launch = &launch{cancel: cancel, cause: cause, byHand: byHand}
	u.attempt++
	u.number++
	plan, number := u.plan, u.number
	go func() {
		inst, err := u.sup.start(ctx, plan, number, cause == CauseBoot)
		u.post(launchedMsg{inst, err})
	}()
	u.enter(solo.StateStarting)
}

// start bounds how many starts of a boot run at once.
func (s *Supervisor) start(ctx context.Context, plan Plan, number int, boot bool) (Instance, error) {
	if boot {
		select {
		case s.boots <- struct{}{}:
			defer func() { <-s.boots }()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return s.cfg.Launcher.Launch(ctx, plan, number)
}

func (u *Unit) onLaunched(m launchedMsg) {
	l := u.launch
	u.launch = nil
	l.cancel()
	if m.err == nil {
		u.adopt(m.inst)
	}
	switch {
	case u.stopping != nil && m.err == nil:
		// The order to stop and the success crossed.
		go m.inst.Stop(u.stopping.reason(), 0, true)
		u.publish()
	case u.stopping != nil:
		u.stopped(nil)
	case m.err != nil:
		exit := exitOf(m.err)
		u.ended(exit, 0)
		u.answer(&u.restarters, &StartError{Exit: exit})
		u.firstOutcome()
	default:
		u.started(l.cause, l.byHand)
		u.answer(&u.restarters, nil)
		u.firstOutcome()
	}
}

// exitOf is the end that a failed start tells; one that the launcher could not
// even try is unknown, with the cause for a reader.
func exitOf(err error) solo.Exit {
	var start *StartError
	if errors.As(err, &start) {
		return start.Exit
	}
	return solo.Exit{Reason: solo.ReasonUnknown, At: time.Now().UTC(), LogTail: []string{}, Details: map[string]any{"cause": solo.AsError(err).Message}}
}

// adopt takes an instance as the unit's own and watches for its end.
func (u *Unit) adopt(inst Instance) {
	u.inst = inst
	u.number = max(u.number, inst.Number())
	go func() {
		<-inst.Done()
		u.post(endedMsg{inst})
	}()
}

// started records and then shows that the adopted instance serves.
func (u *Unit) started(cause Cause, byHand bool) {
	u.record(Change{
		Kind: ChangeStarted, State: solo.StateRunning, Restarts: u.restarts, Instance: u.inst.Number(),
		PID: u.inst.PID(), StartedAt: u.inst.StartedAt(), Cause: cause, ByHand: byHand,
	})
	u.serve()
	if u.unhealthy {
		u.unhealthy = false
		u.record(Change{Kind: ChangeReady, State: u.state, Restarts: u.restarts, Instance: u.inst.Number()})
	}
}

func (u *Unit) serve() {
	u.misses = 0
	u.ready = true
	u.enter(solo.StateRunning)
	u.nextProbe()
}

func (u *Unit) commit(c *Candidate) error {
	defer c.release()
	if u.state.Live() {
		c.Abort()
		return solo.Errorf(solo.CodeConflict, "the service is %s", u.state)
	}
	u.plan = c.plan
	u.history, u.restarts, u.lastExit, u.unhealthy = History{}, 0, nil, false
	u.attempt++
	u.adopt(c.Instance)
	u.serve()
	return nil
}

func (u *Unit) restart() {
	u.history, u.restarts = History{}, 0
	switch {
	case u.stopping != nil && u.stopping.kind == stopForShutdown:
		u.answer(&u.restarters, ErrShuttingDown())
	case u.stopping != nil:
		u.stopping.again = true
	case u.launch != nil:
		u.launch.byHand = true
		u.publish()
	case u.inst != nil:
		u.stop(stopForRestart, u.plan.stopTimeout(), false)
	default:
		if !u.state.Live() {
			if err := u.recordNow(Change{Kind: ChangeWanted, State: solo.StateStarting}); err != nil {
				u.answer(&u.restarters, err)
				return
			}
		}
		u.begin(CauseRestart, true)
	}
}

func (p Plan) stopTimeout() time.Duration { return ms(p.Settings.StopTimeoutMS) }

func (u *Unit) kill(m killMsg) {
	timeout := u.plan.stopTimeout()
	if m.timeout != nil {
		timeout = *m.timeout
	}
	switch {
	case u.stopping != nil && u.stopping.kind == stopForShutdown:
		return // answered when the unit has ended
	case u.state == solo.StateStopped:
		u.answer(&u.killers, nil)
		return
	}
	if u.stopping == nil || u.stopping.kind == stopForRestart {
		if err := u.recordNow(Change{Kind: ChangeStopping, State: solo.StateStopping, Restarts: u.restarts, Instance: u.number}); err != nil {
			u.answer(&u.killers, err)
			return
		}
	}
	u.answer(&u.restarters, solo.Errorf(solo.CodeConflict, "the service was killed meanwhile"))
	u.stop(stopForKill, timeout, m.force)
}

func (o *stopOrder) reason() solo.Reason {
	if o.kind == stopForShutdown {
		return solo.ReasonShutdown
	}
	return solo.ReasonKilled
}

// stop brings whatever runs to its end; a stop that is under way already takes
// the new order, and the shorter of the two deadlines.
func (u *Unit) stop(kind stopKind, timeout time.Duration, force bool) {
	u.stopping = &stopOrder{kind: kind}
	switch {
	case u.launch != nil:
		u.launch.cancel()
		u.enter(solo.StateStopping)
	case u.inst != nil:
		go u.inst.Stop(u.stopping.reason(), timeout, force)
		u.enter(solo.StateStopping)
	default:
		u.stopped(nil)
	}
}

// onShutdown ends the unit with the daemon.
func (u *Unit) onShutdown() {
	if u.launch == nil && u.inst == nil {
		u.flush()
		u.finished = true
		return
	}
	kind := stopForShutdown
	if u.stopping != nil && u.stopping.kind == stopForKill {
		// The kill was accepted: it is what this end is.
		kind = stopForKill
	}
	timeout := min(u.plan.stopTimeout(), u.sup.cfg.Grace)
	u.answer(&u.restarters, ErrShuttingDown())
	u.stop(kind, timeout, false)
}

func (u *Unit) onEnded(m endedMsg) {
	if m.inst != u.inst {
		return
	}
	exit := m.inst.Exit()
	u.inst = nil
	u.attempt++
	if u.stopping != nil {
		u.stopped(&exit)
		return
	}
	u.ended(exit, time.Duration(exit.RanMS)*time.Millisecond)
}

// ended lets the policy decide about an end that nobody asked for.
func (u *Unit) ended(exit solo.Exit, ran time.Duration) {
	decision, history := Decide(u.plan.policy(), u.history, exit, ran, u.sup.now(), u.sup.cfg.Jitter())
	u.history = history
	u.lastExit = &exit
	change := Change{Kind: ChangeEnded, Instance: u.number, Exit: &exit, Delay: decision.Delay}
	switch decision.Action {
	case ActionStart:
		u.restarts++
		if decision.Delay == 0 {
			// The new process starts while the end of the old one is recorded.
			u.begin(CauseRestart, false)
		} else {
			u.attempt++
			u.nextStart = time.Now().Add(decision.Delay)
			u.after(decision.Delay, timerStart)
			u.enter(solo.StateBackoff)
		}
	case ActionStop:
		u.enter(solo.StateStopped)
	case ActionFail:
		u.enter(solo.StateFailed)
	}
	change.State, change.Restarts = u.state, u.restarts
	u.record(change)
}

// stopped concludes an order to stop: nothing of the unit runs any more.
func (u *Unit) stopped(exit *solo.Exit) {
	order := u.stopping
	u.stopping = nil
	if exit != nil {
		u.lastExit = exit
	}
	switch order.kind {
	case stopForShutdown:
		u.record(Change{Kind: ChangeShutdown, State: solo.StateStarting, Restarts: u.restarts, Instance: u.number, Exit: exit})
		u.finished = true
	case stopForRestart:
		u.begin(CauseRestart, true)
	case stopForKill:
		u.attempt++
		u.unhealthy = false
		err := u.record(Change{Kind: ChangeKilled, State: solo.StateStopped, Restarts: u.restarts, Instance: u.number, Exit: exit})
		u.enter(solo.StateStopped)
		u.answer(&u.killers, err)
		u.firstOutcome()
		select {
		case <-u.sup.ctx.Done():
			u.finished = true
			return
		default:
		}
		if order.again {
			u.restart()
		}
	}
}

func (u *Unit) after(d time.Duration, kind timerKind) {
	m := timerMsg{u.attempt, kind}
	time.AfterFunc(d, func() { u.post(m) })
}

func (u *Unit) onTimer(m timerMsg) {
	if m.kind == timerJournal {
		u.retrying = false
		u.flush()
		return
	}
	if m.attempt != u.attempt || u.stopping != nil {
		return
	}
	switch m.kind {
	case timerStart:
		u.begin(CauseRestart, false)
	case timerProbe:
		u.probe(m.attempt)
	}
}
