package compiler

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/tools/txtar"

	"github.com/solo-run/solo/pkg/compiler/sdksrc"
	"github.com/solo-run/solo/pkg/solo"
)

// Logger is told how the warm-up goes.
type Logger interface {
	Info(msg string, args ...any)
	Warn(msg string, args ...any)
}

// Config is what a [Compiler] works with. Go, Dir, CacheDir and Runner are
// required.
type Config struct {
	// Go is the go command: a path, or a name to look up.
	Go string
	// Dir keeps the artifacts, CacheDir the build cache.
	Dir, CacheDir string
	// Timeout bounds one build with its tests, MemoryBytes what each command of it
	// may have.
	Timeout     time.Duration
	MemoryBytes int64
	// Parallel builds run at once; QueueMax more may wait.
	Parallel, QueueMax        int
	AllowImports, DenyImports []string
	Runner                    Runner
	Log                       Logger
}

// Bounds of a build.
const (
	maxOutput   = 1 << 20
	maxArtifact = 64 << 20
	buildPIDs   = 512
)

// Compiler makes artifacts. Its methods may be called by many goroutines at once.
type Compiler struct {
	cfg Config
	// goCmd is the go command itself, below goRoot.
	goCmd, goRoot string
	toolchain     string
	goLine        string
	std           map[string]bool
	vendor        []txtar.File
	// slots bounds the builds that run, queue those that run or wait.
	slots, queue chan struct{}
	warm         *warmth

	// whole remembers the artifacts that were verified, by digest, as fileID; there
	// are no more of them than files.
	whole sync.Map
	// writing are the artifacts on their way to the disk, by digest.
	writing sync.Map

	mu      sync.Mutex
	flights map[string]*flight
}

// Open finds the toolchain and prepares the directories. It compiles nothing.
func Open(cfg Config) (*Compiler, error) {
	if cfg.Parallel < 1 {
		cfg.Parallel = 1
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = time.Minute
	}
	c := &Compiler{
		cfg: cfg, vendor: sdksrc.Files(), flights: map[string]*flight{},
		slots: make(chan struct{}, cfg.Parallel), queue: make(chan struct{}, cfg.Parallel+max(cfg.QueueMax, 0)),
	}
	c.warm = newWarmth(c)
	for _, dir := range []string{cfg.Dir, cfg.CacheDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("cannot make a directory of the compiler: %w", err)
		}
	}
	if err := c.findToolchain(); err != nil {
		return nil, err
	}
	return c, nil
}

// toolchainTime bounds the questions to the go command at the start.
const toolchainTime = 30 * time.Second

// toolchain is what the go command says of itself and its library.
type toolchain struct {
	// Binary names the file that said it.
	Binary    string
	GOROOT    string
	GOVERSION string
	Std       []string
}

// memoFile keeps what the toolchain has said: asking takes a tenth of a second,
// which is most of a start.
const memoFile = ".toolchain.json"

// findToolchain asks the go command where and what it is, or remembers it for as
// long as its file is the same.
func (c *Compiler) findToolchain() error {
	name, err := exec.LookPath(c.cfg.Go)
	if err != nil {
		return fmt.Errorf("cannot find the Go toolchain %q (build.go): %w", c.cfg.Go, err)
	}
	real, err := filepath.EvalSymlinks(name)
	if err != nil {
		return fmt.Errorf("cannot find the Go toolchain %q (build.go): %w", c.cfg.Go, err)
	}
	id, err := identify(real)
	if err != nil {
		return fmt.Errorf("cannot find the Go toolchain %q (build.go): %w", c.cfg.Go, err)
	}
	binary := fmt.Sprintf("%s %+v", real, id)
	memo := filepath.Join(c.cfg.Dir, memoFile)
	var t toolchain
	text, err := os.ReadFile(memo)
	known := err == nil && len(text) < maxMemo && json.Unmarshal(text, &t) == nil && t.Binary == binary
	if !known {
		if t, err = c.askToolchain(name); err != nil {
			return err
		}
		t.Binary = binary
	}
	c.goRoot, c.toolchain = t.GOROOT, t.GOVERSION
	c.goCmd = filepath.Join(t.GOROOT, "bin", "go")
	if _, err := os.Stat(c.goCmd); err != nil {
		return fmt.Errorf("cannot use the Go toolchain %s (build.go): %w", name, err)
	}
	version := canonical(strings.TrimPrefix(t.GOVERSION, "go"))
	c.goLine = version[:strings.LastIndexByte(version, '.')]
	c.std = map[string]bool{"unsafe": true}
	for _, p := range t.Std {
		if !strings.HasPrefix(p, "vendor/") && !strings.Contains("/"+p+"/", "/internal/") {
			c.std[p] = true
		}
	}
	if known {
		return nil
	}
	if text, err = json.Marshal(t); err == nil {
		err = os.WriteFile(memo, text, 0o600)
	}
	if err != nil {
		c.cfg.Log.Warn("what the toolchain says of itself cannot be kept; it is asked again at the next start", "error", err)
	}
	return nil
}

// maxMemo bounds the memo, in bytes.
const maxMemo = 1 << 20

func (c *Compiler) askToolchain(name string) (t toolchain, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), toolchainTime)
	defer cancel()
	text, err := c.askGo(ctx, name, "env", "-json", "GOROOT", "GOVERSION")
	if err == nil {
		err = json.Unmarshal(text, &t)
	}
	if err != nil {
		return t, fmt.Errorf("cannot use the Go toolchain %s (build.go): %w", name, err)
	}
	list, err := c.askGo(ctx, filepath.Join(t.GOROOT, "bin", "go"), "list", "std")
	if err != nil {
		return t, fmt.Errorf("cannot list the standard library of %s: %w", name, err)
	}
	t.Std = strings.Fields(string(list))
	return t, nil
}

func (c *Compiler) askGo(ctx context.Context, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = "/"
	cmd.Env = []string{"GOENV=off", "GOTOOLCHAIN=local", "GOFLAGS=", "GOWORK=off", "CGO_ENABLED=0", "GOTELEMETRY=off", "HOME=/nonexistent", "GOCACHE=off", "GO111MODULE=off"}
	text, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return nil, fmt.Errorf("%w: %.500s", err, exit.Stderr)
	}
	return text, err
}

// Toolchain is the version of the Go toolchain, such as go1.26.0.
func (c *Compiler) Toolchain() string { return c.toolchain }

// Run warms the build cache, and returns when ctx ends. A warm-up that fails is
// reported, and tried again by the first build that needs it.
func (c *Compiler) Run(ctx context.Context) error {
	c.warm.run(ctx)
	<-ctx.Done()
	return nil
}

// WarmUp is how far the build cache is.
func (c *Compiler) WarmUp() solo.WarmUp { return c.warm.status() }

// flags are those of every build, and part of every artifact's key.
var flags = []string{"-mod=vendor", "-trimpath", "-buildvcs=false", "-ldflags=-s -w"}

// key names the artifact of a source, of a tenant.
func (c *Compiler) key(tenant string, src solo.Source) string {
	h := sha256.New()
	for _, part := range []string{
		"1", tenant, SourceDigest(src), c.toolchain, sdksrc.Digest(), strings.Join(flags, " "), runtime.GOOS + "/" + runtime.GOARCH,
		// What a former policy let pass is not known to this one.
		strings.Join(c.cfg.AllowImports, "\n"), strings.Join(c.cfg.DenyImports, "\n"),
	} {
		fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Artifact is a built binary.
type Artifact struct {
	// Digest names it; Path is where it is.
	Digest, Path string
	// Cached: the tenant had built the same before.
	Cached   bool
	Duration time.Duration
	Warnings []solo.Diagnostic
}

// Build makes the artifact of a source: policy, compile, tests. The error of a
// source that will not do is compile_failed, tests_failed or policy_violation; of
// more builds than may wait, rate_limited. When ctx ends, so does the build,
// unless another waits for the same.
func (c *Compiler) Build(ctx context.Context, tenant string, src solo.Source) (*Artifact, error) {
	began := time.Now()
	digest := c.key(tenant, src)
	if path, err := c.Find(digest); err == nil {
		return &Artifact{Digest: digest, Path: path, Cached: true, Duration: time.Since(began)}, nil
	}
	if err := c.fly(ctx, digest, func(ctx context.Context) error { return c.build(ctx, digest, src) }); err != nil {
		return nil, err
	}
	return &Artifact{Digest: digest, Path: c.path(digest), Duration: time.Since(began)}, nil
}

// flight is a build under way, for all who want the same.
type flight struct {
	waiters int
	cancel  context.CancelFunc
	done    chan struct{}
	err     error
}

// fly runs a build once for all who ask for it meanwhile; it ends when the last
// of them has gone.
func (c *Compiler) fly(ctx context.Context, digest string, build func(context.Context) error) error {
	c.mu.Lock()
	f := c.flights[digest]
	if f == nil {
		bctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		f = &flight{cancel: cancel, done: make(chan struct{})}
		c.flights[digest] = f
		go func() {
			f.err = build(bctx)
			c.mu.Lock()
			if c.flights[digest] == f {
				delete(c.flights, digest)
			}
			c.mu.Unlock()
			cancel()
			close(f.done)
		}()
	}
	f.waiters++
	c.mu.Unlock()
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
	}
	c.mu.Lock()
	f.waiters--
	last := f.waiters == 0
	if last && c.flights[digest] == f {
		// Who comes now begins anew.
		delete(c.flights, digest)
	}
	c.mu.Unlock()
	if last {
		f.cancel()
		<-f.done
	}
	return context.Cause(ctx)
}

// build checks, compiles, tests and stores.
func (c *Compiler) build(ctx context.Context, digest string, src solo.Source) error {
	a := c.analyse(src)
	if a.stopped {
		return verdict(a, outcome{})
	}
	w, release, err := c.workspace(ctx, a, src)
	if err != nil {
		return err
	}
	defer release()
	out, err := w.compileAndTest(ctx, len(a.findings) == 0 && len(a.diagnostics) == 0)
	if err != nil {
		return err
	}
	if err := verdict(a, out); err != nil {
		return err
	}
	return c.store(digest, w.binary())
}

// Check builds and tests as Build does, and vets, and stores nothing.
func (c *Compiler) Check(ctx context.Context, tenant string, src solo.Source) (diagnostics, findings, warnings []solo.Diagnostic, err error) {
	a := c.analyse(src)
	if a.stopped {
		return a.diagnostics, a.findings, nil, nil
	}
	w, release, err := c.workspace(ctx, a, src)
	if err != nil {
		return nil, nil, nil, err
	}
	defer release()
	out, err := w.compileAndTest(ctx, len(a.findings) == 0 && len(a.diagnostics) == 0)
	if err != nil {
		return nil, nil, nil, err
	}
	diagnostics = append(merge(a.diagnostics, out.diagnostics), out.failures...)
	if len(diagnostics) == 0 && out.limit == "" {
		solo.Reached(ctx, solo.StageVetting)
		if warnings, err = w.vet(ctx); err != nil {
			return nil, nil, nil, err
		}
	}
	if out.limit != "" {
		diagnostics = append(diagnostics, solo.At("", 0, 0, limitMessage(out.limit, out.testing)))
	}
	return diagnostics, a.findings, warnings, nil
}

// Vet returns go vet's findings about a source that compiles.
func (c *Compiler) Vet(ctx context.Context, src solo.Source) ([]solo.Diagnostic, error) {
	w, release, err := c.workspace(ctx, c.analyse(src), src)
	if err != nil {
		return nil, err
	}
	defer release()
	return w.vet(ctx)
}

// outcome is what the toolchain and the tests said.
type outcome struct {
	diagnostics []solo.Diagnostic
	failures    []solo.Diagnostic
	truncated   bool
	// limit is the bound that ended the build: memory, time, output or size.
	limit string
	// testing: it ended the tests, and not the compiler.
	testing bool
}

// merge leaves out what parsing and the compiler have both seen.
func merge(a, b []solo.Diagnostic) []solo.Diagnostic {
	out := append([]solo.Diagnostic{}, a...)
	for _, d := range b {
		seen := false
		for _, e := range a {
			seen = seen || e.Message == d.Message || strings.Contains(d.Message, "function main is undeclared") && strings.Contains(e.Message, "function main is undeclared")
		}
		if !seen {
			out = append(out, d)
		}
	}
	sortDiagnostics(out)
	return out
}

// verdict makes the refusal of a source, nil for one that will do.
func verdict(a *analysis, out outcome) error {
	diagnostics := merge(a.diagnostics, out.diagnostics)
	var err *solo.Error
	switch {
	case len(a.findings) > 0:
		err = solo.Errorf(solo.CodePolicyViolation, "%s", first(a.findings)).With("findings", a.findings)
		if len(diagnostics) > 0 {
			err = err.With("diagnostics", diagnostics)
		}
	case len(diagnostics) > 0:
		err = solo.Errorf(solo.CodeCompileFailed, "%s", first(diagnostics)).With("diagnostics", diagnostics)
	case out.limit != "" && !out.testing:
		err = solo.Errorf(solo.CodeCompileFailed, "%s", limitMessage(out.limit, false)).With("diagnostics", []solo.Diagnostic{})
	case len(out.failures) > 0 || out.limit != "":
		failures := out.failures
		if failures == nil {
			failures = []solo.Diagnostic{}
		}
		message := limitMessage(out.limit, true)
		if len(failures) > 0 {
			message = first(failures)
		}
		err = solo.Errorf(solo.CodeTestsFailed, "%s", message).With("diagnostics", failures)
	default:
		return nil
	}
	if out.limit != "" {
		err = err.With("limit", out.limit)
	}
	if out.truncated {
		err = err.With("truncated", true)
	}
	return err
}

// first words the first of a list, and how many more there are.
func first(list []solo.Diagnostic) string {
	d := list[0]
	text, _, _ := strings.Cut(d.Message, "\n")
	if d.File != nil {
		place := *d.File
		if d.Line != nil {
			place += fmt.Sprintf(":%d", *d.Line)
		}
		text = place + ": " + text
	}
	if n := len(list) - 1; n > 0 {
		text += fmt.Sprintf(" (and %d more)", n)
	}
	return text
}

func limitMessage(limit string, testing bool) string {
	what := "the build"
	if testing {
		what = "the tests"
	}
	switch limit {
	case "memory":
		return what + " needed more memory than a build may have (build.memory_mb)"
	case "time":
		return what + " took longer than a build may take (build.timeout_s)"
	case "output":
		return what + " printed more than 1 MiB"
	case "size":
		return "the binary is larger than 64 MiB"
	}
	return what + " failed"
}
