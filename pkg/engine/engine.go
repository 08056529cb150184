package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/solo-run/solo/pkg/admission"
	"github.com/solo-run/solo/pkg/capability"
	"github.com/solo-run/solo/pkg/compiler"
	"github.com/solo-run/solo/pkg/eventlog"
	"github.com/solo-run/solo/pkg/logs"
	"github.com/solo-run/solo/pkg/metering"
	"github.com/solo-run/solo/pkg/process"
	"github.com/solo-run/solo/pkg/solo"
	"github.com/solo-run/solo/pkg/store"
	"github.com/solo-run/solo/pkg/supervisor"
	"github.com/solo-run/solo/pkg/vault"
)

// Logger is the part of the daemon's log that the engine writes to.
type Logger interface {
	Info(msg string, args ...any)
	Warn(msg string, args ...any)
	Error(msg string, args ...any)
}

// Bounds are what services and tenants are held to. They can change while the
// engine runs, for what comes after.
type Bounds struct {
	// Defaults and Ceiling are the limits of a service that asks for none, and the
	// most that one may ask for.
	Defaults, Ceiling                  solo.Limits
	MaxTenants, MaxPerTenant, MaxTotal int
	// InflightPerTenant and InflightTotal bound the calls that run or wait.
	InflightPerTenant, InflightTotal int64
	// Breaker says when calls of a service are refused because it fails them all.
	Breaker admission.Policy
	// TenantSecrets is how many a tenant may have, 0 for as many as it likes.
	TenantSecrets int
}

// Config is what an [Engine] works with; all of it is required but Isolation and Meters.
type Config struct {
	DB       *store.DB
	Events   *eventlog.Log
	Logs     *logs.Store
	Compiler *compiler.Compiler
	Launcher *process.Launcher
	// Isolation are the layers of the host, for /health.
	Isolation map[string]solo.Layer
	// SourceDir keeps the sources of the versions.
	SourceDir string
	Bounds    Bounds
	// Grace is how long a shutdown gives the services.
	Grace time.Duration
	// Parallel bounds the starts of a boot that run at once.
	Parallel int
	// Version is the daemon's own, for /health and system_started.
	Version string
	// Disk returns why the data directory can take no more, nil for as long as it can.
	Disk func() error
	// Parts are the daemon's own, in start order, for the tree.
	Parts func() []solo.TreeNode
	// Components are how those are, for /health.
	Components func() map[string]solo.Component
	// Backup writes a consistent copy of all that is kept; the vault's key is in it only
	// where it is asked for.
	Backup func(ctx context.Context, withKey bool, w io.Writer) error
	// Upgrade starts an upgrade; Adopt is what a former daemon has handed over, nil at
	// a boot of its own.
	Upgrade func(ctx context.Context, binary string) (*solo.UpgradeResult, error)
	Adopt   *Handover
	// Meters count the calls, and write what they have counted; nil counts nothing.
	Meters Meters
	// Vault keeps the secrets, Capabilities know which tokens count.
	Vault        *vault.Vault
	Capabilities *capability.Store
	// Metering keeps what services use.
	Metering *metering.Room
	// Stop is told that an operator wants the daemon to end.
	Stop func()
	Log  Logger
}

// Meters count what does not reach the log.
type Meters interface {
	// Calls returns who is told of each end of a call of the service; the code is ""
	// where it has succeeded.
	Calls(key solo.Key) func(code solo.Code, took time.Duration)
	// Expose writes the metrics of a tenant, or of all for "".
	Expose(tenant, accept string) (contentType string, body []byte, err error)
}

// Engine is the use cases. Run it before it is asked for anything that changes.
type Engine struct {
	cfg     Config
	sup     *supervisor.Supervisor
	sources *sources
	started time.Time
	bounds  atomic.Pointer[Bounds]
	calls   inflight
	bursts  bursts
	// loaded is set once every stored service is in memory, ready once each that
	// should run has had its first outcome.
	loaded, ready atomic.Bool
	// toBoot is how many services the boot starts, booted how many had an outcome.
	toBoot, booted atomic.Int64
	// stopping is set once the daemon is on its way out.
	stopping atomic.Bool

	vets chan vetting
	// purging is held by who forgets files of a service, and shared by who needs
	// that what the disk names is there.
	purging sync.RWMutex
	// stubborn are the services that had to be killed at the shutdown.
	stubborn struct {
		mu    sync.Mutex
		names []string
	}

	mu       sync.RWMutex
	services map[solo.Key]*service
	slots    map[solo.Key]*slot
	// answering are the keys of requests under way.
	answering map[answerKey]bool
}

// service is one service in memory: its record as last committed, and its unit.
type service struct {
	record atomic.Pointer[record]
	unit   *supervisor.Unit
	// ordered is who has asked last for a kill or a restart, for the event of it.
	ordered atomic.Pointer[map[string]any]
	breaker admission.Breaker
	// ended is told of the end of each call.
	ended func(code solo.Code, took time.Duration)
}

// Open returns an engine over its rooms. It starts nothing.
func Open(cfg Config) (*Engine, error) {
	src, err := openSources(cfg.SourceDir)
	if err != nil {
		return nil, err
	}
	e := &Engine{
		cfg: cfg, sources: src, started: time.Now(), vets: make(chan vetting, vetQueue),
		services: map[solo.Key]*service{}, slots: map[solo.Key]*slot{}, answering: map[answerKey]bool{},
		bursts: bursts{known: map[burstKey]*burst{}},
	}
	e.SetBounds(cfg.Bounds)
	if err := cfg.DB.Update(createBuckets); err != nil {
		return nil, fmt.Errorf("cannot prepare the store: %w", err)
	}
	e.sup = supervisor.New(supervisor.Config{
		Launcher: launcher{e}, Journal: journal{e}, Grace: cfg.Grace, BootParallel: cfg.Parallel, Warn: cfg.Log.Warn,
	})
	return e, nil
}

// Run boots what should run and supervises it until ctx ends; then it stops the
// services, records that, and returns.
func (e *Engine) Run(ctx context.Context) error {
	supervise, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var group errgroup.Group
	group.Go(func() error { return e.sup.Run(supervise) })
	group.Go(func() error { return e.vet(supervise) })
	err := e.boot(ctx)
	if err == nil {
		<-ctx.Done()
	}
	e.stopping.Store(true)
	stop()
	if serr := group.Wait(); err == nil {
		err = serr
	}
	if err != nil {
		return err
	}
	return e.recordStop()
}

// boot tells what a former daemon could not, and starts what should run.
func (e *Engine) boot(ctx context.Context) error {
	var records []*record
	err := e.cfg.DB.View(func(tx *store.Tx) (err error) {
		records, err = allRecords(tx)
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot boot: %w", err)
	}
	if err := e.sweep(records); err != nil {
		e.cfg.Log.Warn("what a former daemon has left cannot be removed", "error", err)
	}
	running := e.adopt(records)
	err = e.cfg.DB.Update(func(tx *store.Tx) error {
		wanted := 0
		for _, r := range records {
			if r.wanted() {
				wanted++
			}
		}
		boot, err := e.cfg.Events.Append(tx, solo.Event{
			Type: solo.EventSystemStarted, Subject: solo.SubjectSystem,
			Payload: map[string]any{"version": e.cfg.Version, "services": wanted, "upgraded": e.cfg.Adopt != nil},
		})
		if err != nil {
			return err
		}
		for _, r := range records {
			if running[r.key()] != nil {
				continue
			}
			if err := e.foldUnseen(tx, r, boot); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("cannot boot: %w", err)
	}
	type start struct {
		unit    *supervisor.Unit
		outcome <-chan struct{}
	}
	var starts []start
	for _, r := range records {
		s, err := e.addService(r, running[r.key()])
		if err != nil {
			return err
		}
		if r.wanted() && running[r.key()] == nil {
			starts = append(starts, start{s.unit, s.unit.Boot()})
		}
	}
	e.toBoot.Store(int64(len(starts)))
	e.loaded.Store(true)
	began := time.Now()
	for i, s := range starts {
		select {
		case <-s.outcome:
		case <-ctx.Done():
			return nil
		}
		e.booted.Store(int64(i + 1))
		if done := i + 1; done%100 == 0 {
			e.cfg.Log.Info("starting services", "done", done, "of", len(starts))
		}
	}
	up := 0
	for _, s := range starts {
		if s.unit.View().State == solo.StateRunning {
			up++
		}
	}
	e.cfg.Log.Info("services are started", "running", up, "wanted", len(starts), "adopted", len(running), "took", time.Since(began).Round(time.Millisecond).String())
	e.ready.Store(true)
	return nil
}

// sweep removes the sources and logs that no stored service has.
func (e *Engine) sweep(records []*record) error {
	known := map[string]map[string]bool{}
	services := map[solo.Key]bool{}
	err := e.cfg.DB.View(func(tx *store.Tx) error {
		for _, r := range records {
			digests, err := sourceDigests(tx, r.key())
			if err != nil {
				return err
			}
			known[r.key().Digest()], services[r.key()] = digests, true
		}
		return nil
	})
	if err != nil {
		return err
	}
	return errors.Join(e.sources.sweep(known), e.cfg.Logs.PurgeOthers(services))
}

// foldUnseen makes the record of a former daemon's service true for this one: an
// instance that it left behind has ended and nobody saw how, and a kill that it
// had accepted is done.
func (e *Engine) foldUnseen(tx *store.Tx, r *record, boot uint64) error {
	changed := false
	if r.Live != nil {
		exit := solo.Exit{
			Reason: solo.ReasonUnknown, At: tx.Now, LogTail: e.cfg.Logs.Tail(r.key(), r.Live.Instance, solo.LogTailLines),
			Details:  map[string]any{"cause": "the daemon ended before the service and could not see how it ended"},
			Instance: r.Live.Instance,
		}
		if r.State != solo.StateStopping {
			if err := e.crashed(tx, r, exit, exitPayload(r, exit), boot); err != nil {
				return err
			}
		}
		r.LastExit = &exit
		r.Live = nil
		changed = true
	}
	if r.State == solo.StateStopping {
		r.State = solo.StateStopped
		if err := e.append(tx, r, solo.EventServiceKilled, map[string]any{"instance": r.LastInstance}, boot); err != nil {
			return err
		}
		changed = true
	}
	if r.wanted() && r.LastEvent < boot {
		r.LastEvent = boot
		changed = true
	}
	if !changed {
		return nil
	}
	return saveRecord(tx, r)
}

// recordStop is the last word of a daemon that ends in order.
func (e *Engine) recordStop() error {
	e.stubborn.mu.Lock()
	refused := e.stubborn.names
	e.stubborn.mu.Unlock()
	sort.Strings(refused)
	err := e.cfg.DB.Update(func(tx *store.Tx) error {
		_, err := e.cfg.Events.Append(tx, solo.Event{
			Type: solo.EventSystemStopped, Subject: solo.SubjectSystem,
			Payload: map[string]any{"uptime_s": int64(time.Since(e.started).Seconds()), "refused_to_stop": noNil(refused)},
		})
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot record the end of the daemon: %w", err)
	}
	return nil
}

// addService takes a stored service into memory.
func (e *Engine) addService(r *record, running *supervisor.Running) (*service, error) {
	state := r.State
	if r.wanted() {
		state = solo.StateStopped
	}
	unit, err := e.sup.Add(supervisor.Seed{
		Plan: planOf(r), State: state, Restarts: r.Restarts, LastExit: r.LastExit, Number: r.LastInstance, Running: running,
	})
	if err != nil {
		return nil, err
	}
	s := &service{unit: unit, ended: func(solo.Code, time.Duration) {}}
	if e.cfg.Meters != nil {
		s.ended = e.cfg.Meters.Calls(r.key())
	}
	s.record.Store(r)
	e.mu.Lock()
	e.services[r.key()] = s
	e.mu.Unlock()
	return s, nil
}

func planOf(r *record) supervisor.Plan {
	return supervisor.Plan{Key: r.key(), Version: r.Version, Artifact: r.Current.Artifact, Settings: r.Current.Settings}
}

func (e *Engine) lookup(key solo.Key) *service {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.services[key]
}

// serves refuses what needs to know every service before they are all known.
func (e *Engine) serves() error {
	if !e.loaded.Load() {
		return errStarting()
	}
	return nil
}

func errStarting() error {
	return solo.Errorf(solo.CodeNotReady, "the daemon is still starting its services").Retry(time.Second)
}

func errNotFound(key solo.Key) *solo.Error {
	return solo.Errorf(solo.CodeNotFound, "there is no service %q", key.Service)
}

// selectServices returns the services of a tenant, oldest first; "" is every tenant.
func (e *Engine) selectServices(tenant string) []*service {
	e.mu.RLock()
	out := make([]*service, 0, len(e.services))
	for key, s := range e.services {
		if tenant == "" || key.Tenant == tenant {
			out = append(out, s)
		}
	}
	e.mu.RUnlock()
	sort.Slice(out, func(i, j int) bool {
		a, b := out[i].record.Load(), out[j].record.Load()
		switch {
		case !a.CreatedAt.Equal(b.CreatedAt):
			return a.CreatedAt.Before(b.CreatedAt)
		case a.Tenant != b.Tenant:
			return a.Tenant < b.Tenant
		}
		return a.Service < b.Service
	})
	return out
}

// SetBounds replaces the bounds. What is there already keeps what it has.
func (e *Engine) SetBounds(b Bounds) { e.bounds.Store(&b) }

// Pulse goes through the engine to the disk and back, for a watchdog.
func (e *Engine) Pulse(context.Context) error {
	e.selectServices("")
	return e.cfg.DB.View(func(tx *store.Tx) error {
		return tx.Bucket(bucketTenants).ForEach(func(_, _ []byte) error { return nil })
	})
}

// Ready reports whether every service that should run is ready or has failed its
// first start, and the daemon is not on its way out.
func (e *Engine) Ready() bool { return e.ready.Load() && !e.stopping.Load() }
