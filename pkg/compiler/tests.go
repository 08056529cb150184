package compiler

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/solo-run/solo/pkg/solo"
)

// testMargin is how much of the build's time is kept for the test binary's own
// word about a test that hangs.
const testMargin = time.Second

// test runs the tenant's tests. They run without vet, whose false alarms would
// stop every test (go#69831).
func (w *workspace) test(ctx context.Context) (*ran, error) {
	left := max(time.Until(w.deadline)-testMargin, time.Second)
	return w.run(ctx, "test", "-mod=vendor", "-trimpath", "-buildvcs=false", "-vet=off", "-count=1", "-json",
		"-gcflags="+w.a.module+"/...=-e", "-timeout="+left.String(), "./...")
}

// testEvent is a line of go test -json.
type testEvent struct {
	Action, Package, ImportPath, Test, Output string
}

// running is what is known of one test of one package; an empty name stands for
// the package.
type running struct {
	pkg, name string
	output    strings.Builder
	failed    bool
	done      bool
}

// judgeTests turns the events of a test run into diagnostics.
func (w *workspace) judgeTests(r *ran, out *outcome) {
	out.testing = true
	if !r.failed() {
		return
	}
	out.limit = r.limit
	var build bytes.Buffer
	var order []*running
	tests := map[[2]string]*running{}
	get := func(pkg, name string) *running {
		k := [2]string{pkg, name}
		if tests[k] == nil {
			tests[k] = &running{pkg: pkg, name: name}
			order = append(order, tests[k])
		}
		return tests[k]
	}
	for line := range bytes.Lines(r.stdout) {
		var e testEvent
		if json.Unmarshal(line, &e) != nil {
			continue
		}
		t := get(e.Package, e.Test)
		switch e.Action {
		case "build-output":
			build.WriteString(e.Output)
		case "output":
			if t.output.Len() < maxAll {
				t.output.WriteString(e.Output)
			}
		case "fail":
			t.failed, t.done = true, true
		case "pass", "skip":
			t.done = true
		}
	}
	if build.Len() > 0 {
		// Tests that do not compile are the compiler's matter.
		out.diagnostics, out.truncated = w.diagnostics(build.Bytes())
		if len(out.diagnostics) > 0 {
			out.testing = false
			return
		}
	}
	if strings.Contains(string(r.stdout), "test timed out after") {
		out.limit = "time"
	}
	total := 0
	for _, t := range order {
		if !t.failed && (t.done || t.name == "") {
			continue
		}
		if t.name == "" && hasFailed(order, t.pkg) || isParent(order, t) {
			continue
		}
		d := w.failure(t, order)
		total += len(d.Message) + len(d.Output)
		if len(out.failures) == maxDiagnostics || total > maxAll {
			out.truncated = true
			break
		}
		out.failures = append(out.failures, d)
	}
	if len(out.failures) == 0 && out.limit == "" {
		text := w.clean(strings.ReplaceAll(string(r.stderr), "\n", " "))
		out.failures = append(out.failures, solo.At("", 0, 0, bounded4K(fmt.Sprintf("the tests failed: exit status %d %s", r.result.ExitCode, text))))
	}
}

// hasFailed reports whether a test of the package tells of its failure, so that
// the package itself need not.
func hasFailed(order []*running, pkg string) bool {
	for _, t := range order {
		if t.pkg == pkg && t.name != "" && (t.failed || !t.done) {
			return true
		}
	}
	return false
}

// isParent reports whether a subtest tells of its failure.
func isParent(order []*running, parent *running) bool {
	for _, t := range order {
		if t.pkg == parent.pkg && parent.name != "" && strings.HasPrefix(t.name, parent.name+"/") && (t.failed || !t.done) {
			return true
		}
	}
	return false
}

var (
	// logged is how testing prints t.Error: "    main_test.go:12: message".
	logged = regexp.MustCompile(`(?m)^\s+([A-Za-z0-9_.-]+\.go):(\d+): (.*)$`)
	// traced is a line of a goroutine's trace.
	traced = regexp.MustCompile(`(?m)^\t(\S+\.go):(\d+)(?: \+0x[0-9a-f]+)?$`)
	// panicked is what a trace begins with.
	panicked = regexp.MustCompile(`(?m)^(?:panic|fatal error): (.*)$`)
)

// failure words one test that did not pass, at the tenant's own line.
func (w *workspace) failure(t *running, order []*running) solo.Diagnostic {
	text := t.output.String()
	if t.name != "" {
		// A panic's trace may have been given to the package.
		for _, o := range order {
			if o.pkg == t.pkg && o.name == "" && !panicked.MatchString(text) {
				text += o.output.String()
			}
		}
	}
	dir := strings.TrimPrefix(strings.TrimPrefix(t.pkg, w.a.module), "/")
	d := solo.At("", 0, 0, "the test failed")
	if t.name == "" {
		d.Message = "the tests ended before they were through"
	}
	if m := panicked.FindStringSubmatch(text); m != nil {
		d.Message = m[1]
		if strings.HasPrefix(m[1], "test timed out") {
			d.Message = "the test did not end: " + m[1]
		}
		for _, m := range traced.FindAllStringSubmatch(text, -1) {
			if file, ok := strings.CutPrefix(m[1], w.a.module+"/"); ok && !strings.HasPrefix(file, "vendor/") {
				line, _ := strconv.Atoi(m[2])
				d.File, d.Line = &file, &line
				break
			}
		}
	} else if m := logged.FindStringSubmatch(text); m != nil {
		line, _ := strconv.Atoi(m[2])
		at := solo.At(path.Join(dir, m[1]), line, 0, m[3])
		d = at
	} else if t.name != "" && !t.failed {
		d.Message = "the test ended the test binary: it exits, or something killed it"
	}
	d.Test = t.name
	if d.File == nil && t.name != "" {
		// Where it is declared is the least that can be said.
		name, _, _ := strings.Cut(t.name, "/")
		if at, ok := w.a.tests[[2]string{path.Join(".", dir), name}]; ok {
			d.File, d.Line = at.File, at.Line
		}
	}
	var output []string
	for line := range strings.Lines(t.output.String()) {
		output = append(output, w.clean(strings.TrimRight(line, "\r\n")))
	}
	d.Output = bounded4K(strings.Join(output, "\n"))
	d.Message = bounded4K(w.clean(d.Message))
	return d
}
