package daemon

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/solo-run/solo/docs"
	"github.com/solo-run/solo/pkg/capability"
	"github.com/solo-run/solo/pkg/compiler"
	"github.com/solo-run/solo/pkg/engine"
	"github.com/solo-run/solo/pkg/eventlog"
	"github.com/solo-run/solo/pkg/failpoint"
	"github.com/solo-run/solo/pkg/gateway"
	"github.com/solo-run/solo/pkg/gateway/grpc"
	"github.com/solo-run/solo/pkg/gateway/mcp"
	"github.com/solo-run/solo/pkg/gateway/rest"
	"github.com/solo-run/solo/pkg/logs"
	"github.com/solo-run/solo/pkg/metering"
	"github.com/solo-run/solo/pkg/process"
	"github.com/solo-run/solo/pkg/sandbox"
	"github.com/solo-run/solo/pkg/solo"
	"github.com/solo-run/solo/pkg/store"
	"github.com/solo-run/solo/pkg/telemetry"
	"github.com/solo-run/solo/pkg/vault"
)

// Version is the daemon's own; the build sets it.
var Version = "dev"

// Main runs the program beside the thread of its caller, which main has to be: it
// is lent to whoever forks (see sandbox.ServeMain).
func Main(run func()) { sandbox.ServeMain(run) }

// Options are what surrounds a run of the daemon.
type Options struct {
	// Reload asks for the configuration to be read again, by Load.
	Reload <-chan os.Signal
	Load   func() (*Config, error)
}

// Run is the whole life of a daemon: it returns when ctx has ended and nothing
// of it is left, or with the error that ended it.
func Run(ctx context.Context, cfg *Config, opts Options) error {
	d := &daemon{cfg: cfg, log: hclog.New(&hclog.LoggerOptions{
		Name: "solod", Level: hclog.LevelFromString(cfg.Solo.LogLevel), Output: os.Stderr, TimeFn: func() time.Time { return time.Now().UTC() },
	})}
	if err := keepMemory(); err != nil {
		d.log.Warn("the memory of solod may land in a core dump", "error", err)
	}
	former, memory, err := takeHandover()
	if err != nil {
		return err
	}
	d.former = former
	if former != nil {
		failpoint.Hit("upgrade.execed")
	}
	defer d.close()
	ctx, d.stop = context.WithCancel(ctx)
	defer d.stop()
	parts, err := d.build(ctx)
	if err != nil && former != nil {
		d.log.Error("the upgrade fails; the old binary takes the place back", "error", err)
		err = errors.Join(err, former.handBack(memory))
	}
	if err != nil {
		return err
	}
	if former != nil {
		former.settled(memory)
		failpoint.Hit("upgrade.opened")
	}
	d.tree.Store(newTree(parts, d.partFailed))
	var beside sync.WaitGroup
	around, leave := context.WithCancel(context.WithoutCancel(ctx))
	beside.Go(func() { d.notify(around, ctx) })
	beside.Go(func() { d.reloads(around, opts) })
	err = d.tree.Load().run(ctx)
	leave()
	beside.Wait()
	if err != nil {
		d.log.Error("solod ends: a part of it failed", "error", err)
		return err
	}
	d.log.Info("solod ends")
	return nil
}

// keepMemory keeps the keys and secrets in memory out of core dumps: no file, and no
// pipe to a program that collects them.
func keepMemory() error {
	none := unix.Rlimit{}
	return errors.Join(unix.Setrlimit(unix.RLIMIT_CORE, &none), unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0))
}

// partFailed tells of a part that is restarted.
func (d *daemon) partFailed(name string, err error, restarts int) {
	d.log.Error("a part of the daemon failed and is restarted", "part", name, "restarts", restarts, "error", err)
	reason, _, _ := strings.Cut(err.Error(), "\n")
	werr := d.record(solo.Event{
		Type: solo.EventServiceRestarted, Subject: solo.SubjectTree + "/" + strings.ReplaceAll(name, " ", "_"),
		Payload: map[string]any{"part": name, "reason": reason, "restarts": restarts},
	})
	if werr != nil {
		d.log.Error("the restart of a part cannot be recorded", "error", werr)
	}
}

// record appends an event about the daemon itself.
func (d *daemon) record(e solo.Event) error {
	return d.db.Update(func(tx *store.Tx) error {
		_, err := d.events.Append(tx, e)
		return err
	})
}

// daemon is what is being built; closers run in reverse.
type daemon struct {
	cfg     *Config
	log     hclog.Logger
	stop    context.CancelFunc
	closers []closer

	// former is what another binary has handed over to this one, nil at a boot.
	former    *handover
	upgrading atomic.Bool

	lock    *lock
	host    *sandbox.Host
	doors   *doors
	db      *store.DB
	keys    *store.DB
	vault   *vault.Vault
	events  *eventlog.Log
	engine  *engine.Engine
	monitor *telemetry.Monitor
	// meters are nil where telemetry is off.
	meters *telemetry.Meters
	used   *metering.Room
	tree   atomic.Pointer[tree]
	// logging is whether events are lines of the log too.
	logging   atomic.Bool
	retention atomic.Pointer[eventlog.Retention]
}

type closer struct {
	name  string
	close func() error
}

func (d *daemon) onClose(name string, f func() error) {
	d.closers = append(d.closers, closer{name, f})
}

func (d *daemon) close() {
	for i := len(d.closers) - 1; i >= 0; i-- {
		if err := d.closers[i].close(); err != nil {
			d.log.Error("cannot close", "part", d.closers[i].name, "error", err)
		}
	}
}

// build makes every room, in the order in which each rests on the former.
func (d *daemon) build(ctx context.Context) ([]part, error) {
	cfg := d.cfg
	dir := cfg.Solo.DataDir
	lock, err := d.takeLock(dir)
	if err != nil {
		return nil, err
	}
	d.lock = lock
	d.onClose("lock", lock.Close)

	if err := removeStaging(dir); err != nil {
		return nil, err
	}
	db, err := store.Open(cfg.Database.EventsDB, store.Options{})
	if err != nil {
		return nil, err
	}
	d.onClose("store", db.Close)
	events, err := eventlog.Open(db)
	if err != nil {
		return nil, err
	}
	d.db, d.events = db, events
	keys, err := store.Open(cfg.Database.VaultDB, store.Options{})
	if err != nil {
		return nil, err
	}
	d.onClose("vault", keys.Close)
	d.keys = keys
	secrets, err := vault.Open(vault.Config{
		State: db, Keys: keys, Source: vault.Source{Kind: cfg.Vault.KeySource, File: cfg.Vault.KeyFile}, Warn: d.log.Named("vault").Warn,
	})
	if err != nil {
		return nil, err
	}
	d.vault = secrets
	events.Sign(func() ([]byte, error) { return secrets.Derive("log checkpoint", "") })
	caps, err := capability.Open(capability.Config{DB: db, Keys: secrets, Rate: cfg.Security.RateLimit})
	if err != nil {
		return nil, err
	}
	d.monitor = telemetry.New(telemetry.Config{DataDir: dir, Store: db.Size, High: d.usageHigh})
	lines, err := logs.Open(filepath.Join(dir, "logs"))
	if err != nil {
		return nil, err
	}
	d.onClose("logs", lines.Close)

	host, err := d.sandbox(ctx)
	if err != nil {
		return nil, err
	}
	d.host = host
	builds, err := newRunner(host, cfg.Build.CacheDir)
	if err != nil {
		return nil, err
	}
	comp, err := compiler.Open(compiler.Config{
		Go: cfg.Build.Go, Dir: filepath.Join(dir, "artifacts"), CacheDir: cfg.Build.CacheDir,
		Timeout: time.Duration(cfg.Build.TimeoutS) * time.Second, MemoryBytes: int64(cfg.Build.MemoryMB) << 20,
		Parallel: cfg.Build.Parallel, QueueMax: buildQueue, AllowImports: cfg.Build.AllowImports, DenyImports: cfg.Build.DenyImports,
		Runner: builds, Log: d.log.Named("compiler"),
	})
	if err != nil {
		return nil, err
	}
	d.measure()
	d.used, err = metering.Open(db, func() []metering.Reading { return d.engine.Readings() })
	if err != nil {
		return nil, err
	}
	shutdown := time.Duration(cfg.Solo.ShutdownS) * time.Second
	d.engine, err = engine.Open(engine.Config{
		DB: db, Events: events, Logs: lines, Compiler: comp, Launcher: process.New(host),
		Isolation: host.Layers(), SourceDir: filepath.Join(dir, "sources"), Bounds: cfg.bounds(),
		Grace: shutdown / 2, Parallel: bootParallel * cfg.Build.Parallel, Version: Version, Disk: func() error { return checkDisk(dir) },
		Parts: func() []solo.TreeNode { return d.tree.Load().snapshot() }, Components: d.components,
		Meters: d.engineMeters(), Metering: d.used, Vault: secrets, Capabilities: caps, Backup: d.backup, Upgrade: d.upgrade, Adopt: d.former.services(), Stop: d.stop, Log: d.log.Named("engine"),
	})
	if err != nil {
		return nil, err
	}
	// Each room has made its directory; what is put there must not be lost with it.
	if err := store.SyncDir(dir); err != nil {
		return nil, errDataDir(dir, err)
	}
	d.doors = &doors{
		rest: rest.Config{
			Engine: d.engine, Log: d.log.Named("rest"), Addr: net.JoinHostPort(cfg.Solo.ListenHost, strconv.Itoa(cfg.Solo.HTTPPort)),
			Socket: cfg.Solo.Socket, RequireCapability: cfg.Security.RequireCapability, LLMs: docs.LLMs,
			Agents: func(routes http.Handler) gateway.Agents { return mcp.New(Version, routes) },
		},
		grpc: grpc.Config{
			Engine: d.engine, Log: d.log.Named("grpc"), Addr: net.JoinHostPort(cfg.Solo.ListenHost, strconv.Itoa(cfg.Solo.ListenPort)),
			Socket: cfg.grpcSocket(), RequireCapability: cfg.Security.RequireCapability,
		},
		holds: make(chan hold),
	}
	if d.meters != nil {
		d.doors.rest.Meter, d.doors.grpc.Meter = d.meters, d.meters
	}
	doors := d.doors
	patience := func() time.Duration {
		if doors.patient.Load() {
			return callTime
		}
		return shutdown / 4
	}
	doors.rest.ShutdownTimeout, doors.grpc.ShutdownTimeout = patience, patience
	if d.former != nil {
		// Callers of the former daemon wait in the listeners, and are not to be told
		// that this one is starting.
		doors.until = d.untilReady
		err = doors.adopt(d.former)
	} else {
		err = doors.listen()
	}
	if err != nil {
		return nil, err
	}
	d.log.Info("solod starts", "version", Version, "data_dir", dir, "rest", doors.rest.Addr, "grpc", doors.grpc.Addr, "socket", cfg.Solo.Socket, "pid", os.Getpid())
	d.logging.Store(cfg.Telemetry.LogEvents)
	d.retention.Store(cfg.retention())
	return []part{
		{name: "sandbox", run: host.Run, vital: true},
		{name: "supervisor", run: d.engine.Run, vital: true},
		{name: "eventlog", run: together(d.logEvents(), d.retain)},
		{name: "resource monitor", run: d.monitor.Run},
		{name: "deployer", run: comp.Run},
		{name: "capabilities", run: d.engine.SweepCapabilities},
		{name: "vault", run: d.engine.ResumeVault},
		{name: "telemetry", run: together(d.eachEvent(d.countEvent), d.used.Run)},
		{name: "gateway", run: doors.run},
	}, nil
}

// bootParallel is how many starts of a boot run at once, for each core: they wait
// for the disk and for each other's processes more than they compute.
const bootParallel = 4

// buildQueue is how many builds may wait (429 beyond).
const buildQueue = 64

// sandbox opens the host, says loudly what it lacks, and sweeps away what a
// former daemon has left.
func (d *daemon) sandbox(ctx context.Context) (*sandbox.Host, error) {
	dir := d.cfg.Solo.DataDir
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot resolve the data directory: %w", err)
	}
	id := sha256.Sum256([]byte(real))
	boot := make([]byte, 4)
	rand.Read(boot)
	config := sandbox.Config{
		ID: hex.EncodeToString(id[:6]), Boot: hex.EncodeToString(boot),
		Isolation: d.cfg.Security.Isolation, StateDir: filepath.Join(dir, "sandbox"),
	}
	if d.former != nil {
		config.ID, config.Boot, config.Adopt = d.former.Sandbox.ID, d.former.Sandbox.Boot, d.former.Sandbox
	}
	host, err := sandbox.Open(config)
	if err != nil {
		return nil, err
	}
	d.onClose("sandbox", host.Close)
	for name, layer := range host.Layers() {
		if !layer.On {
			d.log.Warn("a layer of isolation is off", "layer", name, "why", layer.Why)
		}
	}
	if d.former != nil {
		return host, nil // what runs is not left over
	}
	killed, err := host.Sweep(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot sweep what a former daemon left: %w", err)
	}
	if killed > 0 {
		d.log.Warn("a former daemon left processes; they are ended", "processes", killed)
	}
	return host, nil
}

// eachEvent gives f every event once it is durable. Begun anew, it goes on where it
// was.
func (d *daemon) eachEvent(f func(solo.Event)) func(context.Context) error {
	last := d.events.LastID()
	return func(ctx context.Context) error {
		for e, err := range d.events.Stream(ctx, solo.EventQuery{SinceID: last}) {
			if err != nil {
				if errors.Is(err, context.Canceled) {
					break
				}
				return err
			}
			last = e.ID
			f(e)
		}
		<-ctx.Done()
		return nil
	}
}

// logEvents makes each event a line of the daemon's log too.
func (d *daemon) logEvents() func(context.Context) error {
	log := d.log.Named("event")
	return d.eachEvent(func(e solo.Event) {
		if d.logging.Load() {
			log.Info(string(e.Type), "id", e.ID, "tenant", e.TenantID, "subject", e.Subject)
		}
	})
}

// Retention is looked after every retainPause. What it frees is given back to the
// disk where the store is large and more than half of it is free.
const (
	retainPause  = time.Minute
	compactFloor = 64 << 20
)

// retain keeps the log within its retention. A cut that fails is tried again, and
// said each time.
func (d *daemon) retain(ctx context.Context) error {
	tick := time.NewTicker(retainPause)
	defer tick.Stop()
	for {
		removed, err := d.events.Retain(ctx, *d.retention.Load())
		if err != nil && ctx.Err() == nil {
			d.log.Error("the event log cannot be cut", "error", err)
		}
		if removed > 0 {
			d.log.Info("events that are not kept any longer are gone", "events", removed, "first_id", d.events.FirstID())
			d.compact()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (d *daemon) compact() {
	size, free := d.db.Size()
	if size < compactFloor || free < size/2 {
		return
	}
	began := time.Now()
	if err := d.db.Compact(); err != nil {
		d.log.Error("the store cannot be compacted", "error", err)
		return
	}
	after, _ := d.db.Size()
	d.log.Info("the store is compacted", "before", size, "after", after, "took", time.Since(began).Round(time.Millisecond).String())
}

// usageHigh records that a resource of the daemon is about to run out.
func (d *daemon) usageHigh(r telemetry.Reading) error {
	d.log.Warn("a resource of the daemon is about to run out", "resource", r.Resource, "used", r.Used, "limit", r.Limit)
	return d.record(solo.Event{
		Type: solo.EventRuntimeUsageHigh, Subject: solo.SubjectSystem,
		Payload: map[string]any{"resource": r.Resource, "used": r.Used, "limit": r.Limit, "share": r.Share()},
	})
}

// components is how the daemon's own parts are, for /health.
func (d *daemon) components() map[string]solo.Component {
	out := map[string]solo.Component{}
	for _, n := range d.tree.Load().snapshot() {
		c := solo.Component{Status: solo.HealthOK}
		if n.State != "running" {
			c = solo.Component{Status: solo.HealthDegraded, Detail: n.State + ": " + n.Detail}
		}
		if n.Name == "resource monitor" && c.Status == solo.HealthOK {
			var words []string
			for _, r := range d.monitor.Readings() {
				if r.High {
					c.Status = solo.HealthDegraded
				}
				words = append(words, r.String())
			}
			c.Detail = strings.Join(words, ", ")
		}
		out[n.Name] = c
	}
	return out
}
