package compiler

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/scanner"
	"go/token"
	"path"
	"sort"
	"strconv"
	"strings"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/semver"

	"github.com/solo-run/solo/pkg/solo"
)

// analysis is what parsing alone tells of a source.
type analysis struct {
	// module is the source's module path, goLine its go version.
	module, goLine string
	findings       []solo.Diagnostic
	diagnostics    []solo.Diagnostic
	// imports are the packages of the standard library that it needs.
	imports  map[string]bool
	hasTests bool
	// tests are where each test is declared, by its directory and name.
	tests map[[2]string]solo.Diagnostic
	// stopped: what was found keeps the toolchain from being asked at all.
	stopped bool
}

// sdkPackages are what a tenant may import outside the standard library.
var sdkPackages = []string{sdkModule + "/sdk", sdkModule + "/sdk/sdktest"}

const sdkModule = "github.com/solo-run/solo"

// kinds are the files that a C compiler, assembler or linker would take.
var kinds = map[string]bool{
	".s": true, ".S": true, ".c": true, ".cc": true, ".cpp": true, ".cxx": true, ".h": true, ".hh": true, ".hpp": true, ".hxx": true,
	".m": true, ".f": true, ".F": true, ".for": true, ".f90": true, ".syso": true, ".swig": true, ".swigcxx": true,
}

func finding(file string, line, column int, rule, advice, format string, args ...any) solo.Diagnostic {
	d := solo.At(file, line, column, fmt.Sprintf(format, args...))
	d.Rule, d.Advice = rule, advice
	return d
}

// analyse parses every file and applies the policy.
func (c *Compiler) analyse(src solo.Source) *analysis {
	a := &analysis{module: "service", goLine: c.goLine, imports: map[string]bool{}, tests: map[[2]string]solo.Diagnostic{}}
	for _, f := range src.Files {
		if ext := path.Ext(f.Name); kinds[ext] {
			a.findings = append(a.findings, finding(f.Name, 0, 0, "file_kind", "write it in Go",
				"files of the kind %s are for a C compiler, assembler or linker, and are not taken", ext))
			a.stopped = true
		}
		if f.Name == "go.mod" {
			c.analyseModule(a, f.Data)
		}
	}
	own := map[string]bool{}
	for _, f := range src.Files {
		if strings.HasSuffix(f.Name, ".go") {
			own[path.Join(a.module, path.Dir(f.Name))] = true
		}
	}
	set := token.NewFileSet()
	var mains []*ast.File
	var names []string
	hasMain := false
	for _, f := range src.Files {
		if !strings.HasSuffix(f.Name, ".go") {
			continue
		}
		if strings.HasSuffix(f.Name, "_test.go") {
			a.hasTests = true
		}
		c.analyseDirectives(a, f)
		// What does not parse is the compiler's to tell; its imports are read anyway.
		file, _ := parser.ParseFile(set, f.Name, f.Data, parser.SkipObjectResolution)
		if file == nil {
			continue
		}
		c.analyseImports(a, set, file, own)
		if strings.HasSuffix(f.Name, "_test.go") {
			for _, d := range file.Decls {
				if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil {
					at := set.PositionFor(fn.Name.Pos(), false)
					a.tests[[2]string{path.Dir(f.Name), fn.Name.Name}] = solo.At(f.Name, at.Line, 0, "")
				}
			}
		}
		if path.Dir(f.Name) == "." && !strings.HasSuffix(f.Name, "_test.go") && file.Name != nil {
			mains, names = append(mains, file), append(names, f.Name)
			hasMain = hasMain || declaresMain(file) || bytes.Contains(f.Data, []byte("//go:build"))
		}
	}
	c.analyseMain(a, set, mains, names, hasMain)
	return a
}

// analyseMain tells of a program that cannot be one, on its package clause.
func (c *Compiler) analyseMain(a *analysis, set *token.FileSet, mains []*ast.File, names []string, hasMain bool) {
	if len(mains) == 0 {
		a.diagnostics = append(a.diagnostics, solo.At("", 0, 0, "there is no Go file at the top: a service is a package main there"))
		a.stopped = true
		return
	}
	for i, f := range mains {
		if f.Name.Name != "main" && f.Name.Name != "_" {
			at := set.PositionFor(f.Name.Pos(), false)
			a.diagnostics = append(a.diagnostics, solo.At(names[i], at.Line, at.Column, fmt.Sprintf("package %s: a service is a package main", f.Name.Name)))
			a.stopped = true
			return
		}
	}
	if !hasMain && len(a.diagnostics) == 0 {
		at := set.PositionFor(mains[0].Name.Pos(), false)
		a.diagnostics = append(a.diagnostics, solo.At(names[0], at.Line, at.Column, "function main is undeclared in the main package"))
	}
}

func declaresMain(f *ast.File) bool {
	for _, d := range f.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "main" {
			return true
		}
	}
	return false
}

// analyseImports holds the imports of a file to the policy, and to what is there.
func (c *Compiler) analyseImports(a *analysis, set *token.FileSet, file *ast.File, own map[string]bool) {
	for _, imp := range file.Imports {
		name, err := strconv.Unquote(imp.Path.Value)
		if err != nil {
			continue // the compiler says it better
		}
		at := set.PositionFor(imp.Path.Pos(), false)
		if pattern := match(c.cfg.DenyImports, name); pattern != "" {
			a.findings = append(a.findings, finding(at.Filename, at.Line, at.Column, "deny_imports", "do without it, or ask the operator",
				"the import of %q is not allowed here (build.deny_imports: %q)", name, pattern))
			if name == "C" {
				a.stopped = true
			}
			continue
		}
		sdk := name == sdkPackages[0] || name == sdkPackages[1]
		if len(c.cfg.AllowImports) > 0 && !sdk && !own[name] && match(c.cfg.AllowImports, name) == "" {
			a.findings = append(a.findings, finding(at.Filename, at.Line, at.Column, "allow_imports", "use what is allowed: "+strings.Join(c.cfg.AllowImports, ", "),
				"the import of %q is not among those allowed here (build.allow_imports)", name))
			continue
		}
		switch {
		case sdk, own[name], name == "C", strings.HasPrefix(name, "./"), strings.HasPrefix(name, "../"):
		case c.std[name]:
			a.imports[name] = true
		default:
			a.diagnostics = append(a.diagnostics, solo.At(at.Filename, at.Line, at.Column, fmt.Sprintf(
				"package %s is not available: a service may import the standard library, %s, %s, and the source's own packages (below %q)",
				name, sdkPackages[0], sdkPackages[1], a.module)))
			a.stopped = true
		}
	}
}

func match(patterns []string, name string) string {
	for _, p := range patterns {
		if ok, err := path.Match(p, name); err == nil && ok {
			return p
		}
	}
	return ""
}

// analyseDirectives finds the comments that reach around the language.
func (c *Compiler) analyseDirectives(a *analysis, f solo.File) {
	comments(f.Data, func(line, column, _ int, text string) {
		for _, d := range []string{"//go:linkname", "//go:cgo_"} {
			if strings.HasPrefix(text, d) {
				a.findings = append(a.findings, finding(f.Name, line, column, "directive", "use what packages export",
					"%s reaches into other packages and is not allowed", strings.Fields(text)[0]))
			}
		}
	})
}

// comments calls f for each comment of a Go file, wherever the lexer finds one.
func comments(text []byte, f func(line, column, offset int, text string)) {
	var s scanner.Scanner
	file := token.NewFileSet().AddFile("", -1, len(text))
	s.Init(file, text, nil, scanner.ScanComments)
	for {
		pos, tok, lit := s.Scan()
		if tok == token.EOF {
			return
		}
		if tok == token.COMMENT {
			at := file.PositionFor(pos, false)
			f(at.Line, at.Column, at.Offset, lit)
		}
	}
}

// withoutLineDirectives disarms //line and /*line, so that positions stay those
// of the file; not a byte moves.
func withoutLineDirectives(text []byte) []byte {
	if !bytes.Contains(text, []byte("line")) {
		return text
	}
	out := bytes.Clone(text)
	comments(text, func(_, _, offset int, lit string) {
		if strings.HasPrefix(lit, "//line ") || strings.HasPrefix(lit, "/*line ") {
			out[offset+2] = 'L'
		}
	})
	return out
}

// analyseModule reads what a go.mod may say: module, go and require.
func (c *Compiler) analyseModule(a *analysis, text []byte) {
	f, err := modfile.Parse("go.mod", text, nil)
	if err != nil {
		var list modfile.ErrorList
		if l, ok := err.(modfile.ErrorList); ok {
			list = l
		}
		for _, e := range list {
			a.diagnostics = append(a.diagnostics, solo.At("go.mod", e.Pos.Line, e.Pos.LineRune, strings.TrimSpace(e.Err.Error())))
		}
		if len(list) == 0 {
			a.diagnostics = append(a.diagnostics, solo.At("go.mod", 1, 0, "it cannot be read"))
		}
		a.stopped = true
		return
	}
	refuse := func(line *modfile.Line, verb string) {
		at := 0
		if line != nil {
			at = line.Start.Line
		}
		a.findings = append(a.findings, finding("go.mod", at, 0, "go_mod", "remove the line", "a go.mod here may say module, go and require, and not %s", verb))
	}
	for _, r := range f.Replace {
		refuse(r.Syntax, "replace")
	}
	for _, r := range f.Exclude {
		refuse(r.Syntax, "exclude")
	}
	for _, r := range f.Retract {
		refuse(r.Syntax, "retract")
	}
	for _, r := range f.Godebug {
		refuse(r.Syntax, "godebug")
	}
	for _, r := range f.Tool {
		refuse(r.Syntax, "tool")
	}
	for _, r := range f.Ignore {
		refuse(r.Syntax, "ignore")
	}
	if f.Toolchain != nil {
		refuse(f.Toolchain.Syntax, "toolchain")
	}
	if f.Module != nil {
		a.module = f.Module.Mod.Path
		for _, taken := range []string{sdkModule, "golang.org/x/net", "std", "cmd"} {
			if a.module == taken || strings.HasPrefix(a.module, taken+"/") {
				a.diagnostics = append(a.diagnostics, solo.At("go.mod", f.Module.Syntax.Start.Line, 0, fmt.Sprintf("the module path %s is taken: choose another one", a.module)))
				a.stopped = true
			}
		}
	}
	if f.Go != nil {
		if semver.Compare("v"+canonical(f.Go.Version), "v"+canonical(c.goLine)) > 0 {
			a.diagnostics = append(a.diagnostics, solo.At("go.mod", f.Go.Syntax.Start.Line, 0, fmt.Sprintf("it asks for go %s, and the toolchain here is go %s", f.Go.Version, c.goLine)))
			a.stopped = true
			return
		}
		a.goLine = f.Go.Version
	}
}

// canonical makes a semantic version of a go line such as 1.26 or 1.26rc1.
func canonical(v string) string {
	if at := strings.IndexFunc(v, func(r rune) bool { return r != '.' && (r < '0' || r > '9') }); at >= 0 {
		v = v[:at]
	}
	for strings.Count(v, ".") < 2 {
		v += ".0"
	}
	return v
}

// sortDiagnostics puts them in the order of a reader: by file, line and column.
func sortDiagnostics(list []solo.Diagnostic) {
	value := func(p *int) int {
		if p == nil {
			return 0
		}
		return *p
	}
	sort.SliceStable(list, func(i, j int) bool {
		a, b := list[i], list[j]
		fa, fb := "", ""
		if a.File != nil {
			fa = *a.File
		}
		if b.File != nil {
			fb = *b.File
		}
		switch {
		case fa != fb:
			return fa < fb
		case value(a.Line) != value(b.Line):
			return value(a.Line) < value(b.Line)
		}
		return value(a.Column) < value(b.Column)
	})
}
