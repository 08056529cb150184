package compiler

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/solo-run/solo/pkg/solo"
)

// workspace is where one build happens: the module that solod writes, with the
// tenant's files and the SDK in vendor/.
type workspace struct {
	c       *Compiler
	a       *analysis
	scratch string
	// deadline is when the build's time is over.
	deadline time.Time
}

// workspace waits for a turn and for the warm-up of what the source imports, and
// writes the module. The func gives the turn back and leaves nothing.
func (c *Compiler) workspace(ctx context.Context, a *analysis, src solo.Source) (*workspace, func(), error) {
	select {
	case c.queue <- struct{}{}:
	default:
		return nil, nil, solo.Errorf(solo.CodeRateLimited, "%d builds run or wait, as many as may", cap(c.queue)).Retry(2 * time.Second)
	}
	solo.Reached(ctx, solo.StageQueued)
	leave := func() { <-c.queue }
	if err := c.warm.wait(ctx, a); err != nil {
		leave()
		return nil, nil, err
	}
	select {
	case c.slots <- struct{}{}:
	case <-ctx.Done():
		leave()
		return nil, nil, ctx.Err()
	}
	scratch, remove, err := c.cfg.Runner.Scratch()
	if err != nil {
		<-c.slots
		leave()
		return nil, nil, solo.Internal(err)
	}
	release := func() {
		if err := remove(); err != nil {
			c.cfg.Log.Warn("cannot remove the directory of a build", "error", err)
		}
		<-c.slots
		leave()
	}
	w := &workspace{c: c, a: a, scratch: scratch, deadline: time.Now().Add(c.cfg.Timeout)}
	if err := w.write(src); err != nil {
		release()
		return nil, nil, solo.StorageError("the source cannot be written for its build", err)
	}
	return w, release, nil
}

func (w *workspace) module() string { return filepath.Join(w.scratch, "module") }
func (w *workspace) binary() string { return filepath.Join(w.scratch, "out", "service") }

// writable are the directories that a build writes to.
func (w *workspace) writable() []string {
	return []string{filepath.Join(w.scratch, "out"), filepath.Join(w.scratch, "tmp"), filepath.Join(w.scratch, "mod")}
}

func (w *workspace) cache() string { return filepath.Join(w.scratch, "cache") }

// write lays out the module.
func (w *workspace) write(src solo.Source) error {
	for _, dir := range append(w.writable(), w.cache()) {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
	}
	for _, f := range w.c.vendor {
		if err := writeFile(filepath.Join(w.module(), "vendor", filepath.FromSlash(f.Name)), f.Data); err != nil {
			return err
		}
	}
	for _, f := range src.Files {
		text := f.Data
		if strings.HasSuffix(f.Name, ".go") {
			text = withoutLineDirectives(text)
		}
		if f.Name == "go.mod" || f.Name == "go.sum" {
			continue // ours takes its place
		}
		if err := writeFile(filepath.Join(w.module(), filepath.FromSlash(f.Name)), text); err != nil {
			return err
		}
	}
	return writeFile(filepath.Join(w.module(), "go.mod"), []byte(w.goMod()))
}

// goMod is the module file: the tenant's module and go lines, and the modules of
// vendor/.
func (w *workspace) goMod() string {
	var b strings.Builder
	fmt.Fprintf(&b, "module %s\n\ngo %s\n\n", modulePath(w.a.module), w.a.goLine)
	for _, f := range w.c.vendor {
		if f.Name != "modules.txt" {
			continue
		}
		for line := range strings.Lines(string(f.Data)) {
			if rest, ok := strings.CutPrefix(line, "# "); ok {
				b.WriteString("require " + rest)
			}
		}
	}
	return b.String()
}

// modulePath quotes a path that go.mod could not read plain; modfile has checked it.
func modulePath(p string) string {
	if strings.ContainsAny(p, " \t()[]{},\"'`") {
		return fmt.Sprintf("%q", p)
	}
	return p
}

func writeFile(path string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o644)
}

// environment is the whole environment of the toolchain and the tests.
func (w *workspace) environment() []string {
	return []string{
		"PATH=" + filepath.Join(w.c.goRoot, "bin"),
		"GOROOT=" + w.c.goRoot,
		"GOCACHE=" + w.cache(),
		"GOMODCACHE=" + filepath.Join(w.scratch, "mod"),
		"GOPATH=" + filepath.Join(w.scratch, "mod"),
		"GOTMPDIR=" + filepath.Join(w.scratch, "tmp"),
		"TMPDIR=" + filepath.Join(w.scratch, "tmp"),
		"CGO_ENABLED=0", "GOFLAGS=", "GOPROXY=off", "GOSUMDB=off", "GOTOOLCHAIN=local", "GOENV=off", "GOWORK=off",
		"GOVCS=*:off", "GOTELEMETRY=off", "GO111MODULE=on", "GONOSUMDB=", "GOINSECURE=",
	}
}

// ran is what one command of a build did.
type ran struct {
	result Result
	stdout []byte
	stderr []byte
	limit  string
}

func (r *ran) failed() bool { return r.limit != "" || r.result.ExitCode != 0 }

// run runs the go command within the build's bounds; a bound that ended it is in
// the answer, and not an error.
func (w *workspace) run(ctx context.Context, args ...string) (*ran, error) {
	ctx, cancel := context.WithDeadline(ctx, w.deadline)
	defer cancel()
	out := &bounded{max: maxOutput, full: cancel}
	errs := &bounded{max: maxOutput, full: cancel}
	res, err := w.c.cfg.Runner.Run(ctx, Command{
		Path: w.c.goCmd, Args: append([]string{"go"}, args...), Env: w.environment(), Dir: w.module(),
		Stdout: out, Stderr: errs, MemoryBytes: w.c.cfg.MemoryBytes, PIDs: buildPIDs,
		Writable: w.writable(), Cache: w.c.cfg.CacheDir, CacheAt: w.cache(),
	})
	r := &ran{result: res, stdout: out.buf, stderr: errs.buf}
	switch {
	case out.over || errs.over:
		r.limit = "output"
	case errors.Is(err, context.DeadlineExceeded):
		r.limit = "time"
	case err != nil && ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		return nil, solo.Internal(fmt.Errorf("cannot run the Go toolchain: %w", err))
	case res.OOM:
		r.limit = "memory"
	}
	return r, nil
}

// compileAndTest runs both side by side; the tests only where nothing speaks
// against the source yet.
func (w *workspace) compileAndTest(ctx context.Context, mayTest bool) (outcome, error) {
	var out outcome
	mayTest = mayTest && w.a.hasTests
	stage := solo.StageCompiling
	if mayTest {
		stage = solo.StageTesting
	}
	solo.Reached(ctx, stage)
	group, gctx := errgroup.WithContext(ctx)
	var tested *ran
	var built *ran
	// What does not compile is known sooner than what does not pass, and ends it.
	broken := errors.New("it does not compile")
	group.Go(func() (err error) {
		args := append([]string{"build"}, flags...)
		// -e lifts the stop at ten errors, for the tenant's packages only, so that
		// all others are found in the cache.
		args = append(args, "-gcflags="+w.a.module+"/...=-e", "-o", w.binary(), ".")
		if built, err = w.run(gctx, args...); err == nil && built.failed() {
			return broken
		}
		return err
	})
	if mayTest {
		group.Go(func() (err error) {
			tested, err = w.test(gctx)
			return err
		})
	}
	err := group.Wait()
	if err != nil && !errors.Is(err, broken) {
		if ctx.Err() != nil {
			return out, ctx.Err()
		}
		return out, err
	}
	if built.failed() {
		out.limit = built.limit
		out.diagnostics, out.truncated = w.diagnostics(append(built.stderr, built.stdout...))
		if len(out.diagnostics) == 0 && out.limit == "" {
			return out, solo.Internal(fmt.Errorf("the build failed without a word: %+v %.2000s", built.result, built.stderr))
		}
		return out, nil
	}
	if tested != nil {
		w.judgeTests(tested, &out)
	}
	return out, nil
}

// vet's findings are warnings.
func (w *workspace) vet(ctx context.Context) ([]solo.Diagnostic, error) {
	r, err := w.run(ctx, "vet", "-mod=vendor", "-trimpath", "./...")
	if err != nil {
		return nil, err
	}
	if r.limit != "" {
		return []solo.Diagnostic{solo.At("", 0, 0, "go vet did not come to its end: "+r.limit)}, nil
	}
	warnings, _ := w.diagnostics(r.stderr)
	return warnings, nil
}
