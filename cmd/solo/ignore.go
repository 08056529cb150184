package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
)

// Bounds of a .gitignore: a pattern is at most as long as a path of Linux.
const (
	maxIgnoreBytes  = 256 << 10
	maxPatternBytes = 4096
)

// ignore decides what .gitignore files leave out of a directory: those in it,
// and those above it up to the root of its repository.
type ignore struct {
	// patterns are in the order of git: the last that matches decides.
	patterns []pattern
	// prefix is the directory itself, relative to the root of the repository.
	prefix string
}

// pattern is one line of a .gitignore.
type pattern struct {
	// dir is where its file lies, relative to the root of the repository.
	dir     string
	re      *regexp.Regexp
	negated bool
	dirOnly bool
}

// newIgnore reads the files above dir. Where they leave out dir itself, they say
// nothing: the user named it.
func newIgnore(dir string) (*ignore, error) {
	abs, err := filepath.Abs(dir)
	if err == nil {
		abs, err = filepath.EvalSymlinks(abs)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the source: %w", err)
	}
	repo := ""
	for at := abs; ; at = filepath.Dir(at) {
		if _, err := os.Lstat(filepath.Join(at, ".git")); err == nil {
			repo = at
			break
		}
		if at == filepath.Dir(at) {
			return &ignore{prefix: "."}, nil
		}
	}
	rel, err := filepath.Rel(repo, abs)
	if err != nil {
		return nil, fmt.Errorf("cannot read the source: %w", err)
	}
	prefix := filepath.ToSlash(rel)
	ig := &ignore{prefix: "."}
	if prefix == "." {
		return ig, nil
	}
	root, err := os.OpenRoot(repo)
	if err != nil {
		return nil, fmt.Errorf("cannot read the source: %w", err)
	}
	defer root.Close()
	at := "."
	for _, step := range strings.Split(prefix, "/") {
		if err := ig.enter(root, at); err != nil {
			return nil, err
		}
		at = path.Join(at, step)
		if ig.matchPath(at, true) {
			return &ignore{prefix: "."}, nil
		}
	}
	ig.prefix = prefix
	return ig, nil
}

// enter reads the .gitignore of a directory of the source, before what is in it
// is matched.
func (ig *ignore) enter(root *os.Root, dir string) error {
	name := path.Join(dir, ".gitignore")
	info, err := root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot read the source: %w", err)
	}
	data, err := readFile(root, name)
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", name, err)
	}
	return ig.add(path.Join(ig.prefix, dir), data)
}

// match reports whether a name of the source is left out. What is in a
// directory that is left out is never asked for.
func (ig *ignore) match(name string, isDir bool) bool {
	return ig.matchPath(path.Join(ig.prefix, name), isDir)
}

func (ig *ignore) matchPath(name string, isDir bool) bool {
	out := false
	for _, p := range ig.patterns {
		below := name
		if p.dir != "." {
			var ok bool
			if below, ok = strings.CutPrefix(name, p.dir+"/"); !ok {
				continue
			}
		}
		if (isDir || !p.dirOnly) && p.re.MatchString(byteRunes(below)) {
			out = !p.negated
		}
	}
	return out
}

func (ig *ignore) add(dir string, data []byte) error {
	if len(data) > maxIgnoreBytes {
		return fmt.Errorf("cannot read %s: it has more than %d bytes", path.Join(dir, ".gitignore"), maxIgnoreBytes)
	}
	// As in git, a byte order mark is no part of the first pattern.
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	n := 0
	for line := range bytes.SplitSeq(data, []byte("\n")) {
		if n++; len(line) > maxPatternBytes {
			return fmt.Errorf("cannot read %s: line %d has more than %d bytes", path.Join(dir, ".gitignore"), n, maxPatternBytes)
		}
		if p, ok := parsePattern(string(line)); ok {
			p.dir = dir
			ig.patterns = append(ig.patterns, p)
		}
	}
	return nil
}

// parsePattern reads one line; ok is false for one that matches nothing.
func parsePattern(line string) (p pattern, ok bool) {
	line = trimSpaces(strings.TrimSuffix(line, "\r"))
	if line == "" || line[0] == '#' {
		return pattern{}, false
	}
	if line[0] == '!' {
		p.negated, line = true, line[1:]
	}
	if strings.HasSuffix(line, "/") {
		p.dirOnly, line = true, strings.TrimSuffix(line, "/")
	}
	anchored := strings.Contains(line, "/")
	line = strings.TrimPrefix(line, "/")
	if line == "" {
		return pattern{}, false
	}
	expr := globExpr(line, anchored)
	if !anchored {
		expr = "(?:.*/)?" + expr
	}
	re, err := regexp.Compile("(?s)^" + expr + "$")
	if err != nil {
		return pattern{}, false
	}
	p.re = re
	return p, true
}

// trimSpaces cuts the spaces at the end that no backslash keeps.
func trimSpaces(s string) string {
	for strings.HasSuffix(s, " ") && !strings.HasSuffix(s, `\ `) {
		s = s[:len(s)-1]
	}
	return s
}

// never is the expression of a pattern that git cannot read, and that matches nothing.
const never = `[^\x00-\x{10FFFF}]`

// globExpr is a pattern as a regular expression. As in git, ? and a class stand
// for a byte: both sides of a match are written with a character for each. Also
// as in git, text without anything special before the first ** ends a segment
// where the pattern is anchored.
func globExpr(glob string, anchored bool) string {
	var b strings.Builder
	literal := -1
	if anchored {
		literal = strings.IndexAny(glob, `*?[\`)
	}
	for i := 0; i < len(glob); {
		rest := glob[i:]
		start := i == 0 || glob[i-1] == '/' || i == literal
		stars := len(rest) - len(strings.TrimLeft(rest, "*"))
		switch {
		case start && stars > 1 && strings.HasPrefix(rest[stars:], "/"):
			b.WriteString("(?:.*/)?")
			i += stars + 1
		case start && stars > 1 && stars == len(rest):
			b.WriteString(".+")
			i += stars
		case stars > 0:
			b.WriteString("[^/]*")
			i += stars
		case rest[0] == '?':
			b.WriteString("[^/]")
			i++
		case rest[0] == '[':
			set, n := parseClass(rest)
			b.WriteString(classExpr(set))
			i += n
		case rest == `\`:
			return never
		default:
			if rest[0] == '\\' {
				i++
			}
			b.WriteString(regexp.QuoteMeta(byteRunes(glob[i : i+1])))
			i++
		}
	}
	return b.String()
}

// byteRunes writes each byte of s as the character of its number.
func byteRunes(s string) string {
	var b strings.Builder
	for i := range len(s) {
		b.WriteRune(rune(s[i]))
	}
	return b.String()
}

// parseClass reads a bracket expression at the start of s: the bytes that it
// stands for, nil where git cannot read it, and its length.
func parseClass(s string) (set map[byte]bool, length int) {
	set = map[byte]bool{}
	i, negated := 1, false
	if i < len(s) && (s[i] == '!' || s[i] == '^') {
		negated = true
		i++
	}
	one := func() (c byte, ok bool) {
		if i < len(s) && s[i] == '\\' {
			i++
		}
		if i >= len(s) {
			return 0, false
		}
		i++
		return s[i-1], true
	}
	for first := true; i < len(s); first = false {
		if s[i] == ']' && !first {
			out := map[byte]bool{}
			for c := range 256 {
				if b := byte(c); set[b] != negated && b != '/' {
					out[b] = true
				}
			}
			return out, i + 1
		}
		if strings.HasPrefix(s[i:], "[:") {
			end := strings.Index(s[i:], ":]")
			if end < 0 || !addNamed(set, s[i+len("[:"):i+end]) {
				return nil, len(s)
			}
			i += end + len(":]")
			continue
		}
		lo, ok := one()
		hi := lo
		if ok && i+1 < len(s) && s[i] == '-' && s[i+1] != ']' {
			i++
			hi, ok = one()
		}
		if !ok {
			return nil, len(s)
		}
		set[lo] = true
		for c := int(lo); c <= int(hi); c++ {
			set[byte(c)] = true
		}
	}
	return nil, len(s)
}

// addNamed adds the bytes of a class such as alpha; false where there is none.
func addNamed(set map[byte]bool, name string) bool {
	re, err := regexp.Compile("[[:" + name + ":]]")
	if err != nil || strings.ContainsAny(name, "^:[]") {
		return false
	}
	for c := range 128 {
		if re.MatchString(string(rune(c))) {
			set[byte(c)] = true
		}
	}
	return true
}

func classExpr(set map[byte]bool) string {
	if len(set) == 0 {
		return never
	}
	var b strings.Builder
	b.WriteString("[")
	for lo := 0; lo < 256; lo++ {
		hi := lo
		for hi < 256 && set[byte(hi)] {
			hi++
		}
		if hi > lo {
			fmt.Fprintf(&b, `\x{%x}-\x{%x}`, lo, hi-1)
			lo = hi
		}
	}
	b.WriteString("]")
	return b.String()
}
