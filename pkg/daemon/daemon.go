package daemon

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/solo-run/solo/pkg/compiler"
	"github.com/solo-run/solo/pkg/engine"
	"github.com/solo-run/solo/pkg/eventlog"
	"github.com/solo-run/solo/pkg/gateway/grpc"
	"github.com/solo-run/solo/pkg/gateway/rest"
	"github.com/solo-run/solo/pkg/logs"
	"github.com/solo-run/solo/pkg/process"
	"github.com/solo-run/solo/pkg/sandbox"
	"github.com/solo-run/solo/pkg/solo"
	"github.com/solo-run/solo/pkg/store"
)

// Version is the daemon's own; the build sets it.
var Version = "dev"

// Run is the whole life of a daemon: it returns when ctx has ended and nothing
// of it is left, or with the error that ended it.
func Run(ctx context.Context, cfg *Config) error {
	d := &daemon{cfg: cfg, log: hclog.New(&hclog.LoggerOptions{
		Name: "solod", Level: hclog.LevelFromString(cfg.Solo.LogLevel), Output: os.Stderr, TimeFn: func() time.Time { return time.Now().UTC() },
	})}
	defer d.close()
	ctx, d.stop = context.WithCancel(ctx)
	defer d.stop()
	parts, err := d.build(ctx)
	if err != nil {
		return err
	}
	err = runParts(ctx, parts)
	d.log.Info("solod ends")
	return err
}

// daemon is what is being built; closers run in reverse.
type daemon struct {
	cfg     *Config
	log     hclog.Logger
	stop    context.CancelFunc
	closers []closer
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
	lock, err := takeLock(dir)
	if err != nil {
		return nil, err
	}
	d.onClose("lock", lock.Close)

	db, err := store.Open(cfg.Database.EventsDB, store.Options{})
	if err != nil {
		return nil, err
	}
	d.onClose("store", db.Close)
	events, err := eventlog.Open(db)
	if err != nil {
		return nil, err
	}
	lines, err := logs.Open(filepath.Join(dir, "logs"))
	if err != nil {
		return nil, err
	}
	d.onClose("logs", lines.Close)

	host, err := d.sandbox(ctx)
	if err != nil {
		return nil, err
	}
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
	defaults, ceiling := cfg.limits()
	shutdown := time.Duration(cfg.Solo.ShutdownS) * time.Second
	eng, err := engine.Open(engine.Config{
		DB: db, Events: events, Logs: lines, Compiler: comp, Launcher: process.New(host),
		Isolation: host.Layers(), SourceDir: filepath.Join(dir, "sources"),
		Defaults: defaults, Ceiling: ceiling,
		MaxTenants: cfg.Solo.MaxTenants, MaxPerTenant: cfg.Limits.MaxPerTenant, MaxTotal: cfg.Limits.MaxTotal,
		Grace: shutdown / 2, Parallel: 4 * cfg.Build.Parallel, Version: Version, Disk: func() error { return checkDisk(dir) }, Stop: d.stop, Log: d.log.Named("engine"),
	})
	if err != nil {
		return nil, err
	}
	api := rest.New(rest.Config{
		Engine: eng, Log: d.log.Named("rest"), Addr: fmt.Sprintf("%s:%d", cfg.Solo.ListenHost, cfg.Solo.HTTPPort),
		Socket: cfg.Solo.Socket, ShutdownTimeout: shutdown / 4,
	})
	if err := api.Listen(); err != nil {
		return nil, err
	}
	rpc := grpc.New(grpc.Config{
		Engine: eng, Log: d.log.Named("grpc"), Addr: fmt.Sprintf("%s:%d", cfg.Solo.ListenHost, cfg.Solo.ListenPort),
		Socket: cfg.grpcSocket(), ShutdownTimeout: shutdown / 4,
	})
	if err := rpc.Listen(); err != nil {
		api.Close()
		return nil, err
	}
	d.log.Info("solod starts", "version", Version, "data_dir", dir, "rest", api.Addr(), "grpc", rpc.Addr(), "socket", cfg.Solo.Socket, "pid", os.Getpid())

	parts := []part{{"sandbox", host.Run}, {"compiler", comp.Run}, {"engine", eng.Run}, {"gateways", together(api.Run, rpc.Run)}}
	if cfg.Telemetry.LogEvents {
		parts = append(parts, part{"event lines", func(ctx context.Context) error { return d.logEvents(ctx, events) }})
	}
	return parts, nil
}

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
	host, err := sandbox.Open(sandbox.Config{
		ID: hex.EncodeToString(id[:6]), Boot: hex.EncodeToString(boot),
		Isolation: d.cfg.Security.Isolation, StateDir: filepath.Join(dir, "sandbox"),
	})
	if err != nil {
		return nil, err
	}
	d.onClose("sandbox", host.Close)
	for name, layer := range host.Layers() {
		if !layer.On {
			d.log.Warn("a layer of isolation is off", "layer", name, "why", layer.Why)
		}
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

// logEvents makes each event a line of the daemon's log too.
func (d *daemon) logEvents(ctx context.Context, events *eventlog.Log) error {
	log := d.log.Named("event")
	for e, err := range events.Stream(ctx, solo.EventQuery{SinceID: events.LastID()}) {
		if err != nil {
			if errors.Is(err, context.Canceled) {
				break
			}
			return err
		}
		log.Info(string(e.Type), "id", e.ID, "tenant", e.TenantID, "subject", e.Subject)
	}
	<-ctx.Done()
	return nil
}
