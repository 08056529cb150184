package engine

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/solo-run/solo/pkg/solo"
	"github.com/solo-run/solo/pkg/supervisor"
)

// waiting is a wait, checked.
type waiting struct {
	key     solo.Key
	until   solo.WaitUntil
	match   *regexp.Regexp
	timeout time.Duration
	// events and lines are the cursors: what is before them does not count.
	events, lines uint64
	// event and line are the evidence that was found.
	event *solo.Event
	line  *solo.LogLine
	// instance is whose lines were looked at.
	instance int
}

// maxLogMatch bounds an expression, in bytes.
const maxLogMatch = 1024

// Wait returns once all that was asked for holds at once. A service that is
// being deployed for the first time is waited for. The error of a wait that took
// too long is timeout, with the state that was reached.
func (e *Engine) Wait(ctx context.Context, p solo.Principal, req *solo.WaitRequest) (*solo.WaitResult, error) {
	w, err := e.waiting(p, req)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	for {
		s := e.lookup(w.key)
		if s == nil && e.deploying(w.key) == nil {
			if err := e.serves(); err != nil {
				return nil, err
			}
			return nil, errNotFound(w.key)
		}
		var view *supervisor.View
		if s != nil {
			view = s.unit.View()
			met, err := e.met(w, s, view)
			if err != nil {
				return nil, err
			}
			if met {
				return &solo.WaitResult{WaitedMS: time.Since(began).Milliseconds(), Service: e.answer(s), Event: w.event, Log: w.line}, nil
			}
		}
		if err := e.news(ctx, w, s, view); err != nil {
			if e.stopping.Load() {
				return nil, supervisor.ErrShuttingDown()
			}
			if errors.Is(err, context.DeadlineExceeded) {
				return nil, e.waitedInVain(w, time.Since(began))
			}
			return nil, solo.Errorf(solo.CodeUnavailable, "the caller went away").Because(err)
		}
	}
}

func (e *Engine) waiting(p solo.Principal, req *solo.WaitRequest) (*waiting, error) {
	var faults []solo.Field
	bad := func(field, format string, args ...any) {
		faults = append(faults, solo.Field{Field: field, Message: fmt.Sprintf(format, args...)})
	}
	w := &waiting{key: solo.Key{Tenant: p.Tenant}, timeout: solo.DefaultWaitTimeout, events: e.LastEventID()}
	if req.ServiceID == nil {
		bad("service_id", "is required")
	} else if err := solo.CheckID(*req.ServiceID); err != nil {
		bad("service_id", "%s", err)
	} else {
		w.key.Service = *req.ServiceID
	}
	if p.Tenant == "" {
		bad("tenant_id", "is required: an operator's waits name a tenant")
	}
	if req.Until != nil {
		w.until = *req.Until
	}
	u := w.until
	if u.State == nil && u.Version == nil && u.EventType == nil && u.LogMatch == nil {
		bad("until", "must name at least one of state, version, event_type and log_match")
	}
	if u.State != nil {
		known := false
		for _, s := range solo.States() {
			known = known || string(s) == *u.State
		}
		if !known {
			bad("until.state", "is not a state")
		}
	}
	if u.Version != nil && *u.Version < 1 {
		bad("until.version", "must be 1 or more")
	}
	if u.EventType != nil && (*u.EventType == "" || len(*u.EventType) > 128) {
		bad("until.event_type", "must be 1 to 128 bytes")
	}
	if u.LogMatch != nil {
		if *u.LogMatch == "" || len(*u.LogMatch) > maxLogMatch {
			bad("until.log_match", "must be 1 to %d bytes", maxLogMatch)
		} else if re, err := regexp.Compile(*u.LogMatch); err == nil {
			w.match = re
		}
		// What is no expression is a text all the same.
	}
	if req.SinceID != nil {
		w.events = *req.SinceID
	}
	if ms := req.TimeoutMS; ms != nil {
		if *ms < 0 || int64(*ms) > solo.MaxWaitTimeout.Milliseconds() {
			bad("timeout_ms", "must be from 0 to %d", solo.MaxWaitTimeout.Milliseconds())
		}
		w.timeout = time.Duration(*ms) * time.Millisecond
	}
	if len(faults) > 0 {
		return nil, solo.InvalidFields(faults...)
	}
	return w, nil
}

// met looks whether all holds now. What an event or a line proved stays proved.
func (e *Engine) met(w *waiting, s *service, v *supervisor.View) (bool, error) {
	u := w.until
	met := true
	if u.State != nil && string(v.State) != *u.State {
		met = false
	}
	if u.Version != nil && s.record.Load().Version != *u.Version {
		met = false
	}
	if u.EventType != nil && w.event == nil {
		page, err := e.cfg.Events.Page(solo.EventQuery{
			Tenant: w.key.Tenant, ServiceID: w.key.Service, Type: solo.EventType(*u.EventType), SinceID: w.events, Limit: 1,
		})
		if err != nil {
			return false, err
		}
		w.events = page.NextSinceID
		if len(page.Events) > 0 {
			w.event = &page.Events[0]
		}
	}
	if u.LogMatch != nil {
		if err := e.matchLog(w, v); err != nil {
			return false, err
		}
	}
	return met && (u.EventType == nil || w.event != nil) && (u.LogMatch == nil || w.line != nil), nil
}

// matchLog looks for the text in the lines of the present instance.
func (e *Engine) matchLog(w *waiting, v *supervisor.View) error {
	if v.Instance == nil {
		return nil
	}
	if n := v.Instance.Number(); n != w.instance {
		w.instance, w.lines, w.line = n, 0, nil
	}
	for w.line == nil {
		page, err := e.cfg.Logs.Page(solo.LogQuery{
			Tenant: w.key.Tenant, ServiceID: w.key.Service, Instance: w.instance, SinceID: w.lines, Limit: solo.MaxLimit,
		})
		if err != nil {
			return err
		}
		for i := range page.Logs {
			text := page.Logs[i].Line
			if strings.Contains(text, *w.until.LogMatch) || w.match != nil && w.match.MatchString(text) {
				w.line = &page.Logs[i]
				return nil
			}
		}
		w.lines = page.NextSinceID
		if len(page.Logs) < solo.MaxLimit {
			return nil
		}
	}
	return nil
}

// firstDeploy is how often a service that is not there yet is looked for.
const firstDeploy = 50 * time.Millisecond

// news returns once something may have changed, or with ctx's error.
func (e *Engine) news(ctx context.Context, w *waiting, s *service, v *supervisor.View) error {
	if s == nil {
		select {
		case <-time.After(firstDeploy):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	woken := make(chan error, 2)
	n := 0
	if w.until.EventType != nil && w.event == nil {
		n++
		go func() { woken <- e.cfg.Events.Wait(ctx, w.events) }()
	}
	if w.until.LogMatch != nil && w.line == nil {
		n++
		after := max(w.lines, e.cfg.Logs.LastID())
		if w.instance != 0 {
			after = w.lines
		}
		go func() { woken <- e.cfg.Logs.Wait(ctx, w.key.Tenant, after) }()
	}
	var err error
	select {
	case err = <-woken:
		n--
	case <-v.Changed():
	case <-ctx.Done():
		err = ctx.Err()
	}
	cancel()
	for ; n > 0; n-- {
		<-woken
	}
	return err
}

// waitedInVain tells what was reached, and how to go on waiting.
func (e *Engine) waitedInVain(w *waiting, waited time.Duration) error {
	err := solo.Errorf(solo.CodeTimeout, "what was waited for did not come within %v", w.timeout).
		With("waited_ms", waited.Milliseconds()).With("next_since_id", w.events)
	if s := e.lookup(w.key); s != nil {
		v := s.unit.View()
		err = err.With("state", v.State).With("ready", v.Ready).With("version", s.record.Load().Version).With("last_exit", v.LastExit)
	} else {
		err = err.With("state", nil)
	}
	return err
}
