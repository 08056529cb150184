package engine

import (
	"context"
	"time"

	"github.com/solo-run/solo/pkg/solo"
	"github.com/solo-run/solo/pkg/store"
)

// vetting is one version whose source is to be vetted, after it went live: no
// deploy waits for warnings.
type vetting struct {
	key     solo.Key
	version int
	source  solo.Source
}

// vetQueue bounds the versions that wait; beyond it a version has no warnings.
const vetQueue = 256

// vetLater hands a version over; it never waits.
func (e *Engine) vetLater(v vetting) {
	select {
	case e.vets <- v:
	default:
		e.cfg.Log.Warn("a version is not vetted: too many wait", "tenant", v.key.Tenant, "service", v.key.Service)
	}
}

// vet vets one version after the other until ctx ends.
func (e *Engine) vet(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case v := <-e.vets:
			if e.quiet(ctx) != nil {
				return nil
			}
			warnings, err := e.cfg.Compiler.Vet(ctx, v.source)
			if err == nil && len(warnings) > 0 {
				err = e.keepWarnings(v, warnings)
			}
			if err != nil && ctx.Err() == nil {
				e.cfg.Log.Warn("cannot vet a version", "tenant", v.key.Tenant, "service", v.key.Service, "error", err)
			}
		}
	}
}

// A vet takes as long as a build: it waits until nobody has deployed for vetPause,
// and no longer than vetPatience.
const (
	vetPause    = 500 * time.Millisecond
	vetPatience = 30 * time.Second
)

// quiet waits until no deploy has been under way for vetPause.
func (e *Engine) quiet(ctx context.Context) error {
	quiet := time.Now()
	tick := time.NewTicker(vetPause / 5)
	defer tick.Stop()
	for end := time.Now().Add(vetPatience); time.Since(quiet) < vetPause && time.Now().Before(end); {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		if e.deploysNothing() != nil {
			quiet = time.Now()
		}
	}
	return nil
}

// keepWarnings stores what vet found, if the version is still the current one.
func (e *Engine) keepWarnings(v vetting, warnings []solo.Diagnostic) error {
	return e.cfg.DB.Update(func(tx *store.Tx) error {
		r, err := loadRecord(tx, v.key)
		if err != nil || r == nil || r.Version != v.version {
			return err
		}
		r.Current.Build.Warnings = warnings
		if err := saveVersion(tx, v.key, r.Current); err != nil {
			return err
		}
		return e.commit(tx, r)
	})
}
