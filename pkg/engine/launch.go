package engine

import (
	"context"
	"errors"
	"time"

	"github.com/solo-run/solo/pkg/compiler"
	"github.com/solo-run/solo/pkg/process"
	"github.com/solo-run/solo/pkg/solo"
	"github.com/solo-run/solo/pkg/supervisor"
)

// launcher starts instances for the supervisor: the artifact's binary, the
// service's log, a process.
type launcher struct{ e *Engine }

// readyPoll is how often a starting service is asked for its Health.
const readyPoll = 20 * time.Millisecond

// Launch starts an instance and returns it once the author's Health holds.
func (l launcher) Launch(ctx context.Context, plan supervisor.Plan, number int) (supervisor.Instance, error) {
	binary, err := l.binary(ctx, plan)
	if err != nil {
		return nil, err
	}
	s := plan.Settings
	out, err := l.e.cfg.Logs.Writer(plan.Key, number, plan.Version, int64(s.Limits.LogMB)<<20)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	timeout := time.Duration(s.Health.StartTimeoutMS) * time.Millisecond
	p, err := l.e.cfg.Launcher.Start(ctx, process.Spec{
		Key: plan.Key, Instance: number, Version: plan.Version, Binary: binary,
		Limits: s.Limits, Env: s.Env, Output: out, StartTimeout: timeout,
		Host: l.e.hostOf(plan.Key, number, s),
	})
	if err != nil {
		closeLog(l.e.cfg.Log, out)
		return nil, started(err)
	}
	go func() {
		<-p.Done()
		closeLog(l.e.cfg.Log, out)
	}()
	if err := untilHealthy(ctx, p, began.Add(timeout)); err != nil {
		return nil, err
	}
	return p, nil
}

type closer interface{ Close() error }

func closeLog(log Logger, out closer) {
	if err := out.Close(); err != nil {
		log.Warn("cannot close the log of an instance", "error", err)
	}
}

// started puts a failed start into the supervisor's words.
func started(err error) error {
	var start *process.StartError
	if errors.As(err, &start) {
		return &supervisor.StartError{Exit: start.Exit}
	}
	return err
}

// binary finds the artifact. One that is gone or damaged is built again from the
// stored source: slower than a start should be, and better than no service.
func (l launcher) binary(ctx context.Context, plan supervisor.Plan) (string, error) {
	path, err := l.e.cfg.Compiler.Find(plan.Artifact)
	if err == nil {
		return path, nil
	}
	s := l.e.lookup(plan.Key)
	if s == nil {
		return "", err
	}
	l.e.cfg.Log.Warn("an artifact is gone or damaged; it is built again", "artifact", plan.Artifact, "error", err)
	src, serr := l.e.sources.load(plan.Key, s.record.Load().Current.SourceDigest)
	if serr != nil {
		return "", errors.Join(err, serr)
	}
	var artifact *compiler.Artifact
	if artifact, serr = l.e.cfg.Compiler.Build(ctx, plan.Key.Tenant, src); serr != nil {
		return "", errors.Join(err, serr)
	}
	return artifact.Path, nil
}

// untilHealthy waits for the author's Health; past the deadline the start has
// failed, and nothing is left of it.
func untilHealthy(ctx context.Context, p *process.Instance, deadline time.Time) error {
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	poll := time.NewTicker(readyPoll)
	defer poll.Stop()
	var last error
	for {
		err := p.Health(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		select {
		case <-poll.C:
		case <-p.Done():
			return &supervisor.StartError{Exit: p.Exit()}
		case <-ctx.Done():
			reason := solo.ReasonStartTimeout
			if errors.Is(ctx.Err(), context.Canceled) {
				reason = solo.ReasonKilled
			}
			p.Stop(reason, 0, true)
			exit := p.Exit()
			exit.Details["step"], exit.Details["health"] = "health", last.Error()
			return &supervisor.StartError{Exit: exit}
		}
	}
}
