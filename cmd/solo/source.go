package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"go/scanner"
	"go/token"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"unicode/utf8"

	solov1 "github.com/solo-run/solo/proto/solo/v1"
)

// Bounds of a source, those of the daemon: to send more is of no use.
const (
	maxSourceBytes = 4 << 20
	maxFileBytes   = 1 << 20
	maxFiles       = 200
	// maxEntries bounds the walk through what is left out.
	maxEntries = 100_000
)

// stdinName is what the places of a source from stdin begin with.
const stdinName = "<stdin>"

// source is a source as it is sent, and where it came from.
type source struct {
	path  string
	code  []byte
	files map[string][]byte
	// starts are the lines of an archive at which its files begin, 0-based.
	starts map[string]int
}

// idOf is the service's id where none is named: the base name of PATH.
func idOf(name string) (string, error) {
	if name == "-" {
		return "", errors.New("a source on stdin has no name: give the service one with --id")
	}
	abs, err := filepath.Abs(name)
	if err != nil {
		return "", fmt.Errorf("cannot find %s: %w", name, err)
	}
	id := filepath.Base(abs)
	for _, ext := range []string{".go", ".txtar"} {
		id = strings.TrimSuffix(id, ext)
	}
	for i, c := range []byte(id) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == '-' && i > 0:
		default:
			return "", fmt.Errorf("the base name %q is no service id (letters, digits, _ and -): name one with --id", id)
		}
	}
	return id, nil
}

// readSource reads what PATH names. An error about the source itself is a
// [*sourceError].
func readSource(ctx context.Context, name string, stdin io.Reader) (*source, error) {
	if name == "-" {
		data, err := readInput(ctx, stdin, maxSourceBytes)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err != nil:
			return nil, &sourceError{message: fmt.Sprintf("cannot read the source from stdin: %v", err)}
		}
		return textSource(stdinName, data)
	}
	info, err := os.Stat(name)
	if err != nil {
		return nil, fmt.Errorf("cannot read the source: %w", err)
	}
	switch {
	case info.IsDir():
		return dirSource(name)
	case !info.Mode().IsRegular():
		return nil, &sourceError{message: fmt.Sprintf("%s is neither a file nor a directory", name)}
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("cannot read the source: %w", err)
	}
	defer f.Close()
	data, err := readBounded(f, maxSourceBytes)
	if err != nil {
		return nil, &sourceError{message: fmt.Sprintf("cannot read %s: %v", name, err)}
	}
	return textSource(name, data)
}

// textSource is a Go file or an archive; which of them, the daemon decides.
func textSource(name string, data []byte) (*source, error) {
	s := &source{path: name, code: data, starts: archiveStarts(data)}
	if s.starts == nil && len(data) > maxFileBytes {
		return nil, &sourceError{message: fmt.Sprintf("%s has more than %d bytes", name, maxFileBytes)}
	}
	if d := notUTF8(name, data); d != nil {
		return nil, &sourceError{message: "a source must be UTF-8", diagnostics: []*solov1.Diagnostic{d}}
	}
	return s, nil
}

// archiveStarts finds the files of a txtar archive and the lines on which they
// begin; nil for a Go file, which has its package clause before any marker.
func archiveStarts(data []byte) map[string]int {
	var starts map[string]int
	offset := 0
	for n, line := range bytes.SplitAfter(data, []byte("\n")) {
		if name := marker(line); name != "" {
			if starts == nil {
				if packageClause(data[:offset]) {
					return nil
				}
				starts = map[string]int{}
			}
			starts[name] = n + 1
		}
		offset += len(line)
	}
	return starts
}

// marker is the name in a line that begins a file of an archive, "" for any other.
func marker(line []byte) string {
	name, begins := bytes.CutPrefix(bytes.TrimRight(line, "\r\n"), []byte("-- "))
	name, ends := bytes.CutSuffix(name, []byte(" --"))
	if !begins || !ends {
		return ""
	}
	return string(bytes.TrimSpace(name))
}

// packageClause reports whether Go source begins, however it goes on.
func packageClause(data []byte) bool {
	var s scanner.Scanner
	s.Init(token.NewFileSet().AddFile("", -1, len(data)), data, nil, 0)
	_, first, _ := s.Scan()
	_, second, _ := s.Scan()
	return first == token.PACKAGE && second == token.IDENT
}

// dirSource reads a directory: what is not left out, under its slashed names.
func dirSource(dir string) (*source, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot read the source: %w", err)
	}
	defer root.Close()
	ignored, err := newIgnore(dir)
	if err != nil {
		return nil, err
	}
	s := &source{path: dir, files: map[string][]byte{}}
	refuse := func(format string, args ...any) error {
		return &sourceError{message: fmt.Sprintf(format, args...), at: s}
	}
	var bad []*solov1.Diagnostic
	total, seen := 0, 0
	err = fs.WalkDir(root.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("cannot read the source: %w", err)
		}
		if seen++; seen > maxEntries {
			return refuse("%s holds more than %d names: is it the directory that was meant?", dir, maxEntries)
		}
		if name == "." {
			return ignored.enter(root, ".")
		}
		if c := path.Base(name)[0]; c == '.' || c == '_' || ignored.match(name, e.IsDir()) {
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		place := filepath.Join(dir, filepath.FromSlash(name))
		switch {
		case e.IsDir():
			return ignored.enter(root, name)
		case e.Type()&fs.ModeSymlink != 0:
			return refuse("%s is a link, which a source may not hold", place)
		case !e.Type().IsRegular():
			return refuse("%s is not a regular file", place)
		case len(s.files) == maxFiles:
			return refuse("%s holds more than %d files; name what is not of the source in .gitignore", dir, maxFiles)
		}
		data, err := readFile(root, name)
		if err != nil {
			return refuse("cannot read %s: %v", place, err)
		}
		if total += len(data); total > maxSourceBytes {
			return refuse("%s holds more than %d bytes; name what is not of the source in .gitignore", dir, maxSourceBytes)
		}
		if d := notUTF8(name, data); d != nil {
			bad = append(bad, d)
		}
		s.files[name] = data
		return nil
	})
	switch {
	case err != nil:
		return nil, err
	case len(bad) > 0:
		return nil, &sourceError{message: "a source must be UTF-8", diagnostics: bad, at: s}
	case len(s.files) == 0:
		return nil, refuse("%s holds no file of a source", dir)
	}
	return s, nil
}

// readFile reads a file that was seen to be regular, and is so still.
func readFile(root *os.Root, name string) ([]byte, error) {
	seen, err := root.Lstat(name)
	if err != nil {
		return nil, err
	}
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !os.SameFile(info, seen) {
		return nil, errors.New("it changed while it was read")
	}
	return readBounded(f, maxFileBytes)
}

// notUTF8 is the finding about the first byte that is not UTF-8, nil where all are.
func notUTF8(name string, data []byte) *solov1.Diagnostic {
	line, start := int32(1), 0
	for i := 0; i < len(data); {
		r, n := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && n == 1 {
			column := int32(i - start + 1)
			return &solov1.Diagnostic{File: &name, Line: &line, Column: &column, Message: fmt.Sprintf("byte 0x%02x is not UTF-8", data[i])}
		}
		i += n
		if r == '\n' {
			line, start = line+1, i
		}
	}
	return nil
}

// place is where a finding is, as an editor takes it: file:line:col, the file
// relative to where the user stands, "" where nothing is known.
func (s *source) place(d *solov1.Diagnostic) string {
	file, line := d.GetFile(), d.GetLine()
	if s != nil {
		start, inArchive := s.starts[file]
		switch {
		case s.files != nil && file != "":
			file = filepath.Join(s.path, filepath.FromSlash(file))
		case s.files != nil, file == "":
			file = s.path
		case inArchive && line > 0:
			file, line = s.path, line+int32(start)
		case s.starts == nil:
			file = s.path
		}
	}
	if file == "" || line == 0 {
		return file
	}
	place := fmt.Sprintf("%s:%d", file, line)
	if d.GetColumn() > 0 {
		place += fmt.Sprintf(":%d", d.GetColumn())
	}
	return place
}
