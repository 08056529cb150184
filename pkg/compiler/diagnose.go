package compiler

import (
	"bytes"
	"path"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/solo-run/solo/pkg/solo"
)

// Bounds of what is told of a source (contract 4b).
const (
	maxMessage     = 4 << 10
	maxDiagnostics = 100
	maxAll         = 64 << 10
)

// place is how the tools say where: file:line:column: message, the column not
// always. vet puts its own name first.
var place = regexp.MustCompile(`^(?:vet: )?(\.{0,2}[A-Za-z0-9_./-]*\.(?:go|mod|sum)|[A-Za-z0-9_./-]+):(\d+)(?::(\d+))?: (.*)$`)

// fromFile is how an import that leads to a fault is told: "imports x from a.go".
var fromFile = regexp.MustCompile(`\bfrom ([A-Za-z0-9_.-]+\.go)\b`)

// diagnostics reads what the toolchain printed.
func (w *workspace) diagnostics(text []byte) (list []solo.Diagnostic, truncated bool) {
	total := 0
	flush := func(d *solo.Diagnostic) {
		if d == nil {
			return
		}
		d.Message = bounded4K(d.Message)
		total += len(d.Message)
		if len(list) >= maxDiagnostics || total > maxAll {
			truncated = true
			return
		}
		list = append(list, *d)
	}
	var current *solo.Diagnostic
	for line := range bytes.Lines(text) {
		s := w.clean(string(bytes.TrimRight(line, "\r\n")))
		switch {
		case s == "", strings.HasPrefix(s, "# "), s == "too many errors", strings.HasPrefix(s, "FAIL"), strings.HasPrefix(s, "exit status "):
			continue
		case current != nil && (s[0] == '\t' || s[0] == ' '):
			current.Message += "\n" + strings.TrimSpace(s)
			if current.File == nil {
				if m := fromFile.FindStringSubmatch(s); m != nil {
					file := m[1]
					current.File = &file
				}
			}
			continue
		}
		flush(current)
		current = nil
		if m := place.FindStringSubmatch(s); m != nil {
			line, _ := strconv.Atoi(m[2])
			column, _ := strconv.Atoi(m[3])
			d := solo.At(w.tenantFile(m[1]), line, column, m[4])
			current = &d
			continue
		}
		d := solo.At("", 0, 0, strings.TrimPrefix(s, "go: "))
		current = &d
	}
	flush(current)
	return list, truncated
}

// tenantFile names a file as the tenant does: relative to the module.
func (w *workspace) tenantFile(name string) string {
	name = path.Clean(name)
	if rest, ok := strings.CutPrefix(name, w.a.module+"/"); ok {
		name = rest
	}
	return name
}

// clean takes paths of the host and control bytes out of a line.
func (w *workspace) clean(s string) string {
	for _, dir := range []string{w.module() + "/", w.module(), w.scratch + "/", w.scratch} {
		s = strings.ReplaceAll(s, dir, "")
	}
	s = strings.ReplaceAll(s, w.c.goRoot, "$GOROOT")
	return strings.Map(func(r rune) rune {
		if r < 0x20 && r != '\t' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return utf8.RuneError
		}
		return r
	}, strings.ToValidUTF8(s, string(utf8.RuneError)))
}

// bounded4K keeps head and tail of a long message.
func bounded4K(s string) string {
	if len(s) <= maxMessage {
		return s
	}
	const half = maxMessage/2 - 8
	return strings.ToValidUTF8(s[:half], "") + "\n…\n" + strings.ToValidUTF8(s[len(s)-half:], "")
}
