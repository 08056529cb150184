package compiler_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/solo-run/solo/pkg/compiler"
	"github.com/solo-run/solo/pkg/solo"
)

// shared is one compiler, warm for the SDK, for all tests that do not need their
// own.
var shared *compiler.Compiler

var dirs struct{ root, cache string }

func TestMain(m *testing.M) {
	root, err := os.MkdirTemp("", "solo-compiler-")
	if err != nil {
		panic(err)
	}
	dirs.root, dirs.cache = root, filepath.Join(root, "cache")
	if shared, err = compiler.Open(config("artifacts", nil)); err != nil {
		panic(err)
	}
	if _, err := shared.Build(context.Background(), "warm", source("package main\nimport \"github.com/solo-run/solo/sdk\"\nfunc main() { sdk.Serve(nil) }\n")); err != nil {
		panic(err)
	}
	code := m.Run()
	os.RemoveAll(root)
	os.Exit(code)
}

type quiet struct{}

func (quiet) Info(string, ...any) {}
func (quiet) Warn(string, ...any) {}

func config(name string, change func(*compiler.Config)) compiler.Config {
	scratch := filepath.Join(dirs.root, "scratch")
	if err := os.MkdirAll(scratch, 0o700); err != nil {
		panic(err)
	}
	c := compiler.Config{
		Go: "go", Dir: filepath.Join(dirs.root, name), CacheDir: dirs.cache, Timeout: time.Minute, Parallel: 2, QueueMax: 8,
		DenyImports: []string{"os/exec", "plugin", "unsafe", "runtime/cgo", "C"}, Runner: compiler.DirectRunner{Dir: scratch}, Log: quiet{},
	}
	if change != nil {
		change(&c)
	}
	return c
}

func source(code string) solo.Source {
	src, err := compiler.Parse(&solo.DeployRequest{Code: &code})
	if err != nil {
		panic(err)
	}
	return src
}

func files(pairs ...string) solo.Source {
	m := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	src, err := compiler.Parse(&solo.DeployRequest{Files: m})
	if err != nil {
		panic(err)
	}
	return src
}

const good = "package main\n\nimport \"github.com/solo-run/solo/sdk\"\n\nfunc main() { sdk.Serve(sdk.Methods{}) }\n"

// lines words diagnostics as file:line:column: message.
func lines(list any) []string {
	var out []string
	ds, _ := list.([]solo.Diagnostic)
	for _, d := range ds {
		text := ""
		if d.File != nil {
			text = *d.File
		}
		if d.Line != nil {
			text += fmt.Sprintf(":%d", *d.Line)
		}
		if d.Column != nil {
			text += fmt.Sprintf(":%d", *d.Column)
		}
		text += ": " + d.Message
		if d.Test != "" {
			text += " [" + d.Test + "]"
		}
		out = append(out, text)
	}
	return out
}

func TestSourcesThatWillNotDo(t *testing.T) {
	many := "package main\n\nfunc main() {\n"
	for i := range 12 {
		many += fmt.Sprintf("\tundefined%d()\n", i)
	}
	many += "}\n"
	for _, tc := range []struct {
		name string
		src  solo.Source
		code solo.Code
		// want is in the diagnostics, find in the findings, in this order.
		want, find []string
		limit      string
	}{
		{"a type error", source("package main\n\nfunc main() {\n\tvar x int = \"s\"\n\t_ = x\n}\n"), solo.CodeCompileFailed, []string{"main.go:4:14: cannot use \"s\""}, nil, ""},
		{"twelve errors", source(many), solo.CodeCompileFailed, []string{"main.go:4:2: undefined: undefined0", "main.go:15:2: undefined: undefined11"}, nil, ""},
		{"a syntax error", source("package main\n\nfunc main() {\n"), solo.CodeCompileFailed, []string{"main.go:4:1: syntax error: unexpected EOF"}, nil, ""},
		{"a column in bytes", source("package main\n\nfunc main() { _ = \"üü\"; x() }\n"), solo.CodeCompileFailed, []string{"main.go:3:27: undefined: x"}, nil, ""},
		{"continued lines", source("package main\n\ntype I interface{ M() }\ntype T struct{}\n\nfunc main() { var _ I = T{} }\n"), solo.CodeCompileFailed, []string{"main.go:6:25: cannot use T{} (value of struct type T) as I value in variable declaration: T does not implement I (missing method M)"}, nil, ""},
		{"//line has no effect", source("package main\n\n//line other.go:100\nfunc main() { /*line x.go:7:9*/ x() }\n"), solo.CodeCompileFailed, []string{"main.go:4:33: undefined: x"}, nil, ""},
		{"CRLF", source("package main\r\n\r\nfunc main() { x() }\r\n"), solo.CodeCompileFailed, []string{"main.go:3:15: undefined: x"}, nil, ""},
		{"a NUL", source("package main\n\nfunc main() { _ = \"\x00\" }\n"), solo.CodeCompileFailed, []string{"main.go:3:20: invalid NUL character"}, nil, ""},
		{"a second file", files("main.go", "package main\n\nfunc main() { f() }\n", "sub/../z.go"[7:], "package main\n\nfunc f() { return 1 }\n"), solo.CodeCompileFailed, []string{"z.go:3:19: too many return values"}, nil, ""},
		{"a sub-package", files("main.go", "package main\n\nimport \"service/a\"\n\nfunc main() { a.F() }\n", "a/a.go", "package a\n\nfunc F() { x() }\n"), solo.CodeCompileFailed, []string{"a/a.go:3:12: undefined: x"}, nil, ""},
		{"a cycle", files("main.go", "package main\n\nimport \"service/a\"\n\nfunc main() { a.F() }\n", "a/a.go", "package a\n\nimport \"service/b\"\n\nfunc F() { b.F() }\n", "b/b.go", "package b\n\nimport \"service/a\"\n\nfunc F() { a.F() }\n"), solo.CodeCompileFailed, []string{"import cycle not allowed"}, nil, ""},
		{"another package", source("package other\n\nfunc main() {}\n"), solo.CodeCompileFailed, []string{"main.go:1:9: package other: a service is a package main"}, nil, ""},
		{"no main", source("package main\n\nfunc init() {}\n"), solo.CodeCompileFailed, []string{"main.go:1:9: function main is undeclared"}, nil, ""},
		{"only a sub-package", files("a/a.go", "package a\n"), solo.CodeCompileFailed, []string{"no Go file at the top"}, nil, ""},
		{"two packages in one place", files("main.go", "package main\n\nfunc main() {}\n", "x.go", "package x\n"), solo.CodeCompileFailed, []string{"x.go:1:9: package x"}, nil, ""},
		{"a missing module", source("package main\n\nimport \"github.com/x/y\"\n\nfunc main() { y.Z() }\n"), solo.CodeCompileFailed, []string{"main.go:3:8: package github.com/x/y is not available: a service may import the standard library"}, nil, ""},
		{"an internal package", source("package main\n\nimport _ \"internal/abi\"\n\nfunc main() {}\n"), solo.CodeCompileFailed, []string{"main.go:3:10: package internal/abi is not available"}, nil, ""},
		{"the wire is not for authors", source("package main\n\nimport _ \"github.com/solo-run/solo/sdk/wire\"\n\nfunc main() {}\n"), solo.CodeCompileFailed, []string{"main.go:3:10: package github.com/solo-run/solo/sdk/wire is not available"}, nil, ""},
		{"nothing to embed", source("package main\n\nimport _ \"embed\"\n\n//go:embed none.txt\nvar x string\n\nfunc main() { _ = x }\n"), solo.CodeCompileFailed, []string{"main.go:5:12: pattern none.txt: no matching files found"}, nil, ""},
		{"embed outside", source("package main\n\nimport _ \"embed\"\n\n//go:embed ../go.mod\nvar x string\n\nfunc main() { _ = x }\n"), solo.CodeCompileFailed, []string{"main.go:5:12: pattern ../go.mod: invalid pattern syntax"}, nil, ""},

		{"a denied import", source("package main\n\nimport (\n\t\"fmt\"\n\tx `os/exec`\n\t. \"unsafe\"\n)\n\nfunc main() { fmt.Println(x.Command, Sizeof(1)) }\n"), solo.CodePolicyViolation, nil, []string{"main.go:5:4: the import of \"os/exec\"", "main.go:6:4: the import of \"unsafe\""}, ""},
		{"cgo", source("package main\n\n// int f() { return 1; }\nimport \"C\"\n\nfunc main() { C.f() }\n"), solo.CodePolicyViolation, nil, []string{"main.go:4:8: the import of \"C\""}, ""},
		{"linkname", source("package main\n\nimport _ \"fmt\"\n\n//go:linkname f runtime.f\nfunc f()\n\nfunc main() { f() }\n"), solo.CodePolicyViolation, []string{"main.go:5:3: //go:linkname only allowed"}, []string{"main.go:5:1: //go:linkname"}, ""},
		{"assembly", files("main.go", good, "x.s", "TEXT"), solo.CodePolicyViolation, nil, []string{"x.s: files of the kind .s"}, ""},
		{"both", source("package main\n\nimport \"os/exec\"\n\nfunc main() { exec.Command(\"x\"); y() }\n"), solo.CodePolicyViolation, []string{"main.go:5:34: undefined: y"}, []string{"main.go:3:8: the import of \"os/exec\""}, ""},
		{"in a test too", files("main.go", good, "x_test.go", "package main\n\nimport _ \"os/exec\"\n"), solo.CodePolicyViolation, nil, []string{"x_test.go:3:10: the import of \"os/exec\""}, ""},

		{"replace", files("main.go", good, "go.mod", "module x\n\ngo 1.26\n\nreplace github.com/solo-run/solo => /etc\n"), solo.CodePolicyViolation, nil, []string{"go.mod:5: a go.mod here may say module, go and require, and not replace"}, ""},
		{"toolchain, exclude, tool", files("main.go", good, "go.mod", "module x\n\ngo 1.26\n\ntoolchain go1.99.0\n\nexclude a.b/c v1.0.0\n\ntool a.b/c\n"), solo.CodePolicyViolation, nil, []string{"go.mod:7", "go.mod:9", "go.mod:5"}, ""},
		{"a newer go", files("main.go", good, "go.mod", "module x\n\ngo 1.99\n"), solo.CodeCompileFailed, []string{"go.mod:3: it asks for go 1.99"}, nil, ""},
		{"a broken go.mod", files("main.go", good, "go.mod", "module x\n\nnonsense\n"), solo.CodeCompileFailed, []string{"go.mod:3"}, nil, ""},

		{"a failing test", files("main.go", good, "main_test.go", "package main\n\nimport \"testing\"\n\nfunc TestA(t *testing.T) {\n\tt.Run(\"sub\", func(t *testing.T) { t.Fatal(\"no\") })\n}\n\nfunc TestB(t *testing.T) {}\n"), solo.CodeTestsFailed, []string{"main_test.go:6: no [TestA/sub]"}, nil, ""},
		{"a test that panics", files("main.go", good+"\nfunc boom() { panic(\"bang\") }\n", "main_test.go", "package main\n\nimport \"testing\"\n\nfunc TestA(t *testing.T) { boom() }\n"), solo.CodeTestsFailed, []string{"main.go:7: bang"}, nil, ""},
		{"a test that exits", files("main.go", good, "main_test.go", "package main\n\nimport (\n\t\"os\"\n\t\"testing\"\n)\n\nfunc TestA(t *testing.T) { os.Exit(3) }\n"), solo.CodeTestsFailed, []string{"main_test.go:8: the test ended the test binary: it exits, or something killed it [TestA]"}, nil, ""},
		{"a test that exits with 0", files("main.go", good, "main_test.go", "package main\n\nimport (\n\t\"os\"\n\t\"testing\"\n)\n\nfunc TestA(t *testing.T) { os.Exit(0) }\n"), solo.CodeTestsFailed, []string{"main_test.go:8: unexpected call to os.Exit(0) during test"}, nil, ""},
		{"a test that does not compile", files("main.go", good, "main_test.go", "package main\n\nimport \"testing\"\n\nfunc TestA(t *testing.T) { x() }\n"), solo.CodeCompileFailed, []string{"main_test.go:5:28: undefined: x"}, nil, ""},
		{"a test in a sub-package", files("main.go", "package main\n\nimport _ \"service/a\"\n\nfunc main() {}\n", "a/a.go", "package a\n", "a/a_test.go", "package a\n\nimport \"testing\"\n\nfunc TestA(t *testing.T) { t.Error(\"no\") }\n"), solo.CodeTestsFailed, []string{"a/a_test.go:5: no [TestA]"}, nil, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			_, err := shared.Build(t.Context(), "t", tc.src)
			e := solo.AsError(err)
			if err == nil || e.Code != tc.code {
				t.Fatalf("Build = %v (%s), want %s", errors.Unwrap(e), e.Code, tc.code)
			}
			for name, want := range map[string][]string{"diagnostics": tc.want, "findings": tc.find} {
				got := strings.Join(lines(e.Details[name]), "\n")
				if len(want) == 0 && got != "" {
					t.Errorf("%s: %s", name, got)
				}
				rest := got
				for _, w := range want {
					at := strings.Index(rest, w)
					if at < 0 {
						t.Errorf("%s lack %q:\n%s", name, w, got)
						break
					}
					rest = rest[at+len(w):]
				}
				if strings.Contains(got, dirs.root) || strings.Contains(got, "/usr/local/go") || strings.Contains(got, "vendor/") {
					t.Errorf("%s hold a path of the host:\n%s", name, got)
				}
			}
		})
	}
}

func TestSourcesThatDo(t *testing.T) {
	for name, src := range map[string]solo.Source{
		"one file":        source(good),
		"a byte order":    source("\ufeff" + good),
		"an archive":      source("a comment\r\n-- main.go --\r\n" + good + "-- data/x.txt --\r\nx\r\n"),
		"tests that pass": files("main.go", good, "main_test.go", "package main\n\nimport \"testing\"\n\nfunc TestA(t *testing.T) {}\n"),
		"a false alarm of vet": files("main.go", good, "main_test.go",
			"package main\n\nimport (\n\t\"fmt\"\n\t\"testing\"\n)\n\nfunc TestA(t *testing.T) { fmt.Printf(\"%d\\n\", \"x\") }\n"),
		"a module of its own": files("go.mod", "module example.com/mine\n\ngo 1.25\n\nrequire github.com/nobody/needs v1.0.0\n",
			"main.go", "package main\n\nimport \"example.com/mine/sub\"\n\nfunc main() { sub.F() }\n", "sub/sub.go", "package sub\n\nfunc F() {}\n"),
		"data to embed":      files("main.go", "package main\n\nimport _ \"embed\"\n\n//go:embed data/x.txt\nvar x string\n\nfunc main() { println(x) }\n", "data/x.txt", "embedded"),
		"a marker in a text": source("package main\n\nconst x = `\n-- a.go --\n`\n\nfunc main() { println(x) }\n"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, err := shared.Build(t.Context(), "t", src)
			if err != nil {
				t.Fatalf("%v %v", err, lines(solo.AsError(err).Details["diagnostics"]))
			}
			info, err := os.Stat(a.Path)
			if err != nil || info.Mode().Perm() != 0o555 || filepath.Base(a.Path) != a.Digest {
				t.Errorf("the artifact is %v, %v", info, err)
			}
			again, err := shared.Build(t.Context(), "t", src)
			if err != nil || !again.Cached || again.Digest != a.Digest {
				t.Errorf("built again: %+v, %v", again, err)
			}
		})
	}
}

func TestAnotherTenantsBuildIsNotToBeSeen(t *testing.T) {
	src := source(good + "// of the first tenant\n")
	a, err := shared.Build(t.Context(), "first", src)
	if err != nil {
		t.Fatal(err)
	}
	b, err := shared.Build(t.Context(), "second", src)
	if err != nil {
		t.Fatal(err)
	}
	if b.Cached || a.Digest == b.Digest {
		t.Errorf("the second tenant's build: %+v, the first's %s", b, a.Digest)
	}
}

func TestADamagedArtifactIsNotFound(t *testing.T) {
	src := source(good + "// to be damaged\n")
	a, err := shared.Build(t.Context(), "t", src)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(a.Path)
	if err != nil {
		t.Fatal(err)
	}
	text[len(text)/2] ^= 1
	os.Chmod(a.Path, 0o700)
	if err := os.WriteFile(a.Path, text, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := shared.Find(a.Digest); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("Find = %v", err)
	}
	again, err := shared.Build(t.Context(), "t", src)
	if err != nil || again.Cached {
		t.Errorf("built again: %+v, %v", again, err)
	}
	if _, err := shared.Find("../../etc/passwd"); err == nil {
		t.Error("a path was taken for a digest")
	}
}

// counting counts the builds that run.
type counting struct {
	compiler.DirectRunner
	mu    sync.Mutex
	runs  []string
	block chan struct{}
}

func (r *counting) Run(ctx context.Context, c compiler.Command) (compiler.Result, error) {
	r.mu.Lock()
	r.runs = append(r.runs, c.Args[1])
	r.mu.Unlock()
	if r.block != nil {
		select {
		case <-r.block:
		case <-ctx.Done():
			return compiler.Result{}, ctx.Err()
		}
	}
	return r.DirectRunner.Run(ctx, c)
}

// own is a compiler of the test's own, past its warm-up.
func own(t *testing.T, change func(*compiler.Config)) (*compiler.Compiler, *counting) {
	t.Helper()
	r := &counting{DirectRunner: compiler.DirectRunner{Dir: t.TempDir()}}
	c, err := compiler.Open(config(filepath.Join("own", t.Name()), func(c *compiler.Config) {
		c.Runner = r
		if change != nil {
			change(c)
		}
	}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Build(t.Context(), "warm", source(good)); err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	r.runs = nil
	r.mu.Unlock()
	return c, r
}

func TestEqualBuildsAreOne(t *testing.T) {
	c, r := own(t, nil)
	src := source(good + "// the same for all\n")
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			if _, err := c.Build(t.Context(), "t", src); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if len(r.runs) != 1 {
		t.Errorf("eight equal builds ran %v", r.runs)
	}
}

func TestABuildEndsWithTheLastWhoWaits(t *testing.T) {
	c, r := own(t, nil)
	r.block = make(chan struct{})
	src := source(good + "// called off\n")
	first, cancelFirst := context.WithCancel(t.Context())
	second, cancelSecond := context.WithCancel(t.Context())
	errs := make(chan error, 2)
	for _, ctx := range []context.Context{first, second} {
		go func() { _, err := c.Build(ctx, "t", src); errs <- err }()
	}
	waitFor(t, func() bool { r.mu.Lock(); defer r.mu.Unlock(); return len(r.runs) == 1 })
	cancelFirst()
	if err := <-errs; !errors.Is(err, context.Canceled) {
		t.Errorf("the first: %v", err)
	}
	cancelSecond()
	if err := <-errs; !errors.Is(err, context.Canceled) {
		t.Errorf("the second: %v", err)
	}
	close(r.block)
	r.block = nil
	if a, err := c.Build(t.Context(), "t", src); err != nil || a.Cached {
		t.Errorf("after it was called off: %+v, %v", a, err)
	}
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not come to be")
		}
	}
}

func TestTheQueueIsBounded(t *testing.T) {
	c, r := own(t, func(c *compiler.Config) { c.Parallel, c.QueueMax = 1, 0 })
	r.block = make(chan struct{})
	first := make(chan error, 1)
	go func() {
		_, err := c.Build(t.Context(), "t", source(good+"// the first\n"))
		first <- err
	}()
	waitFor(t, func() bool { r.mu.Lock(); defer r.mu.Unlock(); return len(r.runs) == 1 })
	second := source(good + "// one too many\n")
	if _, err := c.Build(t.Context(), "t", second); solo.CodeOf(err) != solo.CodeRateLimited || solo.AsError(err).RetryAfter <= 0 {
		t.Errorf("one too many: %v", err)
	}
	close(r.block)
	if err := <-first; err != nil {
		t.Error(err)
	}
	if _, err := c.Build(t.Context(), "t", second); err != nil {
		t.Errorf("when there is room: %v", err)
	}
}

func TestBoundsOfTimeAndOutput(t *testing.T) {
	c, _ := own(t, func(c *compiler.Config) { c.Timeout = 4 * time.Second })
	hang := files("main.go", good, "main_test.go", "package main\n\nimport (\n\t\"testing\"\n\t\"time\"\n)\n\nfunc TestHang(t *testing.T) { time.Sleep(time.Hour) }\n")
	_, err := c.Build(t.Context(), "t", hang)
	e := solo.AsError(err)
	if e.Code != solo.CodeTestsFailed || e.Details["limit"] != "time" || !strings.Contains(strings.Join(lines(e.Details["diagnostics"]), "\n"), "[TestHang]") {
		t.Errorf("a test that hangs: %v %v", err, e.Details)
	}
	flood := files("main.go", good, "main_test.go", "package main\n\nimport (\n\t\"fmt\"\n\t\"testing\"\n)\n\nfunc TestFlood(t *testing.T) {\n\tfor {\n\t\tfmt.Println(\"and on and on and on and on and on and on and on\")\n\t}\n}\n")
	began := time.Now()
	_, err = c.Build(t.Context(), "t", flood)
	if e := solo.AsError(err); e.Code != solo.CodeTestsFailed || e.Details["limit"] != "output" {
		t.Errorf("a test that floods: %v %v", err, e.Details)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("the flood took %v", took)
	}
	left, err := os.ReadDir(filepath.Join(dirs.root, "scratch"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestCheckStoresNothing(t *testing.T) {
	src := source("package main\n\nimport (\n\t\"fmt\"\n\n\t\"github.com/solo-run/solo/sdk\"\n)\n\nfunc main() { fmt.Printf(\"%d\\n\", \"x\"); sdk.Serve(nil) }\n")
	diagnostics, findings, warnings, err := shared.Check(t.Context(), "t", src)
	if err != nil || len(diagnostics)+len(findings) > 0 {
		t.Fatalf("%v %v %v", lines(diagnostics), lines(findings), err)
	}
	if got := strings.Join(lines(warnings), "\n"); !strings.Contains(got, "main.go:9") || !strings.Contains(got, "wrong type string") {
		t.Errorf("warnings %s", got)
	}
	if a, err := shared.Build(t.Context(), "t", src); err != nil || a.Cached {
		t.Errorf("Check has stored an artifact: %+v, %v", a, err)
	}
}

func TestAllowImports(t *testing.T) {
	c, _ := own(t, func(c *compiler.Config) { c.AllowImports = []string{"fmt", "encoding/*"} })
	if _, err := c.Build(t.Context(), "t", source("package main\n\nimport (\n\t_ \"encoding/hex\"\n\t_ \"fmt\"\n\n\t_ \"github.com/solo-run/solo/sdk\"\n)\n\nfunc main() {}\n")); err != nil {
		t.Errorf("what is allowed: %v", err)
	}
	_, err := c.Build(t.Context(), "t", source("package main\n\nimport _ \"os\"\n\nfunc main() {}\n"))
	if e := solo.AsError(err); e.Code != solo.CodePolicyViolation || !strings.Contains(strings.Join(lines(e.Details["findings"]), ""), "main.go:3:10") {
		t.Errorf("what is not: %v %v", err, e.Details)
	}
}

func TestAStricterPolicyFindsNothingThatWasBuiltBefore(t *testing.T) {
	src := source("package main\n\nimport _ \"os\"\n\nfunc main() {}\n")
	lax, _ := own(t, nil)
	if _, err := lax.Build(t.Context(), "t", src); err != nil {
		t.Fatal(err)
	}
	strict, err := compiler.Open(config(filepath.Join("own", t.Name()), func(c *compiler.Config) { c.DenyImports = []string{"os"} }))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := strict.Build(t.Context(), "t", src); solo.CodeOf(err) != solo.CodePolicyViolation {
		t.Errorf("under the stricter policy: %v", err)
	}
}

func TestParse(t *testing.T) {
	text := func(s string) *string { return &s }
	big := strings.Repeat("x", solo.MaxFileBytes+1)
	many := map[string]string{}
	for i := range solo.MaxFiles + 1 {
		many[fmt.Sprintf("f%d.go", i)] = "package main\n"
	}
	total := map[string]string{}
	for i := range 5 {
		total[fmt.Sprintf("f%d.go", i)] = strings.Repeat("y", solo.MaxFileBytes)
	}
	for _, tc := range []struct {
		name string
		req  solo.DeployRequest
		code solo.Code
		want string
	}{
		{"nothing", solo.DeployRequest{}, solo.CodeInvalidRequest, "is required"},
		{"both", solo.DeployRequest{Code: text("x"), Files: map[string]string{"a.go": "x"}}, solo.CodeInvalidRequest, "together"},
		{"empty", solo.DeployRequest{Code: text(" \n")}, solo.CodeInvalidRequest, "empty"},
		{"no Go file", solo.DeployRequest{Files: map[string]string{"a.txt": "x"}}, solo.CodeInvalidRequest, "no Go file"},
		{"another format", solo.DeployRequest{Code: text("x"), Format: text("go_binary")}, solo.CodeInvalidRequest, "go_source"},
		{"a file too large", solo.DeployRequest{Files: map[string]string{"a.go": big}}, solo.CodeTooLarge, "1048576"},
		{"code too large", solo.DeployRequest{Code: text(strings.Repeat("x", solo.MaxSourceBytes+1))}, solo.CodeTooLarge, "4194304"},
		{"too many files", solo.DeployRequest{Files: many}, solo.CodeTooLarge, "200"},
		{"too large together", solo.DeployRequest{Files: total}, solo.CodeTooLarge, "4194304"},
		{"upwards", solo.DeployRequest{Files: map[string]string{"../a.go": "x"}}, solo.CodeInvalidRequest, "begins with"},
		{"absolute", solo.DeployRequest{Files: map[string]string{"/a.go": "x"}}, solo.CodeInvalidRequest, "clean relative"},
		{"unclean", solo.DeployRequest{Files: map[string]string{"a//b.go": "x"}}, solo.CodeInvalidRequest, "clean relative"},
		{"hidden", solo.DeployRequest{Files: map[string]string{"a/.git/b.go": "x"}}, solo.CodeInvalidRequest, "begins with"},
		{"a flag", solo.DeployRequest{Files: map[string]string{"-x.go": "x"}}, solo.CodeInvalidRequest, "begins with"},
		{"a look-alike", solo.DeployRequest{Files: map[string]string{"а.go": "x"}}, solo.CodeInvalidRequest, "holds only"},
		{"vendor", solo.DeployRequest{Files: map[string]string{"vendor/a.go": "x"}}, solo.CodeInvalidRequest, "solod's own"},
		{"a file and a directory", solo.DeployRequest{Files: map[string]string{"a": "x", "a/b.go": "x"}}, solo.CodeInvalidRequest, "directory of"},
		{"twice in an archive", solo.DeployRequest{Code: text("-- a.go --\nx\n-- a.go --\ny\n")}, solo.CodeInvalidRequest, "twice"},
	} {
		_, err := compiler.Parse(&tc.req)
		e := solo.AsError(err)
		if err == nil || e.Code != tc.code || !strings.Contains(fmt.Sprint(e.Message, e.Details), tc.want) {
			t.Errorf("%s: %v %v, want %s %q", tc.name, err, e, tc.code, tc.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("-- a.go --\npackage main\n-- b/c.txt --\r\n")
	f.Add("package main\n//line x:1\n")
	f.Add("module x\nrequire (\n\ta v1\n)\n")
	f.Fuzz(func(t *testing.T, text string) {
		src, err := compiler.Parse(&solo.DeployRequest{Code: &text})
		if err != nil {
			return
		}
		total := 0
		for _, file := range src.Files {
			total += len(file.Data)
			if strings.HasPrefix(file.Name, "/") || strings.Contains(file.Name, "..") {
				t.Fatalf("the name %q", file.Name)
			}
		}
		if total > solo.MaxSourceBytes {
			t.Fatalf("%d bytes", total)
		}
		src.Files = append(src.Files, solo.File{Name: "go.mod", Data: []byte(text)})
		shared.Analyse(src)
	})
}

// A build of a changed source against the go command's own build of a hello
// world, both in a warm cache (performance.md, section 1).
func BenchmarkBuild(b *testing.B) {
	b.Run("service", func(b *testing.B) {
		n := 0
		for b.Loop() {
			n++
			src := source(strings.Replace(good, "func main() {", fmt.Sprintf("const n = %d\n\nfunc main() { println(n);", n), 1))
			if _, err := shared.Build(b.Context(), fmt.Sprint("bench", time.Now().UnixNano()), src); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("hello", func(b *testing.B) {
		dir := b.TempDir()
		os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module hello\n\ngo 1.26\n"), 0o600)
		n := 0
		for b.Loop() {
			n++
			os.WriteFile(filepath.Join(dir, "main.go"), []byte(fmt.Sprintf("package main\n\nimport \"fmt\"\n\nconst n = %d\n\nfunc main() { fmt.Println(n) }\n", time.Now().UnixNano())), 0o600)
			cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", filepath.Join(dir, "hello"), ".")
			cmd.Dir, cmd.Env = dir, append(os.Environ(), "CGO_ENABLED=0")
			if out, err := cmd.CombinedOutput(); err != nil {
				b.Fatalf("%v %s", err, out)
			}
		}
	})
}
