package process

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/time/rate"

	"github.com/solo-run/solo/pkg/solo"
)

// maxLine bounds a line of the log; of a longer one head and tail are kept.
const maxLine = 64 << 10

// What a service may print: beyond it the pipe fills, and the service waits.
const (
	outputRate  = 8 << 20
	outputBurst = 1 << 20
)

// watch reads the process's output until it has ended, and then concludes the
// instance. line takes the handshake, whose text is handshake, for go-plugin.
func (i *Instance) watch(stdout, stderr *os.File, line *io.PipeWriter, handshake string) {
	limiter := rate.NewLimiter(outputRate, outputBurst)
	ended, drain := context.WithCancel(context.Background())
	var pumps sync.WaitGroup
	pumps.Go(func() {
		shaken := false
		pump(ended, limiter, stdout, func(text []byte, truncated bool) {
			if !shaken {
				if before, ok := bytes.CutSuffix(text, []byte(handshake)); ok {
					shaken = true
					// A program that prints before it serves may have left a line open.
					if len(before) > 0 {
						i.line("stdout", levelOf(before, "info"), before, truncated)
					}
					io.WriteString(line, handshake+"\n")
					return
				}
			}
			i.line("stdout", levelOf(text, "info"), text, truncated)
		})
	})
	pumps.Go(func() {
		trace := false
		pump(ended, limiter, stderr, func(text []byte, truncated bool) {
			// A trace is to its end, and its end is the process's.
			trace = trace || bytes.HasPrefix(text, []byte("panic: ")) || bytes.HasPrefix(text, []byte("fatal error: ")) ||
				bytes.HasPrefix(text, []byte("runtime: goroutine stack exceeds"))
			level := levelOf(text, "info")
			if trace {
				level = "error"
				i.tail.trace(text)
			}
			i.line("stderr", level, text, truncated)
		})
	})
	go func() {
		<-i.proc.Done()
		drain()
		drained := make(chan struct{})
		go func() { pumps.Wait(); close(drained) }()
		select {
		case <-drained:
		case <-time.After(exitGrace):
			// Someone outside the group holds the pipes.
			stdout.Close()
			stderr.Close()
			<-drained
		}
		stdout.Close()
		stderr.Close()
		i.conclude()
		line.Close()
	}()
}

// line passes one line on, made safe to show.
func (i *Instance) line(stream, level string, text []byte, truncated bool) {
	text = clean(text)
	i.tail.add(text)
	i.spec.Output.Line(stream, level, text, truncated)
}

// pump cuts a stream into lines. Until ended, it reads no faster than the
// limiter lets it.
func pump(ended context.Context, limiter *rate.Limiter, r io.Reader, emit func(text []byte, truncated bool)) {
	var l line
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		for rest := buf[:n]; len(rest) > 0; {
			at := bytes.IndexByte(rest, '\n')
			if at < 0 {
				l.write(rest)
				break
			}
			l.write(rest[:at])
			emit(l.take())
			rest = rest[at+1:]
		}
		if err != nil {
			if l.total > 0 {
				emit(l.take())
			}
			return
		}
		limiter.WaitN(ended, n)
	}
}

// line gathers one line of any length within maxLine: its head and its tail.
type line struct {
	head, tail []byte
	total      int
}

const half = maxLine / 2

func (l *line) write(b []byte) {
	l.total += len(b)
	if room := half - len(l.head); room > 0 {
		n := min(room, len(b))
		l.head = append(l.head, b[:n]...)
		b = b[n:]
	}
	l.tail = append(l.tail, b...)
	if len(l.tail) > 2*half {
		l.tail = append(l.tail[:0], l.tail[len(l.tail)-half:]...)
	}
}

func (l *line) take() (text []byte, truncated bool) {
	tail := l.tail
	truncated = l.total > maxLine
	if truncated {
		tail = tail[len(tail)-half:]
	}
	text = append(l.head, tail...)
	if n := len(text); n > 0 && text[n-1] == '\r' {
		text = text[:n-1]
	}
	l.head, l.tail, l.total = nil, l.tail[:0], 0
	return text, truncated
}

// clean replaces what is not text: bytes that are not UTF-8, and control
// characters, which a terminal would obey.
func clean(b []byte) []byte {
	safe := true
	for _, c := range b {
		if c < 0x20 && c != '\t' || c >= 0x7f {
			safe = false
			break
		}
	}
	if safe {
		return b
	}
	out := make([]byte, 0, len(b)+16)
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		switch {
		case r == utf8.RuneError && n == 1:
			out = utf8.AppendRune(out, utf8.RuneError)
		case r < 0x20 && r != '\t', r == 0x7f:
			const digits = "0123456789abcdef"
			out = append(out, '\\', 'x', digits[r>>4], digits[r&15])
		case r >= 0x80 && r < 0xa0:
			out = utf8.AppendRune(out, utf8.RuneError)
		default:
			out = append(out, b[:n]...)
		}
		b = b[n:]
	}
	return out
}

// levelOf takes the level out of a line that is a JSON object with one, which is
// all that is believed of it.
func levelOf(text []byte, otherwise string) string {
	if len(text) == 0 || text[0] != '{' {
		return otherwise
	}
	var fields struct {
		Level any `json:"level"`
	}
	if json.Unmarshal(text, &fields) != nil {
		return otherwise
	}
	word, _ := fields.Level.(string)
	switch word {
	case "debug", "DEBUG", "trace", "TRACE":
		return "debug"
	case "info", "INFO":
		return "info"
	case "warn", "WARN", "warning", "WARNING":
		return "warn"
	case "error", "ERROR", "fatal", "FATAL", "panic", "PANIC":
		return "error"
	}
	return otherwise
}

// tail keeps the last lines of an instance, and the trace of its panic.
type tail struct {
	mu    sync.Mutex
	lines []string
	// panicked is the trace, as far as maxTrace.
	panicked []string
}

const (
	// tailLine bounds each line of log_tail.
	tailLine = 1 << 10
	maxTrace = 400
)

func (t *tail) add(text []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(text) > tailLine {
		text = append([]byte("…"), bytes.ToValidUTF8(text[len(text)-tailLine:], nil)...)
	}
	t.lines = append(t.lines, string(text))
	if len(t.lines) >= 2*solo.LogTailLines {
		t.lines = append(t.lines[:0], t.lines[len(t.lines)-solo.LogTailLines:]...)
	}
}

func (t *tail) trace(text []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.panicked) < maxTrace {
		t.panicked = append(t.panicked, string(clean(text[:min(len(text), 4*tailLine)])))
	}
}

func (t *tail) last() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]string{}, t.lines[max(0, len(t.lines)-solo.LogTailLines):]...)
}

func (t *tail) traceLines() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]string(nil), t.panicked...)
}
