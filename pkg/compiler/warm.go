package compiler

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/solo-run/solo/pkg/solo"
)

// The states of a warm-up.
const (
	warmWaiting = "waiting"
	warmRunning = "running"
	warmDone    = "done"
	warmFailed  = "failed"
)

// warmth is the warm-up of the build cache: first the SDK, testing and what they
// need, in one step that every build waits for; then the rest of the standard
// library, in steps that only those wait for who import it.
type warmth struct {
	c *Compiler

	// turn is held by whoever warms: one at a time.
	turn chan struct{}

	mu     sync.Mutex
	based  bool
	warmed map[string]bool
	state  string
	done   int
	total  int
	detail string
}

// baseImports are needed by every service or its tests.
var baseImports = []string{"context", "encoding/json", "fmt", "testing", "errors", "strings", "sync", "time"}

// warmStep is how many packages the background warms before it lets others in.
const warmStep = 12

func newWarmth(c *Compiler) *warmth {
	return &warmth{c: c, turn: make(chan struct{}, 1), warmed: map[string]bool{}, state: warmWaiting}
}

func (w *warmth) status() solo.WarmUp {
	w.mu.Lock()
	defer w.mu.Unlock()
	return solo.WarmUp{State: w.state, Done: w.done, Total: w.total, Detail: w.detail}
}

func (w *warmth) set(state, detail string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.state, w.detail = state, detail
}

// rest are the packages of the standard library that a service may import and
// that are not warm yet.
func (w *warmth) rest() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for _, p := range slices.Sorted(maps.Keys(w.c.std)) {
		if !w.warmed[p] && p != "unsafe" && !strings.HasPrefix(p, "runtime/cgo") && match(w.c.cfg.DenyImports, p) == "" {
			out = append(out, p)
		}
	}
	return out
}

// run warms all there is, step by step.
func (w *warmth) run(ctx context.Context) {
	began := time.Now()
	w.mu.Lock()
	w.total = len(w.c.std) + 1
	w.mu.Unlock()
	w.c.cfg.Log.Info("the build cache is being warmed: the SDK and what it needs come first")
	if err := w.ensure(ctx, nil); err != nil {
		w.fail(ctx, err)
		return
	}
	w.c.cfg.Log.Info("the build cache is warm for the SDK", "took", time.Since(began).Round(time.Millisecond).String())
	for rest := w.rest(); len(rest) > 0; rest = w.rest() {
		if err := w.ensure(ctx, rest[:min(warmStep, len(rest))]); err != nil {
			w.fail(ctx, err)
			return
		}
		s := w.status()
		if s.Done/50 != (s.Done-warmStep)/50 {
			w.c.cfg.Log.Info("the build cache is being warmed", "done", s.Done, "of", s.Total)
		}
	}
	w.mu.Lock()
	w.state, w.done, w.detail = warmDone, w.total, ""
	w.mu.Unlock()
	w.c.cfg.Log.Info("the build cache is warm", "took", time.Since(began).Round(time.Millisecond).String())
}

func (w *warmth) fail(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	w.set(warmFailed, solo.AsError(err).Message)
	w.c.cfg.Log.Warn("the build cache could not be warmed; builds warm what they need", "error", err)
}

// wait returns when all that a source imports is warm. It is not bounded by the
// build's time.
func (w *warmth) wait(ctx context.Context, a *analysis) error {
	return w.ensure(ctx, slices.Sorted(maps.Keys(a.imports)))
}

// ensure warms what is not warm yet of the packages, and the base before them.
func (w *warmth) ensure(ctx context.Context, packages []string) error {
	if w.ready(packages) {
		return nil
	}
	select {
	case w.turn <- struct{}{}:
		defer func() { <-w.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	w.mu.Lock()
	based := w.based
	w.mu.Unlock()
	if !based {
		w.set(warmRunning, "the SDK, testing and what they need")
		if err := w.base(ctx); err != nil {
			return err
		}
	}
	if w.ready(packages) {
		return nil
	}
	w.set(warmRunning, fmt.Sprintf("%s and %d more", packages[0], len(packages)-1))
	if err := w.build(ctx, append([]string{"build", "-mod=vendor", "-trimpath", "-buildvcs=false"}, packages...)); err != nil {
		return err
	}
	w.mark(packages)
	return nil
}

func (w *warmth) ready(packages []string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.based {
		return false
	}
	for _, p := range packages {
		if !w.warmed[p] {
			return false
		}
	}
	return true
}

func (w *warmth) mark(packages []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range packages {
		if !w.warmed[p] {
			w.warmed[p] = true
			w.done++
		}
	}
}

// warmSource is the least service with a test.
var warmSource = solo.Source{Files: []solo.File{
	{Name: "main.go", Data: []byte(`package main

import (
	"context"

	"github.com/solo-run/solo/sdk"
)

func main() {
	sdk.Serve(sdk.Methods{"x": sdk.JSON(func(context.Context, int) (int, error) { return 0, nil })})
}
`)},
	{Name: "main_test.go", Data: []byte(`package main

import (
	"testing"

	"github.com/solo-run/solo/sdk/sdktest"
)

func Test(t *testing.T) { sdktest.New(t, nil) }
`)},
}}

// base builds a service and its test, as every build does.
func (w *warmth) base(ctx context.Context) error {
	if err := w.build(ctx, append(append([]string{"build"}, flags...), "-o", "../out/service", ".")); err != nil {
		return err
	}
	if err := w.build(ctx, []string{"test", "-mod=vendor", "-trimpath", "-buildvcs=false", "-vet=off", "-c", "-o", "../out/test", "."}); err != nil {
		return err
	}
	w.mark(baseImports)
	w.mu.Lock()
	w.based = true
	w.done++
	w.mu.Unlock()
	return nil
}

// build runs one command in a workspace of its own, with no bound of time.
func (w *warmth) build(ctx context.Context, args []string) error {
	scratch, remove, err := w.c.cfg.Runner.Scratch()
	if err != nil {
		return solo.Internal(err)
	}
	defer remove()
	space := &workspace{c: w.c, a: &analysis{module: "service", goLine: w.c.goLine}, scratch: scratch, deadline: time.Now().Add(24 * time.Hour)}
	if err := space.write(warmSource); err != nil {
		return solo.StorageError("the build cache cannot be warmed", err)
	}
	r, err := space.run(ctx, args...)
	if err != nil {
		return err
	}
	if r.failed() {
		return solo.Internal(fmt.Errorf("cannot warm the build cache: go %s: %+v %s %.1000s", args[0], r.result, r.limit, r.stderr))
	}
	return nil
}
