package process

import (
	"debug/buildinfo"
	"path"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/solo-run/solo/pkg/sandbox"
	"github.com/solo-run/solo/pkg/solo"
)

// judge gives an end its one reason. An order of ours is the reason where it came
// before the end; else the evidence speaks, the kernel's before the program's.
func (i *Instance) judge(s sandbox.Status) solo.Exit {
	x := solo.Exit{
		At: time.Now().UTC(), RanMS: s.Ran.Milliseconds(), OOM: s.OOM, LogTail: i.tail.last(),
		Details: map[string]any{}, Instance: i.spec.Instance, Stack: []solo.CallFrame{},
	}
	x.Usage = append(i.curve.samples(), solo.UsageSample{At: x.At, MemoryBytes: s.Peak, CPUUsec: uint64(s.CPU / time.Microsecond)})
	if s.Signal != 0 {
		name := unix.SignalName(s.Signal)
		if name == "" {
			name = "SIG" + strconv.Itoa(int(s.Signal))
		}
		x.Signal = &name
	} else {
		code := s.Code
		x.Code = &code
	}
	trace := i.tail.traceLines()
	wanted := i.wanted.Load()
	switch {
	case s.OOM:
		x.Reason = solo.ReasonOOM
		x.Details["limit"], x.Details["peak"] = s.Limit, s.Peak
	case wanted != nil:
		x.Reason = *wanted
	case s.Signal != 0:
		x.Reason = solo.ReasonSignal
	case s.Code == 0:
		x.Reason = solo.ReasonClean
	case s.Code == 2 && len(trace) > 0:
		x.Reason = solo.ReasonPanic
		x.Panic, x.Stack = panicSite(i.spec.Binary, trace)
		x.Details["panic"] = x.Panic
	default:
		x.Reason = solo.ReasonExitCode
	}
	if s.PIDsMax > 0 {
		x.Details["forks_refused"] = s.PIDsMax
	}
	return x
}

// panicSite reads a Go trace: the message, the first line of the tenant's own,
// and all of those.
func panicSite(binary string, trace []string) (*solo.PanicSite, []solo.CallFrame) {
	site := &solo.PanicSite{}
	for _, prefix := range []string{"panic: ", "fatal error: "} {
		if rest, ok := strings.CutPrefix(trace[0], prefix); ok {
			site.Message = rest
		}
	}
	if site.Message == "" && len(trace) > 1 {
		// "runtime: goroutine stack exceeds …" comes before its "fatal error".
		site.Message = strings.TrimPrefix(trace[len(trace)-1], "fatal error: ")
		for _, l := range trace {
			if rest, ok := strings.CutPrefix(l, "fatal error: "); ok {
				site.Message = rest
				break
			}
		}
	}
	module := "service"
	if info, err := buildinfo.ReadFile(binary); err == nil && info.Main.Path != "" {
		module = info.Main.Path
	}
	stack := []solo.CallFrame{}
	for n, l := range trace {
		file, line, ok := frame(l, module)
		if !ok {
			continue
		}
		function := ""
		if n > 0 {
			function = functionName(trace[n-1])
		}
		stack = append(stack, solo.CallFrame{Function: function, File: file, Line: line})
	}
	if len(stack) > 0 {
		site.File, site.Line = &stack[0].File, &stack[0].Line
	}
	return site, stack
}

// functionName takes the name out of a line such as "main.(*T).get(0x1, {…})" or
// "created by main.main in goroutine 1".
func functionName(text string) string {
	text = strings.TrimPrefix(text, "created by ")
	text, _, _ = strings.Cut(text, " in goroutine ")
	if at := strings.LastIndexByte(text, '('); at > 0 && strings.HasSuffix(text, ")") {
		// The arguments are the last parentheses; a receiver's are before a dot.
		depth := 0
		for i := len(text) - 1; i >= 0; i-- {
			switch text[i] {
			case ')':
				depth++
			case '(':
				if depth--; depth == 0 {
					return text[:i]
				}
			}
		}
	}
	return text
}

// frame reads a line of a trace such as "\tservice/main.go:12 +0x1d", of a file
// of the module. Tabs may have been escaped.
func frame(text, module string) (file string, line int, ok bool) {
	text, tabbed := strings.CutPrefix(text, "\t")
	if !tabbed {
		return "", 0, false
	}
	text, _, _ = strings.Cut(text, " ")
	at := strings.LastIndexByte(text, ':')
	if at < 0 {
		return "", 0, false
	}
	line, err := strconv.Atoi(text[at+1:])
	if err != nil {
		return "", 0, false
	}
	file, ours := strings.CutPrefix(path.Clean(text[:at]), module+"/")
	return file, line, ours
}
