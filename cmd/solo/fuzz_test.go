package main

import (
	"bytes"
	"path"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"golang.org/x/tools/txtar"
)

// The files of an archive must be found where txtar finds them, and the lines
// before them must be their markers.
func FuzzArchiveStarts(f *testing.F) {
	f.Add([]byte("about\n-- a.go --\npackage main\n-- b/c --\n"))
	f.Add([]byte("-- a --\r\nx\r\n-- a --"))
	f.Add([]byte("package main\nvar s = `\n-- a --\n`\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		starts := archiveStarts(in)
		if starts == nil {
			return
		}
		// One kind of line end is the archive's own; txtar knows no other.
		text := bytes.ReplaceAll(in, []byte("\r"), nil)
		if !bytes.Equal(text, in) {
			return
		}
		names := map[string]bool{}
		for _, file := range txtar.Parse(in).Files {
			names[file.Name] = true
		}
		lines := strings.Split(string(in), "\n")
		for name, start := range starts {
			if !names[name] {
				t.Errorf("%q is no file of %q", name, in)
			}
			if marker := lines[start-1]; strings.TrimSpace(marker[len("--"):len(marker)-len("--")]) != name {
				t.Errorf("%q begins after line %q", name, marker)
			}
		}
		if len(names) != len(starts) {
			t.Errorf("%d files of %d in %q", len(starts), len(names), in)
		}
	})
}

// A place must be given for exactly what is not UTF-8, and be that of its first
// bad byte.
func FuzzNotUTF8(f *testing.F) {
	f.Add([]byte("a\n\xff"))
	f.Add([]byte("\xed\xa0\x80"))
	f.Fuzz(func(t *testing.T, in []byte) {
		d := notUTF8("f", in)
		if (d == nil) != utf8.Valid(in) {
			t.Fatalf("%q: %v", in, d)
		}
		if d == nil {
			return
		}
		before := bytes.Join(bytes.SplitAfter(in, []byte("\n"))[:d.GetLine()-1], nil)
		at := len(before) + int(d.GetColumn()) - 1
		if !utf8.Valid(in[:at]) {
			t.Fatalf("%q: bytes before %d are bad too", in, at)
		}
		if r, n := utf8.DecodeRune(in[at:]); r != utf8.RuneError || n != 1 {
			t.Fatalf("%q: byte %d is good", in, at)
		}
	})
}

// Text that was cleaned must not move a cursor, and must be itself where it
// could not.
func FuzzClean(f *testing.F) {
	f.Add("a\x1b[2J\u202e\u009b1m\xff\ttab")
	f.Add("plain é 漢")
	f.Fuzz(func(t *testing.T, in string) {
		out := clean(in)
		harmful := false
		for _, r := range out {
			if unicode.IsControl(r) && r != '\t' || unicode.Is(unicode.Bidi_Control, r) {
				harmful = true
			}
		}
		if harmful || !utf8.ValidString(out) || clean(out) != out {
			t.Errorf("%q becomes %q", in, out)
		}
	})
}

// No .gitignore may stop the program, and a pattern without anything special
// leaves out the file of its name.
func FuzzIgnore(f *testing.F) {
	f.Add("*.log\n!/a/b\n[!a-c[:digit:]]\n\\", "a/b")
	f.Add("a/**/b\n**/\nx?\\ \n", "xü")
	f.Fuzz(func(t *testing.T, file, name string) {
		ig := &ignore{prefix: "."}
		if err := ig.add(".", []byte(file)); err != nil {
			if len(file) <= maxPatternBytes {
				t.Fatal(err)
			}
			return
		}
		ig.match(name, true)
		ig.match(name, false)
		if name == "" || path.Join("/", name) != "/"+name || len(name) > maxPatternBytes || strings.ContainsAny(name, "*?[]\\!#/ \n\r") || strings.HasPrefix(name, "\ufeff") {
			return
		}
		if err := ig.add(".", []byte(name)); err != nil || !ig.match(name, false) || !ig.match("d/"+name, false) {
			t.Errorf("%q does not leave out itself (%v)", name, err)
		}
	})
}
