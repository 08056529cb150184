package main

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	solov1 "github.com/solo-run/solo/proto/solo/v1"
)

// write makes a tree; a name that ends in / is a directory.
func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	s, err := readSource(t.Context(), dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	return slices.Sorted(maps.Keys(s.files))
}

func TestIDOf(t *testing.T) {
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for in, want := range map[string]string{
		"a.go": "a", "x/b.txtar": "b", "dir": "dir", "dir/": "dir", ".": filepath.Base(wd), "..": filepath.Base(filepath.Dir(wd)),
	} {
		if got, err := idOf(in); got != want || err != nil {
			t.Errorf("idOf(%q) = %q, %v, want %q", in, got, err, want)
		}
	}
	for _, in := range []string{"-", "my.service", "-x", "é", "/", "a b.go"} {
		if got, err := idOf(in); err == nil || !strings.Contains(err.Error(), "--id") {
			t.Errorf("idOf(%q) = %q, %v, want an error that names --id", in, got, err)
		}
	}
}

// Ensure that the place of what is no text is exact.
func TestNotUTF8(t *testing.T) {
	for in, want := range map[string]string{
		"\xff":                 "f:1:1",
		"a\né\xe9":             "f:2:3",
		"a\r\nb\n\n\xc0\xaf":   "f:4:1",
		"ok \xed\xa0\x80":      "f:1:4",
		"truncated \xf0\x9f\n": "f:1:11",
	} {
		d := notUTF8("f", []byte(in))
		if d == nil {
			t.Errorf("%q is taken for UTF-8", in)
			continue
		}
		if got := (*source)(nil).place(d); got != want {
			t.Errorf("%q: place %s, want %s", in, got, want)
		}
	}
	if d := notUTF8("f", []byte("\ufefföк\x00\uFFFD")); d != nil {
		t.Errorf("UTF-8 is refused: %v", d)
	}
}

func TestNotUTF8Exit(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"s/main.go": "package main\n\xff", "s/a.txt": "\xfe", "one.go": "x\xff"})
	t.Chdir(dir)
	for path, want := range map[string]string{
		"s":      "s/a.txt:1:1: byte 0xfe is not UTF-8\ns/main.go:2:1: byte 0xff is not UTF-8\nsolo: a source must be UTF-8\n",
		"one.go": "one.go:1:2: byte 0xff is not UTF-8\nsolo: a source must be UTF-8\n",
		"-":      "<stdin>:1:1: byte 0xff is not UTF-8\nsolo: a source must be UTF-8\n",
	} {
		var out, errs bytes.Buffer
		status := run(t.Context(), []string{"deploy", path, "--id", "x", "--addr", "unix:none"}, strings.NewReader("\xff"), &out, &errs)
		if status != statusRefused || errs.String() != want || out.Len() > 0 {
			t.Errorf("%s: status %d, stderr %q, want %q", path, status, &errs, want)
		}
	}
}

// Ensure that the bounds of a source hold before anything is sent, and that each
// allows what is at it.
func TestSourceBounds(t *testing.T) {
	full, over := t.TempDir(), t.TempDir()
	for i := range maxFiles {
		write(t, full, map[string]string{fmt.Sprintf("f%d", i): ""})
	}
	write(t, full, map[string]string{"f0": strings.Repeat("x", maxFileBytes)})
	if got := len(names(t, full)); got != maxFiles {
		t.Errorf("%d files, want %d", got, maxFiles)
	}
	write(t, full, map[string]string{"one-more": ""})
	write(t, over, map[string]string{"big/a": strings.Repeat("x", maxFileBytes+1), "many/a": strings.Repeat("x", maxFileBytes)})
	for _, n := range []string{"b", "c", "d", "e"} {
		write(t, over, map[string]string{"many/" + n: strings.Repeat("x", maxFileBytes)})
	}
	write(t, over, map[string]string{
		"long.go":            strings.Repeat("x", maxSourceBytes+1),
		"mid.go":             strings.Repeat("x", maxFileBytes+1),
		"two.txtar":          "-- a --\n" + strings.Repeat("x", maxFileBytes) + "\n-- b --\n" + strings.Repeat("x", maxFileBytes),
		"pattern/.gitignore": strings.Repeat("x", maxPatternBytes) + "\n" + strings.Repeat("x", maxPatternBytes+1),
		"ignored/.gitignore": strings.Repeat("x\n", maxIgnoreBytes/2+1),
	})
	if _, err := readSource(t.Context(), filepath.Join(over, "two.txtar"), nil); err != nil {
		t.Errorf("an archive of two files: %v", err)
	}
	for path, want := range map[string]string{"pattern": "line 2 has more than 4096 bytes", "ignored": "more than 262144 bytes"} {
		if _, err := readSource(t.Context(), filepath.Join(over, path), nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want an error with %q", path, err, want)
		}
	}
	fifo := filepath.Join(over, "fifo", "f")
	write(t, over, map[string]string{"fifo/a.go": ""})
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		full:                           "more than 200 files",
		filepath.Join(over, "big"):     "more than 1048576 bytes",
		filepath.Join(over, "many"):    "more than 4194304 bytes",
		filepath.Join(over, "long.go"): "more than 4194304 bytes",
		filepath.Join(over, "mid.go"):  "more than 1048576 bytes",
		filepath.Join(over, "fifo"):    "is not a regular file",
		fifo:                           "neither a file nor a directory",
	} {
		_, err := readSource(t.Context(), path, nil)
		var refused *sourceError
		if !errors.As(err, &refused) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want a refusal with %q", path, err, want)
		}
	}
	if _, err := readSource(t.Context(), "-", strings.NewReader(strings.Repeat("x", maxSourceBytes+1))); exitStatus(err) != statusRefused {
		t.Errorf("stdin over the bound: %v", err)
	}
}

func TestArchiveStarts(t *testing.T) {
	for in, want := range map[string]map[string]int{
		"-- a.go --\npackage main\n-- b --\n":             {"a.go": 1, "b": 3},
		"about\r\n-- a.go --\r\npackage main\r\n":         {"a.go": 2},
		"// c\n\n-- a --":                                 {"a": 3},
		"package main\nvar s = `\n-- a --\n`\n":           nil,
		"// doc\n\npackage main /* x */\n/*\n-- a --\n*/": nil,
		"package main\n":                                  nil,
		"-- --\n--  --\n --a --\n--a--\n":                 nil,
	} {
		if got := archiveStarts([]byte(in)); !maps.Equal(got, want) || (got == nil) != (want == nil) {
			t.Errorf("archiveStarts(%q) = %v, want %v", in, got, want)
		}
	}
}

func TestPlace(t *testing.T) {
	str := func(s string) *string { return &s }
	num := func(n int32) *int32 { return &n }
	dir := &source{path: "../x", files: map[string][]byte{}}
	for _, tt := range []struct {
		src  *source
		d    *solov1.Diagnostic
		want string
	}{
		{dir, &solov1.Diagnostic{File: str("a/b.go"), Line: num(3), Column: num(4)}, "../x/a/b.go:3:4"},
		{&source{path: ".", files: dir.files}, &solov1.Diagnostic{File: str("b.go"), Line: num(3)}, "b.go:3"},
		{dir, &solov1.Diagnostic{}, "../x"},
		{nil, &solov1.Diagnostic{File: str("b.go")}, "b.go"},
		{nil, &solov1.Diagnostic{}, ""},
		{&source{path: "x/y.go"}, &solov1.Diagnostic{File: str("main.go"), Line: num(1), Column: num(2)}, "x/y.go:1:2"},
		{&source{path: "a.txtar", starts: map[string]int{"m.go": 10}}, &solov1.Diagnostic{File: str("m.go"), Line: num(1)}, "a.txtar:11"},
		{&source{path: "a.txtar", starts: map[string]int{"m.go": 10}}, &solov1.Diagnostic{File: str("other.go"), Line: num(1)}, "other.go:1"},
	} {
		if got := tt.src.place(tt.d); got != tt.want {
			t.Errorf("place of %v in %v = %q, want %q", tt.d, tt.src, got, tt.want)
		}
	}
}

// Ensure that files above the directory count, up to the root of the repository
// and no further, unless they leave out what the user named.
func TestIgnoreAbove(t *testing.T) {
	top := t.TempDir()
	write(t, top, map[string]string{
		".gitignore":                     "*.go\n",
		"repo/.git/HEAD":                 "ref: x\n",
		"repo/.gitignore":                "*.env\n/svc/local\n/build/\n",
		"repo/svc/.gitignore":            "!keep.env\n",
		"repo/svc/main.go":               "x",
		"repo/svc/a.env":                 "x",
		"repo/svc/keep.env":              "x",
		"repo/svc/local":                 "x",
		"repo/svc/sub/local":             "x",
		"repo/build/gen/main.go":         "x",
		"repo/build/gen/b.env":           "x",
		"repo/build/gen/.gitignore":      "skip\n",
		"repo/build/gen/skip":            "x",
		"plain/.gitignore":               "*.txt\n",
		"plain/sub/a.txt":                "x",
		"plain/main.go":                  "x",
		"plain/_x/y":                     "x",
		"plain/.x":                       "x",
		"plain/sub/_y":                   "x",
		"plain/a_b.go":                   "x",
		"plain/vendor/x.org/y/vendor.go": "x",
	})
	for dir, want := range map[string][]string{
		"repo/svc":       {"keep.env", "main.go", "sub/local"},
		"repo/build/gen": {"b.env", "main.go"},
		"plain":          {"a_b.go", "main.go", "vendor/x.org/y/vendor.go"},
	} {
		if got := names(t, filepath.Join(top, dir)); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", dir, got, want)
		}
	}
}

// randomIgnores is how many files of random patterns are tried, at 5 ms each.
const randomIgnores = 60

// Ensure that patterns mean what they mean to git.
func TestIgnoreAsGit(t *testing.T) {
	git, err := exec.LookPath("git")
	if err != nil {
		t.Skip("git is not installed: nothing to compare with")
	}
	patterns := []string{
		"*.log", "/a", "a/", "a/b", "/a/*.txt", "**/c", "a/**", "a/**/c", "!a.log", "!/a/b.txt", "x?z", "[ab].txt", "[!a].txt",
		"[^a-c].txt", "[[:digit:]]x", "[]-]y", `\#hash`, "# comment", `\!bang`, "sp ", `sp\ `, "", "/", "//", "**", "***", "a*c", "*/b.txt",
		"a/*", "!a/b.txt", "foo/**/", `a\*b`, "[a", "d**e", "/**/q", "a//b", "ü*", "x[/]y", `back\`, "*", "!*/", "!main.go", "\ufeff*.log",
	}
	paths := []string{
		"a.log", "b/a.log", "a/b", "b/a/b", "a/b.txt", "a/x.txt", "a/s/x.txt", "c", "x/c", "x/y/c", "a/m/c", "a/m/n/c", "xyz", "x/xyz",
		"a.txt", "b.txt", "d.txt", "1x", "]y", "-y", "#hash", "!bang", "sp", "sp ", "abc", "ac", "s/b.txt", "s/t/b.txt", "foo/d/f", "foo/e",
		"a*b", "aXb", "[a", "de", "dxe", "d/e", "q", "z/q", "üx", "xüz", "main.go", "sub/main.go", `back\`, "ab/main.go",
	}
	dir := t.TempDir()
	files := map[string]string{}
	for _, p := range paths {
		// A name cannot be both a file and a directory: files of the longer paths win.
		if !slices.ContainsFunc(paths, func(q string) bool { return strings.HasPrefix(q, p+"/") }) {
			files[p] = "x"
		}
	}
	write(t, dir, files)
	run := func(args ...string) string {
		t.Helper()
		cmd := exec.Command(git, args...)
		cmd.Dir = dir
		cmd.Env = []string{"GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "HOME=" + dir, "PATH=" + os.Getenv("PATH")}
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("git %v: %v", args, err)
		}
		return string(out)
	}
	run("init", "-q")
	compare := func(lines ...string) {
		t.Helper()
		write(t, dir, map[string]string{".gitignore": strings.Join(lines, "\n") + "\n"})
		var want []string
		for name := range strings.SplitSeq(run("ls-files", "-z", "--others", "--exclude-per-directory=.gitignore"), "\x00") {
			if name != "" && name[0] != '.' {
				want = append(want, name)
			}
		}
		slices.Sort(want)
		var got []string
		s, err := readSource(t.Context(), dir, nil)
		if err == nil {
			got = slices.Sorted(maps.Keys(s.files))
		} else if exitStatus(err) != statusRefused {
			t.Fatal(err)
		}
		if slices.Equal(got, want) {
			return
		}
		var diff []string
		for _, n := range append(slices.Clone(got), want...) {
			if slices.Contains(got, n) != slices.Contains(want, n) {
				diff = append(diff, fmt.Sprintf("%q kept: %v, by git: %v", n, slices.Contains(got, n), slices.Contains(want, n)))
			}
		}
		t.Errorf("with %q: %s", lines, strings.Join(diff, "; "))
	}
	for i, p := range patterns {
		compare(p)
		compare(p, patterns[(i+7)%len(patterns)], patterns[(i+13)%len(patterns)])
	}
	random := rand.New(rand.NewPCG(1, 0))
	for range randomIgnores {
		var lines []string
		for range 1 + random.IntN(4) {
			var b strings.Builder
			for range 1 + random.IntN(7) {
				pieces := []string{"a", "b", "c", "x", "y", "*", "**", "**/", "/", "?", "[", "]", "!", "-", "^", `\\`, ".txt", " ", "[:alpha:]", "d"}
				b.WriteString(pieces[random.IntN(len(pieces))])
			}
			lines = append(lines, b.String())
		}
		compare(lines...)
	}
}
