package process

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
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

// stream is one output of the process, as it is read.
type stream struct {
	file *os.File
	line line
	// emit takes a whole line.
	emit func(text []byte, truncated bool)
}

// watch reads the process's output until it has ended, and then concludes the
// instance. handshake is the line that go-plugin waits for on shake; with shake nil
// it has passed already.
func (i *Instance) watch(stdout, stderr *os.File, shake *io.PipeWriter, handshake string) {
	out, errs := &i.streams[0], &i.streams[1]
	out.file, errs.file = stdout, stderr
	out.emit = func(text []byte, truncated bool) {
		if shake != nil && !i.shaken {
			if before, ok := bytes.CutSuffix(text, []byte(handshake)); ok {
				i.shaken = true
				// A program that prints before it serves may have left a line open.
				if len(before) > 0 {
					i.line("stdout", levelOf(before, "info"), before, truncated)
				}
				io.WriteString(shake, handshake+"\n")
				return
			}
		}
		i.line("stdout", levelOf(text, "info"), text, truncated)
	}
	errs.emit = func(text []byte, truncated bool) {
		// A trace is to its end, and its end is the process's.
		i.tracing = i.tracing || bytes.HasPrefix(text, []byte("panic: ")) || bytes.HasPrefix(text, []byte("fatal error: ")) ||
			bytes.HasPrefix(text, []byte("runtime: goroutine stack exceeds"))
		level := levelOf(text, "info")
		if i.tracing {
			level = "error"
			i.tail.trace(text)
		}
		i.line("stderr", level, text, truncated)
	}
	limiter := rate.NewLimiter(outputRate, outputBurst)
	ended, drain := context.WithCancel(context.Background())
	var pumps sync.WaitGroup
	for n := range i.streams {
		pumps.Go(func() { i.pump(ended, limiter, &i.streams[n]) })
	}
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
		if shake != nil {
			shake.Close()
		}
	}()
}

// pump reads a stream to its end. While the instance is frozen it reads nothing.
func (i *Instance) pump(ended context.Context, limiter *rate.Limiter, s *stream) {
	buf := make([]byte, 32<<10)
	for {
		i.reading.RLock()
		n, err := s.file.Read(buf)
		s.take(buf[:n])
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			s.end()
			i.reading.RUnlock()
			return
		}
		i.reading.RUnlock()
		limiter.WaitN(ended, n)
	}
}

// take cuts what was read into lines.
func (s *stream) take(rest []byte) {
	for len(rest) > 0 {
		at := bytes.IndexByte(rest, '\n')
		if at < 0 {
			s.line.write(rest)
			return
		}
		s.line.write(rest[:at])
		s.emit(s.line.take())
		rest = rest[at+1:]
	}
}

// end emits what has no end of line.
func (s *stream) end() {
	if s.line.total > 0 {
		s.emit(s.line.take())
	}
}

// line passes one line on, made safe to show.
func (i *Instance) line(stream, level string, text []byte, truncated bool) {
	text = clean(text)
	i.tail.add(text)
	i.spec.Output.Line(stream, level, text, truncated)
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
