package process

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"
)

func lines(r io.Reader) (out []string, cuts []bool) {
	s := &stream{emit: func(text []byte, truncated bool) {
		out, cuts = append(out, string(text)), append(cuts, truncated)
	}}
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		s.take(buf[:n])
		if err != nil {
			s.end()
			return out, cuts
		}
	}
}

func TestLines(t *testing.T) {
	head, tail := strings.Repeat("h", half), strings.Repeat("t", half)
	for _, tc := range []struct {
		name, in string
		want     []string
		cut      bool
	}{
		{"none", "", nil, false},
		{"one", "a\n", []string{"a"}, false},
		{"without an end", "a\nb", []string{"a", "b"}, false},
		{"empty ones", "\n\n", []string{"", ""}, false},
		{"CRLF", "a\r\nb\r\n", []string{"a", "b"}, false},
		{"as long as may be", head + tail + "\n", []string{head + tail}, false},
		{"longer by one", head + "x" + tail + "\n", []string{head + tail}, true},
		{"far longer", head + strings.Repeat("x", 1<<20) + tail + "\nnext\n", []string{head + tail, "next"}, true},
	} {
		for _, reader := range []func(io.Reader) io.Reader{func(r io.Reader) io.Reader { return r }, iotest.OneByteReader, iotest.DataErrReader} {
			got, cuts := lines(reader(strings.NewReader(tc.in)))
			if fmt.Sprint(got) != fmt.Sprint(tc.want) {
				t.Errorf("%s: %d lines, want %d", tc.name, len(got), len(tc.want))
			}
			if len(cuts) > 0 && cuts[0] != tc.cut {
				t.Errorf("%s: truncated is %v", tc.name, cuts[0])
			}
		}
	}
}

func TestCleanAndLevel(t *testing.T) {
	for in, want := range map[string]string{
		"plain\tü": "plain\tü", "\x1b[31m": `\x1b[31m`, "a\x00b\x7f": `a\x00b\x7f`, "\xff\xc3": "��", "\u009b2J": "�2J",
	} {
		if got := string(clean([]byte(in))); got != want {
			t.Errorf("clean(%q) = %q, want %q", in, got, want)
		}
	}
	for in, want := range map[string]string{
		`{"level":"error"}`: "error", `{"level":"WARN","x":1}`: "warn", `{"level":"trace"}`: "debug", `{"level":7}`: "info",
		`{"level":"loud"}`: "info", `{"@message":1}`: "info", `{`: "info", `level=error`: "info", "": "info",
	} {
		if got := levelOf([]byte(in), "info"); got != want {
			t.Errorf("levelOf(%q) = %s, want %s", in, got, want)
		}
	}
}

func TestPanicSite(t *testing.T) {
	for _, tc := range []struct {
		name, message, file string
		line                int
		// frames are the functions of the tenant's own.
		frames string
		trace  string
	}{
		{"a panic", "boom", "main.go", 12, "[main.f main.main]", "panic: boom\n\ngoroutine 1 [running]:\nmain.f(...)\n\tservice/main.go:12\nmain.main()\n\tservice/main.go:8 +0x1d"},
		{"in the library", "runtime error: index out of range [5]", "sub/x.go", 3, "[service/sub.X]", "panic: runtime error: index out of range [5]\n\ngoroutine 7 [running]:\nslices.Insert()\n\tslices/slices.go:99 +0x1\nservice/sub.X()\n\tservice/sub/x.go:3 +0x2"},
		{"a fatal error", "all goroutines are asleep - deadlock!", "main.go", 4, "[main.main]", "fatal error: all goroutines are asleep - deadlock!\n\ngoroutine 1 [select (no cases)]:\nmain.main()\n\tservice/main.go:4 +0x1"},
		{"an overflow", "stack overflow", "main.go", 6, "[main.f]", "runtime: goroutine stack exceeds 1000000000-byte limit\nfatal error: stack overflow\n\ngoroutine 1 [running]:\nmain.f(0x1)\n\tservice/main.go:6 +0x2"},
		{"a method", "x", "main.go", 9, "[main.(*T).get main.main]", "panic: x\n\ngoroutine 1 [running]:\nmain.(*T).get(0xc0, {0x1, 0x2})\n\tservice/main.go:9 +0x1\ncreated by main.main in goroutine 1\n\tservice/main.go:5 +0x1"},
		{"nothing of ours", "x", "", 0, "[]", "panic: x\n\ngoroutine 1 [running]:\nruntime.main()\n\truntime/proc.go:1 +0x1"},
	} {
		site, stack := panicSite("/nonexistent", strings.Split(tc.trace, "\n"))
		names := []string{}
		for _, f := range stack {
			names = append(names, f.Function)
		}
		if fmt.Sprint(names) != tc.frames {
			t.Errorf("%s: frames %v, want %s", tc.name, names, tc.frames)
		}
		file, line := "", 0
		if site.File != nil {
			file, line = *site.File, *site.Line
		}
		if site.Message != tc.message || file != tc.file || line != tc.line {
			t.Errorf("%s: %q %s:%d, want %q %s:%d", tc.name, site.Message, file, line, tc.message, tc.file, tc.line)
		}
	}
}

func FuzzOutput(f *testing.F) {
	f.Add([]byte("panic: x\n\tservice/main.go:99999999999999999999 +0x\n\xff\x00"))
	f.Add([]byte(strings.Repeat("x", 70000)))
	f.Fuzz(func(t *testing.T, in []byte) {
		got, _ := lines(bytes.NewReader(in))
		for _, l := range got {
			text := clean([]byte(l))
			if len(l) > maxLine || !utf8.Valid(text) || bytes.ContainsFunc(text, func(r rune) bool { return r < 0x20 && r != '\t' }) {
				t.Fatalf("%.100q", text)
			}
			levelOf(text, "info")
		}
		if len(got) > 0 {
			panicSite("/nonexistent", got)
		}
	})
}
